"""Reading `Retry-After`: seconds or an HTTP date, from a peer that may send anything.

Source: RFC 9110 section 10.2.3.
"""

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

LONGEST: Final = timedelta(days=28)
BELIEVED: Final = timedelta(hours=1)
"""How far ahead of our own clock a date is believed whose sender does not tell what time it is there."""
_SECONDS: Final = re.compile(r"[0-9]{1,10}")


def read_retry_after(text: str | None, now: datetime, *, sent_at: str | None = None) -> timedelta | None:
    """Give how long the peer asks to wait, from 0 to 28 days; None when it asks for nothing that can be understood.

    A date is read by the peer's own clock, which its `Date` header (`sent_at`) tells: ours may be years off. Without
    one, a date that is more than an hour away says more about the clocks than about the wait, and is not understood.
    """
    if text is None:
        return None
    text = text.strip()
    if _SECONDS.fullmatch(text):
        return min(timedelta(seconds=int(text)), LONGEST)
    at, there = _read_date(text), _read_date(sent_at)
    if at is None:
        return None
    if there is None and at - now > BELIEVED:
        return None
    return min(max(at - (there or now), timedelta(0)), LONGEST)


def _read_date(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at
