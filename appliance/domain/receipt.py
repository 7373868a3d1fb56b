"""Receipts: what an app's webhook is told about a delivery, and how long telling it is tried.

Source of statuses and body: Keymaster's push receipts.
"""

from datetime import datetime, timedelta
from enum import IntEnum
from random import Random
from typing import Final

from appliance.domain.ladder import DeliveryState

TRIED_FOR: Final = timedelta(days=2)
"""After so long without an answer of 2xx a receipt is a dead letter: kept, and sent again on demand."""
SECRETS_OVERLAP: Final = timedelta(days=1)
"""How long the previous webhook secret still signs after a rotation."""
_PAUSES_S: Final = (5, 30, 120, 600, 1_800, 3_600, 7_200, 14_400)
_JITTER: Final = 0.2


class ReceiptStatus(IntEnum):
    """What became of the delivery. Stored as the number; the webhook gets the name in lower case."""

    DELIVERED = 0
    """A provider accepted it, or the device confirmed it."""
    FAILED = 1
    """It never will be: refused for good, or its time to live has passed."""
    INVALID_TOKEN = 2
    """The provider says that the device's address is dead; the device was retired."""


class ReceiptState(IntEnum):
    """Where telling it stands. Stored as the number."""

    PENDING = 0
    CLAIMED = 1
    DONE = 2
    DEAD = 3


_STATUSES: Final = {
    DeliveryState.SENT: ReceiptStatus.DELIVERED,
    DeliveryState.CONFIRMED: ReceiptStatus.DELIVERED,
    DeliveryState.FAILED: ReceiptStatus.FAILED,
    DeliveryState.EXPIRED: ReceiptStatus.FAILED,
    DeliveryState.GONE: ReceiptStatus.INVALID_TOKEN,
}


def status_of(state: DeliveryState) -> ReceiptStatus | None:
    """Give what a delivery in this state is reported as; None for what the app did itself, and while it is open."""
    return _STATUSES.get(state)


def next_receipt_try_at(
    *, tries: int, tell_until: datetime, now: datetime, random: Random, retry_after: timedelta | None = None
) -> datetime | None:
    """Give the instant of the next try after `tries` tries (at least 1); None when it would be after `tell_until`.

    The pauses grow from 5 seconds to 4 hours, a fifth of it jitter, and are never shorter than `retry_after`, which
    reaches to `tell_until` at most.
    """
    pause_s = _PAUSES_S[min(tries, len(_PAUSES_S)) - 1]
    wait = timedelta(seconds=pause_s * (1 + _JITTER * (2 * random.random() - 1)))
    at = now + wait
    if at > tell_until:
        return None
    return at if retry_after is None else max(at, min(now + retry_after, tell_until))
