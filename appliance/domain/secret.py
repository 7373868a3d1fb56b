"""A text that must not be shown by accident."""

import hashlib
import hmac
from typing import Final

_FINGERPRINT_CHARS: Final = 4


class Secret:
    """Holds a secret text whose `str` and `repr` never show it.

    Two secrets compare in constant time. An empty secret is false, so that `if settings.smtp_password` reads naturally.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Give the text itself; call it only where the text leaves for its one destination."""
        return self._text

    def __repr__(self) -> str:
        if not self._text:
            return "Secret(empty)"
        digest = hashlib.sha256(b"carillon-secret-fingerprint\0" + self._text.encode()).hexdigest()
        return f"Secret(…{digest[:_FINGERPRINT_CHARS]})"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(("Secret", self._text))

    def __bool__(self) -> bool:
        return bool(self._text)
