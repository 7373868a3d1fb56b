"""The place of an offer in what a session has been sent, where several nodes accept notifications.

Theory of operation
-------------------
On one node offers come in the order of the user's numbers. From other nodes they come when they come: overtaken, or
not at all. So a session of one node among several remembers the number up to which everything was sent or is not for
its device, and takes nothing but the next one:

    next       it is sent
    gap        something before it has not come: the session loads from the database what lies between, and the offer
               waits behind that (`hub.replay`), so that the invariant written there holds here, too
    sent       the session has brought it already
    passed     its place was passed without it: sending it now would break the order

Numbers of one user have no gaps in the order of commits, so what lies between is in the database, always.
"""

from collections.abc import Iterable
from enum import Enum, auto
from uuid import UUID


class Place(Enum):
    """Where an offer stands."""

    NEXT = auto()
    GAP = auto()
    SENT = auto()
    PASSED = auto()


class SentOrder:
    """What one session has been sent: no input, no output, no time.

    `reached` is the number up to which nothing is to come any more. Of what was sent the ids of the last `most` are
    remembered, to tell a repeated offer from one that comes too late.
    """

    __slots__ = ("_most", "_recent", "reached")

    def __init__(self, most: int) -> None:
        self.reached = 0
        self._most = most
        self._recent: dict[UUID, None] = {}

    def place(self, sequence: int, notification_id: UUID) -> Place:
        """Tell what an offer is to this session now."""
        if sequence == self.reached + 1:
            return Place.NEXT
        if sequence > self.reached:
            return Place.GAP
        return Place.SENT if notification_id in self._recent else Place.PASSED

    def note_sent(self, sequence: int, notification_id: UUID) -> None:
        """The next one was sent."""
        self.reached = sequence
        self._remember(notification_id)

    def pass_over(self, sequence: int) -> None:
        """This number went to other devices of the user. Out of turn it is forgotten, which costs one look at most."""
        if sequence == self.reached + 1:
            self.reached = sequence

    def go_on(self, reached: int, notification_ids: Iterable[UUID]) -> None:
        """History was sent up to this number."""
        self.reached = reached
        for notification_id in notification_ids:
            self._remember(notification_id)

    def _remember(self, notification_id: UUID) -> None:
        if len(self._recent) >= self._most:
            del self._recent[next(iter(self._recent))]
        self._recent[notification_id] = None
