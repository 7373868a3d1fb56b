"""How far the clocks of other nodes are off, as their beats tell. Pure, told the time."""

from collections import deque
from typing import Final
from uuid import UUID

MOST_S: Final = 2.0
"""Largest difference that is not worth a word."""
_JUDGED: Final = 5


class ClockDifferences:
    """Of each node the last few differences. The smallest of them counts: what came late looks like a clock that is."""

    def __init__(self) -> None:
        self._heard: dict[UUID, deque[float]] = {}
        self._told: set[UUID] = set()

    def hear(self, node: UUID, behind_s: float) -> float | None:
        """Note how far a node's clock seemed to be behind; gives the difference when it is to be warned of, once."""
        heard = self._heard.setdefault(node, deque(maxlen=_JUDGED))
        heard.append(behind_s)
        difference_s = self._judge(heard)
        if abs(difference_s) <= MOST_S:
            if len(heard) == _JUDGED:
                self._told.discard(node)
            return None
        if node in self._told:
            return None
        self._told.add(node)
        return difference_s

    def forget(self, node: UUID) -> None:
        """The node is not there any more."""
        self._heard.pop(node, None)
        self._told.discard(node)

    def clear(self) -> None:
        """Nobody is heard any more."""
        self._heard.clear()
        self._told.clear()

    @property
    def largest_s(self) -> float:
        """The largest difference to any node, without its sign."""
        return max((abs(self._judge(heard)) for heard in self._heard.values()), default=0.0)

    def _judge(self, heard: deque[float]) -> float:
        return min(heard, key=abs) if len(heard) == _JUDGED else 0.0
