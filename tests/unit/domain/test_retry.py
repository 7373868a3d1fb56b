"""When to try again."""

from datetime import UTC, datetime, timedelta
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.retry import next_try_at

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def _next(**changes):
    given_facts = {
        "attempts": 1,
        "accepted_at": NOW,
        "expires_at": NOW + timedelta(days=1),
        "now": NOW,
        "random": Random(1),
    }
    return next_try_at(**{**given_facts, **changes})


@given(attempts=st.integers(1, 10_000), seed=st.integers())
def test_the_wait_stays_within_the_cap_of_the_first_hour(attempts, seed):
    wait = _next(attempts=attempts, random=Random(seed)) - NOW
    assert timedelta(0) < wait <= min(timedelta(minutes=5), timedelta(seconds=2 ** min(attempts - 1, 32)))


@given(attempts=st.integers(12, 10_000), seed=st.integers())
def test_after_the_first_hour_the_cap_is_half_an_hour(attempts, seed):
    wait = _next(attempts=attempts, random=Random(seed), accepted_at=NOW - timedelta(hours=2)) - NOW
    assert timedelta(0) < wait <= timedelta(minutes=30)


def test_the_jitter_is_full_so_that_retries_spread_over_the_whole_wait():
    waits = [(_next(attempts=9, random=Random(seed)) - NOW).total_seconds() for seed in range(400)]
    assert min(waits) < 256 * 0.1 < 256 * 0.9 < max(waits)


def test_the_provider_s_own_wish_is_kept_when_it_is_longer():
    assert _next(retry_after=timedelta(minutes=10)) == NOW + timedelta(minutes=10)


def test_no_wait_reaches_past_the_time_to_live():
    expires_at = NOW + timedelta(seconds=3)
    assert _next(retry_after=timedelta(days=30), expires_at=expires_at) == expires_at
    assert _next(expires_at=NOW - timedelta(seconds=1)) == NOW
