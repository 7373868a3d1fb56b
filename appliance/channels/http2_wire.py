"""h2's connection, with the few things done otherwise that a long-lived sender needs.

Each of them reaches into h2, so its version is pinned exactly and `test_http2_wire.py` holds one test on each:

- After GOAWAY the connection goes on: answers to what the server had taken still come in, and bytes that wait to be
  written are kept. h2 closes and forgets both.
- Events before a fault count. h2 loses the answers that arrived in the same read as a broken frame.
- A stream is opened and forgotten in constant time. h2 counts all open streams for every new one.
- Headers are neither checked nor normalised (the caller's are right) and never Huffman-coded: half of the time per
  request.
"""

from collections.abc import Iterable
from typing import Final

from h2.config import H2Configuration
from h2.connection import (
    AllowedStreamIDs,
    ConnectionInputs,
    ConnectionState,
    H2Connection,
    H2ConnectionStateMachine,
)
from h2.events import Event
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from h2.stream import StreamClosedBy
from hpack import Encoder, HeaderTuple
from hyperframe.exceptions import HyperframeError

CONNECTION_WINDOW_BYTES: Final = 8 * 1024 * 1024
_FRAME_BYTES: Final = 16_384


_PATIENT_TRANSITIONS: Final = {
    **H2ConnectionStateMachine._transitions,
    (ConnectionState.IDLE, ConnectionInputs.RECV_GOAWAY): (None, ConnectionState.IDLE),
    (ConnectionState.CLIENT_OPEN, ConnectionInputs.RECV_GOAWAY): (None, ConnectionState.CLIENT_OPEN),
}


class _PatientStates(H2ConnectionStateMachine):
    _transitions = _PATIENT_TRANSITIONS


class _PlainEncoder(Encoder):
    def encode(self, headers: Iterable[HeaderTuple], huffman: bool = False) -> bytes:  # type: ignore[override]
        return super().encode(headers, huffman=False)


class WireConnection(H2Connection):
    """The client side of one HTTP/2 connection."""

    # Only streams that were reset are remembered, for answers that were under way meanwhile.
    MAX_CLOSED_STREAMS = 8_192

    def __init__(self, *, header_bytes: int, body_bytes: int) -> None:
        super().__init__(
            H2Configuration(
                client_side=True,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
            )
        )
        self.state_machine = _PatientStates()
        self.encoder = _PlainEncoder()
        self.decoder.max_header_list_size = header_bytes
        self.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                # For pushed streams, of which there are none; but h2 counts a late answer to a cancelled stream as one.
                SettingCodes.MAX_CONCURRENT_STREAMS: 100,
                SettingCodes.MAX_HEADER_LIST_SIZE: header_bytes,
                # A whole body fits, so that streams need no window updates of their own.
                SettingCodes.INITIAL_WINDOW_SIZE: body_bytes + _FRAME_BYTES,
                SettingCodes.MAX_FRAME_SIZE: _FRAME_BYTES,
            },
        )

    def begin(self) -> None:
        """Queue the preface, the settings, and a connection window that holds many answers."""
        self.initiate_connection()
        self.increment_flow_control_window(CONNECTION_WINDOW_BYTES)

    def open_stream(self, headers: list[HeaderTuple], *, is_whole: bool) -> int:
        """Open the next stream with these headers; `is_whole` when there is no body. Gives its id.

        The caller sees to the server's limit of streams. Raises h2's `NoAvailableStreamIDError` after 2**30 streams.
        """
        stream_id = self.get_next_available_stream_id()
        self._begin_new_stream(stream_id, AllowedStreamIDs.ODD)
        self.send_headers(stream_id, headers, end_stream=is_whole)
        return stream_id

    def forget_stream(self, stream_id: int) -> None:
        """Drop the state of a stream that is over."""
        stream = self.streams.pop(stream_id, None)
        if stream is None:
            return
        if stream.closed_by in (StreamClosedBy.SEND_RST_STREAM, StreamClosedBy.RECV_RST_STREAM):
            self._closed_streams[stream_id] = stream.closed_by

    def clear_outbound_data_buffer(self) -> None:
        """Keep what waits to be written: h2 calls this on GOAWAY, after which accepted streams go on."""

    def receive_events(self, data: bytes) -> tuple[list[Event], str | None]:
        """Read what arrived; gives the events up to the first fault, and that fault in words, if any."""
        events: list[Event] = []
        self.incoming_buffer.add_data(data)
        self.incoming_buffer.max_frame_size = self.max_inbound_frame_size
        try:
            for frame in self.incoming_buffer:
                events.extend(self._receive_frame(frame))
        except (ProtocolError, HyperframeError) as fault:
            return events, type(fault).__name__
        return events, None
