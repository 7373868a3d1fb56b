"""The session without any input or output: a server's state machine in the same process, and time by hand."""

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, PingReceived, RemoteSettingsChanged, RequestReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes
from hyperframe.frame import GoAwayFrame
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.channels.http2_messages import Ambiguous, Answered, Failure, Http2Limits, Http2Request, NotSent
from appliance.channels.http2_session import Http2Session

LIMITS = Http2Limits(streams=10, body_bytes=1_000)
REQUEST = Http2Request(b"/3/device/ab", b"{}", [(b"apns-topic", b"org.example")], [(b"authorization", b"bearer x")])


class Peer:
    """The server: takes what the session writes, and hands over what it answers."""

    def __init__(self):
        self.h2 = H2Connection(H2Configuration(client_side=False))
        self.h2.initiate_connection()
        self.events = []
        self.raw = b""

    def take(self, session):
        self.events += self.h2.receive_data(session.take_output())

    def give(self, session, now=0.0):
        data, self.raw = self.h2.data_to_send() + self.raw, b""
        return session.receive(data, now)

    def seen(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    def answer(self, stream_id, status=200, body=b""):
        self.h2.send_headers(stream_id, [(":status", str(status))], end_stream=not body)
        if body:
            self.h2.send_data(stream_id, body, end_stream=True)

    def go_away(self, last_stream_id):
        self.raw += GoAwayFrame(0, last_stream_id=last_stream_id, error_code=0).serialize()


@pytest.fixture
def session():
    return Http2Session(scheme=b"https", authority=b"push.example", limits=LIMITS, now=0.0)


@pytest.fixture
def peer(session):
    """A peer that has exchanged settings with the session."""
    peer = Peer()
    peer.take(session)
    peer.give(session)
    peer.take(session)
    return peer


def test_nothing_may_be_sent_before_the_servers_settings(session):
    assert session.phase.name == "WAITING"
    assert session.is_pending
    assert not session.has_room(10)
    peer = Peer()
    peer.take(session)
    peer.give(session)
    assert session.phase.name == "OPEN"
    assert session.has_room(10)


def test_server_push_is_switched_off_and_the_window_raised_once(session, peer):
    changed = peer.seen(RemoteSettingsChanged)[0].changed_settings
    assert changed[SettingCodes.ENABLE_PUSH].new_value == 0
    assert peer.h2.outbound_flow_control_window > 8_000_000


def test_a_request_arrives_as_it_was_given(session, peer):
    session.open(REQUEST, 0.0)
    peer.take(session)
    assert peer.seen(RequestReceived)[0].headers == [
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", b"push.example"),
        (b":path", b"/3/device/ab"),
        (b"apns-topic", b"org.example"),
        (b"authorization", b"bearer x"),
    ]
    assert peer.seen(DataReceived)[0].data == b"{}"
    assert len(peer.seen(StreamEnded)) == 1


def test_secrets_and_paths_never_enter_the_compression_table(session, peer):
    session.open(REQUEST, 0.0)
    peer.take(session)
    kept = {name for name, _ in peer.h2.decoder.header_table.dynamic_entries}
    assert b"apns-topic" in kept
    assert not kept & {b":path", b"authorization"}


def test_no_header_is_huffman_coded(session, peer):
    session.open(REQUEST, 0.0)
    assert b"/3/device/ab" in session.take_output()


def test_a_request_without_a_body_ends_with_its_headers(session, peer):
    session.open(Http2Request(b"/", b""), 0.0)
    peer.take(session)
    assert peer.seen(DataReceived) == []
    assert len(peer.seen(StreamEnded)) == 1


def test_the_smaller_limit_of_streams_holds(session, peer):
    for _ in range(10):
        assert session.has_room(2)
        session.open(REQUEST, 0.0)
    assert not session.has_room(2)
    peer.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 3})
    peer.take(session)
    for stream_id in range(1, 17, 2):
        peer.answer(stream_id)
    peer.give(session)
    assert session.load == 2
    session.open(REQUEST, 0.0)
    assert not session.has_room(2)


def test_an_answer_before_the_end_of_the_question_settles_it_and_frees_the_stream(session, peer):
    stream_id = session.open(Http2Request(b"/", b"x" * 100_000), 0.0)
    peer.take(session)
    peer.answer(stream_id, 413, b"too large")
    assert peer.give(session) == [(1, Answered(413, [(b":status", b"413")], b"too large"))]
    peer.take(session)
    assert peer.seen(StreamReset)[0].error_code == ErrorCodes.CANCEL
    assert session.load == 0


def test_only_one_request_at_a_time_is_held_back_by_the_connections_window(session, peer):
    session.open(Http2Request(b"/", b"x" * 60_000), 0.0)
    assert not session.has_room(0) or session.has_room(5_535)
    assert session.has_room(10_000)
    session.open(Http2Request(b"/", b"x" * 10_000), 0.0)
    assert not session.has_room(1)


def test_goaway_settles_what_is_above_it_and_keeps_what_is_below(session, peer):
    for _ in range(4):
        session.open(REQUEST, 0.0)
    peer.take(session)
    peer.go_away(3)
    settled = dict(peer.give(session))
    assert set(settled) == {5, 7}
    assert {type(answer) for answer in settled.values()} == {NotSent}
    assert session.phase.name == "DRAINING"
    peer.answer(1)
    peer.answer(3, 400, b"{}")
    assert [(stream_id, answer.status) for stream_id, answer in peer.give(session)] == [(1, 200), (3, 400)]
    assert session.phase.name == "ENDED"


def test_goaway_and_answers_in_one_read_are_all_read(session, peer):
    for _ in range(3):
        session.open(REQUEST, 0.0)
    peer.take(session)
    peer.go_away(5)
    goaway, peer.raw = peer.raw, b""
    peer.answer(1)
    first = peer.h2.data_to_send()
    peer.answer(3)
    peer.answer(5)
    settled = session.receive(first + goaway + peer.h2.data_to_send(), 0.0)
    assert [stream_id for stream_id, _ in settled] == [1, 3, 5]


def test_goaway_does_not_take_away_what_waits_to_be_written(session, peer):
    stream_id = session.open(REQUEST, 0.0)
    peer.go_away(2**31 - 1)
    peer.give(session)
    peer.take(session)
    assert peer.seen(RequestReceived)[0].stream_id == stream_id


def test_a_lost_connection_tells_what_was_written_from_what_was_not(session, peer):
    written = session.open(REQUEST, 0.0)
    half = session.open(Http2Request(b"/", b"x" * 100_000), 0.0)
    session.take_output()
    unwritten = session.open(Http2Request(b"/", b""), 0.0)
    answers = dict(session.lose(Failure.BROKEN, "The connection broke."))
    assert answers == {
        written: Ambiguous(Failure.BROKEN, "The connection broke."),
        half: NotSent(Failure.BROKEN, "The connection broke."),
        unwritten: NotSent(Failure.BROKEN, "The connection broke."),
    }


def test_settings_that_never_come_end_the_wait(session):
    assert session.next_deadline == LIMITS.connect_s
    assert session.pass_time(LIMITS.connect_s - 0.1) == []
    assert session.phase.name == "WAITING"
    session.pass_time(LIMITS.connect_s)
    assert session.phase.name == "ENDED"
    assert session.goodbye is not None
    assert session.goodbye[0] == Failure.PROTOCOL


def test_silence_under_load_is_met_with_one_ping_and_then_given_up(session, peer):
    session.open(REQUEST, 100.0)
    assert session.next_deadline == 100.0 + LIMITS.silence_s
    assert session.pass_time(105.0) == []
    peer.take(session)
    assert len(peer.seen(PingReceived)) == 1
    assert session.next_deadline == 105.0 + LIMITS.ping_s
    settled = session.pass_time(110.0)
    assert [answer.reason for _, answer in settled] == [Failure.BROKEN]
    assert session.phase.name == "ENDED"


def test_an_answered_ping_begins_the_wait_anew(session, peer):
    session.open(REQUEST, 100.0)
    session.pass_time(105.0)
    peer.take(session)
    assert peer.give(session, 106.0) == []
    assert session.next_deadline == 106.0 + LIMITS.silence_s


def test_an_unused_connection_is_asked_for_a_sign_of_life_every_half_hour(session, peer):
    session.pass_time(LIMITS.idle_ping_s - 1)
    peer.take(session)
    assert peer.seen(PingReceived) == []
    session.pass_time(LIMITS.idle_ping_s)
    peer.take(session)
    assert len(peer.seen(PingReceived)) == 1


def test_a_connection_unused_for_long_proves_itself_before_it_has_room(session, peer):
    assert not session.is_stale(LIMITS.trust_s)
    assert session.is_stale(LIMITS.trust_s + 1)
    session.prove(LIMITS.trust_s + 1)
    assert session.is_pending
    assert not session.has_room(1)
    peer.take(session)
    peer.give(session, LIMITS.trust_s + 1.1)
    assert session.has_room(1)


def test_a_cancelled_stream_may_still_be_answered_without_harm(session, peer):
    given_up, other = session.open(REQUEST, 0.0), session.open(REQUEST, 0.0)
    peer.take(session)
    assert isinstance(session.cancel(given_up, is_timeout=True), Ambiguous)
    peer.answer(given_up, 200, b"late")
    peer.answer(other)
    assert [stream_id for stream_id, _ in peer.give(session)] == [other]
    assert session.phase.name == "OPEN"


def test_a_settled_stream_cannot_be_cancelled_any_more(session, peer):
    stream_id = session.open(REQUEST, 0.0)
    peer.take(session)
    peer.answer(stream_id)
    peer.give(session)
    assert session.cancel(stream_id, is_timeout=True) is None


def test_time_outs_in_a_row_let_the_session_drain_and_an_answer_between_starts_the_count_anew(session, peer):
    for _ in range(3):
        for _ in range(LIMITS.timeouts_borne - 1):
            session.cancel(session.open(REQUEST, 0.0), is_timeout=True)
        stream_id = session.open(REQUEST, 0.0)
        peer.take(session)
        peer.answer(stream_id)
        peer.give(session)
    assert session.phase.name == "OPEN"
    for _ in range(LIMITS.timeouts_borne):
        session.cancel(session.open(REQUEST, 0.0), is_timeout=True)
    assert session.phase.name == "ENDED"
    assert session.goodbye == (Failure.TIMEOUT, "The server answered none of the last requests in time.")


def test_an_answer_without_a_status_is_no_answer(session, peer):
    stream_id = session.open(REQUEST, 0.0)
    peer.take(session)
    peer.h2.config.validate_outbound_headers = False
    peer.h2.send_headers(stream_id, [("server", "odd")], end_stream=True)
    assert [answer.reason for _, answer in peer.give(session)] == [Failure.PROTOCOL]


def test_an_early_hint_is_not_the_answer(session, peer):
    stream_id = session.open(REQUEST, 0.0)
    peer.take(session)
    peer.h2.send_headers(stream_id, [(":status", "103")])
    assert peer.give(session) == []
    peer.answer(stream_id, 200)
    assert [answer.status for _, answer in peer.give(session)] == [200]


def test_what_the_server_says_at_the_end_is_cleaned_of_control_characters(session, peer):
    said = b"\x1b[31mgo\n" + b"x" * 500
    session.receive(GoAwayFrame(0, last_stream_id=0, error_code=11, additional_data=said).serialize(), 0.0)
    assert session.goodbye is not None
    assert session.goodbye[1].startswith("The server ended the connection (ENHANCE_YOUR_CALM: [31mgo xxx")
    assert len(session.goodbye[1]) < 300


def test_state_is_forgotten_with_the_stream(session, peer):
    for _ in range(500):
        stream_id = session.open(REQUEST, 0.0)
        peer.take(session)
        peer.answer(stream_id)
        peer.give(session)
    assert (len(session._wire.streams), len(session._wire._closed_streams), session.load) == (0, 0, 0)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.binary(max_size=60), max_size=8), st.integers(0, 9), st.integers(0, 2**31 - 1))
def test_no_bytes_from_a_server_raise_or_lose_a_request(bodies, kind, stream_id):
    session = Http2Session(scheme=b"https", authority=b"push.example", limits=LIMITS, now=0.0)
    peer = Peer()
    peer.take(session)
    peer.give(session)
    opened = {session.open(REQUEST, 0.0) for _ in range(3)}
    settled = []
    for body in bodies:
        frame = (
            len(body).to_bytes(3, "big") + bytes([kind, body[0] if body else 0]) + stream_id.to_bytes(4, "big") + body
        )
        settled += session.receive(frame, 0.0)
        settled += session.receive(body, 0.0)
    settled += session.lose(Failure.BROKEN, "The connection broke.")
    assert sorted(stream_id for stream_id, _ in settled) == sorted(opened)
