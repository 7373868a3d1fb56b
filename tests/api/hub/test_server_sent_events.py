"""Server-Sent Events by hand, over real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import httpx
import pytest

from appliance.hub.limits import HubLimits
from appliance.hub.protocol import ProtocolTimes
from tests.doubles.hub_http import HANDSHAKE, PATH, EventReader, HubByHand, by_hand
from tests.doubles.hub_server import ALICE, HubServer, run_hub, wait_until

STREAM = {"accept": "text/event-stream"}


@pytest.fixture
async def hand(server: HubServer) -> AsyncIterator[HubByHand]:
    async with by_hand(server) as opened:
        yield opened


async def next_title(events: EventReader) -> str:
    title: str = (await events.next())["arguments"][0]["title"]
    return title


class TestStream:
    async def test_head_and_first_comment_come_at_once(self, hand: HubByHand) -> None:
        events = await hand.open_stream()
        assert events.headers["content-type"] == "text/event-stream"
        assert events.headers["cache-control"] == "no-cache,no-store"
        assert events.headers["pragma"] == "no-cache"
        assert events.headers["content-encoding"] == "identity"
        assert events.headers["x-accel-buffering"] == "no"
        assert "content-length" not in events.headers

    @pytest.mark.parametrize(
        "accept", ["text/event-stream", "text/html, Text/Event-Stream;q=0.9", "a/b,text/event-stream"]
    )
    async def test_it_is_told_from_a_poll_by_what_the_client_accepts(self, hand: HubByHand, accept: str) -> None:
        line = await hand.line()
        line.begin("GET", hand.target, hand.headers | {"accept": accept})
        status, headers = await line.head()
        assert (status, headers["content-type"]) == (200, "text/event-stream")

    async def test_the_token_may_come_in_the_query(self, server: HubServer, hand: HubByHand) -> None:
        hand.headers, hand.target = {}, f"{hand.target}&access_token=alice"
        events = await hand.stream()
        server.send(title="for a browser")
        assert await next_title(events) == "for a browser"

    async def test_the_handshake_is_posted_and_answered_in_the_stream(self, hand: HubByHand) -> None:
        events = await hand.open_stream()
        posted = await hand.post(HANDSHAKE)
        assert (posted.status, posted.body) == (200, b"")
        assert await events.next() == {}
        assert events.events == [b"{}\x1e"]

    async def test_messagepack_is_refused_in_words(self, hand: HubByHand) -> None:
        events = await hand.open_stream()
        assert (await hand.post(b'{"protocol":"messagepack","version":1}\x1e')).status == 200
        assert await events.rest() == [
            {
                "error": "Cannot use the 'messagepack' protocol on the current transport. "
                "The transport does not support 'Binary' transfer format."
            }
        ]

    @pytest.mark.parametrize("text", ["a\x1eb\n\r\t", "\u2028 Zażółć gęślą jaźń 🎉", "ż" * 20_000])
    async def test_any_text_arrives_unchanged(self, server: HubServer, hand: HubByHand, text: str) -> None:
        events = await hand.stream()
        server.send(title="T", body=text)
        assert (await events.next())["arguments"][0]["body"] == text

    async def test_500_in_a_row_arrive_in_order_each_once_and_no_event_splits_a_record(
        self, server: HubServer, hand: HubByHand
    ) -> None:
        events = await hand.stream()
        for number in range(500):
            server.send(title=str(number))
        assert [await next_title(events) for _ in range(500)] == [str(number) for number in range(500)]
        assert all(event.endswith(b"\x1e") for event in events.events)

    async def test_a_session_says_hello_and_acknowledges_by_posts(self, server: HubServer, hand: HubByHand) -> None:
        events = await hand.stream()
        hello = {"deviceId": "phone", "acknowledges": True}
        await hand.send({"type": 1, "target": "Hello", "arguments": [hello], "invocationId": "h"})
        assert (await events.next())["result"]["deviceId"] == str(server.device())
        notification = server.send("phone")
        assert (await events.next())["target"] == "Notify"
        await hand.send({"type": 1, "target": "Acknowledge", "arguments": [str(notification.id)], "invocationId": "a"})
        assert await events.next() == {"type": 3, "invocationId": "a", "result": True}

    async def test_an_idle_stream_gets_pings(self) -> None:
        limits = HubLimits(protocol=ProtocolTimes(keep_alive_s=0.1))
        async with run_hub(limits) as server, by_hand(server) as hand:
            events = await hand.stream()
            assert [await events.next() for _ in range(3)] == [{"type": 6}] * 3

    async def test_no_compression_and_no_cookie_touch_it(self, hand: HubByHand) -> None:
        line = await hand.line()
        line.begin("GET", hand.target, hand.headers | STREAM | {"accept-encoding": "gzip, br, zstd"})
        _, headers = await line.head()
        assert headers["content-encoding"] == "identity" and "set-cookie" not in headers


class TestRefusals:
    async def test_an_id_in_use_is_409_and_its_stream_goes_on(self, server: HubServer, hand: HubByHand) -> None:
        events = await hand.stream()
        second = await (await hand.line()).ask("GET", hand.target, hand.headers | STREAM)
        assert second.status == 409
        poll = await hand.poll()
        assert (poll.status, poll.body) == (400, b"Cannot change transports mid-connection")
        delete = await hand.delete()
        assert delete.status == 400
        assert delete.body == b"Cannot terminate this connection using the DELETE endpoint."
        server.send(title="unharmed")
        assert await next_title(events) == "unharmed"

    async def test_a_polled_id_is_no_stream(self, hand: HubByHand) -> None:
        await hand.shake_hands_by_polls()
        reply = await (await hand.line()).ask("GET", hand.target, hand.headers | STREAM)
        assert (reply.status, reply.body) == (400, b"Cannot change transports mid-connection")
        await hand.send({"type": 6})

    @pytest.mark.parametrize(("bearer", "status"), [("wrong", 401), ("bob", 403)])
    async def test_every_stream_and_post_shows_its_token(self, hand: HubByHand, bearer: str, status: int) -> None:
        await hand.stream()
        other = {"authorization": f"Bearer {bearer}"}
        assert (await hand.post(b'{"type":6}\x1e', **other)).status == status
        reply = await (await hand.line()).ask("GET", hand.target, other | STREAM)
        assert reply.status == status

    async def test_over_a_cap_it_is_503_before_anything_is_streamed(self) -> None:
        async with run_hub(HubLimits(connections=1)) as server, by_hand(server) as hand, by_hand(server) as other:
            await hand.stream()
            reply = await (await other.line()).ask("GET", other.target, other.headers | STREAM)
            assert reply.status == 503 and int(reply.headers["retry-after"]) >= 1
            poll = await other.poll()
            assert poll.status == 503 and int(poll.headers["retry-after"]) >= 1


class TestEnding:
    async def test_a_client_that_goes_away_is_noticed_and_its_id_forgotten(
        self, server: HubServer, hand: HubByHand
    ) -> None:
        events = await hand.stream()
        events.line.abort()
        await server.until(connections=0)
        assert (await hand.post(b'{"type":6}\x1e')).status == 404
        assert (await hand.poll()).status == 404

    async def test_its_goodbye_is_answered_and_ends_the_response(self, server: HubServer, hand: HubByHand) -> None:
        events = await hand.stream()
        await hand.send({"type": 7})
        assert await events.rest() == [{"type": 7}]
        await server.until(connections=0)
        assert (await hand.poll()).status == 404
        assert server.hub.stats().ended == {"client_closed": 1}

    async def test_the_server_says_why_it_ends_and_the_response_ends_properly(
        self, server: HubServer, hand: HubByHand
    ) -> None:
        events = await hand.stream()
        server.send(title="before the end")
        server.hub.close_user(ALICE, "Your account was disabled.")
        assert await next_title(events) == "before the end"
        assert await events.rest() == [{"type": 7, "error": "Your account was disabled."}]

    async def test_an_expired_token_ends_it_within_a_second(self, server: HubServer) -> None:
        expires_at = datetime.now(UTC) + timedelta(seconds=0.7)
        server.backend.add_user("short", ALICE, expires_at=expires_at)
        async with by_hand(server, "short") as hand:
            events = await hand.stream()
            told = {"type": 7, "error": "The access token has expired.", "allowReconnect": True}
            assert await events.rest() == [told]
            assert datetime.now(UTC) - expires_at < timedelta(seconds=1)

    async def test_a_drain_tells_it_to_come_back(self) -> None:
        async with run_hub() as server, by_hand(server) as hand:
            events = await hand.stream()
            async with asyncio.timeout(4.0):
                await server.hub.drain(5.0)
            (close,) = await events.rest()
            assert close["type"] == 7 and close["allowReconnect"] is True

    async def test_a_violation_is_told(self, hand: HubByHand) -> None:
        events = await hand.stream()
        assert (await hand.post(b"nonsense\x1e")).status == 200
        (close,) = await events.rest()
        assert close["allowReconnect"] is True

    async def test_one_that_never_reads_is_cut_by_bytes_and_its_notifications_go_on(self) -> None:
        async with run_hub(HubLimits(outbox_bytes=100_000)) as server, by_hand(server) as hand:
            events = await hand.stream(receive_buffer=4096)
            await say_hello(hand, events)
            await flood_until_cut(server)
            assert server.hub.stats().ended == {"slow_reader": 1}
            await wait_until(lambda: cut_count(server) > 0)
            assert (await hand.post(b'{"type":6}\x1e')).status == 404

    async def test_one_that_never_reads_is_cut_by_the_write_deadline(self) -> None:
        limits = HubLimits(outbox_bytes=100_000_000, write_deadline_s=0.3)
        async with run_hub(limits) as server, by_hand(server) as hand:
            events = await hand.stream(receive_buffer=4096)
            await say_hello(hand, events)
            await flood_until_cut(server)
            assert server.hub.stats().ended == {"slow_reader": 1}
            await wait_until(lambda: cut_count(server) > 0)

    async def test_one_that_never_reads_delays_nobody(self, server: HubServer) -> None:
        async with by_hand(server) as stalled, by_hand(server) as reading:
            await stalled.stream(receive_buffer=4096)
            events = await reading.stream()
            for number in range(100):
                server.send(title=str(number), body="x" * 60_000)
                assert await next_title(events) == str(number)


class TestBuffering:
    """The story: a proxy holds the stream back, the client never shakes hands, and does not fall back by itself."""

    LIMITS = HubLimits(protocol=ProtocolTimes(handshake_timeout_s=0.3))
    ALL: ClassVar = ["WebSockets", "ServerSentEvents", "LongPolling"]

    async def test_a_stream_to_which_nothing_was_posted_breaks_off_without_a_word(self) -> None:
        async with run_hub(self.LIMITS) as server, by_hand(server) as hand:
            events = await hand.open_stream()
            with pytest.raises(EOFError):
                await events.next()
            assert server.hub.stats().ended == {"handshake_timed_out": 1}

    async def test_half_a_handshake_shows_that_it_got_through_and_is_answered(self) -> None:
        async with run_hub(self.LIMITS) as server:
            for _ in range(2):
                async with by_hand(server) as hand:
                    events = await hand.open_stream()
                    assert (await hand.post(HANDSHAKE[:10])).status == 200
                    assert await events.rest() == [{"error": "Handshake was canceled."}]
            assert await offered(server, "alice") == self.ALL

    async def test_two_of_them_in_a_row_are_not_offered_again_to_this_user(self) -> None:
        async with run_hub(self.LIMITS) as server:
            await leave_unheard(server)
            assert await offered(server, "alice") == self.ALL
            await leave_unheard(server)
            assert await offered(server, "alice") == ["WebSockets", "LongPolling"]
            assert await offered(server, "bob") == self.ALL
            async with by_hand(server) as polling:
                await polling.shake_hands_by_polls()

    async def test_a_handshake_between_them_makes_up_for_the_first(self) -> None:
        async with run_hub(HubLimits(protocol=ProtocolTimes(handshake_timeout_s=1.0))) as server:
            await leave_unheard(server)
            async with by_hand(server) as hand:
                await hand.stream()
            await server.until(connections=0)
            await leave_unheard(server)
            assert await offered(server, "alice") == self.ALL

    async def test_one_that_carried_something_is_trusted_however_it_ends(self) -> None:
        """The story: hand-made clients that send no pings worked, left, and found the transport gone for an hour."""
        async with run_hub(self.LIMITS) as server:
            for _ in range(3):
                async with by_hand(server) as hand:
                    events = await hand.stream()
                    server.send(title="through")
                    assert await next_title(events) == "through"
                    # For longer than its handshake might have taken.
                    await asyncio.sleep(0.4)
                    events.line.abort()
                    await server.until(connections=0)
            assert await offered(server, "alice") == self.ALL

    async def test_clients_that_leave_before_their_handshake_are_trusted(self) -> None:
        async with run_hub() as server:
            for _ in range(3):
                async with by_hand(server) as hand:
                    events = await hand.open_stream()
                    events.line.abort()
                    await server.until(connections=0)
            assert await offered(server, "alice") == self.ALL

    async def test_it_is_offered_again_after_a_while(self) -> None:
        limits = HubLimits(protocol=ProtocolTimes(handshake_timeout_s=0.1), stream_distrust_s=1.0)
        async with run_hub(limits) as server:
            await leave_unheard(server)
            await leave_unheard(server)
            assert await offered(server, "alice") == ["WebSockets", "LongPolling"]
            await asyncio.sleep(1.1)
            assert await offered(server, "alice") == self.ALL


async def leave_unheard(server: HubServer) -> None:
    """Open a stream and say nothing until the hub breaks it off."""
    async with by_hand(server) as hand:
        events = await hand.open_stream()
        assert await events.rest() == []
    await server.until(connections=0)


async def say_hello(hand: HubByHand, events: EventReader) -> None:
    hello = {"deviceId": "phone", "acknowledges": True}
    await hand.send({"type": 1, "target": "Hello", "arguments": [hello], "invocationId": "h"})
    assert "result" in await events.next()


async def flood_until_cut(server: HubServer) -> None:
    for number in range(800):
        # The line takes a few mebibytes before it is full; from then on little is enough.
        server.send("phone", body="x" * (60_000 if number < 200 else 100))
        await asyncio.sleep(0.005)
        if not server.hub.stats().connections:
            return
    raise AssertionError("never cut")


def cut_count(server: HubServer) -> int:
    cuts = [notice[2] for notice in server.backend.notices if notice[0] == "cut"]
    return sum(len(ids) for ids in cuts if isinstance(ids, tuple))


async def offered(server: HubServer, bearer: str) -> list[str]:
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {bearer}"}, trust_env=False) as http:
        answer = (await http.post(f"http://127.0.0.1:{server.port}{PATH}/negotiate?negotiateVersion=1")).content
    return [offer["transport"] for offer in json.loads(answer)["availableTransports"]]
