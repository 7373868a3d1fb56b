"""Users: accounts of people, by id, by name, by external subject."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from appliance.domain.errors import Conflict
from appliance.domain.principal import Role
from appliance.domain.username import username_key
from appliance.storage.database import Database
from appliance.storage.sql import Row, instant_of, optional_instant_of, uuid_of
from appliance.storage.writer import Transaction

MAX_PAGE: Final = 500

_SELECT: Final = (
    "SELECT id, username, password_hash, role, email, external_subject, created_at, tokens_valid_from, disabled_at"
    " FROM account"
)
_ADMIN_EXISTS: Final = "SELECT 1 FROM account WHERE role = ? AND disabled_at IS NULL LIMIT 1"


@dataclass(frozen=True, slots=True)
class UserRow:
    """A user as stored. Tokens issued before `tokens_valid_from` do not count; a disabled user may do nothing."""

    id: UUID
    username: str
    password_hash: str | None = field(repr=False)
    role: Role
    email: str | None
    external_subject: str | None
    created_at: datetime
    tokens_valid_from: datetime | None = None
    disabled_at: datetime | None = None

    @property
    def is_disabled(self) -> bool:
        return self.disabled_at is not None


def insert_user(transaction: Transaction, user: UserRow) -> None:
    """Add a user. Raises `Conflict` when the name (in any case) or the external subject is taken."""
    added = transaction.execute(
        "INSERT INTO account (id, username, username_key, password_hash, role, email, external_subject,"
        " last_sequence, oldest_sequence, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, 0, 1, ?) ON CONFLICT DO NOTHING",
        (
            user.id,
            user.username,
            username_key(user.username),
            user.password_hash,
            user.role,
            user.email,
            user.external_subject,
            user.created_at,
        ),
    )
    if added != 1:
        raise Conflict(f"There is already a user named {user.username}. Choose another name.")


def set_password_hash(
    transaction: Transaction, user_id: UUID, password_hash: str, *, tokens_valid_from: datetime
) -> bool:
    """Store another password's hash; all older tokens stop to count. False: no such user."""
    return (
        transaction.execute(
            "UPDATE account SET password_hash = ?, tokens_valid_from = ? WHERE id = ?",
            (password_hash, tokens_valid_from, user_id),
        )
        == 1
    )


def replace_password_hash(transaction: Transaction, user_id: UUID, old_hash: str, new_hash: str) -> bool:
    """Store a hash at today's cost unless the password was changed meanwhile."""
    sql = "UPDATE account SET password_hash = ? WHERE id = ? AND password_hash = ?"
    return transaction.execute(sql, (new_hash, user_id, old_hash)) == 1


def set_disabled(transaction: Transaction, user_id: UUID, at: datetime) -> bool:
    """Disable a user and end all tokens issued so far. False: no such user, or disabled already."""
    return (
        transaction.execute(
            "UPDATE account SET disabled_at = ?, tokens_valid_from = ? WHERE id = ? AND disabled_at IS NULL",
            (at, at, user_id),
        )
        == 1
    )


def lock_user(transaction: Transaction, user_id: UUID) -> UserRow | None:
    """Find a user and keep everybody else, other nodes too, from changing it until the transaction ends."""
    # An update that changes nothing locks the row on both databases; SQLite knows no SELECT … FOR UPDATE.
    transaction.execute("UPDATE account SET disabled_at = disabled_at WHERE id = ?", (user_id,))
    return _optional(transaction.fetch_one(_SELECT + " WHERE id = ?", (user_id,)))


def has_enabled_admin(transaction: Transaction) -> bool:
    """Tell, inside a transaction, whether somebody could administer this appliance."""
    return transaction.fetch_one(_ADMIN_EXISTS, (Role.ADMIN,)) is not None


def may_disable(transaction: Transaction, user_id: UUID) -> bool:
    """Tell whether an admin would be left after this user is disabled."""
    sql = "SELECT 1 FROM account WHERE role = ? AND disabled_at IS NULL AND id <> ? LIMIT 1"
    return transaction.fetch_one(sql, (Role.ADMIN, user_id)) is not None


async def load_admin_exists(database: Database) -> bool:
    """Tell whether somebody can administer this appliance, that is, whether it has been set up."""
    return await database.read_one(_ADMIN_EXISTS, (Role.ADMIN,)) is not None


async def load_user(database: Database, user_id: UUID) -> UserRow | None:
    """Find a user by id."""
    return _optional(await database.read_one(_SELECT + " WHERE id = ?", (user_id,)))


async def load_user_by_name(database: Database, username: str) -> UserRow | None:
    """Find a user by name; case and compatibility forms do not matter."""
    sql = _SELECT + " WHERE username_key = ?"
    return _optional(await database.read_one(sql, (username_key(username),)))


async def load_user_by_subject(database: Database, external_subject: str) -> UserRow | None:
    """Find a user by the subject of an external issuer, `issuer|sub`."""
    sql = _SELECT + " WHERE external_subject = ?"
    return _optional(await database.read_one(sql, (external_subject,)))


async def list_users(database: Database, *, after: UUID | None = None, limit: int = 100) -> list[UserRow]:
    """Give users in the order of their making, at most 500, from behind `after` on."""
    page = min(limit, MAX_PAGE)
    if after is None:
        rows = await database.read(_SELECT + " ORDER BY id LIMIT ?", (page,))
    else:
        sql = _SELECT + " WHERE id > ? ORDER BY id LIMIT ?"
        rows = await database.read(sql, (after, page))
    return [_user(row) for row in rows]


async def list_tokens_valid_from(database: Database, since: datetime) -> list[tuple[UUID, datetime]]:
    """Give the users whose older tokens stopped to count after `since`, for a start-up."""
    sql = "SELECT id, tokens_valid_from FROM account WHERE tokens_valid_from >= ?"
    return [(uuid_of(row[0]), instant_of(row[1])) for row in await database.read(sql, (since,))]


def _optional(row: Row | None) -> UserRow | None:
    return None if row is None else _user(row)


def _user(row: Row) -> UserRow:
    return UserRow(
        id=uuid_of(row[0]),
        username=str(row[1]),
        password_hash=row[2],
        role=Role(row[3]),
        email=row[4],
        external_subject=row[5],
        created_at=instant_of(row[6]),
        tokens_valid_from=optional_instant_of(row[7]),
        disabled_at=optional_instant_of(row[8]),
    )
