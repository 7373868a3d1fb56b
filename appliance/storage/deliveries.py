"""Moving deliveries: what the engine reads and writes. Every update is guarded by the ladder's table.

A guard that does not hold changes nothing: an acknowledgement that came first, or a withdrawal, wins over what the
engine had planned.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from appliance.domain.device import AddressKind, Platform
from appliance.domain.identifier import make_id
from appliance.domain.ladder import DeliveryState, Event, advance, is_settled, may, sources
from appliance.domain.notification import Content, NotificationState
from appliance.domain.outcome import OutcomeKind
from appliance.storage.database import Database
from appliance.storage.receipts import EXPIRED_TEXT, note_many_settled, note_settled
from appliance.storage.sending import content_of
from appliance.storage.sql import bytes_of, instant_of, marks, uuid_of
from appliance.storage.writer import Job, Transaction

_MISSED: Final = (DeliveryState.FAILED, DeliveryState.GONE)


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One attempt as it is recorded; `reason` in plain words, without payload or secret."""

    channel: int
    started_at: datetime
    latency_ms: int | None
    outcome: OutcomeKind
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Move:
    """One step of one delivery: the event, the attempt that caused it (if any), and when to look again (if open).

    `lease_until` is that of the claim whose outcome this is: where it ran out and another process has claimed the
    delivery since, the outcome is recorded and moves nothing.
    """

    delivery_id: UUID
    event: Event | None
    attempt: AttemptRow | None = None
    due_at: datetime | None = None
    provider_id: str | None = None
    lease_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Due:
    """A delivery that the engine must look at now, with all that a channel needs."""

    id: UUID
    notification_id: UUID
    device_id: UUID
    user_id: UUID
    app_id: UUID
    state: DeliveryState
    attempts: int
    content: Content
    sequence: int
    released_at: datetime
    expires_at: datetime
    address_kind: AddressKind
    platform: Platform
    address_sealed: bytes
    registered_at: datetime
    device_retired: bool
    is_withdrawn: bool


@dataclass(frozen=True, slots=True)
class Busy:
    """Deliveries to one kind of address that need not be read: those of all apps but these, or of these alone."""

    kind: AddressKind
    apps: tuple[UUID, ...] = ()
    is_all_but: bool = True


def move_job(moves: Sequence[Move], now: datetime) -> Job[list[bool]]:
    """Make the job that applies the moves in order; tells for each whether its guard held.

    An attempt is recorded even where the guard did not hold: a late acknowledgement is still a fact. Only that nobody
    answered is not recorded of a delivery that is settled.
    """

    def job(transaction: Transaction) -> list[bool]:
        return [apply_move(transaction, move, now) for move in moves]

    return job


def claim_job(delivery_ids: Sequence[UUID], lease_until: datetime) -> Job[list[UUID]]:
    """Make the job that claims deliveries for a remote try until `lease_until`; gives those that could be claimed."""

    def job(transaction: Transaction) -> list[UUID]:
        claimable = sources(Event.CLAIM)
        # A withdrawal that came while an earlier try was in flight must not be overtaken by the next one.
        rows = transaction.fetch_all(
            "UPDATE delivery SET state = ?, attempts = attempts + 1, lease_until = ?, due_at = ? "
            f"WHERE id IN ({marks(len(delivery_ids))}) AND state IN ({marks(len(claimable))}) AND EXISTS "
            "(SELECT 1 FROM notification n WHERE n.id = delivery.notification AND n.state = ?) RETURNING id",
            (
                DeliveryState.CLAIMED,
                lease_until,
                lease_until,
                *delivery_ids,
                *claimable,
                NotificationState.RELEASED,
            ),
        )
        return [uuid_of(row[0]) for row in rows]

    return job


def acknowledge_job(device_id: UUID, notification_id: UUID, attempt: AttemptRow, now: datetime) -> Job[bool]:
    """Make the job that confirms the delivery of one notification to one device.

    False when there is no such delivery: a foreign or unknown notification. Repeating it is harmless and records
    nothing further.
    """

    def job(transaction: Transaction) -> bool:
        row = transaction.fetch_one(
            "SELECT id, state FROM delivery WHERE notification = ? AND device = ?", (notification_id, device_id)
        )
        if row is None:
            return _confirm_replayed(transaction, device_id, notification_id, attempt, now)
        if not may(DeliveryState(row[1]), Event.ACKNOWLEDGE) and _has_attempt(transaction, uuid_of(row[0]), attempt):
            return True
        apply_move(transaction, Move(uuid_of(row[0]), Event.ACKNOWLEDGE, attempt), now)
        _touch_delivered(transaction, [device_id], now)
        return True

    return job


def _has_attempt(transaction: Transaction, delivery_id: UUID, attempt: AttemptRow) -> bool:
    sql = "SELECT 1 FROM attempt WHERE delivery = ? AND outcome = ? LIMIT 1"
    return transaction.fetch_one(sql, (delivery_id, attempt.outcome)) is not None


def _confirm_replayed(
    transaction: Transaction, device_id: UUID, notification_id: UUID, attempt: AttemptRow, now: datetime
) -> bool:
    """Confirm what a device got by replay that was not registered yet when the notification was sent."""
    row = transaction.fetch_one(
        'SELECT n."user", n.expires_at FROM notification n JOIN device v ON v."user" = n."user" '
        "WHERE n.id = ? AND v.id = ? AND n.state = ? AND (v.app IS NULL OR v.app = n.app)",
        (notification_id, device_id, NotificationState.RELEASED),
    )
    if row is None:
        return False
    # Another node may record the same acknowledgement at this moment: there is one delivery of one to one.
    [kept] = transaction.fetch_all(
        'INSERT INTO delivery (id, notification, device, "user", state, attempts, expires_at) '
        "VALUES (?, ?, ?, ?, ?, 0, ?) ON CONFLICT (notification, device) WHERE device IS NOT NULL "
        "DO UPDATE SET notification = excluded.notification RETURNING id",
        (make_id(now), notification_id, device_id, uuid_of(row[0]), DeliveryState.QUEUED, instant_of(row[1])),
    )
    delivery_id = uuid_of(kept[0])
    apply_move(transaction, Move(delivery_id, Event.ACKNOWLEDGE, attempt), now)
    _touch_delivered(transaction, [device_id], now)
    return True


def confirm_seen_job(device_id: UUID, cursor: int, attempt: AttemptRow, now: datetime, limit: int) -> Job[int]:
    """Make the job that confirms what the device's own cursor shows that it has, at most `limit`; gives how many.

    A device is sent its notifications in order, so its cursor shows all of them that were sent. Not sent are only those
    that the history left out when it passed their place: expired or withdrawn ones. They are never confirmed here; what
    has run out by now may have been shown or left out, nobody can tell, and is not confirmed either. A cursor from the
    future belongs to a database that is no more, and confirms nothing.
    """

    def job(transaction: Transaction) -> int:
        rows = transaction.fetch_all(
            "SELECT d.id FROM delivery d JOIN notification n ON n.id = d.notification "
            'JOIN account u ON u.id = d."user" '
            "WHERE d.device = ? AND d.settled_at IS NULL AND n.sequence <= ? AND u.last_sequence >= ? "
            "AND n.state = ? AND n.expires_at > ? LIMIT ?",
            (device_id, cursor, cursor, NotificationState.RELEASED, now, limit),
        )
        for row in rows:
            apply_move(transaction, Move(uuid_of(row[0]), Event.ACKNOWLEDGE, attempt), now)
        if rows:
            _touch_delivered(transaction, [device_id], now)
        return len(rows)

    return job


def recover_job(now: datetime) -> Job[int]:
    """Make the job for the start of a single node: what was claimed or offered by a process that died is open again."""

    def job(transaction: Transaction) -> int:
        return transaction.execute(
            # What is settled is most of the table, and what is open has an index.
            "UPDATE delivery SET state = ?, lease_until = NULL, due_at = ? "
            "WHERE settled_at IS NULL AND state IN (?, ?)",
            (DeliveryState.QUEUED, now, DeliveryState.OFFERED, DeliveryState.CLAIMED),
        )

    return job


def hand_back_job(claims: Mapping[datetime, Sequence[UUID]], now: datetime) -> Job[int]:
    """Make the job that gives claims back at a graceful stop, by their lease, without counting the try."""
    state = advance(DeliveryState.CLAIMED, Event.LEASE_LAPSED)

    def job(transaction: Transaction) -> int:
        return sum(
            transaction.execute(
                "UPDATE delivery SET state = ?, lease_until = NULL, due_at = ?, attempts = attempts - 1 "
                f"WHERE id IN ({marks(len(delivery_ids))}) AND state = ? AND lease_until = ?",
                (state, now, *delivery_ids, DeliveryState.CLAIMED, lease_until),
            )
            for lease_until, delivery_ids in claims.items()
        )

    return job


def lapse_job(now: datetime, held: Sequence[UUID] = ()) -> Job[int]:
    """Make the job that opens claims again whose lease ran out: the process that held them is gone.

    `held` are those that this process still has in hand; a clock that jumped does not take them away.
    """
    but_held = f" AND id NOT IN ({marks(len(held))})" if held else ""

    def job(transaction: Transaction) -> int:
        return transaction.execute(
            "UPDATE delivery SET state = ?, lease_until = NULL "
            f"WHERE state = ? AND due_at <= ? AND lease_until <= ?{but_held}",
            (advance(DeliveryState.CLAIMED, Event.LEASE_LAPSED), DeliveryState.CLAIMED, now, now, *held),
        )

    return job


def expire_job(now: datetime, limit: int) -> Job[int]:
    """Make the job that settles deliveries whose time to live has passed and that nobody holds, at most `limit`."""

    def job(transaction: Transaction) -> int:
        expirable = sources(Event.EXPIRE)[:2]
        expired = transaction.fetch_all(
            "UPDATE delivery SET state = ?, settled_at = ?, due_at = NULL, lease_until = NULL WHERE id IN "
            f"(SELECT id FROM delivery WHERE due_at <= ? AND expires_at <= ? AND state IN ({marks(len(expirable))}) "
            "ORDER BY due_at LIMIT ?) RETURNING id",
            (advance(DeliveryState.QUEUED, Event.EXPIRE), now, now, now, *expirable, limit),
        )
        ids = [uuid_of(row[0]) for row in expired]
        note_many_settled(transaction, ids, DeliveryState.EXPIRED, EXPIRED_TEXT, now)
        return len(ids)

    return job


def retire_device_job(device_id: UUID, reason: str, now: datetime) -> Job[None]:
    """Make the job that retires a device on its provider's word: soft, and undone by registering again or by Hello.

    A device that Hello has revived is on the hub alone: what its provider still says late is not about it any more.
    """

    def job(transaction: Transaction) -> None:
        transaction.execute(
            "UPDATE device SET retired_at = ?, retired_reason = ? "
            "WHERE id = ? AND address_kind <> ? AND retired_at IS NULL",
            (now, reason, device_id, AddressKind.HUB),
        )

    return job


_DUE_SQL = (
    'SELECT d.id, d.notification, d.device, d."user", n.app, d.state, d.attempts, n.sequence, n.released_at, '
    "d.expires_at, v.address_kind, v.platform, v.address_sealed, COALESCE(v.registered_at, v.created_at), "
    "v.retired_at, n.state, n.title, n.body, n.data, n.type, n.priority, n.ttl_s, n.collapse_key "
    "FROM delivery d JOIN notification n ON n.id = d.notification JOIN device v ON v.id = d.device "
    "WHERE d.due_at <= ? "
)


async def load_due(database: Database, now: datetime, *, limit: int, busy: Sequence[Busy] = ()) -> list[Due]:
    """Read the deliveries that are due, oldest first, leaving out those whose channel has no free slot."""
    without = "".join(_without(one) for one in busy)
    left_out = [value for one in busy for value in (one.kind, *one.apps)]
    rows = await database.read(f"{_DUE_SQL}{without}ORDER BY d.due_at LIMIT ?", (now, *left_out, limit))
    return [_due_of(row) for row in rows]


def _without(busy: Busy) -> str:
    if not busy.apps:
        return "AND v.address_kind <> ? "
    return f"AND (v.address_kind <> ? OR n.app {'IN' if busy.is_all_but else 'NOT IN'} ({marks(len(busy.apps))})) "


async def load_next_due_at(database: Database) -> datetime | None:
    """Tell when the engine must look next: the earliest delivery, or scheduled notification."""
    rows = [
        *(await database.read("SELECT MIN(due_at) FROM delivery WHERE due_at IS NOT NULL")),
        *(
            await database.read(
                "SELECT MIN(send_at) FROM notification WHERE state = 0 AND send_at IS NOT NULL",
            )
        ),
    ]
    instants = [instant_of(row[0]) for row in rows if row[0] is not None]
    return min(instants, default=None)


def _due_of(row: Sequence[object]) -> Due:
    return Due(
        id=uuid_of(row[0]),
        notification_id=uuid_of(row[1]),
        device_id=uuid_of(row[2]),
        user_id=uuid_of(row[3]),
        app_id=uuid_of(row[4]),
        state=DeliveryState(int(str(row[5]))),
        attempts=int(str(row[6])),
        sequence=int(str(row[7])),
        released_at=instant_of(row[8]),
        expires_at=instant_of(row[9]),
        address_kind=AddressKind(int(str(row[10]))),
        platform=Platform(int(str(row[11]))),
        address_sealed=bytes_of(row[12]),
        registered_at=instant_of(row[13]),
        device_retired=row[14] is not None,
        is_withdrawn=int(str(row[15])) == NotificationState.WITHDRAWN,
        content=content_of(row[16:23]),
    )


def apply_move(transaction: Transaction, move: Move, now: datetime) -> bool:
    """Apply one move within a job; tells whether its guard held."""
    held = True
    if move.event is not None:
        legal = sources(move.event)
        target = advance(legal[0], move.event)
        settled = is_settled(target)
        held = (
            transaction.execute(
                "UPDATE delivery SET state = ?, due_at = ?, lease_until = NULL, settled_at = ?, "
                "channel = COALESCE(?, channel), provider_id = COALESCE(?, provider_id) "
                f"WHERE id = ? AND state IN ({marks(len(legal))})"
                f"{'' if move.lease_until is None else ' AND lease_until = ?'}",
                (
                    target,
                    None if settled else move.due_at,
                    now if settled else None,
                    move.attempt.channel if move.attempt else None,
                    move.provider_id,
                    move.delivery_id,
                    *legal,
                    *(() if move.lease_until is None else (move.lease_until,)),
                ),
            )
            > 0
        )
        if held and settled:
            note_settled(transaction, move.delivery_id, target, _error_of(move, target), now)
        if held and target in _MISSED:
            look_at_mail(transaction, move.delivery_id, now)
    elif move.due_at is not None:
        # What is claimed is due when its lease runs out, and at no other time.
        held = (
            transaction.execute(
                "UPDATE delivery SET due_at = CASE WHEN state = ? THEN due_at ELSE ? END "
                "WHERE id = ? AND settled_at IS NULL",
                (DeliveryState.CLAIMED, move.due_at, move.delivery_id),
            )
            > 0
        )
    # A window that passed tells nothing about a delivery that was answered before the offer was even made: its replay
    # was quicker.
    if move.attempt is not None and (held or move.attempt.outcome is not OutcomeKind.UNANSWERED):
        record_attempt(transaction, move.delivery_id, move.attempt)
    return held


def look_at_mail(transaction: Transaction, delivery_id: UUID, now: datetime) -> None:
    """Look now at what is mailed only when no device has it: this one will not."""
    transaction.execute(
        "UPDATE delivery SET due_at = ? WHERE notification = (SELECT notification FROM delivery WHERE id = ?) "
        "AND if_unconfirmed = ? AND mailbox IS NOT NULL AND state = ? AND digest IS NULL AND attempts = 0",
        (now, delivery_id, True, DeliveryState.QUEUED),
    )


def _error_of(move: Move, state: DeliveryState) -> str | None:
    if state is DeliveryState.EXPIRED:
        return EXPIRED_TEXT
    return None if move.attempt is None else move.attempt.reason


def record_attempt(transaction: Transaction, delivery_id: UUID, attempt: AttemptRow) -> None:
    """Record an attempt as the delivery's next one."""
    transaction.execute(
        "INSERT INTO attempt (id, delivery, number, channel, started_at, latency_ms, outcome, code, reason) "
        "VALUES (?, ?, (SELECT COUNT(*) + 1 FROM attempt WHERE delivery = ?), ?, ?, ?, ?, ?, ?)",
        (
            make_id(attempt.started_at),
            delivery_id,
            delivery_id,
            attempt.channel,
            attempt.started_at,
            attempt.latency_ms,
            attempt.outcome,
            attempt.code,
            attempt.reason,
        ),
    )


def _touch_delivered(transaction: Transaction, device_ids: Sequence[UUID], now: datetime) -> None:
    transaction.execute(
        f"UPDATE device SET last_delivered_at = ?, last_seen_at = ? WHERE id IN ({marks(len(device_ids))})",
        (now, now, *device_ids),
    )
