"""What was missed comes first, in order; what arrives meanwhile waits its turn; nothing comes twice.

Theory of operation
-------------------
The device is seated *before* its history is loaded, so a notification is in the history, or it is offered live, or
both: it can never fall between. History is loaded in pages, the oldest first, each behind the number that the one
before it reached; while there are more, another round is owed. Live offers are held here meanwhile. Held offers that
the history already brought are dropped by id (not by sequence number: an offer is a promise to the engine, and only the
very same one keeps it). One that a page passes without bringing it takes its place within that page: live-only
notifications are in no history. An offer of what was brought may also come when the session is live already, since the
disk knows what is committed before the engine offers it: the session remembers ids and the end of its history for that.

**The invariant**, on which a client's cursor rests: *when a device is sent number n, all that is released, unexpired
and its own below n was sent to it before, or lies below the cursor it came with.* So nothing is ever sent behind a
higher number: an offer that comes too late for that is refused (`history_passed`) and the next layer has it. What the
history passes over is expired or withdrawn, and storage confirms neither by a cursor.

Where several nodes accept notifications, offers may come out of order, or not at all. A *strict* replay sends a held
offer only when it is the very next number; otherwise another round is owed, since history holds what lies between.

Overflow rule: when the list of held offers is full, the offer is refused and another round of history, from the number
that was reached, is owed before the session may go live. History holds everything committed, so nothing is lost.
"""

from collections import deque
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Final
from uuid import UUID

from appliance.hub.messages import EncodedNotification

HISTORY_PASSED: Final = "history_passed"


class Replay:
    """The state of one session's replay. No input, no output, no time.

    Bounds: `most_held` offers, and `most_remembered` ids of what was sent, the oldest forgotten first. An offer of what
    is forgotten is refused, which at worst alerts the device again by another layer, under the same id.
    """

    __slots__ = (
        "_held",
        "_is_round_owed",
        "_is_strict",
        "_most_held",
        "_most_remembered",
        "_passed",
        "_sent_ids",
        "end",
        "is_open_only",
        "position",
    )

    def __init__(
        self, most_held: int, cursor: int | None, *, most_remembered: int = 4_096, is_strict: bool = False
    ) -> None:
        self._most_held = most_held
        self._is_strict = is_strict
        self._most_remembered = most_remembered
        self._held: deque[EncodedNotification] = deque()
        self._passed: list[UUID] = []
        self._sent_ids: dict[UUID, None] = {}
        self._is_round_owed = False
        self.position = cursor or 0
        """The number behind which the next page begins; at first the client's own, which may mean nothing here."""
        self.is_open_only = cursor is None
        """A device without a cursor gets what is open for it, until its history has reached the end once."""
        self.end = 0
        """The number in the user's order up to which history was loaded (strict: or sent), 0 before the first page."""

    def hold(self, notification: EncodedNotification) -> bool:
        """Keep a live offer for later; False when the list is full, and then a round is owed."""
        if len(self._held) >= self._most_held:
            self._is_round_owed = True
            return False
        self._held.append(notification)
        return True

    def begin_round(self) -> None:
        """A page of history is about to be loaded; all of the one before it was sent."""
        self._is_round_owed = False

    def owe_round(self) -> None:
        """Load once more from the number that was reached: what is there may not have been offered."""
        self._is_round_owed = True

    def choose_fresh(
        self, history: Iterable[EncodedNotification], reached: int, *, has_more: bool = False
    ) -> list[EncodedNotification]:
        """Take a loaded page; give what is to be sent of it and of the held offers whose place it passes, in order."""
        self._held = deque(notification for notification in self._held if not self._is_settled(notification))
        passed = [notification for notification in self._held if notification.envelope.sequence <= reached]
        fresh = {one.id: one for one in (*history, *passed) if one.id not in self._sent_ids}
        # Not the larger of the two: a client's cursor may come from a database that is no more.
        self.position = self.end = reached
        self._is_round_owed = self._is_round_owed or has_more
        self.is_open_only = self.is_open_only and has_more
        return sorted(fresh.values(), key=_sequence_of)

    def note_sent(self, notification_id: UUID) -> None:
        """A notification of the history is on its way."""
        if len(self._sent_ids) >= self._most_remembered:
            del self._sent_ids[next(iter(self._sent_ids))]
        self._sent_ids[notification_id] = None

    @property
    def has_held(self) -> bool:
        """Whether offers wait behind the history."""
        return bool(self._held)

    @property
    def sent_ids(self) -> AbstractSet[UUID]:
        """The ids of what was sent during the replay, as far as they are remembered."""
        return self._sent_ids.keys()

    @property
    def is_round_owed(self) -> bool:
        return self._is_round_owed

    def take_held(self) -> EncodedNotification | None:
        """Give the next held offer that is still to be sent, oldest first; None when there is none now."""
        while self._held:
            notification = self._held.popleft()
            if self._is_settled(notification):
                continue
            if self._is_strict and not self._is_next(notification):
                return None
            self.note_sent(notification.id)
            return notification
        return None

    def _is_next(self, notification: EncodedNotification) -> bool:
        if notification.envelope.sequence != self.end + 1:
            self._held.appendleft(notification)
            self._is_round_owed = True
            return False
        self.position = self.end = notification.envelope.sequence
        return True

    def take_passed(self) -> list[UUID]:
        """Give the held offers that came too late for their place and are not going to be sent."""
        passed, self._passed = self._passed, []
        return passed

    def abandon(self) -> list[UUID]:
        """Give up: the ids of the offers that were held and are not going to be sent."""
        ids = [notification.id for notification in self._held if notification.id not in self._sent_ids]
        self._held.clear()
        return self.take_passed() + ids

    def _is_settled(self, notification: EncodedNotification) -> bool:
        """Tell whether nothing is to be done for a held offer: it was sent, or what comes behind it was."""
        if notification.id in self._sent_ids:
            return True
        if notification.envelope.sequence <= self.end:
            self._passed.append(notification.id)
            return True
        return False


def _sequence_of(notification: EncodedNotification) -> int:
    return notification.envelope.sequence
