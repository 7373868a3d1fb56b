"""The way out of a connection that may go on over another socket: what the client may have to be sent again is kept.

Not in `hub.outbox`, because most connections never need it: it is made when stateful reconnect is agreed.
"""

import asyncio
from collections.abc import Callable
from uuid import UUID

from appliance.domain.clock import Clock
from appliance.hub.encoding import Frame
from appliance.hub.outbox import Outbox, WriteFuture
from appliance.hub.resume import Unacknowledged

Write = Callable[[str | bytes], WriteFuture]


class ResumableOutbox:
    """`Outbox` over one socket after another. While the client is away, messages are numbered and kept, not written.

    Bound: `limit_bytes` that the client has not acknowledged. A push beyond it is refused, and the owner cuts the
    connection. `make_outbox` makes the outbox of each further socket.
    """

    __slots__ = ("_clock", "_is_away", "_is_closed", "_kept", "_limit_bytes", "_make_outbox", "_outbox", "_waiters")

    def __init__(self, outbox: Outbox, make_outbox: Callable[[Write], Outbox], clock: Clock, limit_bytes: int) -> None:
        """Go on with the `outbox` of the socket on which the client shook hands."""
        self._outbox = outbox
        self._make_outbox = make_outbox
        self._clock = clock
        self._limit_bytes = limit_bytes
        self._kept = Unacknowledged(limit_bytes)
        self._is_away = False
        self._is_closed = False
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def queued_bytes(self) -> int:
        """Bytes that the client has not acknowledged."""
        return self._kept.size_bytes

    @property
    def last_write_at(self) -> float:
        return self._outbox.last_write_at

    @property
    def unacknowledged_since(self) -> float | None:
        """Since when (monotonic seconds) the client owes an acknowledgement; None while it owes none or is away."""
        return None if self._is_away else self._kept.waiting_since

    def stuck_since(self) -> float | None:
        return self._outbox.stuck_since()

    def push(self, frame: Frame, notification_id: UUID | None = None) -> bool:
        """Number the message, keep it, and send it if the client is there; False when a bound is reached."""
        if self._is_closed or not self._kept.push(frame, notification_id, self._clock.monotonic()):
            return False
        if self._is_away or self._outbox.push(frame, notification_id):
            return True
        self._kept.take_back()
        return False

    def push_unnumbered(self, frame: Frame) -> bool:
        """Send what is of this socket only (Ping, Ack, Close), not at all while the client is away."""
        return self._is_away or self._outbox.push_unnumbered(frame)

    def acknowledge(self, sequence_id: int) -> None:
        """The client has everything up to this number."""
        self._kept.acknowledge(sequence_id, self._clock.monotonic())
        self._wake_waiters()

    def lose_socket(self) -> None:
        """The socket is gone: nothing more is written, nothing is lost."""
        self._is_away = True
        self._outbox.close()

    def begin_socket(self, write: Write, encode_sequence: Callable[[int], Frame]) -> None:
        """Go on over another socket: announce the number of what follows, repeat what is kept, in one single frame.

        One frame, because a client that has seen only a part of what is repeated cannot go on over the next socket.
        """
        self._outbox.close()
        self._outbox = self._make_outbox(write)
        self._is_away = False
        self._kept.begin_socket(self._clock.monotonic())
        self._outbox.push_joined([(encode_sequence(self._kept.first_id), None), *self._kept.kept])
        self._wake_waiters()

    async def wait_until_below(self, queued_bytes: int) -> None:
        """Wait until the client is there and has so far read and acknowledged, or the outbox is closed."""
        while not self._is_closed:
            if self._is_away or self._kept.size_bytes > min(queued_bytes, self._limit_bytes // 2):
                waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiters.append(waiter)
                await waiter
            elif self._outbox.queued_bytes > queued_bytes:
                await self._outbox.wait_until_below(queued_bytes)
            else:
                return

    async def wait_until_written(self) -> None:
        """Wait until everything pushed so far is written, acknowledged or not, or the outbox is closed."""
        await self._outbox.wait_until_written()

    def drop_queue(self) -> list[UUID]:
        """Forget what is queued but not yet being written; the owner ends the connection. Gives its notifications."""
        ids = self._outbox.drop_queue()
        self._kept.disown(ids)
        return ids

    def close(self, *, is_lost: bool) -> list[UUID]:
        """Write nothing more; give the notifications that the client does not have for certain.

        Where it `is_lost` these are all that it has not acknowledged, otherwise those that were not written.
        """
        unwritten = self._outbox.close()
        if is_lost and not self._is_closed:
            unwritten = self._kept.notification_ids
        self._is_closed = True
        # It leads back to the owner: the two of them would stay in memory until a collection that comes very rarely.
        self._make_outbox = _refuse
        self._wake_waiters()
        return unwritten

    def _wake_waiters(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def _refuse(_: Write) -> Outbox:
    raise RuntimeError("a closed outbox goes on over no other socket")
