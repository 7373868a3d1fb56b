"""What a device missed: the user's notifications after a cursor, in the order of their release."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from appliance.domain.notification import Content, NotificationState
from appliance.storage.database import Database
from appliance.storage.sending import content_of
from appliance.storage.sql import Row, instant_of, marks, uuid_of


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
    """One page of what is replayed, oldest first.

    `reached` is the number up to which nothing further is to be given: the last row's while `has_more`, else the user's
    newest. `is_complete` is false when something behind the cursor is not kept any more, or the cursor is from a
    database that is no more.
    """

    rows: Sequence[MissedRow]
    is_complete: bool
    reached: int
    has_more: bool


MOST_COUNTED: Final = 10_000

_COLUMNS = (
    "n.id, n.app, n.sequence, n.released_at, n.expires_at, "
    "n.title, n.body, n.data, n.type, n.priority, n.ttl_s, n.collapse_key"
)

# Written down, not given as a parameter: there are indexes over one state alone, and SQLite plans a statement anew each
# time when a parameter might select one of them, which takes several times as long as the reading does.
_RELEASED: Final = f"n.state = {NotificationState.RELEASED:d}"

_BEHIND = (
    "FROM notification n JOIN device v ON v.id = ? "
    f'WHERE n."user" = ? AND n.sequence > ? AND {_RELEASED} AND n.expires_at > ? AND (v.app IS NULL OR v.app = n.app) '
    # Of one collapse key only the newest is worth showing.
    "AND (n.collapse_key IS NULL OR NOT EXISTS (SELECT 1 FROM notification newer "
    'WHERE newer."user" = n."user" AND newer.collapse_key = n.collapse_key AND newer.app = n.app '
    "AND newer.sequence > n.sequence AND newer.state = n.state)) "
)

# CROSS JOIN keeps SQLite from walking through all that the user ever got: few of those are still open.
_STILL_OPEN = (
    "FROM delivery d CROSS JOIN notification n WHERE n.id = d.notification "
    f'AND d.device = ? AND d.settled_at IS NULL AND n."user" = ? AND n.sequence > ? AND {_RELEASED} '
    "AND n.expires_at > ? "
)

_PAGE_BEHIND = f"SELECT {_COLUMNS} {_BEHIND}ORDER BY n.sequence LIMIT ?"

# The numbers are sorted without the contents, which are read for the page alone.
_PAGE_STILL_OPEN = (
    f"SELECT {_COLUMNS} FROM notification n WHERE n.id IN "
    f"(SELECT n.id {_STILL_OPEN}ORDER BY n.sequence LIMIT ?) ORDER BY n.sequence"
)

_BOUNDS = (
    "SELECT u.last_sequence, u.oldest_sequence FROM account u "
    'JOIN device v ON v."user" = u.id AND v.id = ? AND v.retired_at IS NULL WHERE u.id = ?'
)


async def load_missed(
    database: Database,
    *,
    user_id: UUID,
    device_id: UUID,
    after_sequence: int,
    is_open_only: bool,
    limit: int,
    now: datetime,
) -> MissedRows | None:
    """Read the oldest `limit` of what the device missed behind a number; None when it is not the user's live device.

    `is_open_only` is for a device that has no cursor: it gets what is still open for it. Expired and withdrawn
    notifications are left out: showing them late is worse than not at all.
    """
    # The bounds first: what is released between the two reads is then in the page, or its offer comes.
    bounds = await database.read_one(_BOUNDS, (device_id, user_id))
    if bounds is None:
        return None
    newest, oldest = int(bounds[0]), int(bounds[1])
    is_known = is_open_only or oldest - 1 <= after_sequence <= newest
    # A cursor from the future was given out by a database that is no more: nothing can be told apart, so all is new.
    start = after_sequence if after_sequence <= newest else 0
    found = await database.read(
        _PAGE_STILL_OPEN if is_open_only else _PAGE_BEHIND,
        (device_id, user_id, start, now, limit + 1),
    )
    rows = [_missed_row(row) for row in found[:limit]]
    has_more = len(found) > limit
    last = rows[-1].sequence if rows else 0
    return MissedRows(rows, is_known, last if has_more else max(newest, last), has_more)


async def count_missed(
    database: Database, *, user_id: UUID, device_id: UUID, after_sequence: int, is_open_only: bool, now: datetime
) -> int:
    """Count what `load_missed` would give in all its pages; 10 000 stands for that many or more."""
    row = await database.read_one(
        f"SELECT COUNT(*) FROM (SELECT 1 {_STILL_OPEN if is_open_only else _BEHIND}LIMIT ?) AS found",
        (device_id, user_id, after_sequence, now, MOST_COUNTED),
    )
    return int(row[0]) if row else 0


async def load_is_awaited(database: Database, device_id: UUID) -> bool:
    """Tell whether any delivery to the device is still open."""
    row = await database.read_one(
        "SELECT 1 FROM delivery WHERE device = ? AND settled_at IS NULL LIMIT 1", (device_id,)
    )
    return row is not None


async def load_newest(database: Database, device_ids: Sequence[UUID]) -> Mapping[UUID, tuple[UUID, int]]:
    """Read the user of each of these devices and that user's newest number; without the devices that are retired."""
    if not device_ids:
        return {}
    rows = await database.read(
        'SELECT v.id, u.id, u.last_sequence FROM device v JOIN account u ON u.id = v."user" '
        f"WHERE v.id IN ({marks(len(device_ids))}) AND v.retired_at IS NULL",
        device_ids,
    )
    return {uuid_of(row[0]): (uuid_of(row[1]), int(row[2])) for row in rows}


def _missed_row(row: Row) -> MissedRow:
    return MissedRow(
        id=uuid_of(row[0]),
        app_id=uuid_of(row[1]),
        sequence=int(row[2]),
        released_at=instant_of(row[3]),
        expires_at=instant_of(row[4]),
        content=content_of(row[5:12]),
    )
