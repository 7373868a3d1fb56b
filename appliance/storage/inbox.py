"""The inbox: what a user can read, in the order of release."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from appliance.domain.errors import NotFound
from appliance.domain.notification import NotificationState, Priority
from appliance.storage.database import Database
from appliance.storage.sending import stored_data
from appliance.storage.sql import Row, instant_of, optional_instant_of, uuid_of
from appliance.storage.writer import Job, Transaction

MAX_PAGE: Final = 200


@dataclass(frozen=True, slots=True)
class InboxEntry:
    """A notification as its user reads it."""

    id: UUID
    app_id: UUID
    app_name: str
    type: str
    title: str
    body: str
    data: Mapping[str, object]
    priority: Priority
    sequence: int
    sent_at: datetime
    expires_at: datetime
    read_at: datetime | None


@dataclass(frozen=True, slots=True)
class InboxPage:
    """Entries and where to go on. `is_complete` False: something behind the given cursor can no longer be read."""

    entries: Sequence[InboxEntry]
    cursor: int
    is_complete: bool


async def load_newest(database: Database, user_id: UUID, *, before: int | None, limit: int) -> InboxPage:
    """Read the newest entries, newest first, or those older than `before`. The cursor is the newest number of all."""
    newest, _ = await _bounds(database, user_id)
    older = "AND n.sequence < ? " if before is not None else ""
    rows = await database.read(
        f"{_SELECT}{older}ORDER BY n.sequence DESC LIMIT ?",
        (user_id, *_VISIBLE, *([before] if before is not None else ()), min(limit, MAX_PAGE)),
    )
    return InboxPage([_entry(row) for row in rows], newest, is_complete=True)


async def load_after(database: Database, user_id: UUID, *, cursor: int, limit: int) -> InboxPage:
    """Read what came after the cursor, oldest first; the page's cursor is the one to give next time."""
    # The bounds first: what is released between the two reads is then in the page or behind its cursor, never lost.
    newest, oldest = await _bounds(database, user_id)
    # A cursor from the future was given out by a database that is no more: nothing can be told apart, so all is new.
    start = cursor if cursor <= newest else 0
    rows = await database.read(
        f"{_SELECT}AND n.sequence > ? ORDER BY n.sequence LIMIT ?", (user_id, *_VISIBLE, start, min(limit, MAX_PAGE))
    )
    entries = [_entry(row) for row in rows]
    last = entries[-1].sequence if entries else start
    # A withdrawn number at the end is passed over too, so that the next call does not look at it again.
    following = max(newest, last) if len(entries) < min(limit, MAX_PAGE) else last
    return InboxPage(entries, following, is_complete=oldest - 1 <= cursor <= newest)


def mark_read_job(user_id: UUID, notification_id: UUID, now: datetime) -> Job[None]:
    """Make the job that marks a notification as read; the first time counts. Raises `NotFound`."""

    def job(transaction: Transaction) -> None:
        changed = transaction.execute(
            'UPDATE notification SET read_at = COALESCE(read_at, ?) WHERE id = ? AND "user" = ? '
            "AND sequence IS NOT NULL AND state IN (?, ?)",
            (now, notification_id, user_id, *_VISIBLE),
        )
        if changed != 1:
            raise NotFound("There is no such notification in your inbox.")

    return job


_VISIBLE: Final = (NotificationState.RELEASED, NotificationState.EXPIRED)
_PRIORITIES: Final = {int(priority): priority for priority in Priority}

_SELECT: Final = (
    "SELECT n.id, n.app, a.name, n.type, n.title, n.body, n.data, n.priority, n.sequence, n.released_at, "
    "n.expires_at, n.read_at FROM notification n LEFT JOIN app a ON a.id = n.app "
    'WHERE n."user" = ? AND n.sequence IS NOT NULL AND n.state IN (?, ?) '
)


async def _bounds(database: Database, user_id: UUID) -> tuple[int, int]:
    row = await database.read_one("SELECT last_sequence, oldest_sequence FROM account WHERE id = ?", (user_id,))
    return (int(row[0]), int(row[1])) if row else (0, 1)


def _entry(row: Row) -> InboxEntry:
    return InboxEntry(
        id=uuid_of(row[0]),
        app_id=uuid_of(row[1]),
        app_name=row[2] or "",
        type=str(row[3]),
        title=str(row[4]),
        body=str(row[5]),
        data=stored_data(row[6]),
        priority=_PRIORITIES[int(row[7])],
        sequence=int(row[8]),
        sent_at=instant_of(row[9]),
        expires_at=instant_of(row[10]),
        read_at=optional_instant_of(row[11]),
    )
