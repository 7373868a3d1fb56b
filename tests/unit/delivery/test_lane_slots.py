"""One lane by itself: what earns it slots, what counts for its breaker, and when what waits for it comes back."""

from random import Random

import pytest

from appliance.delivery.lanes import (
    FEWEST_SLOTS,
    LONGEST_PUT_OFF_S,
    MOST_LANES,
    SHORTEST_PUT_OFF_S,
    Lane,
    Lanes,
)
from appliance.domain.breaker import FAULTS_TO_OPEN, BreakerState
from appliance.domain.outcome import Accepted, Gone, Misconfigured, Outcome, Rejected, Retry
from tests.doubles.channel import ScriptedChannel

DOWN = Retry("It is down.")


class ManyLanes(ScriptedChannel):
    """A channel whose lanes anybody may bring along."""

    has_one_lane = False


def run_through(lane: Lane, *outcomes: Outcome, took_s: float = 0.1, now: float = 0.0) -> None:
    for outcome in outcomes:
        lane.end(lane.begin(now), outcome, now, took_s=took_s)


def test_a_lane_that_anybody_may_bring_along_earns_its_slots_by_quick_answers() -> None:
    lane = Lane(ManyLanes(slots=32), "push.example", Random(1))
    assert lane.slots == FEWEST_SLOTS
    run_through(lane, *[Accepted()] * 100)
    assert lane.slots == 32
    run_through(lane, Accepted(), took_s=15.0)
    assert lane.slots == 16
    run_through(lane, *[Accepted()] * 100, took_s=5.0)
    assert lane.slots == 16
    run_through(lane, DOWN, DOWN, DOWN)
    assert lane.slots == FEWEST_SLOTS


def test_the_lane_of_a_credential_has_all_its_slots_from_the_first() -> None:
    lane = Lane(ScriptedChannel(slots=32), "only", Random(1))
    run_through(lane, Accepted(), DOWN, took_s=15.0)
    assert lane.slots == 32


@pytest.mark.parametrize("kind", [Misconfigured, Rejected, Gone])
def test_what_asked_nobody_neither_closes_a_lane_nor_opens_it(kind: type[Misconfigured | Rejected | Gone]) -> None:
    lane = Lane(ScriptedChannel(), "only", Random(1))
    ours = kind("Ours.", was_asked=False)
    run_through(lane, *[DOWN] * (FAULTS_TO_OPEN - 1), *[ours] * 20)
    assert (lane.breaker.state(0.0), lane.breaker.faults, lane.under_way) == (
        BreakerState.CLOSED,
        FAULTS_TO_OPEN - 1,
        0,
    )
    run_through(lane, DOWN)
    assert lane.breaker.state(0.0) is BreakerState.OPEN
    later = lane.breaker.open_until
    assert later is not None
    run_through(lane, ours, now=later)
    # It was the one that should have asked; the next one does.
    assert (lane.breaker.state(later), lane.may_begin(later)) == (BreakerState.HALF_OPEN, True)


def test_what_waits_is_spread_over_the_time_that_the_lane_needs_for_it() -> None:
    lane, random = Lane(ManyLanes(slots=32), "push.example", Random(1)), Random(2)
    waits = [lane.free_again_in(0.0, random) for _ in range(10_000)]
    assert min(waits) >= SHORTEST_PUT_OFF_S
    assert 40 < max(waits) < 60
    coming_back = [sum(1 for wait in waits if second <= wait < second + 1) for second in range(60)]
    assert max(coming_back[2:]) < 900
    assert max(lane.free_again_in(0.0, random) for _ in range(200_000)) <= LONGEST_PUT_OFF_S + 1


def test_what_waits_for_a_quick_lane_comes_back_soon() -> None:
    lane, random = Lane(ManyLanes(slots=32), "push.example", Random(1)), Random(2)
    run_through(lane, *[Accepted()] * 100, took_s=0.02)
    assert max(lane.free_again_in(0.0, random) for _ in range(1_000)) < 1.0
    assert not lane.is_slow(0.0)


def test_lanes_that_all_failed_are_forgotten_oldest_first_when_there_are_too_many() -> None:
    lanes, channel = Lanes(Random(1)), ManyLanes()
    busy = lanes.of(channel, "busy", 0.0)
    busy.begin(0.0)
    for number in range(MOST_LANES + 10):
        run_through(lanes.of(channel, f"host-{number}.example", 0.0), DOWN)
    names = {lane.name for lane in lanes.report(0.0)}
    assert len(names) <= MOST_LANES
    assert {"busy", f"host-{MOST_LANES + 9}.example"} <= names
    assert "host-0.example" not in names
