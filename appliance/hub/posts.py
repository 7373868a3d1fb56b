"""What clients post, where the way in is an HTTP request and not the socket that carries the way out."""

import asyncio
import logging

from appliance.hub import endings
from appliance.hub.asgi_types import Receive, Send
from appliance.hub.connection import Connection
from appliance.hub.refusals import UNKNOWN_ID, Refusal
from appliance.hub.requests import HubRequest, read_body, respond

logger = logging.getLogger(__name__)


class Posts:
    """Feeds the bodies that are posted to one connection into it, one after another, in the order of their arrival.

    A body is answered as soon as it is taken, and it is taken when the one before it has been worked off: so a client
    is slowed down to the speed at which it is served, as on a WebSocket. Bounds: `post_bytes` and `post_deadline_s` of
    one body, `posts_waiting` that wait for their turn. Raises `Refusal`.
    """

    __slots__ = ("_connection", "_reading", "_turn", "_waiting")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._reading: asyncio.Task[None] | None = None

    async def take(self, request: HubRequest, receive: Receive, send: Send) -> None:
        """Take one body and answer its request; whoever posts next waits until this one is worked off."""
        limits = self._connection.core.limits
        if self._waiting >= limits.posts_waiting:
            retry_after = ("retry-after", str(limits.retry_after_least_s))
            raise Refusal(503, "Too many messages at once", (retry_after,), cause="posts_waiting")
        self._waiting += 1
        try:
            try:
                async with asyncio.timeout(limits.post_deadline_s):
                    await self._turn.acquire()
            except TimeoutError:
                raise Refusal(503, "The messages before this one are not done yet", cause="post_too_late") from None
        finally:
            self._waiting -= 1
        try:
            self._check_open()
            body = await read_body(request, receive, limit_bytes=limits.post_bytes, deadline_s=limits.post_deadline_s)
            self._check_open()
        except BaseException:
            self._turn.release()
            raise
        self._begin(body)
        await respond(send, 200, b"", "text/plain")

    def take_early(self, body: bytes) -> None:
        """Take what was posted before there was a connection; call right after it was made."""
        if body:
            self._connection.core.run(self._take_early(body))

    async def _take_early(self, body: bytes) -> None:
        await self._turn.acquire()
        self._begin(body)

    def _begin(self, body: bytes) -> None:
        """Work a body off. Its turn ends with that, whatever becomes of the request that brought it."""
        self._reading = self._connection.core.run(self._feed(body))
        self._reading.add_done_callback(self._end_turn)

    def _end_turn(self, _: asyncio.Task[None]) -> None:
        self._turn.release()

    async def stop(self) -> None:
        """Stop working on what was taken; the connection is ending."""
        reading = self._reading
        if reading is not None and not reading.done():
            reading.cancel()
            await asyncio.wait({reading})

    def _check_open(self) -> None:
        if self._connection.ending is not None:
            raise Refusal(404, UNKNOWN_ID, cause="unknown_id")

    async def _feed(self, body: bytes) -> None:
        try:
            await self._connection.receive(body)
        except asyncio.CancelledError:
            # Stopped, or cut off by the end of the drain: the connection must not go on without these messages.
            self._connection.end(endings.SERVER_STOPPING)
            raise
        except Exception:
            logger.exception("hub_connection_failed")
            self._connection.end(endings.INTERNAL_ERROR)
