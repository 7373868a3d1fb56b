"""How long devices take to acknowledge, counted in fixed steps."""

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

BOUNDS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 10.0, 30.0)


class RoundTrips:
    """A histogram over `BOUNDS_S` and what is longer, since the start. A round trip ends when the answer arrives."""

    __slots__ = ("_counts", "sum_s")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    @property
    def count(self) -> int:
        return sum(self._counts)

    def add(self, round_trip_s: float) -> None:
        """Count one."""
        self._counts[bisect_left(BOUNDS_S, round_trip_s)] += 1
        self.sum_s += round_trip_s

    def __iter__(self) -> Iterator[tuple[float, int]]:
        """Give each bound, at last infinity, with the number of round trips up to it."""
        total = 0
        for bound, count in zip((*BOUNDS_S, float("inf")), self._counts, strict=True):
            total += count
            yield bound, total
