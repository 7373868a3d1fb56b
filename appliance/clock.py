"""The machine's own clock."""

import time
from datetime import UTC, datetime


class SystemClock:
    """`domain.clock.Clock` over the operating system's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    # The hub asks for every frame that it writes.
    monotonic = staticmethod(time.monotonic)
