"""The sender against a server that misbehaves in every way that has been seen to hang, lose or double pushes.

The stories are those of the SDKs whose place the sender takes.
"""

import asyncio
from collections import Counter

import pytest
from h2.errors import ErrorCodes

from appliance.channels.http2_messages import Ambiguous, Answered, Failure, NotSent
from tests.doubles.http2_requests import SOON_S, WITHIN_S, Ledger, number_of, request, send_many, until
from tests.doubles.http2_server import ServerLimits, run_http2_server


@pytest.fixture
def server_tls(authority):
    return authority.server_tls("localhost", "127.0.0.1")


async def test_one_request_brings_its_answer_with_headers_and_body(make_sender, server_tls):
    def answer(asked):
        asked.reply(400, {"apns-id": asked.headers["apns-id"], "retry-after": "7"}, bytes(asked.body))

    async with run_http2_server(answer, tls=server_tls) as server:
        answered = await make_sender(server.port).send(request(5, body=b'{"reason":"BadTopic"}'), WITHIN_S)
    assert (answered.status, answered.body) == (400, b'{"reason":"BadTopic"}')
    assert answered.header(b"apns-id") == "5"
    assert answered.header(b"retry-after") == "7"
    assert answered.header(b"absent") is None


async def test_a_server_without_tls_is_spoken_to_by_prior_knowledge(make_sender):
    async with run_http2_server() as server:
        answered = await make_sender(server.port, host="127.0.0.1", scheme="http").send(request(), WITHIN_S)
    assert answered.status == 200


async def test_nothing_connects_before_the_first_request(make_sender, server_tls):
    async with run_http2_server(tls=server_tls) as server:
        make_sender(server.port)
        await asyncio.sleep(0.05)
        assert server.connected == 0


async def test_five_thousand_error_replies_leave_one_connection_usable(make_sender, server_tls):
    """Error bodies that were never acknowledged used up the connection's window: after 2 427 of them all hung."""

    def answer(asked):
        asked.reply(400, {}, b'{"reason":"BadDeviceToken"}')

    async with run_http2_server(answer, tls=server_tls) as server:
        sender = make_sender(server.port, connections=1, queued=5_000)
        answers = await send_many(sender, 5_000)
        assert {answer.status for answer in answers} == {400}
        assert (server.connected, server.faults) == (1, [])


async def test_more_answer_bytes_than_every_window_pass_over_one_connection(make_sender, server_tls):
    body = b"x" * 60_000

    async with run_http2_server(lambda asked: asked.reply(200, {}, body), tls=server_tls) as server:
        sender = make_sender(server.port, connections=1)
        answers = await send_many(sender, 300)
        assert all(answer.body == body for answer in answers)
        assert (server.connected, server.faults) == (1, [])


@pytest.mark.parametrize("code", [ErrorCodes.INTERNAL_ERROR, ErrorCodes.CANCEL, ErrorCodes.ENHANCE_YOUR_CALM])
async def test_a_broken_off_stream_is_ambiguous_and_harms_no_other(make_sender, server_tls, code):
    """A reset stream used to hang for ever and keep its slot."""

    def answer(asked):
        if number_of(asked) % 2:
            asked.reset(code)
        else:
            asked.reply()

    async with run_http2_server(answer, tls=server_tls, limits=ServerLimits(streams=10)) as server:
        sender = make_sender(server.port, connections=1)
        answers = await send_many(sender, 100)
        assert Counter(map(type, answers)) == {Answered: 50, Ambiguous: 50}
        assert answers[1] == Ambiguous(Failure.BROKEN, f"The server broke the request off ({code.name}).")
        assert server.connected == 1


async def test_a_refused_stream_is_sent_again_by_itself(make_sender, server_tls):
    ledger, refused = Ledger(), set()

    def answer(asked):
        if number_of(asked) not in refused:
            refused.add(number_of(asked))
            asked.reset(ErrorCodes.REFUSED_STREAM)
        else:
            ledger(asked)

    async with run_http2_server(answer, tls=server_tls) as server:
        sender = make_sender(server.port)
        answers = await send_many(sender, 50)
        assert {answer.status for answer in answers} == {200}
        assert set(ledger.taken.values()) == {1}
        assert sender.counters.resent == 50


async def test_a_server_that_refuses_for_good_is_asked_a_few_times_only(make_sender, server_tls):
    async with run_http2_server(lambda asked: asked.reset(ErrorCodes.REFUSED_STREAM), tls=server_tls) as server:
        answer = await make_sender(server.port, resends=3).send(request(), WITHIN_S)
        assert answer == NotSent(Failure.REFUSED, "The server refused the request for now.")
        assert server.taken == 4


async def test_an_error_without_a_body_is_an_answer(make_sender, server_tls):
    """Empty 5xx replies and errors without apns-id used to hang."""
    async with run_http2_server(lambda asked: asked.reply(503), tls=server_tls) as server:
        answer = await make_sender(server.port).send(request(), WITHIN_S)
    assert (answer.status, answer.body) == (503, b"")


async def test_a_silent_server_costs_the_deadline_once_and_is_asked_once(make_sender, server_tls, leap):
    """A silent server used to be asked five times and to hold the push for 50 s or for ever."""
    async with run_http2_server(lambda asked: None, tls=server_tls) as server:
        sender = make_sender(server.port)
        sending = asyncio.create_task(sender.send(request(), SOON_S))
        await until(lambda: server.taken == 1)
        leap(SOON_S)
        answer = await sending
        assert answer == Ambiguous(Failure.TIMEOUT, "The server did not answer in time.")
        await until(lambda: server.connections[0].resets)
        assert server.connections[0].resets == [(1, ErrorCodes.CANCEL)]
        assert (server.taken, server.connected, sender.in_flight) == (1, 1, 0)


async def test_timeouts_harm_nobody_else(make_sender, server_tls, leap):
    """A late answer to a push that was given up used to kill the connection: all others were sent twice or hung."""
    ledger, held = Ledger(), []

    def answer(asked):
        ledger.taken[number_of(asked)] += 1
        held.append(asked)

    async with run_http2_server(answer, tls=server_tls) as server:
        sender = make_sender(server.port, connections=1)
        given_up = [asyncio.create_task(sender.send(request(number), SOON_S)) for number in range(10)]
        others = [asyncio.create_task(sender.send(request(number), WITHIN_S)) for number in range(10, 60)]
        await until(lambda: server.taken == 60)
        leap(SOON_S)
        assert {type(answer) for answer in await asyncio.gather(*given_up)} == {Ambiguous}
        for asked in held:
            if number_of(asked) < 10:
                # On the wire the answer crosses the cancellation.
                asked.connection.write_raw(_late_answer(asked.stream_id))
            else:
                asked.reply()
        assert {answer.status for answer in await asyncio.gather(*others)} == {200}
        assert set(ledger.taken.values()) == {1}
        assert (server.connected, len(ledger.taken)) == (1, 60)


def _late_answer(stream_id):
    headers = b"\x88"  # :status 200, from the static table
    return (
        len(headers).to_bytes(3) + b"\x01\x04" + stream_id.to_bytes(4) + headers
        + (2).to_bytes(3) + b"\x00\x01" + stream_id.to_bytes(4) + b"{}"
    )  # fmt: skip


async def test_timeouts_and_a_reset_connection_leave_nothing_hanging(make_sender, server_tls, leap):
    """Five time-outs and a TCP reset used to leave all 20 others hanging for ever."""
    async with run_http2_server(lambda asked: None, tls=server_tls) as server:
        sender = make_sender(server.port)
        given_up = [asyncio.create_task(sender.send(request(number), SOON_S)) for number in range(5)]
        others = [asyncio.create_task(sender.send(request(number), WITHIN_S)) for number in range(5, 25)]
        await until(lambda: server.taken == 25)
        leap(SOON_S)
        await asyncio.gather(*given_up)
        server.connections[0].drop()
        answers = await asyncio.gather(*others)
        assert {answer.reason for answer in answers} == {Failure.BROKEN}
        assert {type(answer) for answer in answers} == {Ambiguous}
        assert server.taken == 25


async def test_a_connection_that_answers_nothing_any_more_is_replaced(make_sender, server_tls, leap):
    async with run_http2_server(lambda asked: None, tls=server_tls) as server:
        sender = make_sender(server.port, timeouts_borne=4)
        sending = asyncio.create_task(send_many(sender, 4, deadline_s=SOON_S))
        await until(lambda: server.taken == 4)
        leap(SOON_S)
        await sending
        server.answer = Ledger()
        assert (await sender.send(request(), WITHIN_S)).status == 200
        assert server.connected == 2


async def test_goaway_in_the_middle_loses_nothing_and_doubles_nothing(make_sender, server_tls):
    """200 pushes, one GOAWAY at the hundredth: about 60 used to be processed twice, 2 raised into the caller."""
    ledger = Ledger()

    def answer(asked):
        ledger.taken[number_of(asked)] += 1
        asyncio.get_running_loop().call_later(0.05, asked.reply)
        if len(ledger.taken) == 100 and server.connected == 1:
            asked.connection.go_away(asked.stream_id)

    async with run_http2_server(answer, tls=server_tls) as server:
        sender = make_sender(server.port)
        answers = await send_many(sender, 200)
        assert {answer.status for answer in answers} == {200}
        assert len(ledger.taken) == 200
        assert set(ledger.taken.values()) == {1}
        assert server.connected == 2
        await until(lambda: sender.connections == 1)


async def test_a_graceful_goaway_in_two_steps_finishes_what_was_taken(make_sender, server_tls):
    ledger = Ledger()

    def answer(asked):
        ledger.taken[number_of(asked)] += 1
        if len(ledger.taken) == 20 and server.connected == 1:
            asked.connection.go_away(2**31 - 1, said=b'{"reason":"Shutdown"}')
            asked.connection.go_away()
        asyncio.get_running_loop().call_later(0.02, asked.reply)

    async with run_http2_server(answer, tls=server_tls, limits=ServerLimits(streams=15)) as server:
        answers = await send_many(make_sender(server.port, connections=1), 100)
        assert {answer.status for answer in answers} == {200}
        assert set(ledger.taken.values()) == {1}
        assert server.connected == 2


async def test_what_the_server_says_at_goaway_is_told(make_sender, server_tls):
    def answer(asked):
        asked.connection.go_away(0, ErrorCodes.NO_ERROR, b'{"reason":"BadCertificate"}')

    async with run_http2_server(answer, tls=server_tls) as server:
        answered = await make_sender(server.port, resends=0).send(request(), WITHIN_S)
    detail = 'The server ended the connection (NO_ERROR: {"reason":"BadCertificate"}).'
    assert answered == NotSent(Failure.GOING_AWAY, detail)


async def test_large_payloads_wait_for_the_window(make_sender, server_tls):
    """4 KB payloads, a 64 KB window and 40 ms of round trip: 121 to 139 of 200 used to fail, their slots to leak."""
    ledger = Ledger()
    async with run_http2_server(ledger, tls=server_tls) as server:
        server.window_delay_s = 0.04
        sender = make_sender(server.port, connections=1)
        answers = await send_many(sender, 200, body=b"x" * 4_096)
        assert {answer.status for answer in answers} == {200}
        assert set(ledger.taken.values()) == {1}
        assert (server.faults, sender.in_flight) == ([], 0)


async def test_a_stream_window_smaller_than_the_body_is_filled_again_and_again(make_sender, server_tls):
    bodies = []

    def answer(asked):
        bodies.append(bytes(asked.body))
        asked.reply()

    async with run_http2_server(answer, tls=server_tls, limits=ServerLimits(window_bytes=100)) as server:
        answers = await send_many(make_sender(server.port, connections=1), 10, body=b"0123456789" * 100)
        assert {answer.status for answer in answers} == {200}
        assert bodies == [b"0123456789" * 100] * 10


async def test_a_body_larger_than_the_connections_window_gets_through(make_sender, server_tls):
    async with run_http2_server(lambda asked: asked.reply(200, {}, b"%d" % len(asked.body)), tls=server_tls) as server:
        answers = await send_many(make_sender(server.port, connections=1), 5, body=b"x" * 200_000)
        assert [answer.body for answer in answers] == [b"200000"] * 5


async def test_a_request_that_the_window_holds_back_at_its_deadline_was_not_sent(make_sender, server_tls, leap):
    async with run_http2_server(tls=server_tls) as server:
        server.window_delay_s = 3_600.0
        sender = make_sender(server.port, connections=1)
        sending = asyncio.create_task(sender.send(request(body=b"x" * 100_000), SOON_S))
        await until(lambda: server.connections and server.connections[0].streams)
        leap(SOON_S)
        stuck = await sending
        assert stuck == NotSent(Failure.TIMEOUT, "The server did not take the whole request in time.")
        assert (server.taken, sender.in_flight) == (0, 0)


async def test_an_html_error_page_in_many_frames_is_one_answer(make_sender, server_tls):
    """A body that was not JSON, or came in two frames, used to tear the connection down for everybody."""
    page = b"<html><body>502 Bad Gateway</body></html>" * 20

    async with run_http2_server(lambda asked: asked.reply(502, {}, page, parts=7), tls=server_tls) as server:
        answers = await send_many(make_sender(server.port), 20)
        assert {(answer.status, answer.body, answer.is_cut) for answer in answers} == {(502, page, False)}
        assert server.connected == 1


async def test_an_endless_body_is_cut_and_cancelled(make_sender, server_tls):
    async with run_http2_server(lambda asked: asked.reply(200, {}, b"x" * 500_000), tls=server_tls) as server:
        answer = await make_sender(server.port, body_bytes=1_000).send(request(), WITHIN_S)
        assert (answer.status, len(answer.body), answer.is_cut) == (200, 1_000, True)
        await until(lambda: server.connections[0].resets)


async def test_too_many_header_bytes_end_the_connection_and_no_more(make_sender, server_tls):
    def answer(asked):
        asked.reply(200, {"x-filler": "y" * 30_000} if number_of(asked) == 0 else {})

    async with run_http2_server(answer, tls=server_tls) as server:
        sender = make_sender(server.port)
        first = await sender.send(request(0), WITHIN_S)
        assert isinstance(first, Ambiguous)
        assert (await sender.send(request(1), WITHIN_S)).status == 200
