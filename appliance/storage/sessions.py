"""Web sessions: a signed-in browser each, found by the keyed hash of its cookie."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from appliance.domain.principal import Role
from appliance.storage.database import Database
from appliance.storage.sql import Row, instant_of, marks, uuid_of
from appliance.storage.writer import Transaction

MAX_USER_AGENT_CHARS: Final = 200
MAX_SESSIONS_PER_USER: Final = 100

_SELECT: Final = (
    'SELECT s.id, s."user", a.username, a.role, s.created_at, s.last_seen_at, s.expires_at'
    ' FROM web_session s JOIN account a ON a.id = s."user"'
)


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session and the user it speaks for; `id` is a hash, the cookie itself is never stored."""

    id: str
    user_id: UUID
    username: str
    role: Role
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime


def insert_session(
    transaction: Transaction, session_id: str, user_id: UUID, *, at: datetime, expires_at: datetime, user_agent: str
) -> None:
    """Add a session; a user's oldest ones beyond a hundred are ended."""
    transaction.execute(
        'INSERT INTO web_session (id, "user", created_at, last_seen_at, expires_at, user_agent)'
        " VALUES (?, ?, ?, ?, ?, ?)",
        (session_id, user_id, at, at, expires_at, user_agent[:MAX_USER_AGENT_CHARS]),
    )
    transaction.execute(
        'DELETE FROM web_session WHERE "user" = ? AND id NOT IN'
        ' (SELECT id FROM web_session WHERE "user" = ? ORDER BY created_at DESC, id LIMIT ?)',
        (user_id, user_id, MAX_SESSIONS_PER_USER),
    )


def prolong_session(transaction: Transaction, session_id: str, *, seen_at: datetime, expires_at: datetime) -> None:
    """Note that a session is in use and let it last until `expires_at`."""
    sql = "UPDATE web_session SET last_seen_at = ?, expires_at = ? WHERE id = ?"
    transaction.execute(sql, (seen_at, expires_at, session_id))


def delete_session(transaction: Transaction, session_id: str) -> bool:
    """End one session. False: there was none."""
    return transaction.execute("DELETE FROM web_session WHERE id = ?", (session_id,)) == 1


def delete_sessions_of(transaction: Transaction, user_id: UUID, *, except_id: str | None = None) -> int:
    """End a user's sessions, all or all but one, and give their number."""
    if except_id is None:
        return transaction.execute('DELETE FROM web_session WHERE "user" = ?', (user_id,))
    return transaction.execute('DELETE FROM web_session WHERE "user" = ? AND id <> ?', (user_id, except_id))


async def load_session(database: Database, session_ids: Sequence[str], now: datetime) -> SessionRow | None:
    """Find the living session under one of the hashes; one of a disabled user does not live."""
    row = await database.read_one(
        _SELECT + " WHERE a.disabled_at IS NULL AND s.expires_at > ? AND s.id IN (" + marks(len(session_ids)) + ")",
        (now, *session_ids),
    )
    return None if row is None else _session(row)


def _session(row: Row) -> SessionRow:
    return SessionRow(
        id=str(row[0]),
        user_id=uuid_of(row[1]),
        username=str(row[2]),
        role=Role(row[3]),
        created_at=instant_of(row[4]),
        last_seen_at=instant_of(row[5]),
        expires_at=instant_of(row[6]),
    )
