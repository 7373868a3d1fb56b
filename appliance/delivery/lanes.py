"""Lanes: what shares its weather — one credential, or one push service — has its own slots and its own breaker.

A lane that hangs or fails fills up and closes by itself; the others do not notice. Where a channel has many lanes,
anybody may bring a new one along (a push service is a host in a subscription): such a lane begins with few slots and
earns more by quick answers; slow ones and faults cost it half.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from appliance.channels.contract import Channel, ChannelName
from appliance.domain.breaker import Breaker, BreakerState, Trial
from appliance.domain.outcome import Misconfigured, Outcome, Retry, reason_of, was_asked

MOST_LANES: Final = 4_096
"""Lanes remembered; those that are idle and well are forgotten first."""
FORGOTTEN_AFTER_S: Final = 3_600.0
"""A lane that nobody has used for so long is forgotten, whatever it last came to."""
FEWEST_SLOTS: Final = 4
QUICK_S: Final = 2.0
SLOW_S: Final = 10.0

SHORTEST_PUT_OFF_S: Final = 0.25
LONGEST_PUT_OFF_S: Final = 300.0
_FEWEST_A_SECOND: Final = 200.0
"""What waits comes back at least so fast: enough to notice a recovery, too little to be felt by the others."""
_MORE_THAN_CAN: Final = 1.25
_WEIGHT: Final = 0.1


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

    __slots__ = (
        "_last_used",
        "_took_s",
        "_waits_until",
        "breaker",
        "channel",
        "last_fault",
        "name",
        "slots",
        "under_way",
    )

    def __init__(self, channel: Channel, name: str, random: Random) -> None:
        self.channel = channel
        self.name = name
        self.slots = channel.slots if channel.has_one_lane else min(channel.slots, FEWEST_SLOTS)
        self.breaker = Breaker(random)
        self.under_way = 0
        self.last_fault: str | None = None
        self._last_used = 0.0
        self._took_s: float | None = None
        self._waits_until = 0.0

    def may_begin(self, now: float) -> bool:
        """Tell whether one more try may begin."""
        return self.under_way < self.slots and self.breaker.may_begin(now)

    def begin(self, now: float) -> Trial:
        """A try begins; `end` or `abandon` must follow."""
        self.under_way += 1
        self._last_used = now
        return self.breaker.begin(now)

    def end(self, trial: Trial, outcome: Outcome, now: float, *, took_s: float) -> None:
        """A try has ended so, after so many seconds."""
        if not was_asked(outcome):
            self.abandon(trial)
            return
        self.under_way -= 1
        self._last_used = now
        self._took_s = took_s if self._took_s is None else self._took_s + (took_s - self._took_s) * _WEIGHT
        match outcome:
            case Retry(is_about_device=False, after=after, pauses_all=pauses_all):
                self.breaker.fail(trial, now, pause_s=after.total_seconds() if after and pauses_all else 0.0)
            case Misconfigured(is_about_device=False):
                self.breaker.fail(trial, now)
            case _:
                self.breaker.succeed(trial)
                self._earn(took_s, is_well=True)
                if not self.breaker.faults:
                    self.last_fault = None
                return
        self._earn(took_s, is_well=False)
        self.last_fault = reason_of(outcome)

    def abandon(self, trial: Trial) -> None:
        """A try was given up, or asked nobody, and says nothing."""
        self.under_way -= 1
        self.breaker.abandon(trial)

    def free_again_in(self, now: float, random: Random) -> float:
        """Give in how many seconds what may not begin now should be looked at again.

        Whatever waits for the lane is spread over the time that it needs for it, at most some minutes: however much
        that is, only so many come back in a second.
        """
        rests_s = max(0.0, (self.breaker.open_until or now) - now)
        self._waits_until = max(self._waits_until, now) + 1.0 / max(self._can_a_second, _FEWEST_A_SECOND)
        waiting_s = min(LONGEST_PUT_OFF_S, self._waits_until - now)
        self._waits_until = now + waiting_s
        spread_s = max(SHORTEST_PUT_OFF_S, rests_s, waiting_s)
        return max(SHORTEST_PUT_OFF_S, rests_s) + spread_s * random.random()

    def is_slow(self, now: float) -> bool:
        """Tell whether little may begin here for now: then what waits had better come back in batches."""
        return self.breaker.state(now) is not BreakerState.CLOSED or self._can_a_second < _FEWEST_A_SECOND

    @property
    def _can_a_second(self) -> float:
        return 0.0 if self._took_s is None else _MORE_THAN_CAN * self.slots / max(self._took_s, 0.001)

    def is_forgettable(self, now: float) -> bool:
        """Tell whether nothing is lost with it: it is idle, and well or long unused."""
        if self.under_way:
            return False
        is_resting = self.breaker.state(now) is BreakerState.OPEN
        return not self.breaker.faults or (not is_resting and now - self._last_used > FORGOTTEN_AFTER_S)

    def _earn(self, took_s: float, *, is_well: bool) -> None:
        if self.channel.has_one_lane:
            return
        if not is_well or took_s > SLOW_S:
            self.slots = max(min(self.channel.slots, FEWEST_SLOTS), self.slots // 2)
        elif took_s < QUICK_S:
            self.slots = min(self.channel.slots, self.slots + 1)


class Lanes:
    """All lanes of one process, made when first needed."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._lanes: dict[tuple[int, str], Lane] = {}

    def of(self, channel: Channel, name: str, now: float) -> Lane:
        """Give the lane of this name on this channel."""
        key = (id(channel), name)
        lane = self._lanes.get(key)
        if lane is None:
            if len(self._lanes) >= MOST_LANES:
                self._make_room(now)
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
            if not lane.is_forgettable(now)
        ]

    def _make_room(self, now: float) -> None:
        kept = {key: lane for key, lane in self._lanes.items() if not lane.is_forgettable(now)}
        idle = [key for key, lane in kept.items() if not lane.under_way]
        # All of them failed lately: the oldest quarter goes, and is learned anew if it is ever used again.
        for key in idle[: len(kept) - MOST_LANES * 3 // 4]:
            del kept[key]
        self._lanes = kept
