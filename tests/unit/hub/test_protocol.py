"""The sans-IO protocol: handshake, message stream and the protocol's own clock."""

from dataclasses import replace

import pytest

from appliance.hub.encoding import Frame
from appliance.hub.encoding_json import JsonEncoding
from appliance.hub.handshake import (
    HANDSHAKE_CANCELED,
    HANDSHAKE_FAILED,
    AwaitingHandshake,
    HandshakeAccepted,
    HandshakeRefused,
)
from appliance.hub.protocol import (
    ClientTimedOut,
    CloseReceived,
    CompletionReceived,
    InvocationReceived,
    LiveProtocol,
    PingDue,
    ProtocolTimes,
    ProtocolViolation,
)

TIMES = ProtocolTimes()
HANDSHAKE = '{"protocol":"json","version":1}\x1e'
PING = '{"type":6}\x1e'


def begin() -> AwaitingHandshake:
    return AwaitingHandshake({"json": JsonEncoding()}, TIMES, now=0.0)


def go_live(now: float = 0.0, times: ProtocolTimes = TIMES) -> LiveProtocol:
    return LiveProtocol(JsonEncoding(), times, now)


def read_all(live: LiveProtocol, data: str | bytes, now: float = 0.0) -> list[object]:
    return list(live.receive(data, now))


class TestHandshake:
    @pytest.mark.parametrize("version", [0, 1, 2])
    def test_versions_0_to_2_are_answered_with_exactly_an_empty_object(self, version: int) -> None:
        outcome = begin().receive(f'{{"version":{version},"protocol":"json"}}\x1e', 1.0)
        assert isinstance(outcome, HandshakeAccepted)
        assert outcome.answer == Frame("{}\x1e", 3)

    def test_it_is_understood_in_binary_frames_cut_anywhere(self) -> None:
        handshake = begin()
        for byte in HANDSHAKE.encode()[:-1]:
            assert handshake.receive(bytes([byte]), 1.0) is None
        assert isinstance(handshake.receive(b"\x1e", 1.0), HandshakeAccepted)

    def test_unknown_keys_are_tolerated(self) -> None:
        assert isinstance(begin().receive('{"protocol":"json","version":1,"x":[{}]}\x1e', 1.0), HandshakeAccepted)

    def test_messages_in_the_same_frame_belong_to_the_live_protocol(self) -> None:
        outcome = begin().receive(HANDSHAKE + '{"type":1,"target":"A","arguments":[]}\x1e{"type":7', 1.0)
        assert isinstance(outcome, HandshakeAccepted)
        assert read_all(outcome.live, b"") == [InvocationReceived("A", (), None, is_stream=False)]
        assert read_all(outcome.live, b"}\x1e") == [CloseReceived()]

    @pytest.mark.parametrize(
        ("sent", "error"),
        [
            ('{"protocol":"nope","version":1}', "The protocol 'nope' is not supported."),
            ('{"protocol":"json","version":99}', "The server does not support version 99 of the 'json' protocol."),
            ('{"protocol":"json","version":-1}', "The server does not support version -1 of the 'json' protocol."),
            ('{"type":6}', HANDSHAKE_FAILED),
            ('{"protocol":"json"}', HANDSHAKE_FAILED),
            ('{"protocol":"json","version":"1"}', HANDSHAKE_FAILED),
            ('{"protocol":null,"version":1}', HANDSHAKE_FAILED),
            ("not json", HANDSHAKE_FAILED),
            ("", HANDSHAKE_FAILED),
            ("[" * 20_000, HANDSHAKE_FAILED),
        ],
    )
    def test_anything_else_is_refused_with_one_error_record(self, sent: str, error: str) -> None:
        outcome = begin().receive(sent + "\x1e", 1.0)
        assert isinstance(outcome, HandshakeRefused)
        assert outcome.answer.payload == '{"error":"' + error + '"}\x1e'

    def test_invalid_utf8_is_refused(self) -> None:
        assert isinstance(begin().receive(b'{"protocol":"\xff","version":1}\x1e', 1.0), HandshakeRefused)

    def test_one_that_never_ends_is_refused_at_the_message_limit(self) -> None:
        handshake = begin()
        assert handshake.receive(b" " * TIMES.message_bytes, 1.0) is None
        outcome = handshake.receive(b" ", 1.0)
        assert isinstance(outcome, HandshakeRefused) and outcome.reason == HANDSHAKE_CANCELED

    def test_it_is_given_up_after_15_seconds(self) -> None:
        handshake = begin()
        assert handshake.next_deadline == 15.0
        assert handshake.pass_time(14.9) is None
        refused = handshake.pass_time(15.0)
        assert refused is not None and refused.reason == HANDSHAKE_CANCELED
        assert handshake.receive(HANDSHAKE, 15.0) is None


class TestMessages:
    def test_several_messages_and_parts_of_messages_may_share_a_frame(self) -> None:
        live = go_live()
        first = '{"type":1,"target":"A","arguments":[1],"invocationId":"7"}\x1e{"type":1,"tar'
        assert read_all(live, first) == [InvocationReceived("A", (1,), "7", is_stream=False)]
        assert read_all(live, 'get":"B","arguments":[]}\x1e') == [InvocationReceived("B", (), None, is_stream=False)]

    def test_a_stream_invocation_is_an_invocation_that_says_so(self) -> None:
        sent = '{"type":4,"target":"S","arguments":[],"invocationId":"1","streamIds":[]}\x1e'
        assert read_all(go_live(), sent) == [InvocationReceived("S", (), "1", is_stream=True)]

    def test_headers_nulls_unknown_keys_and_any_order_are_tolerated(self) -> None:
        sent = (
            '{"headers":{"a":"b"},"x":{"y":[]},"streamIds":[],"invocationId":null,"arguments":[],"target":"A","type":1}'
        )
        assert read_all(go_live(), sent + "\x1e") == [InvocationReceived("A", (), None, is_stream=False)]

    def test_a_completion_carries_its_error(self) -> None:
        sent = '{"type":3,"invocationId":"1","result":null}\x1e{"type":3,"invocationId":"2","error":"no"}\x1e'
        assert read_all(go_live(), sent) == [CompletionReceived("1", None), CompletionReceived("2", "no")]

    @pytest.mark.parametrize(
        "stray",
        [
            '{"type":2,"invocationId":"1","item":1}',
            '{"type":5,"invocationId":"1"}',
            '{"type":8,"sequenceId":3}',
            '{"type":9,"sequenceId":3}',
            '{"type":99}',
            '{"type":0}',
            '{"type":-4}',
        ],
    )
    def test_messages_that_mean_nothing_here_are_skipped(self, stray: str) -> None:
        live = go_live()
        assert read_all(live, stray + "\x1e") == []
        assert not live.has_ended

    def test_after_a_close_nothing_is_read_any_more(self) -> None:
        live = go_live()
        assert read_all(live, '{"type":7}\x1e{"type":1,"target":"A","arguments":[]}\x1e') == [CloseReceived()]
        assert read_all(live, '{"type":1,"target":"A","arguments":[]}\x1e') == []

    @pytest.mark.parametrize(
        "broken",
        [
            "",
            "not json",
            "null",
            "[]",
            "6",
            "{}",
            '{"type":"6"}',
            '{"type":6.5}',
            '{"type":null}',
            '{"type":1}',
            '{"type":1,"target":"A"}',
            '{"type":1,"arguments":[]}',
            '{"type":1,"target":1,"arguments":[]}',
            '{"type":1,"target":"A","arguments":{}}',
            '{"type":1,"target":"A","arguments":[],"invocationId":5}',
            '{"type":4,"target":"A","arguments":[]}',
            '{"type":3}',
            '{"type":3,"invocationId":"1","error":"e","result":1}',
            '{"type":6}{"type":6}',
            '{"type":1,"target":"A","arguments":[' + "[" * 16_000 + "]" * 16_000 + "]}",
            '{"type":6,"x":' + "[" * 16_000 + "]" * 16_000 + "}",
            '{"type":1,"target":"A","arguments":["\\ud800"]}',
        ],
    )
    def test_a_malformed_message_is_a_violation_and_the_end(self, broken: str) -> None:
        live = go_live()
        events = read_all(live, PING + broken + "\x1e" + PING)
        assert [type(event) for event in events] == [ProtocolViolation]
        assert live.has_ended
        assert read_all(live, PING) == []

    def test_invalid_utf8_is_a_violation(self) -> None:
        assert isinstance(read_all(go_live(), b'{"type":1,"target":"\xff","arguments":[]}\x1e')[0], ProtocolViolation)

    def test_a_violation_tells_nothing_of_the_clients_data(self) -> None:
        (event,) = read_all(go_live(), '{"type":"secret-token"}\x1e')
        assert isinstance(event, ProtocolViolation)
        assert "secret" not in event.reason

    def test_a_message_of_32768_bytes_is_taken_and_one_more_byte_is_not(self) -> None:
        head, tail = '{"type":1,"target":"A","arguments":["', '"]}'
        fill = TIMES.message_bytes - len(head) - len(tail)
        (taken,) = read_all(go_live(), head + "x" * fill + tail + "\x1e")
        assert isinstance(taken, InvocationReceived)
        (refused,) = read_all(go_live(), head + "x" * (fill + 1) + tail + "\x1e")
        assert isinstance(refused, ProtocolViolation)

    def test_a_message_without_end_is_a_violation_before_it_ends(self) -> None:
        live = go_live()
        assert read_all(live, b"x" * TIMES.message_bytes) == []
        assert isinstance(read_all(live, b"x")[0], ProtocolViolation)


class TestTime:
    def test_a_ping_is_due_in_time_to_arrive_within_15_seconds(self) -> None:
        live = go_live(now=100.0)
        assert live.next_deadline == 114.5
        assert live.pass_time(114.4) is None
        assert live.pass_time(114.5) == PingDue()
        live.note_sent(114.5)
        assert live.pass_time(128.9) is None
        assert live.next_deadline == 129.0

    def test_a_client_that_pinged_once_is_timed_out_after_30_silent_seconds(self) -> None:
        live = go_live(now=0.0)
        read_all(live, PING, now=5.0)
        live.note_sent(34.0)
        assert live.next_deadline == 35.0
        assert live.pass_time(34.9) is None
        assert live.pass_time(35.0) == ClientTimedOut()
        assert live.has_ended
        assert live.pass_time(99.0) is None

    def test_a_client_that_never_pinged_is_never_timed_out(self) -> None:
        live = go_live(now=0.0)
        read_all(live, '{"type":1,"target":"A","arguments":[]}\x1e', now=1.0)
        assert live.pass_time(10_000.0) == PingDue()

    def test_any_message_restarts_the_client_timeout_but_half_a_message_does_not(self) -> None:
        live = go_live(now=0.0)
        read_all(live, PING, now=0.0)
        read_all(live, '{"type":8,"sequenceId":1}\x1e', now=20.0)
        read_all(live, '{"type":', now=40.0)
        live.note_sent(45.0)
        assert live.pass_time(49.9) is None
        assert live.pass_time(50.0) == ClientTimedOut()

    def test_time_in_which_the_server_itself_did_not_read_does_not_count(self) -> None:
        live = go_live(now=0.0)
        read_all(live, PING, now=0.0)
        live.note_busy(29.0)
        live.note_sent(50.0)
        assert live.pass_time(58.9) is None
        assert live.pass_time(59.0) == ClientTimedOut()

    def test_the_times_are_settings(self) -> None:
        live = go_live(times=replace(TIMES, keep_alive_s=1.0))
        assert live.pass_time(1.0) == PingDue()
