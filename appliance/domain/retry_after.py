"""Reading `Retry-After`: seconds or an HTTP date, from a peer that may send anything.

Source: RFC 9110 section 10.2.3.
"""

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

LONGEST: Final = timedelta(days=28)
_SECONDS: Final = re.compile(r"[0-9]{1,10}")


def read_retry_after(text: str | None, now: datetime) -> timedelta | None:
    """Give how long the peer asks to wait, from 0 to 28 days; None when it asks for nothing that can be understood."""
    if text is None:
        return None
    text = text.strip()
    if _SECONDS.fullmatch(text):
        return min(timedelta(seconds=int(text)), LONGEST)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return min(max(at - now, timedelta(0)), LONGEST)
