"""The lean listener: the hub on a port of its own, in the same process and event loop, at a tenth of the memory.

WebSockets cost about a kibibyte here below the hub, against some 150 KiB of the main server; HTTP of the same port
(negotiate, Server-Sent Events, long polling) is uvicorn's. Only what is below the hub's path is served.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

from uvicorn.config import Config

from appliance.hub.asgi_types import AsgiApplication
from appliance.hub.lean_http import LeanHttp, LeanServer
from appliance.hub.lean_limits import LeanLimits
from appliance.hub.lean_places import Places
from appliance.hub.lean_tls import TlsDoor
from appliance.hub.lean_websocket import LeanWebSocket
from appliance.security.trusted_proxies import TrustedProxies, believe

logger = logging.getLogger(__name__)

_PROBE_AFTER_S: Final = 30
_PROBE_EVERY_S: Final = 10
_PROBES: Final = 3
# The event loop takes one connection a turn from each socket that listens (libuv since 1.45), and its turns are long
# when many clients are being served: the kernel's queue would overflow, and whom it drops waits for up to half a minute
# before the system asks again. So several descriptors of the one socket take turns.
_TAKEN_A_TURN: Final = 16


class LeanListener:
    """Serves `app`, which answers below the hub's path only, on one bound socket, from `start` to `stop`.

    Behind one of `trusted_proxies` (addresses or networks) the client and the scheme are those that it forwards.
    """

    def __init__(
        self,
        app: AsgiApplication,
        bound: socket.socket,
        *,
        limits: LeanLimits | None = None,
        trusted_proxies: Sequence[str] = (),
        tls_cert: Path | None = None,
        tls_key: Path | None = None,
        backlog: int = 4096,
    ) -> None:
        self._bound = bound
        self._backlog = backlog
        self._limits = limits or LeanLimits()
        self._tls = _make_tls(tls_cert, tls_key) if tls_cert is not None and tls_key is not None else None
        app = cast(AsgiApplication, believe(app, trusted_proxies))
        # uvicorn's own server does not run: neither its signals, its logging nor its reading of the environment.
        config = Config(
            app,
            http=LeanHttp,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=self._limits.idle_s,
        )
        config.load()
        places = Places(self._limits, TrustedProxies(trusted_proxies))
        self._shared = LeanServer(app, config, self._limits, places, self._forget)
        self._handshakes: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self._emptied: asyncio.Event | None = None

    @property
    def port(self) -> int:
        """The port it was given."""
        return cast(int, self._bound.getsockname()[1])

    async def start(self) -> None:
        """Begin to listen."""
        _set_options(self._bound, self._limits)
        for listening in (self._bound, *(self._bound.dup() for _ in range(_TAKEN_A_TURN - 1))):
            server = await asyncio.get_running_loop().create_server(
                self._make_protocol, sock=listening, backlog=self._backlog
            )
            self._servers.append(server)

    async def stop(self) -> None:
        """Let nobody in any more, and end what is open: in peace within `stop_wait_s`, at once after that.

        WebSockets are the hub's: drain it first, and what is left here only waits for the peers' close frames.
        """
        servers, self._servers = self._servers, []
        if not servers:
            return
        for server in servers:
            server.close()
        shared = self._shared
        for connection in list(shared.state.connections):
            connection.shutdown()
        tasks = {*shared.state.tasks, *(one.task for one in shared.sockets if one.task is not None)}
        self._emptied = asyncio.Event()
        if not shared.sockets:
            self._emptied.set()
        empty = asyncio.ensure_future(self._emptied.wait())
        await asyncio.wait({*tasks, empty}, timeout=self._limits.stop_wait_s)
        empty.cancel()
        tasks |= self._handshakes
        late = [task for task in tasks if not task.done()]
        for task in late:
            task.cancel()
        for one in list(shared.sockets):
            one.drop()
        for connection in list(shared.state.connections):
            connection.transport.abort()
        if late:
            logger.warning("hub_listener_stop_forced", extra={"connections": len(late)})
            await asyncio.wait(late, timeout=1.0)

    def _make_protocol(self) -> asyncio.Protocol:
        http = LeanHttp(self._shared)
        return http if self._tls is None else TlsDoor(http, self._tls, self._limits.tls_handshake_s, self._handshakes)

    def _forget(self, lost: LeanWebSocket) -> None:
        self._shared.sockets.discard(lost)
        if self._emptied is not None and not self._shared.sockets:
            self._emptied.set()


def _make_tls(cert: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _set_options(listening: socket.socket, limits: LeanLimits) -> None:
    """Set once, on the socket that listens, what every connection inherits from it (Linux: tcp(7), socket(7))."""
    listening.setblocking(False)
    # Connections inherit it, and those that outlive this process do not keep the next one off the port.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_AFTER_S)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_EVERY_S)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(limits.unacknowledged_s * 1000))
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, limits.unsent_bytes)
