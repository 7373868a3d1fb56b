"""What a provider says about itself, made fit to be shown to an admin: short, printable, and nothing else."""

import re
from typing import Final

_FIT: Final = re.compile(r"[A-Za-z0-9 _.,:;'()/-]{1,160}")


def shown(text: str) -> str:
    """Give the text if it is a short plain one, else nothing: what it might be instead is nobody's to see."""
    text = text.strip()
    return text if _FIT.fullmatch(text) else ""
