"""The daily quota: per app and UTC day, counted in notifications."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

DEFAULT_DAILY_QUOTA = 10_000
MAX_DAILY_QUOTA = 100_000_000


@dataclass(frozen=True, slots=True)
class QuotaStanding:
    """An app's quota after a send: what reply headers and the console show."""

    limit: int
    used: int
    reset_at: datetime

    @property
    def remaining(self) -> int:
        return max(0, self.limit - self.used)


def quota_day(now: datetime) -> date:
    """Give the UTC day on which a send at `now` counts."""
    return now.astimezone(UTC).date()


def quota_reset_at(now: datetime) -> datetime:
    """Give the next midnight UTC after `now`."""
    return datetime.combine(quota_day(now) + timedelta(days=1), time(), UTC)


def seconds_to_reset(now: datetime) -> int:
    """Give the whole seconds until the reset, rounded up, at least 1."""
    left = (quota_reset_at(now) - now).total_seconds()
    return max(1, int(left) + (left % 1 > 0))
