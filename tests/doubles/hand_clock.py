"""A clock that stands still until a test moves it."""

from datetime import UTC, datetime, timedelta


class HandClock:
    """`domain.clock.Clock`; wall time and monotonic time move together."""

    def __init__(self) -> None:
        self.wall = datetime(2026, 3, 1, 12, tzinfo=UTC)
        self.ticks = 1_000.0

    def now(self) -> datetime:
        return self.wall

    def monotonic(self) -> float:
        return self.ticks

    def pass_s(self, seconds: float) -> None:
        self.ticks += seconds
        self.wall += timedelta(seconds=seconds)
