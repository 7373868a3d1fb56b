"""HTTP on the lean listener: uvicorn's protocol, with bounds before a request has a face, and our own WebSockets.

uvicorn reads heads of any length and waits for them for ever, because it expects a proxy in front; this listener may
have none.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState
from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.utils import accept_key

from appliance.hub.asgi_types import AsgiApplication
from appliance.hub.lean_limits import LeanLimits
from appliance.hub.lean_places import Place, Places
from appliance.hub.lean_websocket import Framer, LeanWebSocket

logger = logging.getLogger(__name__)

# The library tells every head at debug level, credentials and all.
_head_log: Final = logging.getLogger(f"{__name__}.heads")
_head_log.setLevel(logging.WARNING)

_USUAL_CONNECTION: Final = (b"upgrade", b"keep-alive, upgrade")
# Sixteen bytes in Base64: of the last digit only the two bits of the sixteenth byte that are left may be set.
_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==")


@dataclass(slots=True)
class LeanServer:
    """What the connections of one listener share."""

    app: AsgiApplication
    config: Config
    limits: LeanLimits
    places: Places
    on_lost: Callable[[LeanWebSocket], None]
    state: ServerState = field(default_factory=ServerState)
    framer: Framer = field(default_factory=Framer)
    sockets: set[LeanWebSocket] = field(default_factory=set)
    _date: tuple[int, str] = (0, "")

    def date(self, now: float) -> str:
        """Give the Date header of this second; `now` is the loop's time."""
        if self._date[0] != int(now):
            self._date = (int(now), formatdate(usegmt=True))
        return self._date[1]


def accept_upgrade(headers: Sequence[tuple[bytes, bytes]], date: str) -> bytes | None:
    """Give the answer to an upgrade as all usual clients ask for it; None where the library has to look at it.

    The library takes some tenth of what letting a client in costs. Source: RFC 6455 section 4.2.
    """
    given = dict(headers)
    key = given.get(b"sec-websocket-key", b"")
    is_usual = (
        len(given) == len(headers)
        and given.get(b"upgrade", b"").lower() == b"websocket"
        and given.get(b"connection", b"").lower() in _USUAL_CONNECTION
        and given.get(b"sec-websocket-version") == b"13"
        and _KEY.fullmatch(key) is not None
    )
    if not is_usual:
        return None
    return (
        "HTTP/1.1 101 Switching Protocols\r\n"
        f"Date: {date}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_key(key.decode())}\r\n\r\n"
    ).encode()


class _HeadRefused(Exception):
    """Raised within the parser, which then stops."""


class LeanHttp(HttpToolsProtocol):
    """One TCP connection until it is upgraded or ends. A request's head has a size, a deadline and a place."""

    def __init__(self, server: LeanServer) -> None:
        super().__init__(server.config, server.state, {})
        # The path of a request may hold a credential.
        self.access_log = False
        self._lean = server
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._place: Place | None = None
        self._refused_with = HTTPStatus.BAD_REQUEST
        self._is_lingering = False

    def admit(self, transport: asyncio.Transport) -> bool:
        """Take a place as soon as there is a connection, before TLS; False when there is none, and it is dropped."""
        self.transport = transport
        peer = transport.get_extra_info("peername")
        if self._take_place(str(peer[0]) if isinstance(peer, tuple) else ""):
            return True
        transport.abort()
        return False

    def give_way(self) -> None:
        """Another connection needs the place more."""
        self._place = None
        self.transport.abort()

    def leave_place(self) -> None:
        """From now on the hub counts this connection, or nobody has to."""
        place, self._place = self._place, None
        if place is not None:
            self._lean.places.leave(self, place)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._place is not None or self.admit(transport):
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        # The base does this only for a peer that said goodbye, and the timer would hold this object.
        self._unset_keepalive_if_required()
        self.leave_place()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # What arrives is not yet a request: until one begins, the timer of the pause before it goes on.
        if self._is_lingering or self.transport.is_closing():
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._serve_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            is_too_long = self._head_bytes > self._lean.limits.head_bytes
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if is_too_long else self._refused_with)
        else:
            self._count_unfinished_head(len(data))

    # What the parser tells.

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= self._lean.limits.pipelined:
            raise _HeadRefused
        self._unset_keepalive_if_required()
        super().on_message_begin()
        self._head_bytes = 0
        if self._head_timer is None:
            self._await_head()

    def _should_upgrade_to_ws(self) -> bool:
        return True

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._is_upgrade_ignored():
            if self.parser.get_method() == b"CONNECT":
                raise _HeadRefused
            return
        self._end_head()
        if self._place is not None and not self._lean.places.begin(self, self._place):
            self._refused_with = HTTPStatus.SERVICE_UNAVAILABLE
            raise _HeadRefused
        date = self._lean.date(self.loop.time())
        self.server_state.default_headers = [(b"date", date.encode())]
        # An answer that its client does not read can only be given up together with the connection.
        self.scope["abort_connection"] = self.transport.abort  # type: ignore[typeddict-unknown-key]
        # Who serves the connection for the hub, which counts it from then on, says so.
        self.scope["leave_place"] = self.leave_place  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self._is_upgrade_ignored():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        cycle: RequestResponseCycle = self.cycle
        super().on_response_complete()
        if self.pipeline or self.transport.is_closing() or not cycle.response_complete:
            return
        if cycle.more_body:
            self._linger()
        elif self._head_timer is not None:
            # The next head has begun, and has a deadline.
            self._unset_keepalive_if_required()
        if self._place is not None:
            self._lean.places.wait(self, self._place)
        elif not self._take_place(self.client[0] if self.client else ""):
            self.transport.close()

    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    # Heads.

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self._lean.limits.head_deadline_s, self.transport.abort)

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._lean.limits.head_bytes:
            raise _HeadRefused

    def _count_unfinished_head(self, size: int) -> None:
        """Count what the parser keeps of a line that has no end yet, too."""
        if self._head_timer is None:
            return
        self._head_bytes += size
        if self._head_bytes > self._lean.limits.head_bytes:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def _refuse(self, status: HTTPStatus) -> None:
        """Answer what is no request that could be served, and close."""
        lines = [f"HTTP/1.1 {status} {status.phrase}", "connection: close", "content-length: 0"]
        if status is HTTPStatus.SERVICE_UNAVAILABLE:
            lines.append(f"retry-after: {self._lean.limits.retry_after_s}")
        self.transport.write("\r\n".join((*lines, "", "")).encode())
        self.transport.close()

    def _linger(self) -> None:
        """Close what was answered before all of it had arrived: no request could follow, and no timer would run."""
        self._unset_keepalive_if_required()
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        # Closing with input unread would reset the connection, and the client might not see the answer.
        self._is_lingering = True
        self.transport.write_eof()
        self._head_timer = self.loop.call_later(self._lean.limits.linger_s, self.transport.abort)

    def _take_place(self, address: str) -> bool:
        self._place = self._lean.places.take(self, address, self.loop.time())
        return self._place is not None

    # Upgrades.

    def _serve_upgrade(self, rest: bytes) -> None:
        if self._is_upgrade_ignored():
            self._read_again(rest)
        elif self._is_answering():
            self._refuse(HTTPStatus.BAD_REQUEST)
        else:
            self._upgrade(rest)

    def _is_upgrade_ignored(self) -> bool:
        """Tell whether it asks for what is not offered; a server may ignore that (RFC 9110 section 7.8)."""
        return self.parser.should_upgrade() and self._get_upgrade() != b"websocket"

    def _read_again(self, rest: bytes) -> None:
        """Read a request without its Upgrade: the parser takes whatever follows such a head for another protocol."""
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.data_received(b"\r\n".join((*lines, b"", rest)))

    def _upgrade(self, rest: bytes) -> None:
        """Hand the transport to a WebSocket; `rest` is what followed the head already."""
        answer = self._answer_upgrade()
        if answer is None:
            return
        server = self._lean
        server.state.connections.discard(self)
        self.leave_place()
        socket = LeanWebSocket(self.transport, answer, server.framer, server.limits, server.on_lost)
        server.sockets.add(socket)
        self.transport.set_protocol(socket)
        # A paused transport would stay so: nobody else knows that this protocol paused it.
        self.flow.resume_reading()
        # The parser and this object hold each other; so many of them should not wait for a collection.
        self.parser = None  # type: ignore[assignment]
        socket.run(server.app, self._make_scope())
        if rest:
            socket.data_received(rest)

    def _answer_upgrade(self) -> bytes | None:
        """Give the answer that accepts the upgrade; a bad one is refused here and gives None."""
        if self.scope["method"] == "GET" and self.scope["http_version"] == "1.1":
            answer = accept_upgrade(self.headers, self._lean.date(self.loop.time()))
            if answer is not None:
                return answer
        headers = Headers()
        for name, value in self.headers:
            headers[name.decode("latin-1")] = value.decode("latin-1")
        handshake = ServerProtocol(max_size=None, logger=_head_log)
        asked = Request("", headers, self.scope["method"], f"HTTP/{self.scope['http_version']}")
        response = handshake.accept(asked)
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            self.transport.write(response.serialize())
            self.transport.close()
            return None
        return response.serialize()

    def _make_scope(self) -> dict[str, Any]:
        url = httptools.parse_url(self.url)
        return {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": "wss" if self.scheme == "https" else "ws",
            "server": self.server,
            "client": self.client,
            "root_path": "",
            "path": unquote(url.path.decode("ascii")),
            "raw_path": url.path,
            "query_string": url.query or b"",
            "headers": self.headers,
            "subprotocols": [],
            "extensions": {"websocket.http.response": {}},
        }
