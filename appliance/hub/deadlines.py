"""One heap of moments for all connections, instead of a task or timer each.

A connection's deadline moves later with every frame it sends or receives, so an entry is not moved: when it comes up,
its owner looks at the clock and says when to look again. Only an earlier deadline makes a new entry.
"""

import asyncio
import heapq
import logging
from itertools import count
from typing import Final, Protocol

from appliance.domain.clock import Clock

logger = logging.getLogger(__name__)

# An owner that asks for "now" again would hold the loop.
_SHORTEST_S: Final = 0.01
# An owner that could not be asked is asked again so much later: what it waits for may still be due.
_AFTER_FAULT_S: Final = 1.0
# The timer comes so much late, for all who are due by then at once. A loop that counts in milliseconds would otherwise
# come a little early and find nobody due, again and again.
_GRAIN_S: Final = 0.01
# From so many entries on that nobody waits for any more, and when they are the larger part, they are thrown away.
_MOST_FADED: Final = 256


class Timed(Protocol):
    """Something with deadlines. `wake_at` belongs to `Deadlines`; start it with None."""

    wake_at: float | None

    def pass_time(self, now: float) -> float | None:
        """Do what is due at `now` (monotonic seconds); give the next moment to be asked, None for never."""
        ...


class Deadlines:
    """Calls `pass_time` of its owners on time. Runs from one timer of the event loop, which `close` cancels."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Timed]] = []
        self._faded = 0
        self._tie = count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._heap)

    def wake(self, owner: Timed, at: float) -> None:
        """Ask `owner` at `at` at the latest; a later moment than the one already noted changes nothing."""
        if owner.wake_at is not None and owner.wake_at <= at:
            return
        self._fade(owner)
        owner.wake_at = at
        heapq.heappush(self._heap, (at, next(self._tie), owner))
        self._set_timer()

    def forget(self, owner: Timed) -> None:
        """Never ask `owner` again, and do not keep it for long: its entries are dropped with others, or come up."""
        self._fade(owner)
        owner.wake_at = None

    def run_due(self) -> None:
        """Ask everybody whose moment has come."""
        now = self._clock.monotonic()
        while self._heap and self._heap[0][0] <= now:
            at, _, owner = heapq.heappop(self._heap)
            if owner.wake_at != at:
                self._faded -= 1
                continue
            owner.wake_at = None
            again_at = _ask(owner, now)
            if again_at is not None:
                self.wake(owner, max(again_at, now + _SHORTEST_S))
        self._set_timer()

    def close(self) -> None:
        """Stop for good."""
        self._is_closed = True
        self._heap.clear()
        self._faded = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fade(self, owner: Timed) -> None:
        """Nobody waits for the owner's entry any more, if it has one."""
        if owner.wake_at is None:
            return
        self._faded += 1
        if self._faded > _MOST_FADED and self._faded * 2 > len(self._heap):
            owner.wake_at = None
            self._heap = [entry for entry in self._heap if entry[2].wake_at == entry[0]]
            heapq.heapify(self._heap)
            self._faded = 0

    def _set_timer(self) -> None:
        if self._is_closed or not self._heap:
            return
        at = self._heap[0][0]
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        delay_s = max(0.0, at - self._clock.monotonic()) + _GRAIN_S
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.run_due()


def _ask(owner: Timed, now: float) -> float | None:
    """Ask one; a fault in it must not keep the others from being asked, nor itself for ever."""
    try:
        return owner.pass_time(now)
    except Exception:
        logger.exception("hub_deadline_failed")
        return now + _AFTER_FAULT_S
