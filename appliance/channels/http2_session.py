"""One HTTP/2 connection to a server that is sent requests, without any input or output.

Theory of operation
-------------------
A session is told bytes (`receive`), the time (`pass_time`) and the loss of its connection (`lose`); each gives back the
streams that are settled by it, each with its answer. It is asked to `open` a stream when it `has_room` for it, and to
`cancel` one. What it wants written waits in `take_output`. It owns no timer: its owner calls `pass_time` at
`next_deadline`.

    WAITING --first SETTINGS--> OPEN --GOAWAY, too many time-outs--> DRAINING --last stream settled--> ENDED
       |                          |                                     |
       +--------------------------+---- silence, broken frame, loss ----+-----------------------------> ENDED

Nothing is sent before the server's SETTINGS, because they may allow one stream only (APNs does that to a new provider
token). Requests go out while the server's limits have room: streams, as they stand now, and the connection's window. A
body that the windows hold back follows as they open; at most one request at a time is held back by the connection's,
so that an expired one leaves no half-sent crowd behind.

What settles a stream, and how:

    END_STREAM after :status                        Answered
    body over its bound                             Answered, is_cut; the rest is cancelled
    RST_STREAM(NO_ERROR) after :status              Answered, is_cut
    RST_STREAM(REFUSED_STREAM)                      NotSent
    any other RST_STREAM                            Ambiguous
    GOAWAY, id above last_stream_id                 NotSent
    connection lost, request not wholly written     NotSent
    connection lost otherwise                       Ambiguous
    cancelled, request not wholly written           NotSent
    cancelled otherwise                             Ambiguous

Source: RFC 9113, sections 5.1, 5.2, 6.8, 8.7.
"""

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any, Final, TypeAlias

from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from hpack import HeaderTuple, NeverIndexedHeaderTuple

from appliance.channels.http2_messages import (
    Ambiguous,
    Answer,
    Answered,
    Failure,
    Header,
    Http2Limits,
    Http2Request,
    NotSent,
)
from appliance.channels.http2_wire import WireConnection

Settled: TypeAlias = tuple[int, Answer]

_PING: Final = b"carillon"
_GOODBYE_CHARS: Final = 200
_LAST_STREAM_ID: Final = 2**31 - 3


class Phase(Enum):
    """Where a session stands."""

    WAITING = auto()
    OPEN = auto()
    DRAINING = auto()
    ENDED = auto()


class _Stream:
    __slots__ = ("body", "headers", "status", "unsent")

    def __init__(self, unsent: memoryview | None) -> None:
        self.unsent = unsent
        self.status = 0
        self.headers: Sequence[Header] = ()
        self.body: bytes | bytearray = b""


class Http2Session:
    """The client's half of one connection; see the module."""

    def __init__(self, *, scheme: bytes, authority: bytes, limits: Http2Limits, now: float) -> None:
        self.phase = Phase.WAITING
        self.goodbye: tuple[Failure, str] | None = None
        """Why the session drains or has ended, in plain words."""
        self.has_answered = False
        self._limits = limits
        self._wire = WireConnection(header_bytes=limits.header_bytes, body_bytes=limits.body_bytes)
        self._prefix = (
            HeaderTuple(b":method", b"POST"),
            HeaderTuple(b":scheme", scheme),
            HeaderTuple(b":authority", authority),
        )
        self._streams: dict[int, _Stream] = {}
        self._unfinished: dict[int, _Stream] = {}
        self._settled: list[Settled] = []
        self._written_up_to = 0
        self._newest = 0
        self._begun_at = now
        self._quiet_since = now
        self._pinged_at: float | None = None
        self._is_proving = False
        self._timeouts_in_row = 0
        self._wire.begin()

    @property
    def load(self) -> int:
        """How many requests are under way."""
        return len(self._streams)

    @property
    def unwritten_bytes(self) -> int:
        """How much waits in `take_output`."""
        return len(self._wire._data_to_send)

    @property
    def is_unspoken(self) -> bool:
        """Whether the server has not said a word yet."""
        return self.phase is Phase.WAITING

    @property
    def is_pending(self) -> bool:
        """Whether it cannot take requests yet, but may soon: SETTINGS or the sign of life are still to come."""
        return self.phase is Phase.WAITING or (self.phase is Phase.OPEN and self._is_proving)

    @property
    def next_deadline(self) -> float:
        """When to call `pass_time` at the latest."""
        if self._pinged_at is not None:
            return self._pinged_at + self._limits.ping_s
        if self.phase is Phase.WAITING:
            return self._begun_at + self._limits.connect_s
        return self._quiet_since + (self._limits.silence_s if self._streams else self._limits.idle_ping_s)

    # Requests.

    def has_room(self, body_bytes: int) -> bool:
        """Tell whether a request with such a body may be opened now."""
        if self.phase is not Phase.OPEN or self._is_proving:
            return False
        wire = self._wire
        if len(self._streams) >= min(self._limits.streams, wire.remote_settings.max_concurrent_streams):
            return False
        window = wire.outbound_flow_control_window
        return window >= body_bytes or (window > 0 and not self._unfinished)

    def is_stale(self, now: float) -> bool:
        """Tell whether the connection was unused for so long that it should `prove` itself before it is used."""
        return self.phase is Phase.OPEN and not self._streams and now - self._quiet_since > self._limits.trust_s

    def prove(self, now: float) -> None:
        """Ask for a sign of life, and have no room until it has come."""
        if not self._is_proving:
            self._is_proving = True
            self._ping(now)

    def open(self, request: Http2Request, now: float) -> int:
        """Send a request; only when there is room for it. Gives the stream's id."""
        headers: list[HeaderTuple] = [*self._prefix, NeverIndexedHeaderTuple(b":path", request.path)]
        for header in request.headers:
            headers.append(HeaderTuple(*header))
        for header in request.fresh_headers:
            headers.append(NeverIndexedHeaderTuple(*header))
        body = request.body
        stream_id = self._wire.open_stream(headers, is_whole=not body)
        if not self._streams:
            self._quiet_since = now
        stream = self._streams[stream_id] = _Stream(memoryview(body) if body else None)
        self._newest = stream_id
        if stream_id >= _LAST_STREAM_ID:
            self._drain(Failure.GOING_AWAY, "The connection has used all its stream numbers.")
        if body:
            self._unfinished[stream_id] = stream
            self._send_body(stream_id, stream)
        return stream_id

    def cancel(self, stream_id: int, *, is_timeout: bool) -> Answer | None:
        """Give a request up; gives what is known of it, None when it is settled already."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return None
        is_whole = stream.unsent is None
        self._reset(stream_id)
        if is_timeout and is_whole:
            self._timeouts_in_row += 1
            if self._timeouts_in_row >= self._limits.timeouts_borne:
                self._drain(Failure.TIMEOUT, "The server answered none of the last requests in time.")
        self._forget(stream_id)
        if self.phase is Phase.DRAINING and not self._streams:
            self._end_drained()
        if is_whole:
            return Ambiguous(Failure.TIMEOUT, "The server did not answer in time.")
        return NotSent(Failure.TIMEOUT, "The server did not take the whole request in time.")

    # What happens to the connection.

    def receive(self, data: bytes, now: float) -> list[Settled]:
        """Read what the server sent; gives what is settled by it."""
        if self.phase is Phase.ENDED:
            return []
        self._quiet_since = now
        self._pinged_at = None
        self._is_proving = False
        events, fault = self._wire.receive_events(data)
        for event in events:
            handle = _HANDLERS.get(event.__class__)
            if handle is not None:
                handle(self, event)
        if fault is not None:
            self._say_goodbye(ErrorCodes.PROTOCOL_ERROR)
            self._end(Failure.PROTOCOL, f"The server broke the HTTP/2 protocol ({fault}).")
        elif self.phase is Phase.DRAINING and not self._streams:
            self._end_drained()
        return self._take_settled()

    def pass_time(self, now: float) -> list[Settled]:
        """Do what is due: ask for a sign of life, or give the connection up."""
        if self.phase is Phase.ENDED or now < self.next_deadline:
            return []
        if self.phase is Phase.WAITING:
            self._end(Failure.PROTOCOL, "The server accepted the connection but did not begin to speak HTTP/2.")
        elif self._pinged_at is None:
            self._ping(now)
        else:
            self._end(Failure.BROKEN, "The server fell silent, so the connection was given up.")
        return self._take_settled()

    def lose(self, reason: Failure, detail: str) -> list[Settled]:
        """Take note that the connection is gone; gives everything that was still open."""
        self._end(reason, detail)
        return self._take_settled()

    def say_goodbye(self) -> None:
        """Take no more requests and queue a GOAWAY for the server."""
        if self.phase is not Phase.ENDED:
            self._say_goodbye(ErrorCodes.NO_ERROR)
            self._end(Failure.CLOSED, "The connection was closed from our side.")

    def take_output(self) -> bytes:
        """Give what is to be written now; from then on it counts as written."""
        self._written_up_to = self._newest
        return self._wire.data_to_send()

    # Events of h2.

    def _on_settings(self, _: RemoteSettingsChanged) -> None:
        if self.phase is Phase.WAITING:
            self.phase = Phase.OPEN
        self._send_bodies()

    def _on_response(self, event: ResponseReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:
            return
        headers: Any = event.headers
        stream.headers = headers
        stream.status = _read_status(headers)

    def _on_data(self, event: DataReceived) -> None:
        self._wire.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
        stream = self._streams.get(event.stream_id)
        data = event.data
        if stream is None or not data:
            return
        if len(stream.body) + len(data) > self._limits.body_bytes:
            stream.body = (bytes(stream.body) + data)[: self._limits.body_bytes]
            self._reset(event.stream_id)
            self._settle_answered(event.stream_id, stream, is_cut=True)
        elif not stream.body:
            stream.body = data
        else:
            if isinstance(stream.body, bytes):
                stream.body = bytearray(stream.body)
            stream.body += data

    def _on_end(self, event: StreamEnded) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:
            return
        if stream.unsent is not None:
            # Answered before it was asked to the end: the rest of the question is of no interest any more.
            self._reset(event.stream_id)
        if stream.status:
            self._settle_answered(event.stream_id, stream, is_cut=False)
        else:
            self._settle(event.stream_id, Ambiguous(Failure.PROTOCOL, "The server's answer has no status."))

    def _on_reset(self, event: StreamReset) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:
            return
        code = event.error_code
        if code == ErrorCodes.REFUSED_STREAM:
            self._settle(event.stream_id, NotSent(Failure.REFUSED, "The server refused the request for now."))
        elif code == ErrorCodes.NO_ERROR and stream.status:
            self._settle_answered(event.stream_id, stream, is_cut=True)
        else:
            detail = f"The server broke the request off ({_name_of(code)})."
            self._settle(event.stream_id, Ambiguous(Failure.BROKEN, detail))

    def _on_window(self, event: WindowUpdated) -> None:
        if not self._unfinished:
            return
        if event.stream_id:
            stream = self._unfinished.get(event.stream_id)
            if stream is not None:
                self._send_body(event.stream_id, stream)
        else:
            self._send_bodies()

    def _on_goaway(self, event: ConnectionTerminated) -> None:
        said = (event.additional_data or b"")[:_GOODBYE_CHARS].decode("ascii", "replace")
        said = "".join(char if char.isprintable() else " " for char in said).strip()
        detail = f"The server ended the connection ({_name_of(event.error_code)}{': ' if said else ''}{said})."
        self._drain(Failure.GOING_AWAY, detail)
        last = event.last_stream_id or 0
        for stream_id in [stream_id for stream_id in self._streams if stream_id > last]:
            self._settle(stream_id, NotSent(Failure.GOING_AWAY, detail))

    # Bodies.

    def _send_bodies(self) -> None:
        for stream_id, stream in list(self._unfinished.items()):
            self._send_body(stream_id, stream)

    def _send_body(self, stream_id: int, stream: _Stream) -> None:
        wire, unsent = self._wire, stream.unsent
        while unsent:
            room = min(wire.local_flow_control_window(stream_id), wire.max_outbound_frame_size)
            if room <= 0:
                stream.unsent = unsent
                return
            is_last = len(unsent) <= room
            wire.send_data(stream_id, unsent[:room], end_stream=is_last)
            unsent = None if is_last else unsent[room:]
        stream.unsent = None
        self._unfinished.pop(stream_id, None)

    # The end of things.

    def _settle_answered(self, stream_id: int, stream: _Stream, *, is_cut: bool) -> None:
        self.has_answered = True
        self._timeouts_in_row = 0
        answer = Answered(stream.status, stream.headers, bytes(stream.body), is_cut)
        self._settle(stream_id, answer)

    def _settle(self, stream_id: int, answer: Answer) -> None:
        self._forget(stream_id)
        self._settled.append((stream_id, answer))

    def _forget(self, stream_id: int) -> None:
        del self._streams[stream_id]
        self._unfinished.pop(stream_id, None)
        self._wire.forget_stream(stream_id)

    def _take_settled(self) -> list[Settled]:
        settled, self._settled = self._settled, []
        return settled

    def _reset(self, stream_id: int) -> None:
        if stream_id in self._wire.streams:
            self._wire.reset_stream(stream_id, ErrorCodes.CANCEL)

    def _ping(self, now: float) -> None:
        self._pinged_at = now
        self._wire.ping(_PING)

    def _drain(self, reason: Failure, detail: str) -> None:
        if self.phase is not Phase.ENDED:
            self.phase = Phase.DRAINING
            self.goodbye = self.goodbye or (reason, detail)

    def _end_drained(self) -> None:
        self._say_goodbye(ErrorCodes.NO_ERROR)
        self.phase = Phase.ENDED

    def _end(self, reason: Failure, detail: str) -> None:
        if self.phase is Phase.ENDED:
            return
        self.phase = Phase.ENDED
        self.goodbye = self.goodbye or (reason, detail)
        for stream_id, stream in list(self._streams.items()):
            was_written = stream.unsent is None and stream_id <= self._written_up_to
            self._settle(stream_id, Ambiguous(reason, detail) if was_written else NotSent(reason, detail))

    def _say_goodbye(self, code: ErrorCodes) -> None:
        try:
            self._wire.close_connection(code)
        except ProtocolError:
            # h2 has closed it already.
            return


def _read_status(headers: Sequence[Header]) -> int:
    for name, value in headers:
        if name == b":status":
            return int(value) if value.isdigit() and len(value) == 3 else 0
    return 0


def _name_of(code: object) -> str:
    return code.name if isinstance(code, ErrorCodes) else f"code {code}"


_HANDLERS: Final[dict[type[Event], Callable[[Http2Session, Any], None]]] = {
    RemoteSettingsChanged: Http2Session._on_settings,
    ResponseReceived: Http2Session._on_response,
    DataReceived: Http2Session._on_data,
    StreamEnded: Http2Session._on_end,
    StreamReset: Http2Session._on_reset,
    WindowUpdated: Http2Session._on_window,
    ConnectionTerminated: Http2Session._on_goaway,
}
