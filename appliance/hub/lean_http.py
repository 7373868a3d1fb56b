"""HTTP on the lean listener: uvicorn's protocol, with bounds before a request has a face, and our own WebSockets.

uvicorn reads heads of any length and waits for them for ever, because it expects a proxy in front; this listener may
have none.
"""

import asyncio
import logging
import re
from collections import Counter
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
from appliance.hub.lean_websocket import Framer, LeanWebSocket
from appliance.hub.origin import site_of

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
    trusts: Callable[[str], bool]
    on_lost: Callable[[LeanWebSocket], None]
    state: ServerState = field(default_factory=ServerState)
    framer: Framer = field(default_factory=Framer)
    sockets: set[LeanWebSocket] = field(default_factory=set)
    heads_pending: int = 0
    heads_pending_of: Counter[str] = field(default_factory=Counter)
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
        self._pending_site: str | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._take_place(self.client[0] if self.client else ""):
            self._await_head()
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        self._leave_place()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._get_upgrade() == b"websocket" and not self._is_answering():
                self._upgrade(data[upgrade.args[0] :])
            else:
                self._refuse(HTTPStatus.BAD_REQUEST)
        except httptools.HttpParserError:
            is_too_long = self._head_bytes > self._lean.limits.head_bytes
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if is_too_long else HTTPStatus.BAD_REQUEST)
        else:
            self._count_unfinished_head(len(data))

    # What the parser tells.

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= self._lean.limits.pipelined:
            raise _HeadRefused
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
        self._end_head()
        self._leave_place()
        date = self._lean.date(self.loop.time())
        self.server_state.default_headers = [(b"date", date.encode())]
        # An answer that its client does not read can only be given up together with the connection.
        self.scope["abort_connection"] = self.transport.abort  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()

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
        lines = (f"HTTP/1.1 {status} {status.phrase}", "connection: close", "content-length: 0", "", "")
        self.transport.write("\r\n".join(lines).encode())
        self.transport.close()

    def _take_place(self, address: str) -> bool:
        server = self._lean
        if server.heads_pending >= server.limits.heads_pending:
            return False
        site = site_of(address)
        if server.heads_pending_of[site] >= server.limits.heads_pending_per_address and not server.trusts(address):
            return False
        server.heads_pending += 1
        server.heads_pending_of[site] += 1
        self._pending_site = site
        return True

    def _leave_place(self) -> None:
        site, self._pending_site = self._pending_site, None
        if site is None:
            return
        server = self._lean
        server.heads_pending -= 1
        server.heads_pending_of[site] -= 1
        if not server.heads_pending_of[site]:
            del server.heads_pending_of[site]

    # Upgrades.

    def _upgrade(self, rest: bytes) -> None:
        """Hand the transport to a WebSocket; `rest` is what followed the head already."""
        answer = self._answer_upgrade()
        if answer is None:
            return
        server = self._lean
        server.state.connections.discard(self)
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
