"""The breaker: opens on repeated faults, lets one try through now and then, closes when that one is answered."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.breaker import FAULTS_TO_OPEN, LONGEST_PAUSE_S, LONGEST_S, SHORTEST_S, Breaker, BreakerState


def broken(now: float = 0.0) -> Breaker:
    breaker = Breaker(Random(1))
    for _ in range(FAULTS_TO_OPEN):
        breaker.fail(breaker.begin(now), now)
    return breaker


def test_single_faults_among_answers_leave_it_closed() -> None:
    breaker = Breaker(Random(1))
    for number in range(100):
        trial = breaker.begin(0.0)
        if number % FAULTS_TO_OPEN == FAULTS_TO_OPEN - 1:
            breaker.succeed(trial)
        else:
            breaker.fail(trial, 0.0)
        assert breaker.may_begin(0.0)


def test_faults_in_a_row_open_it_and_then_one_try_goes_ahead() -> None:
    breaker = broken()
    assert breaker.open_until is not None and SHORTEST_S <= breaker.open_until <= SHORTEST_S * 1.2
    assert not breaker.may_begin(SHORTEST_S - 0.1)
    later = SHORTEST_S * 1.2
    assert breaker.state(later) is BreakerState.HALF_OPEN
    assert breaker.may_begin(later)
    probe = breaker.begin(later)
    assert not breaker.may_begin(later)
    breaker.succeed(probe)
    assert breaker.state(later) is BreakerState.CLOSED
    assert breaker.may_begin(later)


def test_each_failed_probe_doubles_the_pause_up_to_five_minutes() -> None:
    breaker = broken()
    now, pauses = 0.0, []
    for _ in range(10):
        assert breaker.open_until is not None
        pauses.append(breaker.open_until - now)
        now = breaker.open_until
        breaker.fail(breaker.begin(now), now)
    assert pauses[0] < pauses[1] < pauses[2]
    assert all(pause <= LONGEST_S * 1.2 for pause in pauses)
    assert pauses[-1] >= LONGEST_S


def test_tries_that_were_under_way_when_it_opened_do_not_prolong_it() -> None:
    breaker = Breaker(Random(1))
    trials = [breaker.begin(0.0) for _ in range(200)]
    for trial in trials[:FAULTS_TO_OPEN]:
        breaker.fail(trial, 0.0)
    before = breaker.open_until
    assert before is not None
    for trial in trials[FAULTS_TO_OPEN:]:
        breaker.fail(trial, 1.0)
    assert breaker.open_until == before


def test_a_pause_that_the_provider_asks_for_opens_it_at_once() -> None:
    breaker = Breaker(Random(1))
    breaker.fail(breaker.begin(0.0), 0.0, pause_s=60.0)
    assert breaker.open_until == 60.0


def test_a_pause_that_the_provider_asks_for_outlives_the_answers_to_what_was_sent_before() -> None:
    """One 429 with Retry-After among sixteen tries under way: the next success had opened the gates again at once."""
    breaker = Breaker(Random(1))
    paused, answered = breaker.begin(0.0), breaker.begin(0.0)
    breaker.fail(paused, 1.0, pause_s=60.0)
    breaker.succeed(answered)
    assert not breaker.may_begin(60.0)
    assert breaker.may_begin(61.0)


def test_a_longer_pause_that_came_with_an_older_try_is_obeyed_even_while_a_probe_is_under_way() -> None:
    breaker = Breaker(Random(1))
    first, second = breaker.begin(0.0), breaker.begin(0.0)
    breaker.fail(first, 0.0, pause_s=10.0)
    probe = breaker.begin(10.0)
    breaker.fail(second, 11.0, pause_s=60.0)
    breaker.succeed(probe)
    assert not breaker.may_begin(70.0)
    assert breaker.may_begin(71.0)


def test_a_pause_of_days_shuts_it_for_minutes_and_then_one_try_asks() -> None:
    breaker = Breaker(Random(1))
    breaker.fail(breaker.begin(0.0), 0.0, pause_s=28 * 86_400.0)
    assert not breaker.may_begin(LONGEST_PAUSE_S - 1)
    breaker.begin(LONGEST_PAUSE_S)
    assert not breaker.may_begin(LONGEST_PAUSE_S)


def test_faults_from_before_a_recovery_do_not_undo_it() -> None:
    breaker = Breaker(Random(1))
    trials = [breaker.begin(0.0) for _ in range(2 * FAULTS_TO_OPEN)]
    for trial in trials[:FAULTS_TO_OPEN]:
        breaker.fail(trial, 0.0)
    breaker.succeed(breaker.begin(LONGEST_S))
    for trial in trials[FAULTS_TO_OPEN:]:
        breaker.fail(trial, LONGEST_S + 1)
    assert (breaker.state(LONGEST_S + 1), breaker.faults) == (BreakerState.CLOSED, 0)


def test_an_answer_from_before_an_outage_does_not_end_it() -> None:
    breaker = Breaker(Random(1))
    trials = [breaker.begin(0.0) for _ in range(FAULTS_TO_OPEN + 1)]
    for trial in trials[1:]:
        breaker.fail(trial, 0.0)
    breaker.succeed(trials[0])
    assert breaker.state(0.0) is BreakerState.OPEN


def test_a_probe_that_was_given_up_lets_another_one_go() -> None:
    breaker = broken()
    assert breaker.open_until is not None
    now = breaker.open_until
    breaker.abandon(breaker.begin(now))
    assert breaker.may_begin(now)


def test_giving_up_another_try_does_not_let_a_second_probe_go() -> None:
    breaker = Breaker(Random(1))
    trials = [breaker.begin(0.0) for _ in range(FAULTS_TO_OPEN + 1)]
    for trial in trials[1:]:
        breaker.fail(trial, 0.0)
    breaker.begin(LONGEST_S)
    breaker.abandon(trials[0])
    assert not breaker.may_begin(LONGEST_S)


@given(
    st.lists(st.tuples(st.sampled_from(["begin", "succeed", "fail", "pause", "abandon", "pass"]), st.integers(0, 50))),
    st.integers(0, 1000),
)
def test_it_never_stays_shut_for_ever(steps: list[tuple[str, int]], seed: int) -> None:
    breaker, now = Breaker(Random(seed)), 0.0
    under_way = []
    for step, pick in steps:
        if step == "begin" and breaker.may_begin(now):
            under_way.append(breaker.begin(now))
            continue
        if step == "pass":
            now += pick
            continue
        if not under_way or step == "begin":
            continue
        trial = under_way.pop(pick % len(under_way))
        if step == "succeed":
            breaker.succeed(trial)
        elif step == "abandon":
            breaker.abandon(trial)
        else:
            breaker.fail(trial, now, pause_s=1e9 if step == "pause" else 0.0)
    for trial in under_way:
        breaker.abandon(trial)
    assert breaker.may_begin(now + LONGEST_PAUSE_S)
