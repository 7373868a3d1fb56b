"""Holding back what is still open for somebody who was shut out: nothing is sent to them or in their name any more."""

from datetime import datetime
from typing import Final
from uuid import UUID

from appliance.domain.ladder import OPEN, DeliveryState
from appliance.storage.sql import marks
from appliance.storage.writer import Job, Transaction

_OPEN_STATES: Final = tuple(sorted(OPEN))

# Also what is offered or claimed right now: whoever holds it finds its guard broken and changes nothing. (In the
# ladder's words its window or lease ends, and then it is suppressed.)
_SUPPRESS: Final = "UPDATE delivery SET state = ?, settled_at = ?, due_at = NULL, lease_until = NULL WHERE "
_IS_OPEN: Final = f"settled_at IS NULL AND state IN ({marks(len(_OPEN_STATES))})"


def suppress_deliveries_of_user(transaction: Transaction, user_id: UUID, now: datetime) -> int:
    """Settle all that is still open for a user and give the number; call it in the transaction that disables them."""
    # What is open is indexed by device, and a mailbox has none; asked in one, the two would be searched for everywhere.
    changed = (DeliveryState.SUPPRESSED, now, *_OPEN_STATES, user_id)
    of_user = f'{_SUPPRESS}{_IS_OPEN} AND "user" = ?'
    return transaction.execute(
        f'{of_user} AND device IN (SELECT id FROM device WHERE "user" = ?)', (*changed, user_id)
    ) + transaction.execute(f"{of_user} AND device IS NULL", changed)


def suppress_deliveries_of_app_job(app_id: UUID, now: datetime, limit: int) -> Job[int]:
    """Make the job that settles at most `limit` of what is still open of an app's notifications; gives the number.

    Repeat it until it gives less, so that a large backlog does not hold the writer for long.
    """

    def job(transaction: Transaction) -> int:
        # From the open deliveries to their notifications, not the other way round: an app's settled ones are many.
        return transaction.execute(
            f"{_SUPPRESS}id IN (SELECT id FROM delivery WHERE due_at IS NOT NULL AND {_IS_OPEN} "
            "AND (SELECT app FROM notification WHERE id = delivery.notification) = ? LIMIT ?)",
            (DeliveryState.SUPPRESSED, now, *_OPEN_STATES, app_id, limit),
        )

    return job
