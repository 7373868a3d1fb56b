"""The breaker of one provider credential (or push service): stops calling what keeps failing, and asks now and then.

Theory of operation
-------------------
CLOSED: everything may be tried. After `FAULTS_TO_OPEN` faults in a row, or when the provider asks for a pause, it is
OPEN until a moment, and nothing is tried. From that moment on it is HALF_OPEN: one try goes ahead. When that one is
answered the breaker is CLOSED again; when it fails, OPEN for twice as long as before, at most `LONGEST_S`. A pause that
the provider asks for is obeyed for at most `LONGEST_PAUSE_S`; then one try asks whether it is still meant.

A fault is an attempt that says something about the provider or the credential, not about one device. Whatever the
provider answers about a device — accepted, gone, rejected — shows that it works.

Each opening and each closing begins a new generation. A try belongs to the generation in which it began: what it comes
to counts in that one only. So an answer to what was sent before an outage does not end the outage, and a fault from
before the recovery does not undo it.
"""

from dataclasses import dataclass
from enum import IntEnum
from random import Random
from typing import Final

FAULTS_TO_OPEN: Final = 5
SHORTEST_S: Final = 5.0
LONGEST_S: Final = 300.0
LONGEST_PAUSE_S: Final = 600.0
_JITTER: Final = 0.2


class BreakerState(IntEnum):
    """Whether a credential is being used."""

    CLOSED = 0
    OPEN = 1
    HALF_OPEN = 2


@dataclass(frozen=True, slots=True)
class Trial:
    """One try as the breaker knows it: when it began in the breaker's life, and whether it is the one that asks."""

    generation: int
    is_probe: bool


@dataclass(slots=True)
class Breaker:
    """One breaker. It is told the monotonic time in seconds and asks nobody for it."""

    random: Random
    faults: int = 0
    open_until: float | None = None
    _open_s: float = 0.0
    _generation: int = 0
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

    def begin(self, now: float) -> Trial:
        """A try begins; `succeed`, `fail` or `abandon` is told what came of it, once."""
        is_probe = self.state(now) is BreakerState.HALF_OPEN and not self._is_probing
        self._is_probing = self._is_probing or is_probe
        return Trial(self._generation, is_probe)

    def succeed(self, trial: Trial) -> None:
        """The provider answered this try: all is well, unless that was asked before things changed."""
        if trial.generation != self._generation:
            return
        if self.open_until is None:
            self.faults = 0
        elif trial.is_probe:
            self.faults, self.open_until, self._open_s = 0, None, 0.0
            self._turn()

    def fail(self, trial: Trial, now: float, *, pause_s: float = 0.0) -> None:
        """The provider or the credential failed this try; `pause_s` is how long the provider asks everybody to wait."""
        pause_s = min(pause_s, LONGEST_PAUSE_S)
        if trial.generation != self._generation:
            # It was under way when things changed and says nothing new, except for a longer pause.
            if self.open_until is not None and pause_s > 0 and now + pause_s > self.open_until:
                self._open_until(now + pause_s)
            return
        self.faults += 1
        if trial.is_probe or self.faults >= FAULTS_TO_OPEN or pause_s > 0:
            self._open_s = min(LONGEST_S, max(SHORTEST_S, self._open_s * 2))
            self._open_until(now + max(pause_s, self._open_s * (1 + _JITTER * self.random.random())))

    def abandon(self, trial: Trial) -> None:
        """A try ended without saying anything: it was cancelled, or nobody was asked."""
        if trial.is_probe and trial.generation == self._generation:
            self._is_probing = False

    def _open_until(self, moment: float) -> None:
        self.open_until = moment
        self._turn()

    def _turn(self) -> None:
        self._generation += 1
        self._is_probing = False
