"""Which of two sessions of one device is the newer, when two nodes seated them.

A stamp is the wall clock in milliseconds, or one more than any stamp that was seen before it (a hybrid logical clock):
whoever has heard of a seat gives a later stamp to the next one, however wrong the clocks are; only seats of the same
moment, which nobody can tell apart, are ordered by chance. Source: Kulkarni and others, "Logical Physical Clocks",
2014.
"""

import secrets
from typing import Final

from appliance.domain.clock import Clock

_TAG_BITS: Final = 16
_MOST_AHEAD_MS: Final = 24 * 3600 * 1000
"""A stamp that is further ahead of the clock was given by one that was wrong, and means nothing."""


class SeatClock:
    """Stamps seats: a positive number, larger for the newer one. Two nodes never give out the same, or hardly ever."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tag = secrets.randbits(_TAG_BITS)
        self._last_ms = 0

    def stamp(self) -> int:
        """Give the stamp of a new seat."""
        now_ms = self._now_ms()
        # After our own clock was put back, stamps must be believed by the others again.
        self._last_ms = max(now_ms, self._last_ms + 1) if self._last_ms <= now_ms + _MOST_AHEAD_MS else now_ms
        return self._last_ms << _TAG_BITS | self._tag

    def learn(self, stamp: int) -> None:
        """Take note of another node's stamp. One that is too far ahead is a fault, and must not spoil the others."""
        if self._is_believed(stamp):
            self._last_ms = max(self._last_ms, stamp >> _TAG_BITS)

    def is_newer(self, stamp: int, other: int) -> bool:
        """Tell whether the first is the newer one; one that is not believed is older than any that is.

        Else a seat of a clock that was ahead would win against all that come later, whose clients may not come back.
        """
        return (self._is_believed(stamp), stamp) > (self._is_believed(other), other)

    def _is_believed(self, stamp: int) -> bool:
        return stamp >> _TAG_BITS <= self._now_ms() + _MOST_AHEAD_MS

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)
