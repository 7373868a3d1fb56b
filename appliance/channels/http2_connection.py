"""One `Http2Session` on a real connection: bytes, time and the loss of the peer, told to it as they come.

What is written in one turn of the event loop leaves in one write. While the transport's buffer is full nothing more is
written and no request is taken, and no more than that buffer holds is made ready in one turn.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Final, cast

from appliance.channels.http2_connect import Http2Target, explain
from appliance.channels.http2_messages import Answer, Failure, Http2Limits, Http2Request
from appliance.channels.http2_session import Http2Session, Phase, Settled

_HIGH_WATER_BYTES: Final = 256 * 1024
# What queues behind a peer that sends and does not read: answers to its PINGs and SETTINGS, requests' last parts.
_UNWRITTEN_BYTES: Final = 4 * 1024 * 1024
_PEACEFUL: Final = (Failure.GOING_AWAY, Failure.CLOSED)


class Exchange:
    """One request on its way to its answer. `connection` and `stream_id` are set while it is under way."""

    __slots__ = ("connection", "future", "number", "request", "resends", "stream_id", "timer")

    def __init__(self, number: int, request: Http2Request, future: "asyncio.Future[Answer]") -> None:
        self.number = number
        self.request = request
        self.future = future
        self.timer: asyncio.TimerHandle | None = None
        self.connection: Http2Connection | None = None
        self.stream_id = 0
        self.resends = 0


class Http2Connection(asyncio.Protocol):
    """Carries exchanges; what becomes of each is told to `on_settled`, every change of what it can take to `on_change`.

    It is gone when `is_gone`; `on_change` is called for that, too, and the transport is then closed or closing.
    """

    def __init__(
        self,
        target: Http2Target,
        limits: Http2Limits,
        *,
        on_settled: Callable[[Exchange, Answer], None],
        on_change: Callable[["Http2Connection"], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._target = target
        self._on_settled = on_settled
        self._on_change = on_change
        self.begun_at = self._loop.time()
        self.session = Http2Session(scheme=target.scheme, authority=target.authority, limits=limits, now=self.begun_at)
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._exchanges: dict[int, Exchange] = {}
        self._is_paused = False
        self._is_flush_due = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def load(self) -> int:
        return len(self._exchanges)

    @property
    def is_gone(self) -> bool:
        return self.session.phase is Phase.ENDED

    @property
    def is_draining(self) -> bool:
        """Whether it only finishes what it holds."""
        return self.session.phase is Phase.DRAINING

    def has_room(self, body_bytes: int) -> bool:
        """Tell whether `start` may be called with such a body."""
        # What is opened in one turn of the loop is written at its end: until then nobody could say that it is too much.
        is_full = self._is_paused or self.session.unwritten_bytes >= _HIGH_WATER_BYTES
        return not is_full and self.session.has_room(body_bytes)

    def start(self, exchange: Exchange) -> None:
        """Send the exchange's request."""
        now = self._loop.time()
        stream_id = self.session.open(exchange.request, now)
        exchange.connection = self
        exchange.stream_id = stream_id
        self._exchanges[stream_id] = exchange
        self._flush_soon()
        if len(self._exchanges) == 1:
            self._set_timer()

    def abandon(self, exchange: Exchange, *, is_timeout: bool) -> Answer | None:
        """Cancel an exchange; gives what is known of it. Nobody else is disturbed."""
        self._exchanges.pop(exchange.stream_id, None)
        exchange.connection = None
        answer = self.session.cancel(exchange.stream_id, is_timeout=is_timeout)
        self._flush_soon()
        self._after([])
        return answer

    def prove(self) -> bool:
        """Ask a connection that was unused for long for a sign of life; False when it needs none."""
        if not self.session.is_stale(self._loop.time()):
            return False
        self.session.prove(self._loop.time())
        self._flush_soon()
        self._set_timer()
        return True

    def close(self) -> None:
        """Say goodbye and close; what is still under way is ambiguous from now on."""
        self.session.say_goodbye()
        self._after(self.session.lose(Failure.CLOSED, "The connection was closed from our side."))

    def abort(self) -> None:
        """Close without waiting for the peer."""
        self.close()
        if self._transport is not None:
            self._transport.abort()

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)
        self._flush_soon()
        self._set_timer()

    def data_received(self, data: bytes) -> None:
        settled = self.session.receive(data, self._loop.time())
        self._after(settled)
        if self.session.unwritten_bytes > _UNWRITTEN_BYTES:
            self._end(Failure.PROTOCOL, "The server sends but does not read.")

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, ssl.SSLError) or self.session.is_unspoken:
            # In TLS 1.3 a client certificate is refused only now, and not every server says so before it closes.
            failed = explain(exc if isinstance(exc, ssl.SSLError) else ConnectionResetError(), self._target)
            settled = self.session.lose(failed.reason, failed.detail)
        else:
            settled = self.session.lose(Failure.BROKEN, "The connection broke.")
        self._transport = None
        if not self.closed.done():
            self.closed.set_result(None)
        self._after(settled)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._flush()
        self._on_change(self)

    # Inside.

    def _end(self, reason: Failure, detail: str) -> None:
        self._after(self.session.lose(reason, detail))

    def _after(self, settled: list[Settled]) -> None:
        for stream_id, answer in settled:
            exchange = self._exchanges.pop(stream_id, None)
            if exchange is not None:
                exchange.connection = None
                self._on_settled(exchange, answer)
        if self.session.phase is Phase.ENDED:
            self._shut()
        elif self.session.unwritten_bytes:
            self._flush_soon()
        self._on_change(self)

    def _shut(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        transport = self._transport
        if transport is not None and not transport.is_closing():
            output = self.session.take_output()
            if output and not self._is_paused:
                transport.write(output)
            goodbye = self.session.goodbye
            if goodbye is not None and goodbye[0] in _PEACEFUL:
                transport.close()
            else:
                transport.abort()

    def _flush_soon(self) -> None:
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_due = False
        transport = self._transport
        if transport is None or self._is_paused or transport.is_closing():
            return
        output = self.session.take_output()
        if output:
            transport.write(output)
        if len(output) >= _HIGH_WATER_BYTES and not self._is_paused:
            self._on_change(self)

    def _set_timer(self) -> None:
        """Look at the time when the session's next deadline comes; a later deadline does not move the timer."""
        if self.session.phase is Phase.ENDED:
            return
        at = self.session.next_deadline
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        before = self.session.phase
        settled = self.session.pass_time(self._loop.time())
        self._flush_soon()
        if settled or self.session.phase is not before:
            self._after(settled)
        self._set_timer()
