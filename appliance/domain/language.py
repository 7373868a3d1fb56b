"""The languages in which this server itself speaks to people."""

from enum import StrEnum


class Language(StrEnum):
    """A language, as HTML and HTTP name it."""

    ENGLISH = "en"
    POLISH = "pl"


def language_of(locale: str | None) -> Language:
    """Give the language for a device's locale such as `pl-PL` or `pl_PL`; English where it is unknown."""
    spoken = (locale or "").replace("_", "-").split("-", 1)[0].lower()
    return Language.POLISH if spoken == Language.POLISH else Language.ENGLISH
