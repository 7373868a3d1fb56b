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


class SeatClock:
    """Stamps seats: a positive number, larger for the newer one. Two nodes never give out the same, or hardly ever."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tag = secrets.randbits(_TAG_BITS)
        self._last_ms = 0

    def stamp(self) -> int:
        """Give the stamp of a new seat."""
        self._last_ms = max(self._now_ms(), self._last_ms + 1)
        return self._last_ms << _TAG_BITS | self._tag

    def learn(self, stamp: int) -> None:
        """Take note of another node's stamp. One of more than a day ahead is a fault, and must not spoil the others."""
        heard_ms = stamp >> _TAG_BITS
        if heard_ms <= self._now_ms() + _MOST_AHEAD_MS:
            self._last_ms = max(self._last_ms, heard_ms)

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)
