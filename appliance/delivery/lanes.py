"""Lanes: what shares its weather — one credential, or one push service — has its own slots and its own breaker.

A lane that hangs or fails fills up and closes by itself; the others do not notice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from appliance.channels.contract import Channel, ChannelName
from appliance.domain.breaker import Breaker, BreakerState
from appliance.domain.outcome import Misconfigured, Outcome, Retry, reason_of

MOST_LANES: Final = 4_096
"""Lanes remembered; those that are idle and well are forgotten first."""


@dataclass(frozen=True, slots=True)
class LaneReport:
    """A lane as the console and the metrics show it; `rests_s` is how long it is still closed, `reason` why."""

    channel: ChannelName
    name: str
    state: BreakerState
    under_way: int
    faults: int
    rests_s: float
    reason: str | None


class Lane:
    """One lane: at most `slots` tries at once, none while its breaker is open."""

    __slots__ = ("breaker", "channel", "last_fault", "name", "slots", "under_way")

    def __init__(self, channel: Channel, name: str, random: Random) -> None:
        self.channel = channel
        self.name = name
        self.slots = channel.slots
        self.breaker = Breaker(random)
        self.under_way = 0
        self.last_fault: str | None = None

    def may_begin(self, now: float) -> bool:
        """Tell whether one more try may begin."""
        return self.under_way < self.slots and self.breaker.may_begin(now)

    def begin(self, now: float) -> None:
        """A try begins; `end` or `abandon` must follow."""
        self.under_way += 1
        self.breaker.begin(now)

    def end(self, outcome: Outcome, now: float) -> None:
        """A try has ended so."""
        self.under_way -= 1
        match outcome:
            case Retry(is_about_device=False, after=after, pauses_all=pauses_all):
                self.breaker.fail(now, pause_s=after.total_seconds() if after and pauses_all else 0.0)
                self.last_fault = reason_of(outcome)
            case Misconfigured(is_about_device=False):
                self.breaker.fail(now)
                self.last_fault = reason_of(outcome)
            case _:
                self.breaker.succeed()
                self.last_fault = None

    def abandon(self) -> None:
        """A try was given up and says nothing."""
        self.under_way -= 1
        self.breaker.abandon()

    @property
    def is_idle_and_well(self) -> bool:
        return self.under_way == 0 and self.breaker.faults == 0


class Lanes:
    """All lanes of one process, made when first needed."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._lanes: dict[tuple[int, str], Lane] = {}

    def of(self, channel: Channel, name: str) -> Lane:
        """Give the lane of this name on this channel."""
        key = (id(channel), name)
        lane = self._lanes.get(key)
        if lane is None:
            self._make_room()
            lane = self._lanes[key] = Lane(channel, name, self._random)
        return lane

    def forget(self, channel: Channel) -> None:
        """The channel is no more."""
        self._lanes = {key: lane for key, lane in self._lanes.items() if lane.channel is not channel}

    def report(self, now: float) -> Sequence[LaneReport]:
        """Give every lane that is in use or not well."""
        return [
            LaneReport(
                channel=lane.channel.name,
                name=lane.name,
                state=lane.breaker.state(now),
                under_way=lane.under_way,
                faults=lane.breaker.faults,
                rests_s=max(0.0, (lane.breaker.open_until or now) - now),
                reason=lane.last_fault,
            )
            for lane in self._lanes.values()
            if not lane.is_idle_and_well
        ]

    def _make_room(self) -> None:
        if len(self._lanes) >= MOST_LANES:
            self._lanes = {key: lane for key, lane in self._lanes.items() if not lane.is_idle_and_well}
