"""Sends requests to one server over a few long-lived HTTP/2 connections, for one credential.

`send` always comes back within its deadline with one of three answers (`http2_messages`); the network's weather is an
answer, not an exception. It never repeats a request that the server may have acted on. One that the server certainly
has not acted on (refused, above a GOAWAY's last stream, not written when the connection broke) is sent again by itself,
a few times, within its deadline.

Waiting: what no connection has room for waits in one queue, in order. Bound: `limits.queued`; one more is
`NotSent(BUSY)`.

Connections: the first is made for the first request, a further one when all are full and something waits, one at a
time, up to `limits.connections`. They are kept. One that drains or breaks is replaced at once when something is under
way. After a failed one (none, or one that ended young without an answer) there is a pause with jitter; from the second
failure in a row on, with no other connection, what waits is told why instead of being held until its deadline.

Belongs to one event loop. Nothing connects before the first `send`.
"""

import asyncio
import logging
import ssl
from collections import OrderedDict
from dataclasses import dataclass
from itertools import count
from random import Random, SystemRandom
from typing import Final

from appliance.channels.http2_connect import ConnectFailed, connect, offer_http2, read_target
from appliance.channels.http2_connection import Exchange, Http2Connection
from appliance.channels.http2_messages import (
    Ambiguous,
    Answer,
    Answered,
    Failure,
    Http2Limits,
    Http2Request,
    NotSent,
)

logger = logging.getLogger(__name__)

_RESENT: Final = (Failure.REFUSED, Failure.GOING_AWAY, Failure.BROKEN)
# A connection that ended within this time, without one answer, was no success.
_YOUNG_S: Final = 30.0
_MOST_DOUBLINGS: Final = 16
_CLOSE_GRACE_S: Final = 2.0


@dataclass(slots=True)
class SenderCounters:
    """What a sender has done so far."""

    answered: int = 0
    not_sent: int = 0
    ambiguous: int = 0
    resent: int = 0
    connected: int = 0
    connect_failed: int = 0


class Http2Sender:
    """See the module. `close` it when done."""

    def __init__(
        self, base_url: str, tls: ssl.SSLContext, *, limits: Http2Limits | None = None, random: Random | None = None
    ) -> None:
        """Send to the server of `base_url` with these TLS settings, which from now on offer HTTP/2 only.

        http:// is HTTP/2 without TLS. Raises `ValueError` for a URL that is no server's.
        """
        self.counters = SenderCounters()
        self._target = read_target(base_url)
        self._tls = offer_http2(tls)
        self._limits = limits or Http2Limits()
        self._random = random or SystemRandom()
        self._numbers = count()
        self._queue: OrderedDict[int, Exchange] = OrderedDict()
        self._connections: list[Http2Connection] = []
        self._dialling: asyncio.Task[None] | None = None
        self._redial: asyncio.TimerHandle | None = None
        self._failures = 0
        self._last_failure: tuple[Failure, str] = (Failure.CONNECT, "")
        self._may_dial_at = 0.0
        self._is_closed = False
        self._idle_waiters: list[asyncio.Future[None]] = []

    @property
    def queued(self) -> int:
        """How many requests wait for a connection."""
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        """How many requests are under way."""
        return sum(connection.load for connection in self._connections)

    @property
    def connections(self) -> int:
        """How many connections there are, those that only finish what they hold included."""
        return len(self._connections)

    async def send(self, request: Http2Request, deadline_s: float) -> Answer:
        """Send one request; comes back within `deadline_s` seconds with its one answer.

        Cancelling the caller cancels the request at the server and disturbs no other.
        """
        loop = asyncio.get_running_loop()
        refusal = self._refusal(loop.time())
        if refusal is not None:
            self._count(refusal)
            return refusal
        exchange = Exchange(next(self._numbers), request, loop.create_future())
        exchange.timer = loop.call_later(deadline_s, self._expire, exchange)
        self._queue[exchange.number] = exchange
        self._dispatch()
        try:
            return await exchange.future
        finally:
            exchange.timer.cancel()
            if exchange.future.cancelled():
                self._withdraw(exchange, is_timeout=False)

    async def close(self, deadline_s: float = 10.0) -> None:
        """Take nothing more, let what is held finish for up to `deadline_s` seconds, then close every connection."""
        self._is_closed = True
        try:
            async with asyncio.timeout(deadline_s):
                while self._queue or self.in_flight:
                    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._idle_waiters.append(waiter)
                    await waiter
        except TimeoutError:
            logger.warning("http2_sender_closed_early", extra={"queued": self.queued, "in_flight": self.in_flight})
        finally:
            await self._tear_down()

    async def _tear_down(self) -> None:
        if self._redial is not None:
            self._redial.cancel()
            self._redial = None
        self._fail_queue(NotSent(Failure.CLOSED, "The sender was closed before the request could be sent."))
        dialling, connections = self._dialling, list(self._connections)
        if dialling is not None:
            dialling.cancel()
        for connection in connections:
            connection.close()
        waits: list[asyncio.Future[None]] = [connection.closed for connection in connections]
        if dialling is not None:
            waits.append(dialling)
        if waits:
            _, stuck = await asyncio.wait(waits, timeout=_CLOSE_GRACE_S)
            if stuck:
                for connection in connections:
                    connection.abort()
                await asyncio.wait(stuck, timeout=_CLOSE_GRACE_S)

    # Requests.

    def _refusal(self, now: float) -> NotSent | None:
        if self._is_closed:
            return NotSent(Failure.CLOSED, "The sender is closed.")
        if len(self._queue) >= self._limits.queued:
            return NotSent(Failure.BUSY, "Too many requests already wait for this provider.")
        if self._is_unreachable and now < self._may_dial_at:
            return NotSent(*self._last_failure)
        return None

    @property
    def _is_unreachable(self) -> bool:
        has_connection = any(not connection.is_draining for connection in self._connections)
        return not has_connection and self._dialling is None and self._failures >= self._limits.failures_told

    def _dispatch(self) -> None:
        """Send what waits as far as there is room, then see whether a further connection is needed."""
        queue = self._queue
        now = asyncio.get_running_loop().time()
        while queue:
            exchange = next(iter(queue.values()))
            if exchange.timer is not None and exchange.timer.when() <= now:
                # Sent now, it could only become ambiguous.
                self._expire(exchange)
                continue
            connection = self._choose(len(exchange.request.body))
            if connection is None:
                break
            del queue[exchange.number]
            connection.start(exchange)
        if queue:
            self._dial_if_needed()

    def _choose(self, body_bytes: int) -> Http2Connection | None:
        best: Http2Connection | None = None
        for connection in self._connections:
            if connection.load == 0 and connection.prove():
                continue
            if connection.has_room(body_bytes) and (best is None or connection.load < best.load):
                best = connection
        return best

    def _expire(self, exchange: Exchange) -> None:
        if not exchange.future.done():
            answer = self._withdraw(exchange, is_timeout=True)
            if answer is not None:
                self._settle(exchange, answer)

    def _withdraw(self, exchange: Exchange, *, is_timeout: bool) -> Answer | None:
        if self._queue.pop(exchange.number, None) is not None:
            self._tell_idle()
            return NotSent(Failure.TIMEOUT, self._why_it_waited())
        if exchange.connection is None:
            return None
        return exchange.connection.abandon(exchange, is_timeout=is_timeout)

    def _why_it_waited(self) -> str:
        if self._failures:
            return f"There was no connection in time. {self._last_failure[1]}"
        return "No connection had room for the request in time."

    def _on_settled(self, exchange: Exchange, answer: Answer) -> None:
        may_resend = isinstance(answer, NotSent) and answer.reason in _RESENT
        if may_resend and exchange.resends < self._limits.resends and not exchange.future.done():
            exchange.resends += 1
            self.counters.resent += 1
            # Before what waits: it has waited already.
            self._queue[exchange.number] = exchange
            self._queue.move_to_end(exchange.number, last=False)
            return
        self._settle(exchange, answer)

    def _settle(self, exchange: Exchange, answer: Answer) -> None:
        if exchange.future.done():
            return
        if isinstance(answer, Answered):
            self._failures = 0
        self._count(answer)
        exchange.future.set_result(answer)

    def _count(self, answer: Answer) -> None:
        match answer:
            case Answered():
                self.counters.answered += 1
            case NotSent():
                self.counters.not_sent += 1
            case Ambiguous():
                self.counters.ambiguous += 1

    def _fail_queue(self, answer: NotSent) -> None:
        while self._queue:
            _, exchange = self._queue.popitem(last=False)
            self._settle(exchange, answer)
        self._tell_idle()

    def _tell_idle(self) -> None:
        if self._idle_waiters:
            waiters, self._idle_waiters = self._idle_waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    # Connections.

    def _on_change(self, connection: Http2Connection) -> None:
        if connection.is_gone and connection in self._connections:
            self._connections.remove(connection)
            self._judge(connection)
        self._dispatch()
        if self._idle_waiters:
            self._tell_idle()

    def _judge(self, connection: Http2Connection) -> None:
        """Tell a connection that did its work from one that was never of use."""
        reason, detail = connection.session.goodbye or (Failure.BROKEN, "The connection broke.")
        lived_s = asyncio.get_running_loop().time() - connection.begun_at
        logger.info(
            "http2_connection_ended",
            extra={"host": self._target.host, "reason": str(reason), "detail": detail, "lived_s": round(lived_s, 1)},
        )
        if not self._is_closed and not connection.session.has_answered and lived_s < _YOUNG_S:
            self._note_failure(reason, detail)

    def _note_failure(self, reason: Failure, detail: str) -> None:
        self._failures += 1
        self._last_failure = (reason, detail)
        self.counters.connect_failed += 1
        logger.warning(
            "http2_connect_failed",
            extra={"host": self._target.host, "reason": str(reason), "detail": detail, "in_row": self._failures},
        )
        longest_s = min(
            self._limits.backoff_most_s,
            self._limits.backoff_first_s * 2.0 ** min(self._failures - 1, _MOST_DOUBLINGS),
        )
        pause_s = longest_s * (0.5 + self._random.random() / 2)
        self._may_dial_at = asyncio.get_running_loop().time() + pause_s
        if self._is_unreachable:
            self._fail_queue(NotSent(reason, detail))

    def _dial_if_needed(self) -> None:
        """Make a further connection unless one is on its way, there are enough, or it is too early after a failure."""
        if self._dialling is not None or self._redial is not None:
            return
        open_ones = [connection for connection in self._connections if not connection.is_draining]
        if len(open_ones) >= self._limits.connections or any(c.session.is_pending for c in open_ones):
            return
        loop = asyncio.get_running_loop()
        if loop.time() < self._may_dial_at:
            self._redial = loop.call_at(self._may_dial_at, self._on_redial)
            return
        self._dialling = loop.create_task(self._dial())

    def _on_redial(self) -> None:
        self._redial = None
        if self._queue:
            self._dial_if_needed()

    async def _dial(self) -> None:
        try:
            connection = await connect(self._make_connection, self._target, self._tls, self._limits.connect_s)
        except ConnectFailed as failed:
            self._dialling = None
            self._note_failure(failed.reason, failed.detail)
        except Exception:
            logger.exception("http2_dial_failed", extra={"host": self._target.host})
            self._dialling = None
            self._note_failure(Failure.CONNECT, "An unexpected error occurred while connecting; it is logged.")
        else:
            self._dialling = None
            self.counters.connected += 1
            if connection.is_gone:
                self._judge(connection)
            else:
                self._connections.append(connection)
        self._dispatch()

    def _make_connection(self) -> Http2Connection:
        return Http2Connection(self._target, self._limits, on_settled=self._on_settled, on_change=self._on_change)
