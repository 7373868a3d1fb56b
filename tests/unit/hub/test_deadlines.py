"""One heap of moments for all."""

import asyncio

from appliance.clock import SystemClock
from appliance.hub.deadlines import Deadlines
from tests.doubles.hand_clock import HandClock


class Sleeper:
    def __init__(self, *answers: float | None) -> None:
        self.wake_at: float | None = None
        self.asked: list[float] = []
        self._answers = list(answers)

    def pass_time(self, now: float) -> float | None:
        self.asked.append(now)
        return self._answers.pop(0) if self._answers else None


async def test_an_owner_is_asked_when_its_moment_comes_and_again_when_it_says_so() -> None:
    clock, sleeper = HandClock(), Sleeper(1_020.0)
    deadlines = Deadlines(clock)
    deadlines.wake(sleeper, 1_010.0)
    deadlines.run_due()
    assert sleeper.asked == []
    for _ in range(3):
        clock.pass_s(10)
        deadlines.run_due()
    assert sleeper.asked == [1_010.0, 1_020.0]
    deadlines.close()


async def test_an_earlier_moment_replaces_a_later_one_and_not_the_other_way_round() -> None:
    clock, sleeper = HandClock(), Sleeper()
    deadlines = Deadlines(clock)
    deadlines.wake(sleeper, 1_010.0)
    deadlines.wake(sleeper, 1_005.0)
    deadlines.wake(sleeper, 1_030.0)
    clock.pass_s(60)
    deadlines.run_due()
    assert len(sleeper.asked) == 1
    assert len(deadlines) == 0
    deadlines.close()


async def test_a_forgotten_owner_is_never_asked() -> None:
    clock, sleeper = HandClock(), Sleeper()
    deadlines = Deadlines(clock)
    deadlines.wake(sleeper, 1_001.0)
    deadlines.forget(sleeper)
    clock.pass_s(60)
    deadlines.run_due()
    assert sleeper.asked == []
    deadlines.close()


async def test_an_owner_that_always_says_now_does_not_hold_the_loop() -> None:
    clock, sleeper = HandClock(), Sleeper(0.0, 0.0, 0.0)
    deadlines = Deadlines(clock)
    deadlines.wake(sleeper, 1_000.0)
    deadlines.run_due()
    assert len(sleeper.asked) == 1
    deadlines.close()


async def test_owners_whose_moments_are_close_together_are_asked_in_one_go() -> None:
    """The loop's timer came a fraction of a millisecond early, for each of ten thousand keep-alives, over and over."""
    clock = SystemClock()
    deadlines = Deadlines(clock)
    sleepers = [Sleeper() for _ in range(100)]
    now = clock.monotonic()
    for number, sleeper in enumerate(sleepers):
        deadlines.wake(sleeper, now + number / 10_000)
    async with asyncio.timeout(10):
        while not sleepers[-1].asked:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)
    assert len({sleeper.asked[0] for sleeper in sleepers}) == 1
    deadlines.close()


async def test_many_who_left_are_not_kept_until_their_moments_come() -> None:
    deadlines = Deadlines(HandClock())
    staying, leaving = Sleeper(), [Sleeper() for _ in range(1_000)]
    for number, sleeper in enumerate([*leaving, staying]):
        deadlines.wake(sleeper, 1_020.0 + number)
    for sleeper in leaving:
        deadlines.forget(sleeper)
    assert len(deadlines) < 500
    for number in range(1_000):
        deadlines.wake(staying, 1_019.0 - number / 100)
    assert len(deadlines) < 1_000
    deadlines.run_due()
    assert staying.wake_at == 1_019.0 - 999 / 100
    deadlines.close()


async def test_those_who_stay_are_asked_in_order_when_the_entries_of_others_are_dropped() -> None:
    clock = HandClock()
    deadlines = Deadlines(clock)
    sleepers = [Sleeper() for _ in range(2_000)]
    for number, sleeper in enumerate(sleepers):
        deadlines.wake(sleeper, 1_001.0 + number)
    for number, sleeper in enumerate(sleepers):
        if number % 10:
            deadlines.forget(sleeper)
    for _ in range(2_001):
        clock.pass_s(1)
        deadlines.run_due()
    assert [sleeper.asked for sleeper in sleepers[::10]] == [[1_001.0 + number] for number in range(0, 2_000, 10)]
    assert not any(sleeper.asked for number, sleeper in enumerate(sleepers) if number % 10)
    assert len(deadlines) == 0
    deadlines.close()


async def test_a_fault_in_one_does_not_keep_the_others_from_being_asked_and_it_is_asked_again() -> None:
    class Faulty(Sleeper):
        def pass_time(self, now: float) -> float | None:
            super().pass_time(now)
            raise RuntimeError

    clock, faulty, others = HandClock(), Faulty(), [Sleeper() for _ in range(3)]
    deadlines = Deadlines(clock)
    for at, owner in enumerate((faulty, *others)):
        deadlines.wake(owner, 1_001.0 + at / 10)
    clock.pass_s(2)
    deadlines.run_due()
    assert [len(one.asked) for one in (faulty, *others)] == [1, 1, 1, 1]
    clock.pass_s(1)
    deadlines.run_due()
    assert len(faulty.asked) == 2
    deadlines.close()
