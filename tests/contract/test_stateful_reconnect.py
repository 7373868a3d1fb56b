"""Stateful reconnect as the official client does it: a socket that is cut under it loses and doubles nothing."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from appliance.hub.limits import HubLimits
from tests.doubles.hub_server import ALICE, LISTENERS, HubServer, listening_with, run_hub, wait_until
from tests.doubles.line import Line, run_line
from tests.doubles.signalr_client import SignalRClient, run_signalr_client

COUNT = 500
KILLS = 8
both_protocols = pytest.mark.parametrize("protocol", ["json", "messagepack"])


@pytest.fixture(params=LISTENERS, autouse=True)
def listener(request: pytest.FixtureRequest) -> Iterator[str]:
    name: str = request.param
    with listening_with(name):
        yield name


@pytest.fixture
async def server(listener: str) -> AsyncIterator[HubServer]:
    async with run_hub() as running:
        yield running


@pytest.fixture
async def line(server: HubServer) -> AsyncIterator[Line]:
    async with run_line(server.port) as line:
        yield line


def run_client(line: Line, **settings: object) -> AbstractAsyncContextManager[SignalRClient]:
    return run_signalr_client(line.hub, "alice", **{"statefulReconnect": True, "reconnectDelays": [0, 100], **settings})


async def cut(line: Line, server: HubServer) -> None:
    """Cut the line, and wait until the client has gone on.

    It has when it spoke on its new socket. The server counts it a moment earlier, when the client has not seen yet that
    it is let in; cut then, it would give up, for it tries only once.
    """
    resumed, conversations = server.hub.stats().resumed, line.conversations
    line.cut()
    await wait_until(lambda: server.hub.stats().resumed > resumed and line.conversations > conversations)


async def noticed_nothing(client: SignalRClient, connection_id: str) -> bool:
    """Tell whether the client is on the connection that it began with, and has told its application of no other."""
    await client.order(describe=True)
    described = await client.next("described")
    return described["connectionId"] == connection_id and not client.has_told("reconnecting", "closed")


@both_protocols
async def test_500_notifications_over_a_line_that_is_cut_again_and_again_arrive_in_order_each_once(
    server: HubServer, line: Line, protocol: str
) -> None:
    async with run_client(line, protocol=protocol) as client:
        connection_id = (await client.next("started"))["connectionId"]
        await client.invoke("Hello", {"deviceId": "phone", "cursor": 0, "acknowledges": True})

        async def send_all() -> None:
            for number in range(COUNT):
                server.send("phone", title=str(number))
                # Faster than clients acknowledge, it would be too much to keep for one who may come back.
                await asyncio.sleep(0.004)

        async def cut_again_and_again() -> None:
            for _ in range(KILLS):
                await asyncio.sleep(0.2)
                await cut(line, server)

        async with asyncio.TaskGroup() as group:
            group.create_task(send_all())
            group.create_task(cut_again_and_again())
            told = [(await client.next_argument("Notify"))["sequence"] for _ in range(COUNT)]
        assert told == list(range(1, COUNT + 1))
        assert await noticed_nothing(client, connection_id)
        stats = server.hub.stats()
        assert (stats.connections, stats.resumed, stats.ended, stats.cut) == (1, KILLS, {}, 0)


@both_protocols
async def test_calls_that_are_under_way_are_answered_once_each(server: HubServer, line: Line, protocol: str) -> None:
    async with run_client(line, protocol=protocol) as client:
        connection_id = (await client.next("started"))["connectionId"]
        await client.invoke("Hello", {"deviceId": "phone", "cursor": 0, "acknowledges": True})
        notifications = [server.send("phone") for _ in range(30)]
        server.backend.acknowledge_gate = asyncio.Event()
        calls = [await client.begin("Acknowledge", str(one.id)) for one in notifications[:20]]
        await cut(line, server)
        calls += [await client.begin("Acknowledge", str(one.id)) for one in notifications[20:]]
        await cut(line, server)
        server.backend.acknowledge_gate.set()
        answers = [await client.next("answer") for _ in calls]
        assert sorted((answer["call"], answer["result"]) for answer in answers) == [(call, True) for call in calls]
        assert sorted(one for _, one, _ in server.backend.acknowledged) == sorted(one.id for one in notifications)
        assert await noticed_nothing(client, connection_id)


async def test_what_is_sent_while_the_client_is_away_waits_for_it(server: HubServer, line: Line) -> None:
    async with run_client(line) as client:
        await client.next("started")
        resumed = server.hub.stats().resumed
        line.cut()
        server.send(title="meanwhile")
        assert (await client.next_argument("ReceiveNotification"))["title"] == "meanwhile"
        assert server.hub.stats().resumed == resumed + 1


@both_protocols
async def test_the_newest_socket_wins_when_the_server_does_not_know_that_the_older_one_is_lost(
    server: HubServer, line: Line, protocol: str
) -> None:
    async with run_client(line, protocol=protocol) as client:
        connection_id = (await client.next("started"))["connectionId"]
        await client.invoke("Hello", {"deviceId": "phone", "cursor": 0, "acknowledges": True})
        for number in range(3):
            line.strand()
            server.send("phone", title=f"lost {number}")
            await wait_until(lambda before=number: server.hub.stats().resumed > before)  # type: ignore[misc]
            server.send("phone", title=f"new {number}")
        told = [(await client.next_argument("Notify"))["sequence"] for _ in range(6)]
        assert told == list(range(1, 7))
        assert await noticed_nothing(client, connection_id)


@both_protocols
async def test_a_client_with_a_tiny_buffer_is_acknowledged_and_never_blocks(
    server: HubServer, line: Line, protocol: str
) -> None:
    async with run_client(line, protocol=protocol, statefulReconnect={"bufferSize": 10}) as client:
        await client.next("started")
        for _ in range(3):
            assert "Unknown hub method" in (await client.invoke("X", "y" * 50))["error"]
            await client.order(send=["X", "y" * 50])
            await client.next("sent")


async def test_after_its_goodbye_the_id_is_unknown(server: HubServer, line: Line) -> None:
    async with run_client(line) as client:
        await client.next("started")
        await client.order(stop=True)
        assert (await client.next("closed"))["error"] is None
        await client.next("stopped")
        await server.until(connections=0)
        assert server.hub.stats().ended == {"client_closed": 1}
        assert server.hub.stats().resumed == 0


async def test_the_retry_after_a_close_is_refused_and_leaves_no_socket(server: HubServer, line: Line) -> None:
    async with run_client(line) as client:
        await client.next("started")
        server.hub.close_user(ALICE, "Your account was disabled.")
        assert "Your account was disabled." in (await client.next("closed"))["error"]
        await wait_until(lambda: server.hub.stats().refused.get("unknown_id", 0) >= 1)
        await wait_until(lambda: line.open == 0)
        assert (server.hub.stats().connections, server.hub.stats().resumed) == (0, 0)


async def test_a_close_that_allows_it_is_followed_by_an_ordinary_reconnect(server: HubServer, line: Line) -> None:
    principal = server.backend.principals["alice"]
    server.backend.principals["alice"] = replace(principal, expires_at=datetime.now(UTC) + timedelta(seconds=1.5))
    async with run_client(line, reconnectDelays=[0, 100, 500]) as client:
        before = (await client.next("started"))["connectionId"]
        server.backend.principals["alice"] = principal
        assert "The access token has expired." in (await client.next("reconnecting"))["error"]
        assert (await client.next("reconnected"))["connectionId"] != before
        server.send(title="after")
        assert (await client.next_argument("ReceiveNotification"))["title"] == "after"


async def test_a_restart_is_followed_by_an_ordinary_reconnect(server: HubServer, line: Line) -> None:
    async with run_client(line, reconnectDelays=[0, 100, 200, 500, 1000, 2000]) as client:
        before = (await client.next("started"))["connectionId"]
        await server.restart()
        await client.next("reconnecting")
        assert (await client.next("reconnected"))["connectionId"] != before
        await cut(line, server)
        server.send(title="after")
        assert (await client.next_argument("ReceiveNotification"))["title"] == "after"


async def test_who_comes_back_too_late_begins_anew(listener: str) -> None:
    async with (
        run_hub(HubLimits(disconnect_timeout_s=0.0)) as server,
        run_line(server.port) as line,
        run_client(line, reconnectDelays=[300, 300]) as client,
    ):
        before = (await client.next("started"))["connectionId"]
        line.refuses = True
        line.cut()
        await client.next("reconnecting")
        line.refuses = False
        assert (await client.next("reconnected"))["connectionId"] != before
        assert server.hub.stats().ended == {"socket_lost": 1}


async def test_a_client_without_it_sees_nothing_of_it(server: HubServer, line: Line) -> None:
    async with run_client(line, statefulReconnect=False) as client:
        before = (await client.next("started"))["connectionId"]
        await client.invoke("X")
        line.cut()
        await client.next("reconnecting")
        assert (await client.next("reconnected"))["connectionId"] != before
        assert server.hub.stats().resumed == 0
