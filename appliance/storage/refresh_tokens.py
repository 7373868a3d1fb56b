"""Refresh tokens: families in which each token is used once.

Theory of operation
-------------------
A sign-in starts a family with one token. Using a token (`exchange`) marks it and adds its successor. A token that comes
a second time tells that two parties hold it, so its whole family is revoked.

There is no grace for a lost reply: within it a thief would hold a second living branch. A client that never saw its new
token signs in again.

A family is revoked by `revoked_at` on every row that may still be presented; rows stay until they run out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final
from uuid import UUID

from appliance.domain.principal import Role
from appliance.storage.sql import Row, instant_of, marks, optional_instant_of, optional_uuid_of, uuid_of
from appliance.storage.writer import Transaction

_SELECT: Final = (
    'SELECT r.id, r.family, r."user", r.app, r.created_at, r.expires_at, r.used_at, r.revoked_at,'
    " a.username, a.role, a.tokens_valid_from, COALESCE(a.disabled_at, p.disabled_at)"
    ' FROM refresh_token r JOIN account a ON a.id = r."user" LEFT JOIN app p ON p.id = r.app'
)


class Exchange(Enum):
    """What came of presenting a refresh token."""

    ROTATED = "rotated"
    REFUSED = "refused"
    REUSED = "reused"


@dataclass(frozen=True, slots=True)
class RefreshRow:
    """A refresh token as stored, with what is known of its user; `id` is a hash.

    `is_disabled` tells that the user, or the app it was issued for, is disabled.
    """

    id: str
    family: UUID
    user_id: UUID
    app_id: UUID | None
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None
    revoked_at: datetime | None
    username: str
    role: Role
    tokens_valid_from: datetime | None
    is_disabled: bool


def insert_refresh_token(
    transaction: Transaction,
    token_id: str,
    *,
    family: UUID,
    user_id: UUID,
    app_id: UUID | None,
    at: datetime,
    expires_at: datetime,
) -> None:
    """Add a token to a family; the first one founds it."""
    transaction.execute(
        'INSERT INTO refresh_token (id, family, "user", app, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)',
        (token_id, family, user_id, app_id, at, expires_at),
    )


def find_refresh_token(transaction: Transaction, token_ids: Sequence[str]) -> RefreshRow | None:
    """Find the token under one of the hashes."""
    row = transaction.fetch_one(_SELECT + " WHERE r.id IN (" + marks(len(token_ids)) + ")", token_ids)
    return None if row is None else _refresh(row)


def exchange(
    transaction: Transaction, held: RefreshRow, successor_id: str, *, now: datetime, expires_at: datetime
) -> Exchange:
    """Use a token and add its successor, or tell why not. REUSED has revoked the family already."""
    if held.expires_at <= now or held.is_disabled or _is_outdated(held):
        return Exchange.REFUSED
    if not _mark_used(transaction, held, now):
        if not _is_family_alive(transaction, held.family):
            return Exchange.REFUSED
        revoke_family(transaction, held.family, now)
        return Exchange.REUSED
    insert_refresh_token(
        transaction,
        successor_id,
        family=held.family,
        user_id=held.user_id,
        app_id=held.app_id,
        at=now,
        expires_at=expires_at,
    )
    return Exchange.ROTATED


def revoke_family(transaction: Transaction, family: UUID, at: datetime) -> int:
    """Revoke what is not revoked yet of a family and give the number."""
    sql = "UPDATE refresh_token SET revoked_at = ? WHERE family = ? AND revoked_at IS NULL"
    return transaction.execute(sql, (at, family))


def revoke_families_of(transaction: Transaction, user_id: UUID, at: datetime) -> int:
    """Revoke all refresh tokens of a user and give the number."""
    sql = 'UPDATE refresh_token SET revoked_at = ? WHERE "user" = ? AND revoked_at IS NULL'
    return transaction.execute(sql, (at, user_id))


def _mark_used(transaction: Transaction, held: RefreshRow, now: datetime) -> bool:
    # The condition decides between two nodes that hold the same token at the same moment.
    sql = "UPDATE refresh_token SET used_at = ? WHERE id = ? AND used_at IS NULL AND revoked_at IS NULL"
    return transaction.execute(sql, (now, held.id)) == 1


def _is_family_alive(transaction: Transaction, family: UUID) -> bool:
    sql = "SELECT 1 FROM refresh_token WHERE family = ? AND revoked_at IS NULL LIMIT 1"
    return transaction.fetch_one(sql, (family,)) is not None


def _is_outdated(held: RefreshRow) -> bool:
    return held.tokens_valid_from is not None and held.created_at < held.tokens_valid_from


def _refresh(row: Row) -> RefreshRow:
    return RefreshRow(
        id=str(row[0]),
        family=uuid_of(row[1]),
        user_id=uuid_of(row[2]),
        app_id=optional_uuid_of(row[3]),
        created_at=instant_of(row[4]),
        expires_at=instant_of(row[5]),
        used_at=optional_instant_of(row[6]),
        revoked_at=optional_instant_of(row[7]),
        username=str(row[8]),
        role=Role(row[9]),
        tokens_valid_from=optional_instant_of(row[10]),
        is_disabled=row[11] is not None,
    )
