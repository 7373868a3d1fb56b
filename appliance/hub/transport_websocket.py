"""The WebSocket transport, over the raw ASGI pair of the server.

Three properties of the server (Granian) shape it:

- A send is scheduled when it is called and gives back a future, so a write can be started without being awaited; with a
  server whose send is a coroutine function, a task takes the future's place.
- A close waits for ever while a receive is pending on the same socket. So whoever ends a connection cancels the task
  that reads, which releases the receive, and that task sends the goodbye and the close frame itself.
- A close to a client that does not read hangs. So an abrupt ending cancels the write in flight and sends nothing.
"""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Final, cast

from appliance.hub import endings
from appliance.hub.asgi_types import Event, Receive, Send
from appliance.hub.connection import Connection
from appliance.hub.core import HubCore
from appliance.hub.gate import Gate, Guest
from appliance.hub.negotiate import WEBSOCKETS, Negotiation
from appliance.hub.outbox import WriteFuture

logger = logging.getLogger(__name__)

# The server tells 1005 for a lost TCP connection as well as for a close frame without a code: only these are certain.
_PROPER_CODES: Final = (1000, 1001)


class WebSocketPipe:
    """Writes to one WebSocket. Made by the task that is going to read from it."""

    is_write_bounded = True

    def __init__(self, send: Send) -> None:
        self._send = send
        self._reader = asyncio.current_task()

    def start_write(self, payload: str | bytes) -> WriteFuture:
        """Begin to write one frame: text as text, bytes as binary."""
        key = "text" if isinstance(payload, str) else "bytes"
        sending = self._send({"type": "websocket.send", key: payload})
        if hasattr(sending, "add_done_callback"):
            return cast(WriteFuture, sending)
        return asyncio.ensure_future(_await_quietly(sending))

    def interrupt(self) -> None:
        """Cancel the reading task, unless it is the one that calls: that one looks at `ending` by itself."""
        if self._reader is not None and self._reader is not asyncio.current_task():
            self._reader.cancel()


async def serve_websocket(
    core: HubCore,
    gate: Gate,
    guest: Guest,
    negotiation: Negotiation[Connection] | None,
    receive: Receive,
    send: Send,
) -> None:
    """Serve a WebSocket that was admitted, from its acceptance to its end."""
    connection = Connection(core, guest.principal, guest.user_id, WebSocketPipe(send), WEBSOCKETS, guest.origin)
    if negotiation is not None:
        negotiation.connection = connection
    task = cast("asyncio.Task[object]", asyncio.current_task())
    core.tasks.add(task)
    try:
        await read_websocket(connection, receive, send)
        # Before the socket ends: a client that comes back with the same id at once must not find it.
        gate.finish(negotiation)
        await close_websocket(connection, send, deadline_s=core.limits.close_deadline_s)
    finally:
        gate.finish(negotiation)
        try:
            await connection.finish()
        finally:
            core.tasks.discard(task)


async def read_websocket(connection: Connection, receive: Receive, send: Send) -> None:
    """Accept, and read until the connection ends for whatever reason; `connection.ending` is set afterwards."""
    try:
        await send({"type": "websocket.accept"})
        await _read(connection, receive)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if connection.ending is None or task is None:
            connection.end(endings.SERVER_STOPPING)
            raise
        task.uncancel()
    except Exception:
        logger.exception("hub_connection_failed")
        connection.end(endings.INTERNAL_ERROR)


async def close_websocket(connection: Connection, send: Send, *, deadline_s: float) -> None:
    """Say goodbye and close, unless the ending is abrupt; `deadline_s` bounds both together."""
    ending = connection.ending
    if ending is None or ending.is_abrupt:
        return
    try:
        async with asyncio.timeout(deadline_s):
            await connection.wait_until_written()
            await send({"type": "websocket.close", "code": ending.code})
    except TimeoutError:
        logger.info("hub_close_timed_out", extra={"reason": ending.reason})
    except (OSError, RuntimeError) as error:
        # The peer was faster; there is nobody left to close.
        logger.debug("hub_close_failed", extra={"reason": ending.reason, "error": type(error).__name__})


async def _read(connection: Connection, receive: Receive) -> None:
    while connection.ending is None:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            connection.end(endings.CLIENT_GONE if event.get("code") in _PROPER_CODES else endings.SOCKET_LOST)
            return
        data = _data_of(event)
        if data is not None:
            await connection.receive(data)


def _data_of(event: Event) -> str | bytes | None:
    """Give what a frame carries, whatever its opcode; None for an event that carries nothing."""
    data = event.get("text")
    if data is None:
        data = event.get("bytes")
    return data if isinstance(data, str | bytes) else None


async def _await_quietly(sending: Awaitable[None]) -> None:
    try:
        await sending
    except (OSError, RuntimeError) as error:
        # The reader of the same socket sees that the peer is gone and ends the connection.
        logger.debug("hub_write_failed", extra={"error": type(error).__name__})
