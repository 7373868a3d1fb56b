"""TLS of the lean listener: a connection counts from the moment it is accepted, and its handshake has a deadline."""

import asyncio
import logging
import ssl

from appliance.hub.lean_http import LeanHttp

logger = logging.getLogger(__name__)


class TlsDoor(asyncio.Protocol):
    """Takes the place for `http`, shakes hands, and hands the connection over; `tasks` holds who does so."""

    def __init__(
        self, http: LeanHttp, context: ssl.SSLContext, handshake_s: float, tasks: set[asyncio.Task[None]]
    ) -> None:
        self._http = http
        self._context = context
        self._handshake_s = handshake_s
        self._tasks = tasks
        self._early = b""
        self._is_lost = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if not self._http.admit(transport):
            return
        transport.pause_reading()
        task = asyncio.get_running_loop().create_task(self._shake_hands(transport))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def data_received(self, data: bytes) -> None:
        # What came with the end of the handshake. Nothing more is read in the same turn of the loop.
        self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._http.leave_place()

    async def _shake_hands(self, transport: asyncio.Transport) -> None:
        http = self._http
        safe: asyncio.Transport | None = None
        try:
            safe = await asyncio.get_running_loop().start_tls(
                transport, self, self._context, server_side=True, ssl_handshake_timeout=self._handshake_s
            )
        except OSError:
            # It speaks no TLS, has gone away, or took too long.
            logger.debug("hub_tls_handshake_failed")
        finally:
            if safe is None:
                http.leave_place()
                transport.abort()
        if safe is None:
            return
        if safe.is_closing() or self._is_lost:
            http.leave_place()
            safe.abort()
            return
        safe.set_protocol(http)
        http.connection_made(safe)
        if self._early:
            http.data_received(self._early)
