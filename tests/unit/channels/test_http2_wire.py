"""One test on each place where the wire reaches into h2, so that an upgrade of h2 cannot break it unseen."""

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, ResponseReceived
from hpack import HeaderTuple
from hyperframe.frame import GoAwayFrame, PingFrame, WindowUpdateFrame

from appliance.channels.http2_wire import WireConnection

HEADERS = [
    HeaderTuple(b":method", b"POST"),
    HeaderTuple(b":scheme", b"https"),
    HeaderTuple(b":authority", b"push.example"),
    HeaderTuple(b":path", b"/"),
]


@pytest.fixture
def server():
    server = H2Connection(H2Configuration(client_side=False))
    server.initiate_connection()
    return server


@pytest.fixture
def wire(server):
    wire = WireConnection(header_bytes=1_000, body_bytes=1_000)
    wire.begin()
    server.receive_data(wire.data_to_send())
    wire.receive_events(server.data_to_send())
    server.receive_data(wire.data_to_send())
    return wire


def answer(server, stream_id):
    server.send_headers(stream_id, [(":status", "200")], end_stream=True)
    return server.data_to_send()


def go_away(last_stream_id):
    return GoAwayFrame(0, last_stream_id=last_stream_id, error_code=0).serialize()


def test_after_goaway_answers_still_come_in_and_requests_begun_can_be_finished(wire, server):
    stream_id = wire.open_stream(HEADERS, is_whole=False)
    server.receive_data(wire.data_to_send())
    events, fault = wire.receive_events(go_away(stream_id))
    assert ([type(event) for event in events], fault) == ([ConnectionTerminated], None)
    wire.send_data(stream_id, b"rest", end_stream=True)
    wire.reset_stream(stream_id, ErrorCodes.CANCEL)
    events, fault = wire.receive_events(answer(server, stream_id))
    assert fault is None


def test_goaway_before_the_first_stream_and_a_second_goaway_are_no_fault(wire):
    assert wire.receive_events(go_away(0) + go_away(0))[1] is None


def test_goaway_keeps_what_waits_to_be_written(wire):
    wire.open_stream(HEADERS, is_whole=True)
    waiting = bytes(wire._data_to_send)
    wire.receive_events(go_away(1))
    assert wire.data_to_send() == waiting


def test_events_before_a_fault_are_given(wire, server):
    stream_id = wire.open_stream(HEADERS, is_whole=True)
    server.receive_data(wire.data_to_send())
    events, fault = wire.receive_events(answer(server, stream_id) + WindowUpdateFrame(0).serialize())
    assert type(events[0]) is ResponseReceived
    assert fault is not None


def test_opening_a_stream_counts_no_others(wire, monkeypatch):
    def count(self):
        raise AssertionError("All streams were counted for one new one.")

    monkeypatch.setattr(H2Connection, "open_outbound_streams", property(count))
    assert [wire.open_stream(HEADERS, is_whole=True) for _ in range(3)] == [1, 3, 5]


def test_a_forgotten_stream_leaves_nothing_unless_it_was_reset(wire, server):
    ended, cancelled = (wire.open_stream(HEADERS, is_whole=True) for _ in range(2))
    server.receive_data(wire.data_to_send())
    wire.receive_events(answer(server, ended))
    wire.reset_stream(cancelled, ErrorCodes.CANCEL)
    wire.forget_stream(ended)
    wire.forget_stream(cancelled)
    wire.forget_stream(cancelled)
    assert (list(wire.streams), list(wire._closed_streams)) == ([], [cancelled])
    events, fault = wire.receive_events(answer(server, cancelled))
    assert ([event for event in events if isinstance(event, ResponseReceived)], fault) == ([], None)


def test_reset_streams_are_remembered_up_to_a_bound(wire):
    for _ in range(WireConnection.MAX_CLOSED_STREAMS + 10):
        stream_id = wire.open_stream(HEADERS, is_whole=True)
        wire.reset_stream(stream_id, ErrorCodes.CANCEL)
        wire.forget_stream(stream_id)
        wire.data_to_send()
    assert len(wire._closed_streams) == WireConnection.MAX_CLOSED_STREAMS


def test_headers_are_written_as_they_are_and_never_huffman_coded(wire):
    wire.open_stream([*HEADERS, HeaderTuple(b"apns-topic", b"org.example.app")], is_whole=True)
    written = wire.data_to_send()
    assert b"apns-topic" in written
    assert b"org.example.app" in written


def test_more_header_bytes_than_allowed_are_a_fault_and_not_an_exception(wire, server):
    stream_id = wire.open_stream(HEADERS, is_whole=True)
    server.receive_data(wire.data_to_send())
    server.send_headers(stream_id, [(":status", "200"), ("x-filler", "y" * 2_000)], end_stream=True)
    assert wire.receive_events(server.data_to_send()) == ([], "DenialOfServiceError")


def test_pings_are_answered_by_themselves(wire, server):
    wire.receive_events(PingFrame(0, opaque_data=b"12345678").serialize())
    assert b"12345678" in wire.data_to_send()
