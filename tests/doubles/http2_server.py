"""An HTTP/2 server on loopback (HTTP/1.1 for those who ask for it) that obeys or misbehaves frame by frame.

Built on h2's state machine, but SETTINGS and GOAWAY are written as raw frames and streams are refused by hand: h2 as a
server ends the whole connection when its limit of streams is passed, and sends nothing any more after GOAWAY.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, PingReceived, RequestReceived, StreamEnded, StreamReset, WindowUpdated
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame, SettingsFrame

_PREFACE = b"PRI * HTTP/2.0"
_MANY = 2**31 - 1
_WINDOW_BYTES = 65_535


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What the server tells its clients in SETTINGS; the connection's window is widened beside them."""

    streams: int = 1000
    window_bytes: int = 65_535
    connection_window_bytes: int = 65_535
    header_bytes: int = 8_000


class Asked:
    """One request, and the ways to answer it; every way may be taken later, and does nothing once the peer is gone."""

    __slots__ = ("body", "connection", "headers", "method", "parts", "path", "stream_id")

    def __init__(self, connection, stream_id, headers):
        self.connection = connection
        self.stream_id = stream_id
        self.headers = headers
        self.method = headers.get(":method", "")
        self.path = headers.get(":path", "")
        self.body = bytearray()
        self.parts = 1

    def reply(self, status=200, headers=None, body=b"", *, parts=0):
        """Answer with a whole response, its body in so many DATA frames."""
        self.connection.reply(self.stream_id, status, headers or {}, body, parts or self.parts)

    def reset(self, code=ErrorCodes.INTERNAL_ERROR):
        """Answer with RST_STREAM."""
        self.connection.reset(self.stream_id, code)

    def headers_only(self, status=200, headers=None):
        """Begin an answer and never end it."""
        self.connection.begin_reply(self.stream_id, status, headers or {})


class _Http2(H2Connection):
    # The server refuses streams itself, so h2 need not count them.
    open_inbound_streams = 0

    def forget(self, stream_id):
        stream = self.streams.pop(stream_id, None)
        if stream is not None:
            self._closed_streams[stream_id] = stream.closed_by


class ServerConnection(asyncio.Protocol):
    """One client's connection; becomes HTTP/2 or HTTP/1.1 by the first bytes."""

    def __init__(self, server):
        self.server = server
        self.transport = None
        self.is_http2: bool | None = None
        self.streams = {}
        self.accepted = 0
        self.highest = 0
        self.goaway_after = None
        self.peak = 0
        self.resets = []
        self.pings = 0
        self.is_deaf = False
        self._first = b""
        self._h2 = _make_h2(server.limits)
        self._outgoing = {}
        self._is_flush_due = False
        self._http1 = _Http1(self)

    # From the transport.

    def connection_made(self, transport):
        self.transport = transport
        self.server.connections.append(self)
        self.server.connected += 1
        if self.server.on_connected:
            self.server.on_connected.pop(0)(self)
            return
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() == "h2":
            self._become_http2()

    def data_received(self, data):
        if self.server.is_deaf or self.is_deaf:
            return
        if self.is_http2 is None:
            self._first += data
            if len(self._first) < len(_PREFACE) and _PREFACE.startswith(self._first):
                return
            data, self._first = self._first, b""
            if data.startswith(_PREFACE):
                self._become_http2()
            else:
                self.is_http2 = False
        if self.is_http2:
            self._receive_http2(data)
        else:
            self._http1.receive(data)

    def connection_lost(self, exc):
        self.transport = None
        if self in self.server.connections:
            self.server.connections.remove(self)

    # What a test makes it do.

    def go_away(self, last_stream_id=None, code=ErrorCodes.NO_ERROR, said=b""):
        """Send GOAWAY; later streams are ignored, earlier ones are answered, the connection stays open."""
        self.goaway_after = self.highest if last_stream_id is None else last_stream_id
        frame = GoAwayFrame(0, last_stream_id=self.goaway_after, error_code=code, additional_data=said)
        self._write_now(frame.serialize())

    def tell_streams(self, streams):
        """Send SETTINGS with another limit of streams."""
        frame = SettingsFrame(0, settings={SettingCodes.MAX_CONCURRENT_STREAMS: streams})
        self._write_now(frame.serialize())

    def write_raw(self, data):
        """Write these bytes, whatever they are."""
        self._write_now(data)

    def stop_reading(self):
        """Let what the client sends pile up on the way."""
        if self.transport is not None:
            self.transport.pause_reading()

    def read_on(self):
        """Take up reading where it was stopped."""
        if self.transport is not None:
            self.transport.resume_reading()

    def drop(self):
        """Cut the connection without a goodbye."""
        if self.transport is not None:
            self.transport.abort()

    # Answers.

    def begin_reply(self, stream_id, status, headers, *, is_end=False):
        if stream_id not in self._h2.streams:
            return False
        lines = [(":status", str(status)), *headers.items()]
        try:
            self._h2.send_headers(stream_id, lines, end_stream=is_end)
        except ProtocolError:
            return False
        self._flush_soon()
        return True

    def reply(self, stream_id, status, headers, body, parts):
        if not self.is_http2:
            self._http1.reply(status, headers, body)
            return
        if not self.begin_reply(stream_id, status, headers, is_end=not body):
            return
        if body:
            size = -(-len(body) // parts)
            self._outgoing[stream_id] = [body[start : start + size] for start in range(0, len(body), size)]
            self._pump(stream_id)
        else:
            self._forget(stream_id)

    def reset(self, stream_id, code):
        if stream_id not in self._h2.streams:
            return
        self._h2.reset_stream(stream_id, code)
        self._forget(stream_id)
        self._flush_soon()

    # Inside.

    def _become_http2(self):
        self.is_http2 = True
        limits = self.server.limits
        if not self.server.is_mute:
            frame = SettingsFrame(
                0,
                settings={
                    SettingCodes.MAX_CONCURRENT_STREAMS: self.server.most_streams(self),
                    SettingCodes.INITIAL_WINDOW_SIZE: limits.window_bytes,
                    SettingCodes.MAX_HEADER_LIST_SIZE: limits.header_bytes,
                },
            )
            self._write_now(frame.serialize())
            if limits.connection_window_bytes > _WINDOW_BYTES:
                self._h2.increment_flow_control_window(limits.connection_window_bytes - _WINDOW_BYTES)
                self._flush_soon()

    def _receive_http2(self, data):
        try:
            events = self._h2.receive_data(data)
        except ProtocolError as fault:
            self.server.faults.append(repr(fault))
            self._flush()
            if self.transport is not None:
                self.transport.close()
            return
        for event in events:
            match event:
                case RequestReceived():
                    self._begin(event)
                case DataReceived():
                    self._take_data(event)
                case StreamEnded():
                    self._take_end(event.stream_id)
                case StreamReset():
                    self.resets.append((event.stream_id, event.error_code))
                    self._forget(event.stream_id)
                case PingReceived():
                    self.pings += 1
                case WindowUpdated():
                    for stream_id in list(self._outgoing):
                        self._pump(stream_id)
        self._flush_soon()

    def _begin(self, event):
        stream_id = event.stream_id
        if self.goaway_after is not None and stream_id > self.goaway_after:
            self._h2.forget(stream_id)
            return
        self.highest = stream_id
        if len(self.streams) >= self.server.most_streams(self):
            self._h2.reset_stream(stream_id, ErrorCodes.REFUSED_STREAM)
            self._h2.forget(stream_id)
            self.server.refused += 1
            return
        self.streams[stream_id] = Asked(self, stream_id, dict(event.headers))
        self.peak = max(self.peak, len(self.streams))
        self.accepted += 1

    def _take_data(self, event):
        asked = self.streams.get(event.stream_id)
        if asked is not None:
            asked.body += event.data
        size, stream_id = event.flow_controlled_length, event.stream_id
        if self.server.window_delay_s:
            loop = asyncio.get_running_loop()
            loop.call_later(self.server.window_delay_s, self._give_window, size, stream_id)
        else:
            self._give_window(size, stream_id)

    def _give_window(self, size, stream_id):
        if self.transport is None:
            return
        try:
            self._h2.acknowledge_received_data(size, stream_id)
        except ProtocolError:
            # The stream was refused or is above the GOAWAY.
            self._h2.acknowledge_received_data(size, self.highest)
        self._flush_soon()

    def _take_end(self, stream_id):
        asked = self.streams.get(stream_id)
        if asked is None:
            return
        self.server.take(asked)

    def _pump(self, stream_id):
        parts = self._outgoing.get(stream_id, [])
        stream = self._h2.streams.get(stream_id)
        while parts:
            if stream is None or stream.closed:
                self._outgoing.pop(stream_id, None)
                return
            room = min(self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size)
            if room <= 0:
                return
            part = parts.pop(0)
            if len(part) > room:
                parts.insert(0, part[room:])
                part = part[:room]
            self._h2.send_data(stream_id, part, end_stream=not parts)
        self._flush_soon()
        if not parts:
            self._forget(stream_id)

    def _forget(self, stream_id):
        self.streams.pop(stream_id, None)
        self._outgoing.pop(stream_id, None)
        self._h2.forget(stream_id)

    def _flush_soon(self):
        if not self._is_flush_due:
            self._is_flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self):
        self._is_flush_due = False
        output = self._h2.data_to_send()
        if output and self.transport is not None and not self.server.is_mute:
            self.transport.write(output)

    def _write_now(self, data):
        self._flush()
        if self.transport is not None:
            self.transport.write(data)


def _make_h2(limits):
    h2 = _Http2(
        H2Configuration(
            client_side=False,
            header_encoding="latin-1",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
    )
    h2.local_settings = Settings(
        client=False,
        initial_values={
            SettingCodes.INITIAL_WINDOW_SIZE: limits.window_bytes,
            SettingCodes.MAX_CONCURRENT_STREAMS: _MANY,
            SettingCodes.MAX_HEADER_LIST_SIZE: limits.header_bytes,
        },
    )
    return h2


class _Http1:
    """The HTTP/1.1 half: one request after another, bodies by content-length."""

    def __init__(self, connection):
        self._connection = connection
        self._buffer = b""
        self._is_busy = False

    def receive(self, data):
        self._buffer += data
        self._next()

    def reply(self, status, headers, body):
        lines = [f"HTTP/1.1 {status} Told", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        transport = self._connection.transport
        if transport is not None:
            transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self._is_busy = False
        self._next()

    def _next(self):
        head, blank, rest = self._buffer.partition(b"\r\n\r\n")
        if self._is_busy or not blank:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = int(headers.get("content-length", "0"))
        if len(rest) < size:
            return
        self._is_busy = True
        self._buffer = rest[size:]
        method, path, _ = first.split(" ", 2)
        asked = Asked(self._connection, 0, {**headers, ":method": method, ":path": path})
        asked.body += rest[:size]
        self._connection.server.take(asked)


@dataclass(slots=True)
class Http2Server:
    """The running server. `answer` is called with every whole request; all fields may be changed at any time."""

    answer: Callable[[Asked], None]
    limits: ServerLimits = ServerLimits()
    latency_s: float = 0.0
    """How long every request waits before `answer` sees it."""
    window_delay_s: float = 0.0
    """How long the server takes to give window back for what it has read."""
    is_deaf: bool = False
    """Reads nothing any more: no answers, no acknowledgements, no PING."""
    is_mute: bool = False
    """Writes nothing any more."""
    port: int = 0
    connected: int = 0
    refused: int = 0
    taken: int = 0
    connections: list[ServerConnection] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    on_connected: list[Callable[[ServerConnection], None]] = field(default_factory=list)
    """What happens to the next connections instead of serving them, one entry each."""
    on_stream_limit: Callable[[ServerConnection], int] | None = None

    def most_streams(self, connection):
        if self.on_stream_limit is not None:
            return self.on_stream_limit(connection)
        return self.limits.streams

    def take(self, asked):
        self.taken += 1
        self.later(self.latency_s, self.answer, asked)

    def later(self, seconds, do, asked):
        """Do something with a request after some time; after none at once."""
        if seconds:
            asyncio.get_running_loop().call_later(seconds, do, asked)
        else:
            do(asked)


@asynccontextmanager
async def run_http2_server(
    answer: Callable[[Asked], None] | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    limits: ServerLimits | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
) -> AsyncIterator[Http2Server]:
    """Run a server until the block ends; without `tls`, HTTP/2 by prior knowledge."""
    server = Http2Server(answer or (lambda asked: asked.reply()), limits or ServerLimits())
    if tls is not None:
        tls.set_alpn_protocols(["h2", "http/1.1"])
    listener = await asyncio.get_running_loop().create_server(lambda: ServerConnection(server), host, port, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for connection in list(server.connections):
            connection.drop()
        await listener.wait_closed()
