"""What a provider says about itself, made fit to be shown to an admin: short, printable, and nothing else."""

import re
from collections.abc import Iterable
from typing import Final

_FIT: Final = re.compile(r"[A-Za-z0-9 _.,:;'()/-]{1,160}")

_PIECE: Final = 8


def shown(text: str) -> str:
    """Give the text if it is a short plain one, else nothing: what it might be instead is nobody's to see."""
    text = text.strip()
    return text if _FIT.fullmatch(text) else ""


def without_pieces_of(secrets: Iterable[str], text: str) -> str:
    """Give the text, or nothing where eight characters in a row of it are in one of these, in whatever case.

    A peer may repeat what it was sent, and with it the address that only it and the device should know.
    """
    lowered = text.casefold()
    pieces = {lowered[start : start + _PIECE] for start in range(len(lowered) - _PIECE + 1)}
    return "" if any(piece in secret.casefold() for secret in secrets for piece in pieces) else text
