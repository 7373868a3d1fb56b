"""Long polling: every answered poll carries what was written until then, posts are the way in.

Theory of operation
-------------------
Between two polls there is no way out, so a write that the outbox begins is *held* here until a poll takes it. The
outbox keeps one write in flight, so at most one is held; what comes meanwhile queues behind it under its bound.

    held write   poll waiting   what happens
    no           no             the disconnect timeout runs; when it is over, the connection is lost
    no           yes            the poll timeout runs, once the handshake is answered; then the poll is answered empty
    yes          no             as in the first row
    yes          yes            the poll is answered with it

A write counts as done when its answer was handed to the server while, as far as the server had told, the client was
still there. If the client is known to be gone before, or handing it over fails, the write is held again and the next
poll brings it, whole and in order. What this cannot know: the server takes an answer into its own memory and says so at
once, so a client that vanishes without a word may have been sent its last answer in vain. No HTTP server can tell that;
what was in it stays unacknowledged, and goes to the next layer when its window has passed.

A newer poll takes the place of the one before it, which is answered 204. After the end the waiting poll, or the next
one, is answered 204, which tells clients that the server has closed.

Source: dotnet/aspnetcore `TransportProtocols.md`, and `HttpConnectionDispatcher` for the order of things.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from appliance.hub import endings
from appliance.hub.asgi_types import Receive, Send
from appliance.hub.connection import Connection
from appliance.hub.core import HubCore
from appliance.hub.gate import Guest
from appliance.hub.negotiate import LONG_POLLING, Negotiation
from appliance.hub.outbox import WriteFuture
from appliance.hub.posts import Posts
from appliance.hub.requests import respond, wait_until_gone

logger = logging.getLogger(__name__)

# What every answer to a poll carries.
UNCACHED: Final = (
    ("cache-control", "no-cache, no-store"),
    ("pragma", "no-cache"),
    ("expires", "Thu, 01 Jan 1970 00:00:00 GMT"),
)
_RECORDS: Final = "application/octet-stream"
_NOTHING: Final = "text/plain"


class _Poll:
    """One request that waits."""

    __slots__ = ("began_at", "is_gone", "is_over", "woken")

    def __init__(self, now: float) -> None:
        self.began_at = now
        self.is_gone = False
        self.is_over = False
        self.woken = asyncio.Event()

    async def watch(self, receive: Receive) -> None:
        await wait_until_gone(receive)
        self.is_gone = True
        self.woken.set()


class LongPolling:
    """One connection over long polling: its pipe, and what answers its polls. The first poll is `answer_first`."""

    is_write_bounded = False

    def __init__(
        self,
        core: HubCore,
        guest: Guest,
        negotiation: Negotiation[Connection],
        on_end: Callable[["LongPolling"], None],
    ) -> None:
        """`on_end` is told when the connection has ended and nothing is left for a poll to bring."""
        self.wake_at: float | None = None
        self.is_client_told = False
        self.negotiation = negotiation
        self.connection = Connection(core, guest.principal, guest.user_id, self, LONG_POLLING, guest.origin)
        self.posts = Posts(self.connection)
        self._core = core
        self._on_end = on_end
        self._poll: _Poll | None = None
        self._held: bytes | None = None
        self._write: asyncio.Future[None] | None = None
        self._has_brought = False
        self._is_closed = False
        self._is_closing = False
        self._patience: asyncio.Timeout | None = None
        self._idle_since = core.clock.monotonic()
        negotiation.connection = self.connection
        self._await_poll()

    # What the connection asks.

    def start_write(self, payload: str | bytes) -> WriteFuture:
        """Hold the payload for a poll; the write is done when a poll has taken it."""
        self._held = payload.encode() if isinstance(payload, str) else payload
        self._write = asyncio.get_running_loop().create_future()
        self._wake_poll()
        return self._write

    def interrupt(self) -> None:
        """See to the end of the connection, which no request may be there for."""
        if self._is_closing:
            return
        self._is_closing = True
        ending = self.connection.ending
        if ending is not None and ending.is_abrupt:
            self._settle()
        self._core.run(self._close())

    # What the client asks.

    async def answer_first(self, send: Send) -> None:
        """Answer the poll that has only chosen the transport."""
        await respond(send, 200, b"", _RECORDS, UNCACHED)

    async def answer_poll(self, receive: Receive, send: Send) -> None:
        """Answer one poll: with what is held, or when there is something, or empty, or that it is replaced or over."""
        poll = self._begin_poll()
        watching = asyncio.ensure_future(poll.watch(receive))
        try:
            while not self._is_settled(poll):
                poll.woken.clear()
                await poll.woken.wait()
            await self._answer(poll, send)
        finally:
            watching.cancel()
            self._end_poll(poll)
            await asyncio.gather(watching, return_exceptions=True)

    async def delete(self, send: Send) -> None:
        """End the connection because its client says so; a waiting poll is answered 204."""
        self.is_client_told = True
        self.connection.end(endings.CLIENT_GONE)
        self._settle()
        if self._patience is not None:
            # It ended before, and waits for a goodbye that nobody is going to fetch.
            self._patience.reschedule(asyncio.get_running_loop().time())
        await respond(send, 202, b"", _NOTHING)

    # Time.

    def pass_time(self, now: float) -> float | None:
        """Lose a client that polls no more, and answer a poll that has waited long enough."""
        if self._is_closed:
            return None
        limits = self._core.limits
        poll = self._poll
        if poll is None:
            lost_at = self._idle_since + limits.disconnect_timeout_s
            if now < lost_at:
                return lost_at
            self.connection.end(endings.SOCKET_LOST)
            return None
        over_at = poll.began_at + limits.poll_timeout_s
        if now < over_at:
            return over_at
        if not self._has_brought:
            # An empty answer would be taken for the handshake's. That one has a timeout of its own, which ends this.
            return now + limits.poll_timeout_s
        poll.is_over = True
        poll.woken.set()
        return None

    def _await_poll(self) -> None:
        self._core.deadlines.wake(self, self._idle_since + self._core.limits.disconnect_timeout_s)

    # Polls.

    def _begin_poll(self) -> _Poll:
        now = self._core.clock.monotonic()
        older, self._poll = self._poll, _Poll(now)
        if older is not None:
            older.woken.set()
        self._core.deadlines.wake(self, now + self._core.limits.poll_timeout_s)
        return self._poll

    def _end_poll(self, poll: _Poll) -> None:
        if self._poll is poll:
            self._poll = None
            self._idle_since = self._core.clock.monotonic()
            if not self._is_closed:
                self._await_poll()

    def _wake_poll(self) -> None:
        if self._poll is not None:
            self._poll.woken.set()

    def _is_settled(self, poll: _Poll) -> bool:
        if self._poll is not poll or poll.is_gone or poll.is_over or self._is_closed:
            return True
        return self._held is not None and self._write is not None and not self._write.done()

    async def _answer(self, poll: _Poll, send: Send) -> None:
        if poll.is_gone:
            # To nobody; but a server is answered.
            await respond(send, 200, b"", _NOTHING, UNCACHED)
        elif self._poll is not poll:
            await respond(send, 204, b"", None, UNCACHED)
        elif self._held is not None and self._write is not None and not self._write.done():
            await self._bring(self._held, self._write, send)
        elif self._is_closed:
            self.is_client_told = True
            await respond(send, 204, b"", None, UNCACHED)
        else:
            await respond(send, 200, b"", _NOTHING, UNCACHED)

    async def _bring(self, payload: bytes, write: asyncio.Future[None], send: Send) -> None:
        """Hand what is held to the server as this poll's answer; if that fails, it is held for the next one."""
        self._held = None
        try:
            await respond(send, 200, payload, _RECORDS, UNCACHED)
        except BaseException:
            if not write.done():
                self._held = payload
                self._wake_poll()
            raise
        self._has_brought = True
        if not write.done():
            write.set_result(None)

    # The end.

    async def _close(self) -> None:
        """Let polls fetch what is left, then settle the connection; `close_deadline_s` bounds the waiting."""
        try:
            await self.posts.stop()
            if not self._is_closed:
                await self._wait_until_fetched()
        finally:
            self._settle()
            await self.connection.finish()

    async def _wait_until_fetched(self) -> None:
        try:
            async with asyncio.timeout(self._core.limits.close_deadline_s) as self._patience:
                await self.connection.wait_until_written()
        except TimeoutError:
            logger.info("hub_close_timed_out", extra={"transport": LONG_POLLING.name})
        finally:
            self._patience = None

    def _settle(self) -> None:
        """Nothing is brought from now on: the waiting poll learns it, or the next one does."""
        if self._is_closed:
            return
        self._is_closed = True
        self._core.deadlines.forget(self)
        if self._poll is not None:
            self._poll.woken.set()
            self.is_client_told = True
        self._on_end(self)
