"""What was missed comes first, in order; what arrives meanwhile waits its turn; nothing comes twice.

The device is seated *before* its history is loaded, so a notification is in the history, or it is offered live, or
both: it can never fall between. While the replay runs, live offers are held here. Held offers that the history already
brought are dropped by id (not by sequence number: an offer is a promise to the engine, and only the very same one keeps
it). An offer of the same may also come when the session is live already, since the disk knows what is committed before
the engine offers it: the session remembers the ids and the end of its history for that.

Overflow rule: when the list of held offers is full, the offer is refused and another round of history, from the newest
sequence number known, is owed before the session may go live. History holds everything committed, so nothing is lost.
"""

from collections import deque
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from uuid import UUID

from appliance.hub.messages import EncodedNotification


class Replay:
    """The state of one session's replay. No input, no output, no time."""

    __slots__ = ("_held", "_is_round_owed", "_most_held", "_sent_ids", "cursor", "end")

    def __init__(self, most_held: int, cursor: int | None) -> None:
        self._most_held = most_held
        self._held: deque[EncodedNotification] = deque()
        self._sent_ids: set[UUID] = set()
        self._is_round_owed = False
        self.cursor = cursor
        self.end = 0
        """The user's newest sequence number that the history loaded so far reaches to."""

    def hold(self, notification: EncodedNotification) -> bool:
        """Keep a live offer for later; False when the list is full, and then a round is owed."""
        if len(self._held) >= self._most_held:
            self._is_round_owed = True
            return False
        self._held.append(notification)
        return True

    def begin_round(self) -> None:
        """A round of history is about to be loaded."""
        self._is_round_owed = False

    def choose_fresh(self, history: Iterable[EncodedNotification], cursor: int) -> list[EncodedNotification]:
        """Take a loaded round; give what of it is still to be sent."""
        # Not the larger of the two: a client's cursor may come from a database that is no more.
        self.cursor = self.end = cursor
        return [notification for notification in history if notification.id not in self._sent_ids]

    def note_sent(self, notification_id: UUID) -> None:
        """A notification of the history is on its way."""
        self._sent_ids.add(notification_id)

    @property
    def sent_ids(self) -> AbstractSet[UUID]:
        """The ids of everything that was sent during the replay."""
        return self._sent_ids

    @property
    def is_round_owed(self) -> bool:
        return self._is_round_owed

    def take_held(self) -> EncodedNotification | None:
        """Give the next held offer that was not sent yet, oldest first; None when the session may go live."""
        while self._held:
            notification = self._held.popleft()
            if notification.id not in self._sent_ids:
                self._sent_ids.add(notification.id)
                return notification
        return None

    def abandon(self) -> list[UUID]:
        """Give up: the ids of the offers that were held and are not going to be sent."""
        ids = [notification.id for notification in self._held if notification.id not in self._sent_ids]
        self._held.clear()
        return ids
