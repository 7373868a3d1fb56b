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
from collections.abc import Callable
from functools import partial
from typing import Final, cast

from appliance.hub import endings
from appliance.hub.asgi_types import Event, Receive, Send
from appliance.hub.connection import Connection
from appliance.hub.core import HubCore
from appliance.hub.endings import Ending
from appliance.hub.gate import Gate, Guest
from appliance.hub.negotiate import WEBSOCKETS, Negotiation
from appliance.hub.outbox import WriteFuture
from appliance.hub.writes import begin_write

logger = logging.getLogger(__name__)

# The server tells 1005 for a lost TCP connection as well as for a close frame without a code: only these are certain.
_PROPER_CODES: Final = (1000, 1001)
_NO_CODE: Final = 1005
_LOST_CODES: Final = (_NO_CODE, 1006)


class WebSocketPipe:
    """Writes to one WebSocket. Made by the task that is going to read from it.

    `start_write` begins to write one frame: text as text, bytes as binary. Where the server's send has a method of that
    name (our own listener's has), it is that one, since most of what is written is the same for many.
    """

    __slots__ = ("_reader", "start_write")

    is_write_bounded = True

    def __init__(self, send: Send) -> None:
        self._reader = asyncio.current_task()
        # Nothing that leads back here: what holds itself stays in memory until a collection that comes very rarely.
        self.start_write: Callable[[str | bytes], WriteFuture] = getattr(
            send, "start_write", partial(_start_event, send)
        )

    def interrupt(self) -> None:
        """Cancel the reading task, unless it is the one that calls: that one looks at the connection by itself."""
        if self._reader is not None and self._reader is not asyncio.current_task():
            self._reader.cancel()


def _start_event(send: Send, payload: str | bytes) -> WriteFuture:
    key = "text" if isinstance(payload, str) else "bytes"
    return begin_write(send, {"type": "websocket.send", key: payload})


class Absence:
    """Stands in for the socket of a client that is away, and sees to the end of its connection if it stays away."""

    is_write_bounded = False

    def __init__(
        self, core: HubCore, gate: Gate, negotiation: Negotiation[Connection] | None, connection: Connection
    ) -> None:
        self._core = core
        self._gate = gate
        self._negotiation = negotiation
        self._connection = connection

    def start_write(self, payload: str | bytes) -> WriteFuture:
        """Never called: what is sent to a client that is away is kept."""
        raise RuntimeError("there is no socket to write to")

    def interrupt(self) -> None:
        """The connection has ended."""
        self._core.run(self._finish())

    async def _finish(self) -> None:
        self._gate.finish(self._negotiation)
        await self._connection.finish()


async def serve_websocket(
    core: HubCore,
    gate: Gate,
    guest: Guest,
    negotiation: Negotiation[Connection] | None,
    receive: Receive,
    send: Send,
) -> None:
    """Serve a WebSocket that was admitted, from its acceptance to its end."""
    is_stateful = negotiation is not None and negotiation.is_stateful
    pipe = WebSocketPipe(send)
    connection = Connection(
        core, guest.principal, guest.user_id, pipe, WEBSOCKETS, guest.origin, is_stateful=is_stateful
    )
    if negotiation is not None:
        negotiation.connection = connection
    await _carry(core, gate, negotiation, connection, pipe, receive, send, is_accepted=False)


async def resume_websocket(
    core: HubCore,
    gate: Gate,
    guest: Guest,
    negotiation: Negotiation[Connection],
    connection: Connection,
    receive: Receive,
    send: Send,
) -> None:
    """Serve another WebSocket of a client that goes on with its connection, from its acceptance to its end."""
    pipe = WebSocketPipe(send)
    try:
        await send({"type": "websocket.accept"})
    except BaseException as error:
        connection.leave_socket()
        if not isinstance(error, OSError | RuntimeError):
            raise
        logger.debug("hub_resume_failed", extra={"error": type(error).__name__})
        return
    if not connection.resume(pipe, guest.principal):
        connection.leave_socket()
        # It has ended since the client was admitted; by now the id is unknown.
        await _close(send, endings.SERVER_STOPPING, deadline_s=core.limits.close_deadline_s)
        return
    await _carry(core, gate, negotiation, connection, pipe, receive, send, is_accepted=True)


async def _carry(
    core: HubCore,
    gate: Gate,
    negotiation: Negotiation[Connection] | None,
    connection: Connection,
    pipe: WebSocketPipe,
    receive: Receive,
    send: Send,
    *,
    is_accepted: bool,
) -> None:
    """Serve one socket until the connection ends, or goes on without this socket."""
    task = cast("asyncio.Task[object]", asyncio.current_task())
    core.tasks.add(task)
    try:
        code = await _read(connection, pipe, receive, None if is_accepted else send)
        if code is not None and connection.is_carried_by(pipe):
            absence = Absence(core, gate, negotiation, connection)
            if code not in _LOST_CODES or not connection.lose_socket(absence):
                connection.end(endings.CLIENT_GONE if code in _PROPER_CODES else endings.SOCKET_LOST)
        if connection.is_carried_by(pipe):
            # Before the socket ends: a client that comes back with the same id at once must not find it.
            gate.finish(negotiation)
            await close_websocket(connection, send, deadline_s=core.limits.close_deadline_s)
        elif code is None and not connection.was_abandoned(pipe):
            # A newer socket has taken over, and this one may be as alive as that: the server keeps what nobody closes.
            await _close(send, endings.REPLACED, deadline_s=core.limits.close_deadline_s)
    finally:
        try:
            if connection.is_carried_by(pipe):
                gate.finish(negotiation)
                await connection.finish()
        finally:
            connection.leave_socket(pipe)
            core.tasks.discard(task)


async def _read(connection: Connection, pipe: WebSocketPipe, receive: Receive, accept: Send | None) -> int | None:
    """Accept if that is to be done, and read until the connection ends or has another pipe.

    Gives the code with which the socket ended, None where it did not end by itself.
    """
    try:
        if accept is not None:
            await accept({"type": "websocket.accept"})
        while connection.ending is None and connection.is_carried_by(pipe):
            event = await receive()
            if event["type"] == "websocket.disconnect":
                return cast(int, event.get("code", _NO_CODE))
            data = _data_of(event)
            if data is not None:
                await connection.receive(data, pipe)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or (connection.ending is None and connection.is_carried_by(pipe)):
            connection.end(endings.SERVER_STOPPING)
            raise
        task.uncancel()
    except Exception:
        logger.exception("hub_connection_failed")
        if connection.is_carried_by(pipe):
            connection.end(endings.INTERNAL_ERROR)
    return None


async def close_websocket(connection: Connection, send: Send, *, deadline_s: float) -> None:
    """Say goodbye and close, unless the ending is abrupt; `deadline_s` bounds both together."""
    ending = connection.ending
    if ending is None or ending.is_abrupt:
        return
    await _close(send, ending, deadline_s=deadline_s, connection=connection)


async def _close(send: Send, ending: Ending, *, deadline_s: float, connection: Connection | None = None) -> None:
    """Close the socket, after all that its connection has to say there."""
    try:
        async with asyncio.timeout(deadline_s):
            if connection is not None:
                await connection.wait_until_written()
            await send({"type": "websocket.close", "code": ending.code})
    except TimeoutError:
        logger.info("hub_close_timed_out", extra={"reason": ending.reason})
    except (OSError, RuntimeError) as error:
        # The peer was faster; there is nobody left to close.
        logger.debug("hub_close_failed", extra={"reason": ending.reason, "error": type(error).__name__})


def _data_of(event: Event) -> str | bytes | None:
    """Give what a frame carries, whatever its opcode; None for an event that carries nothing."""
    data = event.get("text")
    if data is None:
        data = event.get("bytes")
    return data if isinstance(data, str | bytes) else None
