"""The delivery ladder: THE state machine of one delivery (one notification to one device or mailbox).

Theory of operation
-------------------
A delivery begins `QUEUED`. When its device has a live connection that can acknowledge, it is `OFFERED` there and waits
for the acknowledgement; when the window passes it is `QUEUED` again for the next layer (or, where there is none, for
the device's next connection). A remote layer first `CLAIMS` it under a lease, so that a crash in the middle of a
provider call re-opens it, and then moves it by the outcome: `SENT` when the provider accepted, `QUEUED` for another
try, `GONE` or `FAILED` when it never will be.

An acknowledgement always wins: whenever it comes, and whatever was sent meanwhile, the delivery is `CONFIRMED` — even
after it was sent, failed or ran out of time, because the device has shown it. Only `WITHDRAWN` stays as it is: the
sender has been told so. (The late acknowledgement is still recorded as an attempt.)

Rules
-----
1. Every state change goes through `advance`; what the table does not list is illegal and raises `IllegalTransition`.
2. Settled states (`is_settled`) are never looked at again by the engine.
3. The machine is told what happened; it never asks for the time or the network.
"""

from collections.abc import Mapping
from enum import IntEnum, auto
from typing import Final

from appliance.domain.outcome import Accepted, Confirmed, Gone, Misconfigured, Outcome, Rejected, Retry


class DeliveryState(IntEnum):
    """Where one delivery stands. Stored as the number; never renumber."""

    QUEUED = 0
    OFFERED = 1
    CLAIMED = 2
    SENT = 3
    CONFIRMED = 4
    FAILED = 5
    GONE = 6
    EXPIRED = 7
    WITHDRAWN = 8
    SUPPRESSED = 9


class Event(IntEnum):
    """What can happen to a delivery."""

    OFFER = auto()
    WINDOW_PASSED = auto()
    CLAIM = auto()
    LEASE_LAPSED = auto()
    PROVIDER_ACCEPTED = auto()
    PROVIDER_DEFERRED = auto()
    PROVIDER_GONE = auto()
    PROVIDER_REJECTED = auto()
    ACKNOWLEDGE = auto()
    EXPIRE = auto()
    WITHDRAW = auto()
    SUPPRESS = auto()


class IllegalTransition(Exception):
    """A bug: the table does not allow this event in this state."""


_S = DeliveryState
_E = Event

TRANSITIONS: Final[Mapping[tuple[DeliveryState, Event], DeliveryState]] = {
    (_S.QUEUED, _E.OFFER): _S.OFFERED,
    (_S.QUEUED, _E.CLAIM): _S.CLAIMED,
    (_S.QUEUED, _E.ACKNOWLEDGE): _S.CONFIRMED,
    (_S.QUEUED, _E.EXPIRE): _S.EXPIRED,
    (_S.QUEUED, _E.WITHDRAW): _S.WITHDRAWN,
    (_S.QUEUED, _E.SUPPRESS): _S.SUPPRESSED,
    # The device was retired while the delivery waited.
    (_S.QUEUED, _E.PROVIDER_GONE): _S.GONE,
    (_S.OFFERED, _E.PROVIDER_GONE): _S.GONE,
    # A new connection of the device is offered it again.
    (_S.OFFERED, _E.OFFER): _S.OFFERED,
    (_S.OFFERED, _E.WINDOW_PASSED): _S.QUEUED,
    # The window passed and a remote layer takes over in one step.
    (_S.OFFERED, _E.CLAIM): _S.CLAIMED,
    # A client that cannot acknowledge: the socket took it, which is all that can be known.
    (_S.OFFERED, _E.PROVIDER_ACCEPTED): _S.SENT,
    (_S.OFFERED, _E.ACKNOWLEDGE): _S.CONFIRMED,
    (_S.OFFERED, _E.EXPIRE): _S.EXPIRED,
    (_S.OFFERED, _E.WITHDRAW): _S.WITHDRAWN,
    (_S.CLAIMED, _E.LEASE_LAPSED): _S.QUEUED,
    (_S.CLAIMED, _E.PROVIDER_ACCEPTED): _S.SENT,
    (_S.CLAIMED, _E.PROVIDER_DEFERRED): _S.QUEUED,
    (_S.CLAIMED, _E.PROVIDER_GONE): _S.GONE,
    (_S.CLAIMED, _E.PROVIDER_REJECTED): _S.FAILED,
    (_S.CLAIMED, _E.ACKNOWLEDGE): _S.CONFIRMED,
    # The last try ended after the time to live: nothing further is tried.
    (_S.CLAIMED, _E.EXPIRE): _S.EXPIRED,
    (_S.SENT, _E.ACKNOWLEDGE): _S.CONFIRMED,
    (_S.FAILED, _E.ACKNOWLEDGE): _S.CONFIRMED,
    (_S.GONE, _E.ACKNOWLEDGE): _S.CONFIRMED,
    (_S.EXPIRED, _E.ACKNOWLEDGE): _S.CONFIRMED,
    (_S.SUPPRESSED, _E.ACKNOWLEDGE): _S.CONFIRMED,
}

SETTLED: Final = frozenset({_S.SENT, _S.CONFIRMED, _S.FAILED, _S.GONE, _S.EXPIRED, _S.WITHDRAWN, _S.SUPPRESSED})
OPEN: Final = frozenset(_S) - SETTLED


def advance(state: DeliveryState, event: Event) -> DeliveryState:
    """Give the state that follows, or raise `IllegalTransition`."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(f"{event.name} in {state.name}") from None


def may(state: DeliveryState, event: Event) -> bool:
    """Tell whether the event is legal in the state."""
    return (state, event) in TRANSITIONS


def sources(event: Event) -> tuple[DeliveryState, ...]:
    """Give the states in which the event is legal, in stored order; storage guards its updates with them."""
    return tuple(sorted(state for state, legal in TRANSITIONS if legal is event))


def is_settled(state: DeliveryState) -> bool:
    """Tell whether the engine is done with a delivery in this state."""
    return state in SETTLED


def event_of(outcome: Outcome) -> Event:
    """Give the event that a remote attempt's outcome means for its claimed delivery."""
    match outcome:
        case Accepted():
            return Event.PROVIDER_ACCEPTED
        case Confirmed():
            return Event.ACKNOWLEDGE
        case Retry() | Misconfigured():
            return Event.PROVIDER_DEFERRED
        case Gone():
            return Event.PROVIDER_GONE
        case Rejected():
            return Event.PROVIDER_REJECTED
