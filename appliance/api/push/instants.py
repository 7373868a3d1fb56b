"""Reading an instant from a request: RFC 3339 with a zone."""

import re
from datetime import UTC, datetime
from typing import Final

from appliance.api.push.schemas import INSTANT
from appliance.domain.errors import InvalidField

_SHAPE: Final = re.compile(INSTANT)
_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
_LATEST: Final = datetime.max.replace(tzinfo=UTC)


def parse_instant(text: str, *, field: str) -> datetime:
    """Give the instant in UTC; one that no datetime can hold becomes the earliest or latest. Raises `InvalidField`."""
    if len(text) > 40 or not _SHAPE.fullmatch(text):
        raise InvalidField(field, f"Give {field} as RFC 3339 with a time zone, like 2026-03-17T12:00:00Z.")
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        return _EARLIEST if text.startswith("000") else _LATEST
