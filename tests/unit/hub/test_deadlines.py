"""One heap of moments for all."""

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
