"""The fixed words of an e-mail, in each language."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from appliance.domain.language import Language


@dataclass(frozen=True, slots=True)
class Words:
    """What a letter says besides the notifications themselves."""

    unsubscribe: str
    digest_heading: Callable[[int], str]
    digest_subject: Callable[[int, Sequence[str]], str]
    further: Callable[[int], str]
    why: Callable[[Sequence[str]], str]
    instant: Callable[[datetime], str]


def _named(apps: Sequence[str], joiner: str) -> str:
    return apps[0] if len(apps) == 1 else f"{', '.join(apps[:-1])} {joiner} {apps[-1]}"


WORDS: Final[Mapping[Language, Words]] = {
    Language.ENGLISH: Words(
        unsubscribe="Stop these e-mails",
        digest_heading=lambda count: f"{count} notifications",
        digest_subject=lambda count, apps: (
            f"{count} notifications from {apps[0]}" if len(apps) == 1 else f"{count} notifications"
        ),
        further=lambda count: f"… and {count} more.",
        why=lambda apps: f"This address is set to receive notifications of {_named(apps, 'and')}.",
        instant=lambda at: f"{at:%Y-%m-%d %H:%M} UTC",
    ),
    Language.POLISH: Words(
        unsubscribe="Nie wysyłaj więcej tych wiadomości",
        # The form of the noun hangs on the number; this wording does not.
        digest_heading=lambda count: f"Powiadomienia: {count}",
        digest_subject=lambda count, apps: (
            f"{apps[0]} – powiadomienia: {count}" if len(apps) == 1 else f"Powiadomienia: {count}"
        ),
        further=lambda count: f"… i jeszcze {count}.",
        why=lambda apps: f"Na ten adres przychodzą powiadomienia z: {_named(apps, 'i')}.",
        instant=lambda at: f"{at:%Y-%m-%d %H:%M} UTC",
    ),
}
