"""Stateful reconnect, without any input or output: how a connection goes on over another socket.

Theory of operation
-------------------
Each side numbers its *trackable* messages (invocations, their items, completions and cancellations) 1, 2, 3… for as
long as the connection lives. The numbers are implied by the order and never written. Handshake, Ping, Close, Ack and
Sequence have none.

    sender    `Unacknowledged` keeps every numbered message until the peer has acknowledged it (Ack n: all up to n).
    receiver  `Received` counts what comes, and says what is to be acknowledged.

When a socket is lost, nobody knows how much of what was written has arrived. On the next socket each side first writes
a Sequence with the number of the first message that follows, which is the oldest unacknowledged one, or one more than
the last when there is none; then it writes all that is unacknowledged once more, and goes on. The receiver ignores
what precedes the Sequence, counts on from it, and drops what it has counted before. So nothing is lost, and nothing
is taken twice.

A Sequence is ahead when messages in between are missing for good; the connection cannot go on then. One that merely
jumps over what was received on an earlier socket is not ahead: its acknowledgement may have arrived while the repeated
messages were still on their way.

Sources: dotnet/aspnetcore `HubProtocol.md` and `MessageBuffer`; the official JavaScript client, for what it does.
"""

from collections.abc import Collection, Iterable
from uuid import UUID

from appliance.hub.encoding import Frame

Kept = tuple[Frame, UUID | None]


class Unacknowledged:
    """What was sent and may have to be sent again. Bound: `limit_bytes`; a message beyond it is not taken."""

    __slots__ = ("_bytes", "_kept", "_last_id", "_limit_bytes", "waiting_since")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        # A list, because an empty deque holds half a kilobyte; what it holds leaves it about once a second.
        self._kept: list[Kept] = []
        self._bytes = 0
        self._last_id = 0
        self.waiting_since: float | None = None
        """Since when (monotonic seconds) the peer has acknowledged nothing although it could; None: it owes nothing."""

    @property
    def size_bytes(self) -> int:
        """The bytes that are kept."""
        return self._bytes

    @property
    def first_id(self) -> int:
        """The number that a Sequence announces: of the oldest message kept, else of the next one."""
        return self._last_id - len(self._kept) + 1

    @property
    def kept(self) -> Iterable[Kept]:
        """What is kept, the oldest first, each with its notification if it is one."""
        return self._kept

    @property
    def notification_ids(self) -> list[UUID]:
        """The notifications among what is kept."""
        return [notification_id for _, notification_id in self._kept if notification_id is not None]

    def push(self, frame: Frame, notification_id: UUID | None, now: float) -> bool:
        """Number a message and keep it; False, and neither, when the bound is reached."""
        if self._bytes + frame.size_bytes > self._limit_bytes:
            return False
        self._kept.append((frame, notification_id))
        self._bytes += frame.size_bytes
        self._last_id += 1
        if self.waiting_since is None:
            self.waiting_since = now
        return True

    def take_back(self) -> None:
        """Forget the newest message, which was not sent after all."""
        frame, _ = self._kept.pop()
        self._bytes -= frame.size_bytes
        self._last_id -= 1

    def acknowledge(self, sequence_id: int, now: float) -> None:
        """Forget everything up to this number. Numbers that were acknowledged before, or not sent yet, do nothing."""
        count = min(sequence_id, self._last_id) - self.first_id + 1
        if count <= 0:
            return
        self._bytes -= sum(frame.size_bytes for frame, _ in self._kept[:count])
        del self._kept[:count]
        self.waiting_since = now if self._kept else None

    def disown(self, notification_ids: Collection[UUID]) -> None:
        """Keep what holds these as it is, but count them among `notification_ids` no more."""
        if notification_ids:
            gone = set(notification_ids)
            self._kept = [(frame, None if id_ in gone else id_) for frame, id_ in self._kept]

    def begin_socket(self, now: float) -> None:
        """The peer is there again: from now on it can acknowledge."""
        if self._kept:
            self.waiting_since = now


class Received:
    """Which of the peer's messages have come. `is_waiting` for a Sequence, until which nothing counts."""

    __slots__ = ("is_waiting", "latest_id", "next_id")

    def __init__(self) -> None:
        self.is_waiting = False
        self.latest_id = 0
        """The newest message that was taken: what an Ack says."""
        self.next_id = 1
        """The number of the next message on this socket."""

    def begin_socket(self) -> None:
        """Another socket carries the connection on: its first message is to be a Sequence."""
        self.is_waiting = True

    def begin_at(self, sequence_id: int) -> bool:
        """Count on from the number that a Sequence announces; False when messages before it are missing."""
        if not 1 <= sequence_id <= self.latest_id + 1:
            return False
        self.next_id = sequence_id
        self.is_waiting = False
        return True

    def count(self) -> bool:
        """Count a trackable message; False for one that came before."""
        is_new = self.next_id > self.latest_id
        if is_new:
            self.latest_id = self.next_id
        self.next_id += 1
        return is_new
