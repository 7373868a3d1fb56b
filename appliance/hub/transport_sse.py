"""Server-Sent Events: one response that does not end is the way out, posts are the way in.

The head and a comment leave at once, because the client shakes hands only after them. Every event holds whole records.
What the server (Granian, or uvicorn on a port of the hub's own) does with a reader that does not read: a body event is
taken when the one before it was written to the socket, so a stalled reader leaves a write unfinished, and the write
deadline or the bound of the outbox cuts it, as on a WebSocket. A client that goes away is told as `http.disconnect`.

No padding before the first event: it would push the head through a proxy that holds answers back, and the events after
it would be held back all the same, when the client has settled for this transport. What helps is not to offer it again
(`hub.distrust`). Source: WHATWG HTML, section Server-sent events; dotnet/aspnetcore `TransportProtocols.md`.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from appliance.hub import endings
from appliance.hub.asgi_types import Receive, Scope, Send
from appliance.hub.connection import Connection
from appliance.hub.core import HubCore
from appliance.hub.gate import Gate, Guest
from appliance.hub.negotiate import SERVER_SENT_EVENTS, Negotiation
from appliance.hub.outbox import WriteFuture
from appliance.hub.posts import Posts
from appliance.hub.requests import wait_until_gone
from appliance.hub.writes import begin_write

logger = logging.getLogger(__name__)

_HEAD: Final[tuple[tuple[bytes, bytes], ...]] = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache,no-store"),
    (b"pragma", b"no-cache"),
    (b"content-encoding", b"identity"),
    # nginx passes on what comes at once, then.
    (b"x-accel-buffering", b"no"),
)
_FIRST_COMMENT: Final = b":\r\n"


@dataclass(frozen=True, slots=True)
class StreamOutput:
    """How the server lets a response be written: its head, its events, and how to give it up unfinished.

    Events go to the server's own `send`: a wrapped one is slower, and cannot be begun without a task. `abort` ends the
    whole TCP connection; None where the server has no such thing, and the response just ends where it is.
    """

    send_head: Send
    send: Send
    abort: Callable[[], None] | None

    @classmethod
    def of(cls, scope: Scope, send: Send) -> "StreamOutput":
        """Find it for a request."""
        abort = cast("Callable[[], None] | None", scope.get("abort_connection"))
        return cls(send, cast(Send, scope.get("raw_send", send)), abort)


class EventStreamPipe:
    """Writes events to one response. Made by the task that serves it."""

    is_write_bounded = True

    def __init__(self, send: Send) -> None:
        self._send = send
        self._server = asyncio.current_task()

    def start_write(self, payload: str | bytes) -> WriteFuture:
        """Begin to write one event."""
        return begin_write(self._send, {"type": "http.response.body", "body": make_event(payload), "more_body": True})

    def interrupt(self) -> None:
        """Cancel the serving task, unless it is the one that calls: that one looks at `ending` by itself."""
        if self._server is not None and self._server is not asyncio.current_task():
            self._server.cancel()


class EventStream:
    """One connection over Server-Sent Events. Whoever makes it must await `serve`.

    Nothing may be posted before `is_open`: an answer could not be written before the head.
    """

    def __init__(
        self,
        core: HubCore,
        guest: Guest,
        negotiation: Negotiation[Connection],
        output: StreamOutput,
    ) -> None:
        self._core = core
        self._negotiation = negotiation
        self._output = output
        self.is_open = False
        pipe = EventStreamPipe(output.send)
        self.connection = Connection(core, guest.principal, guest.user_id, pipe, SERVER_SENT_EVENTS, guest.origin)
        self.posts = Posts(self.connection)
        negotiation.connection = self.connection

    @property
    def is_unheard(self) -> bool:
        """Whether it has ended because nobody shook hands on it (`hub.distrust`)."""
        return self.connection.ending is endings.STREAM_UNHEARD

    @property
    def is_heard(self) -> bool:
        """Whether somebody shook hands on it, which takes its head to have arrived."""
        return self.connection.encoding is not None

    async def serve(self, gate: Gate, receive: Receive) -> None:
        """Serve the response from its head to its end; returns when nothing is left of the connection."""
        core, connection = self._core, self.connection
        task = cast("asyncio.Task[object]", asyncio.current_task())
        core.tasks.add(task)
        try:
            await self._listen(receive)
            gate.finish(self._negotiation)
            await self.posts.stop()
            if not await self._say_goodbye():
                await self._give_up()
        finally:
            gate.finish(self._negotiation)
            try:
                await connection.finish()
            finally:
                core.tasks.discard(task)

    async def _listen(self, receive: Receive) -> None:
        """Begin the response and wait until the connection ends for whatever reason; `ending` is set afterwards."""
        connection = self.connection
        try:
            await self._output.send_head({"type": "http.response.start", "status": 200, "headers": list(_HEAD)})
            # Before the comment and not after it: the client may be faster than the news that it was sent.
            self.is_open = True
            await self._output.send({"type": "http.response.body", "body": _FIRST_COMMENT, "more_body": True})
            if connection.ending is None:
                await wait_until_gone(receive)
                connection.end(endings.SOCKET_LOST)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if connection.ending is None or task is None:
                connection.end(endings.SERVER_STOPPING)
                raise
            task.uncancel()
        except Exception:
            logger.exception("hub_connection_failed")
            connection.end(endings.INTERNAL_ERROR)

    async def _say_goodbye(self) -> bool:
        """Write what is left and end the response; False where that is not possible, or nobody is to be told."""
        ending = self.connection.ending
        if ending is None or ending.is_abrupt:
            return False
        try:
            async with asyncio.timeout(self._core.limits.close_deadline_s):
                await self.connection.wait_until_written()
                await self._output.send({"type": "http.response.body", "body": b"", "more_body": False})
                return True
        except TimeoutError:
            logger.info("hub_close_timed_out", extra={"reason": ending.reason})
        except (OSError, RuntimeError) as error:
            # The peer was faster; there is nobody left to tell.
            logger.debug("hub_close_failed", extra={"reason": ending.reason, "error": type(error).__name__})
        return False

    async def _give_up(self) -> None:
        """Break off: let the server drop what it holds for a reader that does not read, where it can."""
        if self._output.abort is not None:
            self._output.abort()
            # The server learns of it in the next turn of the loop, and does not miss the end of the response then.
            await asyncio.sleep(0)


def make_event(payload: str | bytes) -> bytes:
    """Put whole records into one event. A line break in them begins another line of the same event."""
    encoded = payload.encode() if isinstance(payload, str) else payload
    if b"\n" not in encoded and b"\r" not in encoded:
        return b"data: %b\r\n\r\n" % encoded
    lines = encoded.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return b"".join(b"data: %b\r\n" % line for line in lines) + b"\r\n"
