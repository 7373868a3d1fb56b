"""How the sender shares out its connections: limits of streams, the queue, cancelling, closing, dead connections."""

import asyncio
from collections import Counter

import pytest
from h2.errors import ErrorCodes

from appliance.channels.http2_messages import Ambiguous, Answered, Failure, NotSent
from tests.doubles.http2_requests import SOON_S, WITHIN_S, Ledger, number_of, request, send_many, until
from tests.doubles.http2_server import Asked, ServerLimits, run_http2_server


@pytest.fixture
def server_tls(authority):
    return authority.server_tls("localhost", "127.0.0.1")


async def test_a_limit_that_shrinks_to_one_is_obeyed_at_once(make_sender, server_tls):
    """SETTINGS 1000 to 1 with 50 in flight: an HTTP library hung all 50 for ever; APNs does that on token trouble."""
    ledger = Ledger()
    peaks: list[int] = []

    def answer(asked):
        ledger.taken[number_of(asked)] += 1
        if len(ledger.taken) == 50:
            asked.connection.tell_streams(1)
            server.limits = ServerLimits(streams=1)
        if len(ledger.taken) > 50:
            peaks.append(len(asked.connection.streams))
        asyncio.get_running_loop().call_later(0.01 if len(ledger.taken) > 50 else 0.05, asked.reply)

    async with run_http2_server(answer, tls=server_tls, limits=ServerLimits(streams=50)) as server:
        sender = make_sender(server.port, connections=1)
        answers = await send_many(sender, 80)
        assert {answer.status for answer in answers} == {200}
        assert set(ledger.taken.values()) == {1}
        assert set(peaks) == {1}
        assert server.refused == 0


async def test_one_stream_until_the_first_success_is_obeyed_at_the_cold_start(make_sender, server_tls):
    def answer(asked):
        asked.reply()
        if server.taken == 1:
            server.on_stream_limit = None
            asked.connection.tell_streams(1_000)

    async with run_http2_server(answer, tls=server_tls, limits=ServerLimits(streams=1)) as server:
        server.on_stream_limit = lambda _: 1
        answers = await send_many(make_sender(server.port, connections=1), 20)
        assert {answer.status for answer in answers} == {200}
        assert server.refused == 0


async def test_further_connections_are_opened_when_all_are_full(make_sender, server_tls):
    async with run_http2_server(tls=server_tls, limits=ServerLimits(streams=10)) as server:
        server.latency_s = 0.05
        sender = make_sender(server.port, connections=3)
        answers = await send_many(sender, 200)
        assert {answer.status for answer in answers} == {200}
        assert (server.connected, sender.connections) == (3, 3)
        assert {connection.accepted > 20 for connection in server.connections} == {True}


async def test_the_queue_is_bounded_and_says_so(make_sender, server_tls, leap):
    async with run_http2_server(lambda asked: None, tls=server_tls, limits=ServerLimits(streams=1)) as server:
        sender = make_sender(server.port, connections=1, queued=5)
        tasks = [asyncio.create_task(sender.send(request(), 2 * SOON_S))]
        await until(lambda: server.taken == 1)
        tasks += [asyncio.create_task(sender.send(request(), SOON_S)) for _ in range(7)]
        await until(lambda: tasks[7].done())
        leap(SOON_S)
        await asyncio.wait(tasks[1:])
        leap(SOON_S)
        counted = Counter((type(answer), answer.reason) for answer in await asyncio.gather(*tasks))
        assert counted[NotSent, Failure.BUSY] == 2
        assert counted[NotSent, Failure.TIMEOUT] == 5
        assert counted[Ambiguous, Failure.TIMEOUT] == 1


async def test_what_waits_until_its_deadline_is_not_sent_at_the_last_moment(make_sender, server_tls, leap):
    """The first time-out frees a slot, into which the next one would go with no time left for an answer."""
    async with run_http2_server(lambda asked: None, tls=server_tls, limits=ServerLimits(streams=1)) as server:
        sender = make_sender(server.port, connections=1)
        sending = asyncio.create_task(send_many(sender, 5, deadline_s=SOON_S))
        await until(lambda: server.taken == 1)
        leap(SOON_S)
        assert Counter(map(type, await sending)) == {Ambiguous: 1, NotSent: 4}
        assert server.taken == 1


async def test_a_peer_that_does_not_read_holds_requests_in_the_queue_and_not_in_memory(make_sender, server_tls):
    wide = ServerLimits(window_bytes=2**24, connection_window_bytes=2**30)
    async with run_http2_server(tls=server_tls, limits=wide) as server:
        sender = make_sender(server.port, connections=1)
        assert (await sender.send(request(), WITHIN_S)).status == 200
        server.connections[0].stop_reading()
        sending = asyncio.create_task(send_many(sender, 400, body=b"x" * 100_000))
        await until(lambda: sender.in_flight > 1)
        await asyncio.sleep(0.2)
        assert sender.queued > 200
        server.connections[0].read_on()
        assert {answer.status for answer in await sending} == {200}
        assert server.connected == 1


async def test_a_cancelled_caller_cancels_its_stream_only(make_sender, server_tls):
    ledger = Ledger()

    def answer(asked):
        if number_of(asked):
            ledger(asked)

    async with run_http2_server(answer, tls=server_tls) as server:
        sender = make_sender(server.port)
        task = asyncio.create_task(sender.send(request(0), WITHIN_S))
        await until(lambda: server.taken == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await sender.send(request(1), WITHIN_S)).status == 200
        assert (sender.in_flight, server.connected) == (0, 1)
        assert server.connections[0].resets == [(1, ErrorCodes.CANCEL)]


async def test_a_cancelled_caller_leaves_the_queue(make_sender, server_tls):
    async with run_http2_server(lambda asked: None, tls=server_tls, limits=ServerLimits(streams=1)) as server:
        sender = make_sender(server.port, connections=1)
        tasks = [asyncio.create_task(sender.send(request(number), WITHIN_S)) for number in range(3)]
        await until(lambda: sender.in_flight == 1 and sender.queued == 2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (sender.queued, sender.in_flight) == (0, 0)


async def test_closing_lets_what_is_held_finish(make_sender, server_tls):
    async with run_http2_server(tls=server_tls, limits=ServerLimits(streams=5)) as server:
        server.latency_s = 0.05
        sender = make_sender(server.port, connections=1)
        sending = asyncio.create_task(send_many(sender, 20))
        await until(lambda: sender.in_flight == 5)
        await sender.close(WITHIN_S)
        assert {answer.status for answer in await sending} == {200}
        assert (await sender.send(request(), 1)).reason == Failure.CLOSED
        await until(lambda: not server.connections)


async def test_closing_ends_at_its_deadline_and_tells_what_is_known(make_sender, server_tls, leap):
    async with run_http2_server(lambda asked: None, tls=server_tls, limits=ServerLimits(streams=5)) as server:
        sender = make_sender(server.port, connections=1)
        sending = asyncio.create_task(send_many(sender, 20))
        await until(lambda: sender.in_flight == 5)
        closing = asyncio.create_task(sender.close(SOON_S))
        await asyncio.sleep(0)
        leap(SOON_S)
        await closing
        counted = Counter((type(answer), answer.reason) for answer in await sending)
        assert counted == {(Ambiguous, Failure.CLOSED): 5, (NotSent, Failure.CLOSED): 15}
        assert sender.connections == 0


async def test_answers_before_a_broken_frame_count(make_sender, server_tls):
    held = []

    def answer(asked):
        held.append(asked)
        if len(held) == 10:
            for one in held[:5]:
                one.reply()
            asked.connection.write_raw(b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00")

    async with run_http2_server(answer, tls=server_tls) as server:
        answers = await send_many(make_sender(server.port), 10)
        assert [type(answer) for answer in answers] == [Answered] * 5 + [Ambiguous] * 5
        assert answers[9].reason == Failure.PROTOCOL
        assert server.taken == 10


async def test_a_deaf_server_is_found_out_by_ping_and_replaced(make_sender, server_tls, leap):
    async with run_http2_server(tls=server_tls) as server:
        sender = make_sender(server.port, silence_s=SOON_S, ping_s=SOON_S)
        assert (await sender.send(request(), WITHIN_S)).status == 200
        server.is_deaf = True
        sending = asyncio.create_task(sender.send(request(), WITHIN_S))
        await until(lambda: sender.in_flight == 1)
        leap(SOON_S)
        await asyncio.sleep(0.01)
        leap(SOON_S)
        lost = await sending
        assert lost == Ambiguous(Failure.BROKEN, "The server fell silent, so the connection was given up.")
        server.is_deaf = False
        assert (await sender.send(request(), WITHIN_S)).status == 200
        assert server.connected == 2


async def test_a_slow_server_that_answers_pings_is_waited_for(make_sender, server_tls, leap):
    held: list[Asked] = []
    async with run_http2_server(held.append, tls=server_tls) as server:
        sender = make_sender(server.port, silence_s=SOON_S, ping_s=SOON_S)
        sending = asyncio.create_task(sender.send(request(), 10 * WITHIN_S))
        await until(lambda: held)
        for pings in range(1, 6):
            leap(SOON_S)
            await until(lambda: server.connections[0].pings == pings)  # noqa: B023 - awaited here
            await asyncio.sleep(0.01)
        held[0].reply()
        assert (await sending).status == 200
        assert server.connected == 1


async def test_a_connection_dead_since_long_is_found_out_before_it_carries_anything(make_sender, server_tls, leap):
    """A home router forgets idle connections: the first push of the morning must not be ambiguous for that."""
    ledger = Ledger()
    async with run_http2_server(ledger, tls=server_tls) as server:
        sender = make_sender(server.port, trust_s=SOON_S, ping_s=SOON_S)
        assert (await sender.send(request(0), WITHIN_S)).status == 200
        server.connections[0].is_deaf = True
        leap(SOON_S + 1)
        sending = asyncio.create_task(sender.send(request(1), WITHIN_S))
        await asyncio.sleep(0.01)
        leap(SOON_S)
        assert (await sending).status == 200
        assert ledger.taken == {0: 1, 1: 1}
        assert server.connected == 2


async def test_uneven_load_goes_to_the_emptiest_connection(make_sender, server_tls):
    async with run_http2_server(tls=server_tls, limits=ServerLimits(streams=20)) as server:
        server.latency_s = 0.03
        sender = make_sender(server.port, connections=2)
        await send_many(sender, 100)
        before = [connection.accepted for connection in server.connections]
        await send_many(sender, 20)
        grown = [connection.accepted - old for connection, old in zip(server.connections, before, strict=True)]
        assert grown == [10, 10]
