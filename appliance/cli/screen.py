"""Text from elsewhere on its way to a terminal."""

import unicodedata
from datetime import datetime
from typing import Final

# Newlines are meant; the other control and format characters could move the cursor or pose as other text.
_CONTROL: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Joiners that emoji and many scripts need.
_HARMLESS: Final = frozenset({"\n", "\u200d", "\u200c"})


def printable(text: str) -> str:
    """Give the text without anything that a terminal would obey: each such character becomes U+FFFD."""
    return "".join(
        character if character in _HARMLESS or unicodedata.category(character) not in _CONTROL else "\ufffd"
        for character in text.replace("\t", "    ")
    )


def one_line(text: str) -> str:
    """Give the text on one line, printable."""
    return printable(" ".join(text.split()))


def clock_time(at: datetime) -> str:
    """Give the time of day on this machine's clock, with milliseconds."""
    local = at.astimezone()
    return f"{local:%H:%M:%S}.{local.microsecond // 1000:03d}"


def day_and_time(at: datetime) -> str:
    """Give the local date and time, to the second."""
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S}"
