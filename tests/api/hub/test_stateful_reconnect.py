"""Stateful reconnect by hand, over real sockets: what is on the wire, and when an id is known."""

import asyncio
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from appliance.hub.limits import HubLimits
from tests.doubles.hub_client import HubClient, open_socket
from tests.doubles.hub_server import ALICE, HubServer, run_hub, wait_until


async def negotiate(server: HubServer, query: str = "&useStatefulReconnect=true") -> dict[str, Any]:
    async with httpx.AsyncClient(trust_env=False, headers={"Authorization": "Bearer alice"}) as http:
        response = await http.post(f"{server.http}/negotiate?negotiateVersion=1{query}")
    answer: dict[str, Any] = response.json()
    return answer


def open_id(
    server: HubServer, id_: str, bearer: str = "alice", **options: Any
) -> AbstractAsyncContextManager[HubClient]:
    return open_socket(f"{server.ws}?id={id_}", bearer, **options)


async def status_of(server: HubServer, id_: str, bearer: str = "alice") -> int:
    """Give the status with which another socket for this id is refused."""
    with pytest.raises(InvalidStatus) as refused:
        async with open_id(server, id_, bearer):
            pass
    return refused.value.response.status_code


async def begin(client: HubClient, version: int = 2) -> None:
    await client.shake_hands(version=version)


def lose(client: HubClient) -> None:
    client.socket.transport.abort()


class TestGrant:
    @pytest.mark.parametrize("query", ["", "&useStatefulReconnect=false", "&useStatefulReconnect=1"])
    async def test_it_is_not_mentioned_to_who_did_not_ask(self, server: HubServer, query: str) -> None:
        assert "useStatefulReconnect" not in await negotiate(server, query)

    @pytest.mark.parametrize("query", ["&useStatefulReconnect=true", "&usestatefulreconnect=True"])
    async def test_who_asks_is_granted_it(self, server: HubServer, query: str) -> None:
        assert (await negotiate(server, query))["useStatefulReconnect"] is True

    @pytest.mark.parametrize(("query", "version"), [("", 2), ("&useStatefulReconnect=true", 1)])
    async def test_without_the_grant_or_version_2_nothing_is_seen_of_it(
        self, server: HubServer, query: str, version: int
    ) -> None:
        id_ = (await negotiate(server, query))["connectionToken"]
        async with open_id(server, id_) as client:
            await begin(client, version)
            await client.invoke("X")
            with pytest.raises(TimeoutError):
                await client.next(1.5)
            assert await status_of(server, id_) == 409
            lose(client)
        await server.until(connections=0)
        assert await status_of(server, id_) == 404


class TestResume:
    async def test_the_sequence_is_first_and_only_what_was_not_acknowledged_is_repeated(
        self, server: HubServer
    ) -> None:
        id_ = (await negotiate(server))["connectionToken"]
        async with open_id(server, id_) as client:
            await begin(client)
            await client.say_hello(cursor=0)
            sent = [server.send("phone") for _ in range(3)]
            assert [(await client.next_notification())["sequence"] for _ in sent] == [1, 2, 3]
            # The answer to Hello was the first message.
            await client.send({"type": 8, "sequenceId": 3})
            assert (await client.invoke("X", call="2"))["error"]
            lose(client)
        sent.append(server.send("phone"))
        async with open_id(server, id_) as client:
            assert await client.next() == {"type": 9, "sequenceId": 4}
            assert (await client.next_notification())["sequence"] == 3
            assert (await client.next())["invocationId"] == "2"
            assert (await client.next_notification())["sequence"] == 4
            server.send("phone")
            assert (await client.next_notification())["sequence"] == 5
            # Its own two calls, and one more.
            await client.send({"type": 9, "sequenceId": 3})
            assert (await client.invoke("X", call="3"))["error"]
            assert await client.next() == {"type": 8, "sequenceId": 3}
        await server.until(connections=0)

    async def test_a_connection_is_counted_once_however_often_it_goes_on(self) -> None:
        async with run_hub(HubLimits(connections=1, connections_per_user=1)) as server:
            id_ = (await negotiate(server))["connectionToken"]
            async with open_id(server, id_) as client:
                await begin(client)
                lose(client)
            for number in range(3):
                async with open_id(server, id_) as client:
                    assert await client.next() == {"type": 9, "sequenceId": 1}
                    assert (server.hub.stats().connections, server.hub.stats().resumed) == (1, number + 1)
                    lose(client)

    async def test_the_newest_socket_wins_and_the_older_is_dropped_without_another_word(
        self, server: HubServer
    ) -> None:
        id_ = (await negotiate(server))["connectionToken"]
        async with open_id(server, id_) as older:
            await begin(older)
            async with open_id(server, id_) as newer:
                assert (await newer.next())["type"] == 9
                server.send(title="for the newer one")
                assert (await newer.next())["arguments"][0]["title"] == "for the newer one"
                assert await older.closing() == ([], 1000)

    async def test_another_users_or_a_bad_token_is_refused_and_harms_nobody(self, server: HubServer) -> None:
        id_ = (await negotiate(server))["connectionToken"]
        async with open_id(server, id_) as client:
            await begin(client)
            assert await status_of(server, id_, "bob") == 403
            assert await status_of(server, id_, "nobody") == 401
            server.send(title="still here")
            assert (await client.next())["arguments"][0]["title"] == "still here"
            lose(client)
        assert await status_of(server, id_, "bob") == 403
        async with open_id(server, id_) as client:
            assert (await client.next())["type"] == 9


class TestResumingAgainAndAgain:
    """Going on with a connection was under no cap: a thousand sockets, each with all that is kept, in a moment."""

    async def test_more_sockets_than_one_a_second_are_refused_after_the_first_ten(self, server: HubServer) -> None:
        id_ = (await negotiate(server))["connectionToken"]
        async with AsyncExitStack() as sockets:
            client = await sockets.enter_async_context(open_id(server, id_))
            await begin(client)
            for _ in range(10):
                newer = await sockets.enter_async_context(open_id(server, id_))
                assert (await newer.next())["type"] == 9
                assert await client.closing() == ([], 1000)
                client = newer
            with pytest.raises(InvalidStatus) as refused:
                await sockets.enter_async_context(open_id(server, id_))
            assert refused.value.response.status_code == 503
            assert int(refused.value.response.headers["retry-after"]) >= 1
            server.send(title="still here")
            assert (await client.next())["arguments"][0]["title"] == "still here"

    async def test_a_socket_that_does_not_read_is_dropped_and_no_second_one_waits_beside_it(self) -> None:
        async with run_hub(HubLimits(unacknowledged_bytes=4_000_000, outbox_bytes=4_000_000)) as server:
            id_ = (await negotiate(server))["connectionToken"]
            async with AsyncExitStack() as sockets:
                stalled = [await sockets.enter_async_context(open_id(server, id_, max_queue=1, max_size=None))]
                await begin(stalled[0])
                stalled[0].socket.transport.pause_reading()
                for _ in range(150):
                    server.send(body="x" * 20_000)
                statuses = []
                for _ in range(12):
                    try:
                        stalled.append(
                            await sockets.enter_async_context(open_id(server, id_, max_queue=1, max_size=None))
                        )
                        stalled[-1].socket.transport.pause_reading()
                    except InvalidStatus as refused:
                        statuses.append(refused.response.status_code)
                assert set(statuses) == {503}
                assert len(server.hub._core.tasks) <= 2
                for client in stalled:
                    client.socket.transport.abort()


class TestEnd:
    async def test_after_a_goodbye_the_id_is_unknown(self, server: HubServer) -> None:
        id_ = (await negotiate(server))["connectionToken"]
        async with open_id(server, id_) as client:
            await begin(client)
            await client.send({"type": 7})
            assert await client.closing() == ([{"type": 7}], 1000)
            assert await status_of(server, id_) == 404

    @pytest.mark.parametrize("code", [1000, 1001, 4000])
    async def test_after_a_close_frame_with_a_code_the_id_is_unknown(self, server: HubServer, code: int) -> None:
        id_ = (await negotiate(server))["connectionToken"]
        async with open_id(server, id_) as client:
            await begin(client)
            await client.socket.close(code)
        await server.until(connections=0)
        assert await status_of(server, id_) == 404

    async def test_the_id_is_unknown_before_the_servers_close_arrives(self, server: HubServer) -> None:
        id_ = (await negotiate(server))["connectionToken"]
        async with open_id(server, id_) as client:
            await begin(client)
            server.hub.close_user(ALICE, "gone")
            assert await client.next() == {"type": 7, "error": "gone"}
            assert await status_of(server, id_) == 404

    async def test_who_stays_away_is_lost_and_what_was_sent_goes_to_the_next_layer(self) -> None:
        async with run_hub(HubLimits(disconnect_timeout_s=0.3)) as server:
            id_ = (await negotiate(server))["connectionToken"]
            async with open_id(server, id_) as client:
                await begin(client)
                await client.say_hello()
                lose(client)
            await wait_until(lambda: server.hub.take_census().away == 1)
            notification = server.send("phone")
            assert server.hub.stats().sessions == 1
            await server.until(connections=0, sessions=0)
            assert await status_of(server, id_) == 404
            assert server.backend.notices[-1] == ("cut", server.device(), (notification.id,), "socket_lost")
            assert server.hub.stats().ended == {"socket_lost": 1}

    async def test_a_drain_ends_who_is_away_at_once(self, server: HubServer) -> None:
        id_ = (await negotiate(server))["connectionToken"]
        async with open_id(server, id_) as client:
            await begin(client)
            lose(client)
        await wait_until(lambda: server.hub.take_census().away == 1)
        async with asyncio.timeout(2.0):
            await server.hub.drain(5.0)
        assert server.hub.stats().ended == {"server_stopping": 1}
        assert await status_of(server, id_) in (404, 503)

    async def test_a_sequence_that_skips_messages_ends_the_connection(self, server: HubServer) -> None:
        id_ = (await negotiate(server))["connectionToken"]
        async with open_id(server, id_) as client:
            await begin(client)
            lose(client)
        async with open_id(server, id_) as client:
            await client.send({"type": 9, "sequenceId": 5})
            left, code = await client.closing()
            assert [record["type"] for record in left] == [9, 7]
            assert code == 1000
            assert left[1]["allowReconnect"] is True


class TestSlowReaders:
    async def test_a_client_that_stops_reading_is_cut_and_everything_it_does_not_have_is_reported(self) -> None:
        async with run_hub(HubLimits(unacknowledged_bytes=65_536, close_deadline_s=0.5)) as server:
            id_ = (await negotiate(server))["connectionToken"]
            async with open_id(server, id_, max_queue=1) as stalled, open_socket(server.ws) as good:
                await begin(stalled)
                await stalled.say_hello("stalled")
                await good.shake_hands()
                await good.say_hello("good")
                stalled.socket.transport.pause_reading()
                for number in range(40):
                    server.send("good", "stalled", body="x" * 4_000)
                    assert (await good.next_notification())["sequence"] == number + 1
                assert server.hub.stats().ended == {"slow_reader": 1}
                await server.until(connections=1)
                assert await status_of(server, id_) == 404
                stalled.socket.transport.abort()

    async def test_a_long_replay_waits_for_acknowledgements(self) -> None:
        async with run_hub(HubLimits(unacknowledged_bytes=65_536)) as server:
            for _ in range(40):
                server.backend.add_notification(ALICE, body="x" * 4_000)
            id_ = (await negotiate(server))["connectionToken"]
            async with open_id(server, id_) as client:
                await begin(client)
                assert (await client.say_hello(cursor=0))["missed"] == 40
                told = []
                for number in range(40):
                    told.append((await client.next_notification())["sequence"])
                    await client.send({"type": 8, "sequenceId": number + 2})
                assert told == list(range(1, 41))
