"""What a device missed: the user's notifications after a cursor, in the order of their release."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from appliance.domain.notification import Content, NotificationState
from appliance.storage.database import Database
from appliance.storage.sending import content_of
from appliance.storage.sql import Row, instant_of, uuid_of


@dataclass(frozen=True, slots=True)
class MissedRow:
    """One notification to replay."""

    id: UUID
    app_id: UUID
    content: Content
    sequence: int
    released_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class MissedRows:
    """What is replayed. `is_complete` is false when something after the cursor is not kept any more or is too much.

    `newest` is the user's newest sequence number when it was read: the client's next cursor.
    """

    rows: Sequence[MissedRow]
    is_complete: bool
    newest: int


_COLUMNS = (
    "n.id, n.app, n.sequence, n.released_at, n.expires_at, "
    "n.title, n.body, n.data, n.type, n.priority, n.ttl_s, n.collapse_key"
)

_AFTER_CURSOR = (
    f"SELECT {_COLUMNS} FROM notification n JOIN device v ON v.id = ? "
    'WHERE n."user" = ? AND n.sequence > ? AND n.state = ? AND n.expires_at > ? AND (v.app IS NULL OR v.app = n.app) '
    "ORDER BY n.sequence DESC LIMIT ?"
)

_STILL_OPEN = (
    f"SELECT {_COLUMNS} FROM delivery d JOIN notification n ON n.id = d.notification "
    'WHERE d.device = ? AND d.settled_at IS NULL AND n."user" = ? AND n.state = ? AND n.expires_at > ? '
    "ORDER BY n.sequence DESC LIMIT ?"
)


async def load_missed(
    database: Database, *, user_id: UUID, device_id: UUID, after_sequence: int | None, limit: int, now: datetime
) -> MissedRows:
    """Read what the device missed: after its cursor, or without one what is still open for it; the newest `limit`.

    Expired and withdrawn notifications are left out: showing them late is worse than not at all.
    """
    row = await database.read_one("SELECT last_sequence, oldest_sequence FROM account WHERE id = ?", (user_id,))
    newest, oldest = (int(row[0]), int(row[1])) if row else (0, 1)
    if after_sequence is None:
        rows = await database.read(_STILL_OPEN, (device_id, user_id, NotificationState.RELEASED, now, limit + 1))
        return _missed(rows, limit, newest, is_complete=True)
    is_known = oldest - 1 <= after_sequence <= newest
    # A cursor from the future was given out by a database that is no more: nothing can be told apart, so all is new.
    start = after_sequence if after_sequence <= newest else 0
    rows = await database.read(_AFTER_CURSOR, (device_id, user_id, start, NotificationState.RELEASED, now, limit + 1))
    return _missed(rows, limit, newest, is_complete=is_known)


def _missed(rows: Sequence[Row], limit: int, newest: int, *, is_complete: bool) -> MissedRows:
    kept = [_missed_row(row) for row in reversed(rows[:limit])]
    return MissedRows(kept, is_complete and len(rows) <= limit, max(newest, kept[-1].sequence if kept else 0))


def _missed_row(row: Row) -> MissedRow:
    return MissedRow(
        id=uuid_of(row[0]),
        app_id=uuid_of(row[1]),
        sequence=int(row[2]),
        released_at=instant_of(row[3]),
        expires_at=instant_of(row[4]),
        content=content_of(row[5:12]),
    )
