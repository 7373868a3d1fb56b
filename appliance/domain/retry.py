"""When to try again: full jitter, base 1 s, factor 2, cap 5 min in the first hour and 30 min after it."""

from datetime import datetime, timedelta
from random import Random

BASE_S = 1.0
FACTOR = 2.0
EARLY_CAP = timedelta(minutes=5)
LATE_CAP = timedelta(minutes=30)
EARLY_SPAN = timedelta(hours=1)
MISCONFIGURED_PAUSE = timedelta(minutes=5)


def next_try_at(
    *,
    attempts: int,
    accepted_at: datetime,
    expires_at: datetime,
    now: datetime,
    random: Random,
    retry_after: timedelta | None = None,
) -> datetime:
    """Give the instant of the next try after `attempts` tries (at least 1).

    The wait is drawn evenly from (0, min(cap, base * factor**(attempts-1))], is never shorter than `retry_after`, and
    never reaches past `expires_at`: the delivery is then looked at once more and found expired.
    """
    cap = EARLY_CAP if now - accepted_at < EARLY_SPAN else LATE_CAP
    # The exponent is bounded before the power is taken: the hundredth try must not overflow.
    ceiling_s = min(cap.total_seconds(), BASE_S * FACTOR ** min(attempts - 1, 32))
    wait = timedelta(seconds=ceiling_s * (1.0 - random.random()))
    if retry_after is not None and retry_after > wait:
        wait = retry_after
    left = expires_at - now
    return now + min(wait, max(left, timedelta(0)))
