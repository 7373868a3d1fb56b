"""The breaker: opens on repeated faults, lets one try through now and then, closes when that one is answered."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.breaker import FAULTS_TO_OPEN, LONGEST_S, SHORTEST_S, Breaker, BreakerState


def broken(now: float = 0.0) -> Breaker:
    breaker = Breaker(Random(1))
    for _ in range(FAULTS_TO_OPEN):
        breaker.begin(now)
        breaker.fail(now)
    return breaker


def test_single_faults_among_answers_leave_it_closed() -> None:
    breaker = Breaker(Random(1))
    for number in range(100):
        breaker.begin(0.0)
        if number % FAULTS_TO_OPEN == FAULTS_TO_OPEN - 1:
            breaker.succeed()
        else:
            breaker.fail(0.0)
        assert breaker.may_begin(0.0)


def test_faults_in_a_row_open_it_and_then_one_try_goes_ahead() -> None:
    breaker = broken()
    assert breaker.open_until is not None and SHORTEST_S <= breaker.open_until <= SHORTEST_S * 1.2
    assert not breaker.may_begin(SHORTEST_S - 0.1)
    later = SHORTEST_S * 1.2
    assert breaker.state(later) is BreakerState.HALF_OPEN
    assert breaker.may_begin(later)
    breaker.begin(later)
    assert not breaker.may_begin(later)
    breaker.succeed()
    assert breaker.state(later) is BreakerState.CLOSED
    assert breaker.may_begin(later)


def test_each_failed_probe_doubles_the_pause_up_to_five_minutes() -> None:
    breaker = broken()
    now, pauses = 0.0, []
    for _ in range(10):
        assert breaker.open_until is not None
        pauses.append(breaker.open_until - now)
        now = breaker.open_until
        breaker.begin(now)
        breaker.fail(now)
    assert pauses[0] < pauses[1] < pauses[2]
    assert all(pause <= LONGEST_S * 1.2 for pause in pauses)
    assert pauses[-1] >= LONGEST_S


def test_tries_that_were_under_way_when_it_opened_do_not_prolong_it() -> None:
    breaker = broken()
    before = breaker.open_until
    for _ in range(200):
        breaker.fail(1.0)
    assert breaker.open_until == before


def test_a_pause_that_the_provider_asks_for_opens_it_at_once() -> None:
    breaker = Breaker(Random(1))
    breaker.begin(0.0)
    breaker.fail(0.0, pause_s=60.0)
    assert breaker.open_until == 60.0


def test_a_probe_that_was_given_up_lets_another_one_go() -> None:
    breaker = broken()
    assert breaker.open_until is not None
    now = breaker.open_until
    breaker.begin(now)
    breaker.abandon()
    assert breaker.may_begin(now)


@given(st.lists(st.sampled_from(["begin", "succeed", "fail", "pass"]), max_size=200), st.integers(0, 1000))
def test_it_never_stays_shut_for_ever(steps: list[str], seed: int) -> None:
    breaker, now = Breaker(Random(seed)), 0.0
    under_way = 0
    for step in steps:
        if step == "begin" and breaker.may_begin(now):
            breaker.begin(now)
            under_way += 1
        elif step in ("succeed", "fail") and under_way:
            under_way -= 1
            breaker.succeed() if step == "succeed" else breaker.fail(now)
        elif step == "pass":
            now += 1.0
    for _ in range(under_way):
        breaker.abandon()
    assert breaker.may_begin(now + LONGEST_S * 1.2)
