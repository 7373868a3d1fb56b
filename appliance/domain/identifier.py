"""Ids: UUID version 7 (RFC 9562), so that keys made later sort later."""

import os
from datetime import datetime
from typing import Final
from uuid import UUID

_FIXED_BITS: Final = 0x7 << 76 | 0b10 << 62
"""Version and variant."""
_RANDOM_BITS: Final = (1 << 80) - 1 & ~(0xF << 76 | 0b11 << 62)


def make_id(now: datetime) -> UUID:
    """Make a UUIDv7 for the instant `now`: 48 bits of milliseconds, then 74 random bits."""
    milliseconds = int(now.timestamp() * 1000) & 0xFFFF_FFFF_FFFF
    random = int.from_bytes(os.urandom(10), "big") & _RANDOM_BITS
    return UUID(int=milliseconds << 80 | _FIXED_BITS | random)
