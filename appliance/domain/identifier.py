"""Ids: UUID version 7 (RFC 9562), so that keys made later sort later."""

import secrets
from datetime import datetime
from uuid import UUID


def make_id(now: datetime) -> UUID:
    """Make a UUIDv7 for the instant `now`: 48 bits of milliseconds, then 74 random bits."""
    milliseconds = int(now.timestamp() * 1000) & 0xFFFF_FFFF_FFFF
    random = secrets.randbits(74)
    value = milliseconds << 80
    value |= 0x7 << 76
    value |= (random >> 62) << 64
    value |= 0b10 << 62
    value |= random & ((1 << 62) - 1)
    return UUID(int=value)
