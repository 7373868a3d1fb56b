"""The rules for user names: what may be one, and when two are the same."""

import unicodedata
from typing import Final

from appliance.domain.errors import InvalidField
from appliance.domain.notification import is_storable_text

MAX_USERNAME_CHARS: Final = 150
MAX_USERNAME_KEY_CHARS: Final = 300


def check_username(username: str, *, field: str = "username") -> str:
    """Give the username as it is kept; raises `InvalidField` that says the broken rule.

    Rules: 1 to 150 characters after trimming, valid Unicode, no control characters. Case and compatibility forms do
    not make a new name (see `username_key`).
    """
    trimmed = unicodedata.normalize("NFC", username).strip() if is_storable_text(username) else ""
    if not trimmed or len(trimmed) > MAX_USERNAME_CHARS or len(username_key(trimmed)) > MAX_USERNAME_KEY_CHARS:
        raise InvalidField(field, f"Give a user name of 1 to {MAX_USERNAME_CHARS} characters.")
    if any(unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp") for character in trimmed):
        raise InvalidField(field, "Remove control and invisible characters from the user name.")
    return trimmed


def username_key(username: str) -> str:
    """Give the form in which user names are compared: NFKC, casefolded, trimmed; names with one key are one name."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", username).casefold()).strip()
