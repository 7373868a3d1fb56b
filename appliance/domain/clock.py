"""The time, as the rest of the program may ask for it."""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time. `now` is UTC wall time and may jump; `monotonic` (seconds) never goes back."""

    def now(self) -> datetime: ...

    def monotonic(self) -> float: ...
