"""The one writer of a connection: keeps order, joins what queues up, and knows what was never written.

Why not simply await each send: a server that schedules a send when it is *called* (Granian does, on its own threads)
reorders sends that are not awaited, and awaiting each one costs several thread hand-offs. So at most one write is in
flight; what is pushed meanwhile waits in a bounded queue, and the next write carries all of it as one frame.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol
from uuid import UUID

from appliance.domain.clock import Clock
from appliance.hub.encoding import Frame


class WriteFuture(Protocol):
    """A write that was started: what `asyncio.Future` and the server's own future have in common."""

    def done(self) -> bool: ...

    def cancel(self) -> object: ...

    def add_done_callback(self, callback: Callable[[object], None], /) -> object: ...


_NOTHING: Final[tuple[UUID, ...]] = ()


class Outbox:
    """Frames on their way out of one connection.

    Bound: `limit_bytes` queued behind the write in flight. A push beyond it is refused and the owner cuts the
    connection: order could not be kept otherwise.
    """

    __slots__ = (
        "_clock",
        "_in_flight",
        "_in_flight_ids",
        "_is_armed",
        "_is_closed",
        "_limit_bytes",
        "_on_backlog",
        "_queue",
        "_queued_bytes",
        "_waiters",
        "_write",
        "_write_started_at",
    )

    def __init__(
        self,
        write: Callable[[str | bytes], WriteFuture],
        clock: Clock,
        limit_bytes: int,
        on_backlog: Callable[[], None],
    ) -> None:
        """Write with `write`; `on_backlog` is told when frames begin to queue, so that a deadline can be set."""
        self._write = write
        self._clock = clock
        self._limit_bytes = limit_bytes
        self._on_backlog = on_backlog
        # A list, because an empty deque holds half a kilobyte; what it holds is always taken out all at once.
        self._queue: list[tuple[Frame, UUID | None]] = []
        self._queued_bytes = 0
        self._in_flight: WriteFuture | None = None
        self._in_flight_ids: tuple[UUID, ...] = _NOTHING
        self._is_armed = False
        self._is_closed = False
        self._write_started_at = 0.0
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def queued_bytes(self) -> int:
        """Bytes behind the write in flight."""
        return self._queued_bytes

    @property
    def last_write_at(self) -> float:
        """When (monotonic seconds) the newest write was started, 0 before the first."""
        return self._write_started_at

    def stuck_since(self) -> float | None:
        """Tell when (monotonic seconds) the write in flight began; None when there is none."""
        if self._in_flight is None or self._in_flight.done():
            return None
        return self._write_started_at

    def push(self, frame: Frame, notification_id: UUID | None = None) -> bool:
        """Send the frame after all earlier ones; False when the bound is reached or the outbox is closed."""
        if self._is_closed:
            return False
        if not self._queue and (self._in_flight is None or self._in_flight.done()):
            self._start(frame.payload, _NOTHING if notification_id is None else (notification_id,))
            return True
        if self._queued_bytes + frame.size_bytes > self._limit_bytes:
            return False
        self._queue.append((frame, notification_id))
        self._queued_bytes += frame.size_bytes
        if not self._is_armed:
            self._arm()
            self._on_backlog()
        return True

    def push_unnumbered(self, frame: Frame) -> bool:
        """Send a frame that stateful reconnect would not number; here it is like any other."""
        return self.push(frame)

    def push_joined(self, frames: Sequence[tuple[Frame, UUID | None]]) -> None:
        """Send all of them as one frame, whatever their size. For an outbox to which nothing was pushed before."""
        self._queue.extend(frames)
        payload, ids = self._take_all()
        self._start(payload, ids)

    async def wait_until_below(self, queued_bytes: int) -> None:
        """Wait until at most so many bytes are queued, or the outbox is closed."""
        while self._queued_bytes > queued_bytes and not self._is_closed:
            await self._wait()

    async def wait_until_written(self) -> None:
        """Wait until everything pushed so far is written, or the outbox is closed."""
        while not self._is_closed and (self._queue or self.stuck_since() is not None):
            self._arm()
            await self._wait()

    def drop_queue(self) -> list[UUID]:
        """Forget what is queued but not yet being written; give the notifications in it."""
        ids = [notification_id for _, notification_id in self._queue if notification_id is not None]
        self._queue.clear()
        self._queued_bytes = 0
        self._wake_waiters()
        return ids

    def close(self, *, is_lost: bool = False) -> list[UUID]:
        """Write nothing more, abandon the write in flight; give the notifications that were not written for certain.

        Whether the socket `is_lost` makes no difference: what was written is not known to have arrived, or not to.
        """
        ids: list[UUID] = []
        self._is_closed = True
        # It leads back to the owner: the two of them would stay in memory until a collection that comes very rarely.
        self._on_backlog = _ignore
        in_flight, self._in_flight = self._in_flight, None
        if in_flight is not None and not in_flight.done():
            ids.extend(self._in_flight_ids)
            in_flight.cancel()
        ids.extend(self.drop_queue())
        return ids

    def _start(self, payload: str | bytes, ids: tuple[UUID, ...]) -> None:
        self._in_flight_ids = ids
        self._write_started_at = self._clock.monotonic()
        self._in_flight = self._write(payload)

    def _arm(self) -> None:
        if not self._is_armed and self._in_flight is not None:
            self._is_armed = True
            self._in_flight.add_done_callback(self._after_write)

    def _after_write(self, _: object) -> None:
        self._is_armed = False
        if self._queue and not self._is_closed:
            payload, ids = self._take_all()
            self._start(payload, ids)
        self._wake_waiters()

    def _take_all(self) -> tuple[str | bytes, tuple[UUID, ...]]:
        payloads = [frame.payload for frame, _ in self._queue]
        ids = tuple(notification_id for _, notification_id in self._queue if notification_id is not None)
        self._queue.clear()
        self._queued_bytes = 0
        return _join(payloads), ids

    async def _wait(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _wake_waiters(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def _join(payloads: list[str | bytes]) -> str | bytes:
    """Join records of one protocol into one frame; they are all text or all bytes."""
    if len(payloads) == 1:
        return payloads[0]
    texts = [payload for payload in payloads if isinstance(payload, str)]
    if len(texts) == len(payloads):
        return "".join(texts)
    return b"".join(payload.encode() if isinstance(payload, str) else payload for payload in payloads)


def _ignore() -> None:
    """Take a word that concerns nobody any more."""
