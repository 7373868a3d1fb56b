"""The audit log: who changed what, when, from where. What must reach other processes at once is read back from here."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from appliance.domain.identifier import make_id
from appliance.storage.database import Database
from appliance.storage.sql import Row, instant_of, marks, uuid_of
from appliance.storage.writer import Transaction

MAX_PAGE: Final = 500
_ACTOR_CHARS: Final = 80
_TARGET_CHARS: Final = 500
_ADDRESS_CHARS: Final = 64

_SELECT: Final = "SELECT id, at, actor, action, target, address FROM audit"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change. `actor` and `target` are `kind:id`, `action` is a stable name, `address` where it came from."""

    id: UUID
    at: datetime
    actor: str
    action: str
    target: str
    address: str


def record(
    transaction: Transaction, *, at: datetime, actor: str, action: str, target: str, address: str = ""
) -> AuditEntry:
    """Write an entry; call it in the transaction that makes the change, so that neither is without the other."""
    entry = AuditEntry(
        make_id(at), at, actor[:_ACTOR_CHARS], str(action), target[:_TARGET_CHARS], address[:_ADDRESS_CHARS]
    )
    transaction.execute(
        "INSERT INTO audit (id, at, actor, action, target, address) VALUES (?, ?, ?, ?, ?, ?)",
        (entry.id, entry.at, entry.actor, entry.action, entry.target, entry.address),
    )
    return entry


def delete_entries_before(transaction: Transaction, before: datetime, *, action: str | None = None) -> int:
    """Drop entries from before an instant, all or those of one action, and give their number."""
    if action is None:
        return transaction.execute("DELETE FROM audit WHERE at < ?", (before,))
    return transaction.execute("DELETE FROM audit WHERE at < ? AND action = ?", (before, action))


async def list_latest(database: Database, action: str, *, limit: int) -> list[AuditEntry]:
    """Give the latest entries of one action, newest first, at most `limit`."""
    rows = await database.read(_SELECT + " WHERE action = ? ORDER BY at DESC LIMIT ?", (action, limit))
    return [_entry(row) for row in rows]


async def list_since(
    database: Database, since: datetime, actions: Sequence[str], *, after: tuple[datetime, UUID] | None = None
) -> list[AuditEntry]:
    """Give the entries of these actions from `since` on, oldest first, at most 500; `after` continues behind one."""
    filtered = " AND action IN (" + marks(len(actions)) + ")"
    if after is None:
        sql = _SELECT + " WHERE at >= ?" + filtered + " ORDER BY at, id LIMIT ?"
        rows = await database.read(sql, (since, *actions, MAX_PAGE))
    else:
        sql = _SELECT + " WHERE at >= ? AND (at > ? OR id > ?)" + filtered + " ORDER BY at, id LIMIT ?"
        rows = await database.read(sql, (after[0], after[0], after[1], *actions, MAX_PAGE))
    return [_entry(row) for row in rows]


def _entry(row: Row) -> AuditEntry:
    return AuditEntry(
        id=uuid_of(row[0]),
        at=instant_of(row[1]),
        actor=str(row[2]),
        action=str(row[3]),
        target=str(row[4]),
        address=str(row[5]),
    )
