"""Reading one notification's story: what was asked, its deliveries, their attempts."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from appliance.domain.device import Platform
from appliance.domain.ladder import DeliveryState
from appliance.domain.notification import Content, NotificationState
from appliance.domain.outcome import OutcomeKind
from appliance.storage.database import Database
from appliance.storage.sending import content_of
from appliance.storage.sql import instant_of, marks, optional_instant_of, optional_uuid_of, uuid_of

MAX_DELIVERIES = 1_000
MAX_ATTEMPTS = 5_000


@dataclass(frozen=True, slots=True)
class NotificationRow:
    """A notification with all its instants, and when its user and its app were disabled, if they were."""

    id: UUID
    app_id: UUID
    user_id: UUID
    content: Content
    state: NotificationState
    sequence: int | None
    accepted_at: datetime
    send_at: datetime | None
    released_at: datetime | None
    expires_at: datetime
    withdrawn_at: datetime | None
    read_at: datetime | None
    user_disabled_at: datetime | None = None
    app_disabled_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class StoredAttempt:
    """An attempt as it was recorded."""

    number: int
    channel: int
    started_at: datetime
    latency_ms: int | None
    outcome: OutcomeKind
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class StoredDelivery:
    """A delivery with its attempts, oldest first. One without a device is for a mailbox."""

    id: UUID
    device_id: UUID | None
    device_label: str
    platform: Platform | None
    state: DeliveryState
    channel: int | None
    due_at: datetime | None
    settled_at: datetime | None
    provider_id: str | None
    attempts: Sequence[StoredAttempt]
    is_gathered: bool = False
    waits_for_devices: bool = False


async def load_notification(database: Database, notification_id: UUID) -> NotificationRow | None:
    """Read a notification, or None."""
    row = await database.read_one(
        'SELECT n.id, n.app, n."user", n.title, n.body, n.data, n.type, n.priority, n.ttl_s, n.collapse_key, n.state, '
        "n.sequence, n.accepted_at, n.send_at, n.released_at, n.expires_at, n.withdrawn_at, n.read_at, u.disabled_at, "
        'a.disabled_at FROM notification n LEFT JOIN account u ON u.id = n."user" LEFT JOIN app a ON a.id = n.app '
        "WHERE n.id = ?",
        (notification_id,),
    )
    if row is None:
        return None
    return NotificationRow(
        id=uuid_of(row[0]),
        app_id=uuid_of(row[1]),
        user_id=uuid_of(row[2]),
        content=content_of(row[3:10]),
        state=NotificationState(int(row[10])),
        sequence=row[11],
        accepted_at=instant_of(row[12]),
        send_at=optional_instant_of(row[13]),
        released_at=optional_instant_of(row[14]),
        expires_at=instant_of(row[15]),
        withdrawn_at=optional_instant_of(row[16]),
        read_at=optional_instant_of(row[17]),
        user_disabled_at=optional_instant_of(row[18]),
        app_disabled_at=optional_instant_of(row[19]),
    )


async def load_deliveries(database: Database, notification_id: UUID) -> list[StoredDelivery]:
    """Read a notification's deliveries with their attempts, at most 1000 and 5000."""
    rows = await database.read(
        "SELECT d.id, d.device, v.label, v.platform, d.state, d.channel, d.due_at, d.settled_at, d.provider_id, "
        "d.digest, d.if_unconfirmed "
        "FROM delivery d LEFT JOIN device v ON v.id = d.device WHERE d.notification = ? ORDER BY d.id LIMIT ?",
        (notification_id, MAX_DELIVERIES),
    )
    attempts = await _load_attempts(database, [uuid_of(row[0]) for row in rows])
    return [
        StoredDelivery(
            id=uuid_of(row[0]),
            device_id=optional_uuid_of(row[1]),
            device_label=row[2] or "",
            platform=None if row[3] is None else Platform(int(row[3])),
            state=DeliveryState(int(row[4])),
            channel=row[5],
            due_at=optional_instant_of(row[6]),
            settled_at=optional_instant_of(row[7]),
            provider_id=row[8],
            attempts=attempts.get(uuid_of(row[0]), []),
            is_gathered=row[9] is not None,
            waits_for_devices=bool(row[10]),
        )
        for row in rows
    ]


async def _load_attempts(database: Database, delivery_ids: Sequence[UUID]) -> dict[UUID, list[StoredAttempt]]:
    attempts: dict[UUID, list[StoredAttempt]] = {}
    if not delivery_ids:
        return attempts
    for row in await database.read(
        "SELECT delivery, number, channel, started_at, latency_ms, outcome, code, reason FROM attempt "
        f"WHERE delivery IN ({marks(len(delivery_ids))}) ORDER BY delivery, number LIMIT ?",
        (*delivery_ids, MAX_ATTEMPTS),
    ):
        attempts.setdefault(uuid_of(row[0]), []).append(
            StoredAttempt(
                number=int(row[1]),
                channel=int(row[2]),
                started_at=instant_of(row[3]),
                latency_ms=row[4],
                outcome=OutcomeKind(int(row[5])),
                code=row[6],
                reason=row[7],
            )
        )
    return attempts
