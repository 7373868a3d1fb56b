"""The breaker of one provider credential (or push service): stops calling what keeps failing, and asks now and then.

Theory of operation
-------------------
CLOSED: everything may be tried. After `FAULTS_TO_OPEN` faults in a row, or when the provider asks for a pause, it is
OPEN until a moment, and nothing is tried. From that moment on it is HALF_OPEN: one try goes ahead. When that one is
answered the breaker is CLOSED again; when it fails, OPEN for twice as long as before, at most `LONGEST_S`.

A fault is an attempt that says something about the provider or the credential, not about one device. Whatever the
provider answers about a device — accepted, gone, rejected — shows that it works.
"""

from dataclasses import dataclass
from enum import IntEnum
from random import Random
from typing import Final

FAULTS_TO_OPEN: Final = 5
SHORTEST_S: Final = 5.0
LONGEST_S: Final = 300.0
_JITTER: Final = 0.2


class BreakerState(IntEnum):
    """Whether a credential is being used."""

    CLOSED = 0
    OPEN = 1
    HALF_OPEN = 2


@dataclass(slots=True)
class Breaker:
    """One breaker. It is told the monotonic time in seconds and asks nobody for it."""

    random: Random
    faults: int = 0
    open_until: float | None = None
    _open_s: float = 0.0
    _is_probing: bool = False

    def state(self, now: float) -> BreakerState:
        """Tell where it stands at `now`."""
        if self.open_until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self.open_until else BreakerState.HALF_OPEN

    def may_begin(self, now: float) -> bool:
        """Tell whether a try may begin now; whoever begins one says so with `begin`."""
        state = self.state(now)
        return state is BreakerState.CLOSED or (state is BreakerState.HALF_OPEN and not self._is_probing)

    def begin(self, now: float) -> None:
        """A try begins."""
        if self.state(now) is BreakerState.HALF_OPEN:
            self._is_probing = True

    def succeed(self) -> None:
        """The provider answered: all is well."""
        self.faults, self.open_until, self._open_s, self._is_probing = 0, None, 0.0, False

    def fail(self, now: float, *, pause_s: float = 0.0) -> None:
        """The provider or the credential failed; `pause_s` is how long the provider asks everybody to wait."""
        was_probing, self._is_probing = self._is_probing, False
        self.faults += 1
        if self.state(now) is BreakerState.OPEN:
            # Tries that were under way when it opened say nothing new, except for a longer pause.
            self._open(now, pause_s)
        elif was_probing or self.faults >= FAULTS_TO_OPEN or pause_s > 0:
            self._open_s = min(LONGEST_S, max(SHORTEST_S, self._open_s * 2))
            self._open(now, max(pause_s, self._open_s * (1 + _JITTER * self.random.random())))

    def abandon(self) -> None:
        """A try ended without saying anything: it was cancelled."""
        self._is_probing = False

    def _open(self, now: float, pause_s: float) -> None:
        self.open_until = max(self.open_until or 0.0, now + pause_s)
