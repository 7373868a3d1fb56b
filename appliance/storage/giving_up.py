"""What becomes of the open deliveries of a device that is given up: settled, explained, and told to their apps."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from appliance.domain.ladder import OPEN, DeliveryState
from appliance.domain.outcome import OutcomeKind
from appliance.storage.deliveries import AttemptRow, look_at_mail, record_attempt
from appliance.storage.receipts import note_many_settled
from appliance.storage.sql import marks, uuid_of
from appliance.storage.writer import Transaction

UNREGISTERED: Final = "The device was unregistered before this could be delivered."
HANDED_ON: Final = "The device was registered by another user or for another app before this could be delivered."
_OPEN_STATES: Final = tuple(sorted(OPEN))
_HUB: Final = 0
"""`channels.contract.ChannelName.HUB`: the layer on which the device's own doings are told."""


def settle_unregistered(transaction: Transaction, device_id: UUID, now: datetime) -> None:
    """Settle what waits for a device that its user or its app has unregistered."""
    ids = _settle(transaction, device_id, DeliveryState.GONE, now)
    _explain(transaction, ids, "device_unregistered", UNREGISTERED, now)
    for delivery_id in ids:
        look_at_mail(transaction, delivery_id, now)


def settle_handed_on(transaction: Transaction, device_id: UUID, now: datetime) -> None:
    """Settle what waits for the former owner of a device: nobody gets what was meant for somebody else."""
    ids = _settle(transaction, device_id, DeliveryState.SUPPRESSED, now)
    _explain(transaction, ids, "device_handed_on", HANDED_ON, now)
    for delivery_id in ids:
        look_at_mail(transaction, delivery_id, now)


def _settle(transaction: Transaction, device_id: UUID, state: DeliveryState, now: datetime) -> list[UUID]:
    # Also what is offered or claimed right now: whoever holds it finds its guard broken and changes nothing. (In the
    # ladder's words its window or lease ends, and then it is suppressed or gone.)
    rows = transaction.fetch_all(
        "UPDATE delivery SET state = ?, settled_at = ?, due_at = NULL, lease_until = NULL "
        f"WHERE device = ? AND settled_at IS NULL AND state IN ({marks(len(_OPEN_STATES))}) RETURNING id",
        (state, now, device_id, *_OPEN_STATES),
    )
    return [uuid_of(row[0]) for row in rows]


def _explain(transaction: Transaction, delivery_ids: Sequence[UUID], code: str, why: str, now: datetime) -> None:
    attempt = AttemptRow(channel=_HUB, started_at=now, latency_ms=None, outcome=OutcomeKind.GONE, code=code, reason=why)
    for delivery_id in delivery_ids:
        record_attempt(transaction, delivery_id, attempt)
    # To the app it has failed: whether the push address is still valid, no provider was asked.
    note_many_settled(transaction, delivery_ids, DeliveryState.FAILED, why, now)
