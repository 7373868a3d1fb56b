"""How much the hosts that users brought along may hold at once: a share of all tries, and of one user a few.

A push service is a host in a subscription, and any user may name hosts of their own that never answer. What they hold
is bounded twice: the channels with one lane (FCM, APNs, the relay, e-mail) keep a share of their own, and so do the
subscriptions of the other users.
"""

from collections import Counter
from typing import Final
from uuid import UUID

MOST_OF_ALL: Final = 384
"""Most tries at once of all channels with many lanes; the rest of the process's tries is kept for the others."""
MOST_OF_ONE_USER: Final = 16


class Strangers:
    """Counts the tries under way on channels with many lanes."""

    __slots__ = ("_by_user", "_count")

    def __init__(self) -> None:
        self._count = 0
        self._by_user: Counter[UUID] = Counter()

    @property
    def are_many(self) -> bool:
        """Whether no more may begin, whoever it is for."""
        return self._count >= MOST_OF_ALL

    def may_begin(self, user_id: UUID) -> bool:
        """Tell whether one more try for this user may begin."""
        return not self.are_many and self._by_user[user_id] < MOST_OF_ONE_USER

    def begin(self, user_id: UUID) -> None:
        """A try for this user begins; `end` must follow."""
        self._count += 1
        self._by_user[user_id] += 1

    def end(self, user_id: UUID) -> None:
        """A try for this user has ended."""
        self._count -= 1
        self._by_user[user_id] -= 1
        if not self._by_user[user_id]:
            del self._by_user[user_id]
