"""Receipts on disk: written in the transaction that settles their delivery, so that none is lost or told too early."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from appliance.domain.identifier import make_id
from appliance.domain.ladder import DeliveryState
from appliance.domain.receipt import TRIED_FOR, ReceiptState, ReceiptStatus, status_of
from appliance.storage.database import Database
from appliance.storage.sql import Row, bytes_of, instant_of, marks, optional_instant_of, optional_uuid_of, uuid_of
from appliance.storage.writer import Job, Transaction

EXPIRED_TEXT: Final = "The notification expired before the device could be reached."
NEVER_TAKEN: Final = "The webhook did not take earlier receipts in all that time, so this one was not tried."
MAX_ANSWER_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class ReceiptRow:
    """One receipt. `number` counts an app's receipts 1, 2, 3…; `answer` is what the last try came to."""

    id: UUID
    app_id: UUID
    notification_id: UUID
    user_id: UUID
    device_id: UUID | None
    number: int
    status: ReceiptStatus
    error: str | None
    state: ReceiptState
    tries: int
    next_try_at: datetime | None
    tell_until: datetime
    created_at: datetime
    answer: str | None


@dataclass(frozen=True, slots=True)
class DueReceipt:
    """A receipt that is to be sent now, and where to; the secrets are sealed."""

    row: ReceiptRow
    url: str
    secret_sealed: bytes = field(repr=False)
    previous_secret_sealed: bytes | None = field(repr=False)
    rotated_at: datetime | None


@dataclass(frozen=True, slots=True)
class Told:
    """What a try came to: done, dead, or to be tried again at `next_try_at`."""

    receipt_id: UUID
    state: ReceiptState
    answer: str
    next_try_at: datetime | None = None


def note_settled(
    transaction: Transaction, delivery_id: UUID, state: DeliveryState, error: str | None, now: datetime
) -> None:
    """Write the receipt of a delivery that has just come to this state, once for each status it comes to.

    Nothing is written for an app without a webhook, nor for what the app did itself.
    """
    status = status_of(state)
    if status is None:
        return
    # One statement tells whether there is a webhook and draws the number: for most deliveries it changes nothing.
    rows = transaction.fetch_all(
        "UPDATE app SET last_receipt = last_receipt + 1 WHERE webhook_url IS NOT NULL "
        "AND webhook_secret_sealed IS NOT NULL AND id = (SELECT n.app FROM delivery d "
        "JOIN notification n ON n.id = d.notification WHERE d.id = ?) "
        "AND NOT EXISTS (SELECT 1 FROM receipt r WHERE r.delivery = ? AND r.status = ?) RETURNING last_receipt",
        (delivery_id, delivery_id, status),
    )
    if not rows:
        return
    transaction.execute(
        'INSERT INTO receipt (id, app, delivery, notification, "user", device, number, status, error, state, tries, '
        "next_try_at, tell_until, created_at) "
        'SELECT ?, n.app, d.id, n.id, d."user", d.device, ?, ?, ?, ?, 0, ?, ?, ? '
        "FROM delivery d JOIN notification n ON n.id = d.notification WHERE d.id = ?",
        (
            make_id(now),
            int(rows[0][0]),
            status,
            error if status is not ReceiptStatus.DELIVERED else None,
            ReceiptState.PENDING,
            now,
            now + TRIED_FOR,
            now,
            delivery_id,
        ),
    )


def note_many_settled(
    transaction: Transaction, delivery_ids: Sequence[UUID], state: DeliveryState, error: str | None, now: datetime
) -> None:
    """Do the same for many deliveries at once, at the cost of a few statements."""
    status = status_of(state)
    if status is None or not delivery_ids:
        return
    rows = transaction.fetch_all(
        'SELECT n.app, d.id, n.id, d."user", d.device FROM delivery d JOIN notification n ON n.id = d.notification '
        f"JOIN app a ON a.id = n.app WHERE d.id IN ({marks(len(delivery_ids))}) AND a.webhook_url IS NOT NULL "
        "AND a.webhook_secret_sealed IS NOT NULL "
        "AND NOT EXISTS (SELECT 1 FROM receipt r WHERE r.delivery = d.id AND r.status = ?) ORDER BY n.app, d.id",
        (*delivery_ids, status),
    )
    by_app: dict[UUID, list[Row]] = {}
    for row in rows:
        by_app.setdefault(uuid_of(row[0]), []).append(row)
    for app_id, of_app in by_app.items():
        drawn = transaction.fetch_all(
            "UPDATE app SET last_receipt = last_receipt + ? WHERE id = ? RETURNING last_receipt", (len(of_app), app_id)
        )
        first = int(drawn[0][0]) - len(of_app) + 1
        transaction.execute_many(
            'INSERT INTO receipt (id, app, delivery, notification, "user", device, number, status, error, state, '
            "tries, next_try_at, tell_until, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?)",
            [
                (
                    make_id(now),
                    app_id,
                    uuid_of(row[1]),
                    uuid_of(row[2]),
                    uuid_of(row[3]),
                    optional_uuid_of(row[4]),
                    number,
                    status,
                    error if status is not ReceiptStatus.DELIVERED else None,
                    ReceiptState.PENDING,
                    now,
                    now + TRIED_FOR,
                    now,
                )
                for number, row in enumerate(of_app, start=first)
            ],
        )


async def list_apps_due(database: Database, now: datetime) -> list[UUID]:
    """Give the apps that have receipts due, in the order of their ids."""
    rows = await database.read(
        "SELECT a.id FROM app a WHERE EXISTS "
        "(SELECT 1 FROM receipt r WHERE r.app = a.id AND r.next_try_at <= ?) ORDER BY a.id",
        (now,),
    )
    return [uuid_of(row[0]) for row in rows]


async def list_due(database: Database, app_id: UUID, now: datetime, limit: int) -> list[UUID]:
    """Give an app's receipts that are due, the oldest first."""
    rows = await database.read(
        "SELECT id FROM receipt WHERE app = ? AND next_try_at <= ? ORDER BY next_try_at, number LIMIT ?",
        (app_id, now, limit),
    )
    return [uuid_of(row[0]) for row in rows]


def claim_receipts_job(receipt_ids: Sequence[UUID], now: datetime, lease_until: datetime) -> Job[list[UUID]]:
    """Make the job that claims those of the receipts that are still due; gives their ids.

    A claim whose lease ran out belongs to a process that died, and is due again.
    """

    def job(transaction: Transaction) -> list[UUID]:
        rows = transaction.fetch_all(
            "UPDATE receipt SET state = ?, tries = tries + 1, lease_until = ?, next_try_at = ? "
            f"WHERE id IN ({marks(len(receipt_ids))}) AND next_try_at <= ? RETURNING id",
            (ReceiptState.CLAIMED, lease_until, lease_until, *receipt_ids, now),
        )
        return [uuid_of(row[0]) for row in rows]

    return job


def bury_receipts_job(before: datetime, now: datetime, limit: int) -> Job[int]:
    """Make the job that gives up receipts which were to be told before that moment, at most `limit`; gives how many."""

    def job(transaction: Transaction) -> int:
        return transaction.execute(
            "UPDATE receipt SET state = ?, next_try_at = NULL, settled_at = ?, answer = COALESCE(answer, ?) "
            "WHERE id IN (SELECT id FROM receipt WHERE next_try_at IS NOT NULL AND tell_until < ? AND state = ? "
            "LIMIT ?)",
            (ReceiptState.DEAD, now, NEVER_TAKEN, before, ReceiptState.PENDING, limit),
        )

    return job


def told_job(told: Sequence[Told], now: datetime) -> Job[None]:
    """Make the job that records what tries came to."""

    def job(transaction: Transaction) -> None:
        for one in told:
            transaction.execute(
                "UPDATE receipt SET state = ?, answer = ?, next_try_at = ?, lease_until = NULL, settled_at = ? "
                "WHERE id = ? AND state = ?",
                (
                    one.state,
                    one.answer[:MAX_ANSWER_CHARS],
                    one.next_try_at,
                    None if one.state is ReceiptState.PENDING else now,
                    one.receipt_id,
                    ReceiptState.CLAIMED,
                ),
            )

    return job


def hand_back_receipts_job(receipt_ids: Sequence[UUID], now: datetime) -> Job[int]:
    """Make the job that gives claims back at a graceful stop, without counting the try."""

    def job(transaction: Transaction) -> int:
        return transaction.execute(
            "UPDATE receipt SET state = ?, tries = tries - 1, lease_until = NULL, next_try_at = ? "
            f"WHERE id IN ({marks(len(receipt_ids))}) AND state = ?",
            (ReceiptState.PENDING, now, *receipt_ids, ReceiptState.CLAIMED),
        )

    return job


def replay_receipts_job(app_id: UUID, receipt_ids: Sequence[UUID] | None, now: datetime, limit: int) -> Job[int]:
    """Make the job that sends dead letters again for two days, at most `limit`: those named, or all of the app's.

    Gives how many; where it is `limit`, there may be more.
    """
    named = "" if receipt_ids is None else f" AND id IN ({marks(len(receipt_ids))})"

    def job(transaction: Transaction) -> int:
        return transaction.execute(
            "UPDATE receipt SET state = ?, tries = 0, next_try_at = ?, settled_at = NULL, tell_until = ? WHERE id IN "
            f"(SELECT id FROM receipt WHERE app = ? AND state = ?{named} ORDER BY number LIMIT ?)",
            (ReceiptState.PENDING, now, now + TRIED_FOR, app_id, ReceiptState.DEAD, *(receipt_ids or ()), limit),
        )

    return job


_COLUMNS: Final = (
    'r.id, r.app, r.notification, r."user", r.device, r.number, r.status, r.error, r.state, r.tries, r.next_try_at, '
    "r.tell_until, r.created_at, r.answer"
)


async def load_claimed(database: Database, receipt_ids: Sequence[UUID]) -> list[DueReceipt]:
    """Read what was claimed, with the webhook of its app; an app without one any more gives nothing."""
    if not receipt_ids:
        return []
    rows = await database.read(
        f"SELECT {_COLUMNS}, a.webhook_url, a.webhook_secret_sealed, a.webhook_secret_previous_sealed, "
        "a.webhook_secret_rotated_at FROM receipt r JOIN app a ON a.id = r.app "
        f"WHERE r.id IN ({marks(len(receipt_ids))}) AND a.webhook_url IS NOT NULL ORDER BY r.number",
        tuple(receipt_ids),
    )
    return [
        DueReceipt(
            row=_row(row),
            url=str(row[14]),
            secret_sealed=bytes_of(row[15]),
            previous_secret_sealed=None if row[16] is None else bytes_of(row[16]),
            rotated_at=optional_instant_of(row[17]),
        )
        for row in rows
    ]


async def load_next_receipt_at(database: Database) -> datetime | None:
    """Tell when the next receipt is due, None when there is none."""
    row = await database.read_one("SELECT MIN(next_try_at) FROM receipt WHERE next_try_at IS NOT NULL", ())
    return None if row is None else optional_instant_of(row[0])


async def list_receipts(
    database: Database, app_id: UUID, *, state: ReceiptState | None, after: int | None, limit: int
) -> list[ReceiptRow]:
    """Read an app's receipts, the newest first; `after` is the number of the last one of the page before."""
    conditions: list[str] = ["r.app = ?"]
    parameters: list[object] = [app_id]
    if state is not None:
        conditions.append("r.state = ?")
        parameters.append(state)
    if after is not None:
        conditions.append("r.number < ?")
        parameters.append(after)
    rows = await database.read(
        f"SELECT {_COLUMNS} FROM receipt r WHERE {' AND '.join(conditions)} ORDER BY r.number DESC LIMIT ?",
        (*parameters, limit),
    )
    return [_row(row) for row in rows]


def _row(row: Row) -> ReceiptRow:
    return ReceiptRow(
        id=uuid_of(row[0]),
        app_id=uuid_of(row[1]),
        notification_id=uuid_of(row[2]),
        user_id=uuid_of(row[3]),
        device_id=optional_uuid_of(row[4]),
        number=int(row[5]),
        status=ReceiptStatus(int(row[6])),
        error=row[7],
        state=ReceiptState(int(row[8])),
        tries=int(row[9]),
        next_try_at=optional_instant_of(row[10]),
        tell_until=instant_of(row[11]),
        created_at=instant_of(row[12]),
        answer=row[13],
    )
