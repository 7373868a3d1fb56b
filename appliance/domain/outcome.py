"""What an attempt came to: a closed union. Channels return it; they never raise it, retry, sleep or log payloads."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum


class OutcomeKind(IntEnum):
    """The outcome's kind as it is stored with the attempt."""

    ACCEPTED = 0
    CONFIRMED = 1
    RETRY = 2
    GONE = 3
    REJECTED = 4
    MISCONFIGURED = 5
    OFFERED = 6
    UNANSWERED = 7
    SKIPPED = 8
    """Not tried, for the reason that stands with it."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The provider took it and is now responsible; it may name it by an id of its own."""

    provider_id: str | None = None
    code: str = "accepted"


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The device itself said that it has it."""

    at: datetime
    code: str = "acknowledged"


@dataclass(frozen=True, slots=True)
class Retry:
    """It may work later: weather, not the device's fault. `after` is the provider's own wish (Retry-After), if any.

    `is_about_device`: the provider works, and holds only this device back. `pauses_all`: `after` is meant for all
    that is sent with this credential.
    """

    reason: str
    after: timedelta | None = None
    code: str = "retry"
    is_about_device: bool = False
    pauses_all: bool = False


@dataclass(frozen=True, slots=True)
class Gone:
    """The provider says definitively that this address is dead; `evidence` is its own statement.

    `was_asked` is False where the address shows it by itself and no provider was asked.
    """

    evidence: str
    code: str = "gone"
    was_asked: bool = True


@dataclass(frozen=True, slots=True)
class Rejected:
    """This notification will never be taken as it is; other notifications to the device may be.

    `was_asked` is False where we saw that ourselves and asked no provider.
    """

    reason: str
    code: str = "rejected"
    was_asked: bool = True


@dataclass(frozen=True, slots=True)
class Misconfigured:
    """Our credential or setting is wrong: an admin must act; nothing is retired and the delivery waits.

    `is_about_device`: it does not fit this device's address, and says nothing about what else is sent with it.
    `was_asked` is False where we saw that ourselves and asked no provider.
    """

    reason: str
    code: str = "misconfigured"
    is_about_device: bool = False
    was_asked: bool = True


Outcome = Accepted | Confirmed | Retry | Gone | Rejected | Misconfigured

_KINDS: dict[type, OutcomeKind] = {
    Accepted: OutcomeKind.ACCEPTED,
    Confirmed: OutcomeKind.CONFIRMED,
    Retry: OutcomeKind.RETRY,
    Gone: OutcomeKind.GONE,
    Rejected: OutcomeKind.REJECTED,
    Misconfigured: OutcomeKind.MISCONFIGURED,
}


def was_asked(outcome: Outcome) -> bool:
    """Tell whether the outcome says anything about the provider: whether it was asked at all."""
    match outcome:
        case Gone(was_asked=asked) | Rejected(was_asked=asked) | Misconfigured(was_asked=asked):
            return asked
        case _:
            return True


def kind_of(outcome: Outcome) -> OutcomeKind:
    """Give the number under which an outcome is stored."""
    return _KINDS[type(outcome)]


def reason_of(outcome: Outcome) -> str:
    """Give the outcome in plain words, without any secret or payload."""
    match outcome:
        case Accepted():
            return "The provider accepted it."
        case Confirmed():
            return "The device confirmed that it has it."
        case Gone(evidence=evidence):
            return evidence
        case Retry(reason=reason) | Rejected(reason=reason) | Misconfigured(reason=reason):
            return reason
