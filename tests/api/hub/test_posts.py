"""What is posted to a stream or to a polled connection, by well-behaved clients and by others."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from appliance.hub.limits import HubLimits
from tests.doubles.hub_http import HANDSHAKE, HttpLine, HubByHand, by_hand
from tests.doubles.hub_server import HubServer, run_hub, wait_until

PING = b'{"type":6}\x1e'


@pytest.fixture
async def hand(server: HubServer) -> AsyncIterator[HubByHand]:
    async with by_hand(server) as opened:
        yield opened


def call(number: int) -> bytes:
    message = {"type": 1, "target": "X", "arguments": [], "invocationId": str(number)}
    return json.dumps(message).encode() + b"\x1e"


async def answers(hand: HubByHand, count: int) -> list[str]:
    ids: list[str] = []
    while len(ids) < count:
        ids += [record["invocationId"] for record in (await hand.poll()).records]
    return ids


class TestBodies:
    async def test_one_may_join_many_messages_and_a_message_may_span_two(self, hand: HubByHand) -> None:
        await hand.shake_hands_by_polls()
        body = b"".join(call(number) for number in range(100))
        assert (await hand.post(body[:2_000])).status == 200
        assert (await hand.post(body[2_000:])).status == 200
        assert await answers(hand, 100) == [str(number) for number in range(100)]

    @pytest.mark.parametrize("media_type", ["text/plain;charset=UTF-8", "application/octet-stream", "x"])
    async def test_its_media_type_does_not_matter(self, hand: HubByHand, media_type: str) -> None:
        await hand.shake_hands_by_polls()
        assert (await hand.post(call(1), **{"content-type": media_type})).status == 200
        assert await answers(hand, 1) == ["1"]

    async def test_an_empty_one_is_taken(self, hand: HubByHand) -> None:
        await hand.shake_hands_by_polls()
        assert (await hand.post(b"")).status == 200

    async def test_chunks_are_put_together(self, hand: HubByHand) -> None:
        await hand.shake_hands_by_polls()
        line = await hand.line()
        line.send_head("POST", hand.target, hand.headers | {"transfer-encoding": "chunked"})
        for byte in call(1):
            line.writer.write(b"1\r\n%c\r\n" % byte)
        line.writer.write(b"0\r\n\r\n")
        assert (await line.reply()).status == 200
        assert await answers(hand, 1) == ["1"]

    async def test_they_are_worked_off_in_the_order_in_which_they_came(self, hand: HubByHand) -> None:
        await hand.shake_hands_by_polls()
        for number in range(50):
            assert (await hand.post(call(number))).status == 200
        assert await answers(hand, 50) == [str(number) for number in range(50)]

    async def test_a_post_that_is_still_arriving_goes_before_the_one_after_it(self, hand: HubByHand) -> None:
        await hand.shake_hands_by_polls()
        first = await hand.line()
        first.send_head("POST", hand.target, hand.headers | {"content-length": str(len(call(1)))})
        first.writer.write(call(1)[:10])
        await asyncio.sleep(0.1)
        second = await hand.line()
        second.begin("POST", hand.target, hand.headers, call(2))
        await asyncio.sleep(0.1)
        first.writer.write(call(1)[10:])
        assert (await first.reply()).status == (await second.reply()).status == 200
        assert await answers(hand, 2) == ["1", "2"]


class TestBackPressure:
    async def test_one_is_answered_before_its_call_is_and_the_next_one_waits(
        self, server: HubServer, hand: HubByHand
    ) -> None:
        await hand.shake_hands_by_polls()
        server.backend.hello_gate = asyncio.Event()
        hello = {"type": 1, "target": "Hello", "arguments": [{"deviceId": "phone"}], "invocationId": "h"}
        await hand.send(hello)
        await wait_until(lambda: bool(server.backend.hellos))
        line = await hand.line()
        line.begin("POST", hand.target, hand.headers, call(1))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(line.reader.readexactly(1))), 0.2)
        server.backend.hello_gate.set()
        assert await answers(hand, 2) == ["h", "1"]

    async def test_no_more_than_a_few_may_wait(self) -> None:
        async with run_hub(HubLimits(posts_waiting=2)) as server, by_hand(server) as hand:
            await hand.shake_hands_by_polls()
            server.backend.hello_gate = asyncio.Event()
            await hand.send({"type": 1, "target": "Hello", "arguments": [{"deviceId": "p"}], "invocationId": "h"})
            await wait_until(lambda: bool(server.backend.hellos))
            waiting = [await hand.line() for _ in range(2)]
            for line in waiting:
                line.begin("POST", hand.target, hand.headers, PING)
            await asyncio.sleep(0.1)
            refused = await hand.post(PING)
            assert refused.status == 503 and int(refused.headers["retry-after"]) >= 1
            server.backend.hello_gate.set()
            assert [(await line.reply()).status for line in waiting] == [200, 200]

    async def test_one_that_waits_too_long_for_its_turn_is_503(self) -> None:
        async with run_hub(HubLimits(post_deadline_s=0.2)) as server, by_hand(server) as hand:
            await hand.shake_hands_by_polls()
            server.backend.hello_gate = asyncio.Event()
            await hand.send({"type": 1, "target": "Hello", "arguments": [{"deviceId": "p"}], "invocationId": "h"})
            assert (await hand.post(PING)).status == 503
            server.backend.hello_gate.set()

    async def test_a_delete_ends_a_call_that_still_runs(self, server: HubServer, hand: HubByHand) -> None:
        await hand.shake_hands_by_polls()
        server.backend.hello_gate = asyncio.Event()
        await hand.send({"type": 1, "target": "Hello", "arguments": [{"deviceId": "phone"}], "invocationId": "h"})
        await wait_until(lambda: bool(server.backend.hellos))
        waiting = await hand.line()
        waiting.begin("POST", hand.target, hand.headers, PING)
        await asyncio.sleep(0.1)
        assert (await hand.delete()).status == 202
        assert (await waiting.reply()).status == 404
        assert server.hub.stats().sessions == 0


class TestHostile:
    async def test_half_a_body_is_not_read_and_nobody_waits_for_its_other_half(self, hand: HubByHand) -> None:
        await hand.shake_hands_by_polls()
        line = await hand.line()
        line.send_head("POST", hand.target, hand.headers | {"content-length": "1000"})
        line.writer.write(call(1) + call(2)[:5])
        await asyncio.sleep(0.1)
        line.abort()
        assert (await hand.post(call(3))).status == 200
        assert await answers(hand, 1) == ["3"]

    async def test_a_body_that_drips_is_408_and_the_next_one_is_taken(self) -> None:
        async with run_hub(HubLimits(post_deadline_s=0.4)) as server, by_hand(server) as hand:
            await hand.shake_hands_by_polls()
            line = await hand.line()
            line.send_head("POST", hand.target, hand.headers | {"content-length": "100000"})
            dripping = asyncio.ensure_future(_drip(line.writer))
            assert (await line.reply()).status == 408
            dripping.cancel()
            await asyncio.gather(dripping, return_exceptions=True)
            assert (await hand.post(call(3))).status == 200
            assert await answers(hand, 1) == ["3"]

    @pytest.mark.parametrize("is_announced", [True, False])
    async def test_10_mib_are_413_and_the_connection_stays(self, hand: HubByHand, is_announced: bool) -> None:
        await hand.shake_hands_by_polls()
        line = await hand.line()
        if is_announced:
            line.send_head("POST", hand.target, hand.headers | {"content-length": "10485760"})
        else:
            line.send_head("POST", hand.target, hand.headers | {"transfer-encoding": "chunked"})
            line.writer.write(b"40000\r\n%b\r\n1\r\nx\r\n" % (b"x" * 0x40000))
        assert (await line.reply()).status == 413
        line.abort()
        await hand.send({"type": 6})
        assert (await hand.post(call(3))).status == 200
        assert await answers(hand, 1) == ["3"]

    async def test_a_message_over_its_own_limit_ends_the_connection(self, hand: HubByHand) -> None:
        await hand.shake_hands_by_polls()
        assert (await hand.post(b'{"type":1,"target":"' + b"x" * 40_000)).status == 200
        (close,) = (await hand.poll()).records
        assert close["type"] == 7 and close["allowReconnect"] is True

    async def test_bytes_that_are_no_messages_end_a_stream_and_nobody_else(self, server: HubServer) -> None:
        async with by_hand(server) as bad, by_hand(server) as good:
            ended, events = await bad.stream(), await good.stream()
            assert (await bad.post(b"\xff\xfe\x00\x1e")).status == 200
            assert [record["type"] for record in await ended.rest()] == [7]
            server.send(title="fine")
            assert (await events.next())["arguments"][0]["title"] == "fine"

    async def test_two_handshakes_are_a_violation(self, hand: HubByHand) -> None:
        await hand.shake_hands_by_polls()
        assert (await hand.post(HANDSHAKE)).status == 200
        assert [record["type"] for record in (await hand.poll()).records] == [7]

    async def test_a_body_with_a_poll_means_nothing(self, server: HubServer, hand: HubByHand) -> None:
        await hand.shake_hands_by_polls()
        line = await hand.line()
        line.begin("GET", hand.target, hand.headers, call(1))
        await asyncio.sleep(0.1)
        server.send(title="the answer")
        assert (await line.reply()).records[0]["target"] == "ReceiveNotification"

    async def test_a_poll_that_never_stops_sending_is_not_listened_to(self, hand: HubByHand) -> None:
        await hand.shake_hands_by_polls()
        line = await hand.line()
        line.send_head("GET", hand.target, hand.headers | {"content-length": "10000000"})
        line.writer.write(b"x" * 200_000)
        reply = await line.reply()
        assert (reply.status, reply.body) == (200, b"")


async def _drip(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x")
        await asyncio.sleep(0.02)


class TestBeforeATransportOpens:
    async def test_a_handshake_is_kept_until_the_first_poll(self, hand: HubByHand) -> None:
        assert (await hand.post(HANDSHAKE[:10])).status == 200
        assert (await hand.post(HANDSHAKE[10:])).status == 200
        assert (await hand.poll()).body == b""
        assert (await hand.poll()).records == [{}]
        await hand.post(call(1))
        assert await answers(hand, 1) == ["1"]

    async def test_a_handshake_is_kept_until_the_stream_opens(self, hand: HubByHand) -> None:
        assert (await hand.post(HANDSHAKE)).status == 200
        events = await hand.open_stream()
        assert await events.next() == {}

    async def test_more_than_a_handshake_is_not(self, hand: HubByHand) -> None:
        assert (await hand.post(b"x" * 2_000)).status == 413
        assert (await hand.post(b"x" * 1_000)).status == 200
        assert (await hand.post(b"x" * 100)).status == 413

    async def test_one_body_at_a_time_may_be_on_its_way(self, server: HubServer, hand: HubByHand) -> None:
        """The story: 120 bodies that never came, all to one id, took every connection of the main port for 30 s."""
        slow = await hand.line()
        await begin_post(slow, hand, hand.target)
        await wait_until_second_is(hand, 503)
        slow.writer.write(HANDSHAKE[10:])
        assert (await slow.reply()).status == 200
        assert (await hand.poll()).body == b""
        assert (await hand.poll()).records == [{}]

    async def test_its_body_has_a_deadline_of_its_own(self) -> None:
        async with run_hub(HubLimits(posted_early_deadline_s=0.2)) as server, by_hand(server) as hand:
            line = await hand.line()
            await begin_post(line, hand, hand.target)
            assert (await line.reply()).status == 408
            assert (await hand.post(HANDSHAKE)).status == 200

    async def test_one_that_goes_away_makes_room_for_the_next(self, server: HubServer, hand: HubByHand) -> None:
        line = await hand.line()
        await begin_post(line, hand, hand.target)
        await wait_until_second_is(hand, 503)
        line.abort()
        await wait_until_second_is(hand, 200)


class TestArriving:
    """What is posted holds a TCP connection until it has arrived: that is counted by user and by network address."""

    @pytest.mark.parametrize(
        "bounds",
        [
            {"posts_arriving": 2},
            {"posts_arriving_per_user": 2},
            {"posts_arriving_per_address": 2},
            {"connections_per_user": 2},
            {"connections_per_address": 2},
        ],
    )
    @pytest.mark.parametrize("is_open", [False, True])
    async def test_no_more_than_so_many_at_once_and_then_again(self, bounds: dict[str, int], is_open: bool) -> None:
        async with (
            run_hub(HubLimits(**bounds)) as server,  # type: ignore[arg-type]
            by_hand(server) as hand,
            by_hand(server) as other,
        ):
            # The two that may.
            lines = [await hand.line(), await other.line()]
            if is_open:
                await hand.shake_hands_by_polls()
            third = hand if is_open else HubByHand(server, "alice")
            try:
                if not is_open:
                    await third.negotiate()
                await begin_post(lines[0], hand, hand.target)
                await begin_post(lines[1], other, other.target)
                await wait_until_second_is(third, 503)
                assert next(iter(bounds)).replace("connections", "posts_arriving") in server.hub.stats().refused
                for line in lines:
                    line.abort()
                await wait_until_second_is(third, 200)
            finally:
                await third.leave()

    async def test_another_user_is_served_while_one_has_all_that_one_may(self) -> None:
        async with (
            run_hub(HubLimits(posts_arriving_per_user=1)) as server,
            by_hand(server) as hand,
            by_hand(server, "bob") as bob,
        ):
            await hand.shake_hands_by_polls()
            await begin_post(await hand.line(), hand, hand.target)
            await wait_until_second_is(hand, 503)
            await bob.shake_hands_by_polls()

    async def test_a_body_that_is_worked_off_takes_no_place(self) -> None:
        async with run_hub(HubLimits(posts_arriving_per_user=1)) as server, by_hand(server) as hand:
            await hand.shake_hands_by_polls()
            server.backend.hello_gate = asyncio.Event()
            await hand.send({"type": 1, "target": "Hello", "arguments": [{"deviceId": "p"}], "invocationId": "h"})
            await wait_until(lambda: bool(server.backend.hellos))
            async with by_hand(server) as other:
                await other.shake_hands_by_polls()
            server.backend.hello_gate.set()


async def begin_post(line: HttpLine, hand: HubByHand, target: str) -> None:
    """Post the beginning of a handshake; its other end is to follow."""
    line.send_head("POST", target, hand.headers | {"content-length": str(len(HANDSHAKE))})
    line.writer.write(HANDSHAKE[:10])
    await line.writer.drain()


async def wait_until_second_is(hand: HubByHand, status: int) -> None:
    """Post nothing at all until that is answered so: the server learns of others' requests in its own time."""
    async with asyncio.timeout(10.0):
        while True:
            reply = await hand.post(b"")
            if reply.status == status:
                break
    if status == 503:
        assert int(reply.headers["retry-after"]) >= 1
