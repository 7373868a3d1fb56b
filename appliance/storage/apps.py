"""Apps: who may send, their secrets' hashes, and who is enrolled in them."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from appliance.domain.quota import DEFAULT_DAILY_QUOTA
from appliance.storage.database import Database
from appliance.storage.sql import Row, bytes_of, instant_of, optional_instant_of, uuid_of
from appliance.storage.writer import Transaction

MAX_PAGE: Final = 500

_SELECT: Final = (
    "SELECT id, name, secret_hash, push_enabled, open_enrolment, created_at, secret_rotated_at, disabled_at FROM app"
)


@dataclass(frozen=True, slots=True)
class AppRow:
    """An app as stored, without its push configuration. Its tokens issued before `tokens_valid_from` do not count."""

    id: UUID
    name: str
    secret_hash: bytes | None = field(repr=False)
    created_at: datetime
    push_enabled: bool = False
    open_enrolment: bool = True
    secret_rotated_at: datetime | None = None
    disabled_at: datetime | None = None

    @property
    def is_disabled(self) -> bool:
        return self.disabled_at is not None

    @property
    def tokens_valid_from(self) -> datetime | None:
        instants = [at for at in (self.secret_rotated_at, self.disabled_at) if at is not None]
        return max(instants, default=None)


def insert_app(transaction: Transaction, app: AppRow) -> None:
    """Add an app; push is off until it is configured."""
    transaction.execute(
        "INSERT INTO app (id, name, secret_hash, push_enabled, open_enrolment, daily_quota, email_policy, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            app.id,
            app.name,
            app.secret_hash,
            app.push_enabled,
            app.open_enrolment,
            DEFAULT_DAILY_QUOTA,
            0,
            app.created_at,
        ),
    )


def set_secret_hash(transaction: Transaction, app_id: UUID, secret_hash: bytes, rotated_at: datetime) -> bool:
    """Store a new secret's hash; tokens issued before `rotated_at` do not count any more. False: no such app."""
    sql = "UPDATE app SET secret_hash = ?, secret_rotated_at = ? WHERE id = ?"
    return transaction.execute(sql, (secret_hash, rotated_at, app_id)) == 1


def replace_secret_hash(transaction: Transaction, app_id: UUID, old_hash: bytes, new_hash: bytes) -> bool:
    """Store the same secret's hash under the current key. False: it was replaced meanwhile, by whomever."""
    sql = "UPDATE app SET secret_hash = ? WHERE id = ? AND secret_hash = ?"
    return transaction.execute(sql, (new_hash, app_id, old_hash)) == 1


def set_app_disabled(transaction: Transaction, app_id: UUID, at: datetime) -> bool:
    """Disable an app. False: no such app, or disabled already."""
    sql = "UPDATE app SET disabled_at = ? WHERE id = ? AND disabled_at IS NULL"
    return transaction.execute(sql, (at, app_id)) == 1


def is_enabled(transaction: Transaction, app_id: UUID) -> bool:
    """Tell, inside a transaction, whether the app is there and not disabled."""
    return transaction.fetch_one("SELECT 1 FROM app WHERE id = ? AND disabled_at IS NULL", (app_id,)) is not None


def enrol_user(transaction: Transaction, user_id: UUID, app_id: UUID, at: datetime) -> bool:
    """Make the user a member of the app. False: already enrolled."""
    added = transaction.execute(
        'INSERT INTO enrolment (id, "user", app, created_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING',
        (enrolment_id(user_id, app_id), user_id, app_id, at),
    )
    return added == 1


def enrolment_id(user_id: UUID, app_id: UUID) -> str:
    """Give the key of a membership, which is unique by itself on both databases."""
    return f"{user_id}|{app_id}"


async def load_app(database: Database, app_id: UUID) -> AppRow | None:
    """Find an app by its client id."""
    row = await database.read_one(_SELECT + " WHERE id = ?", (app_id,))
    return None if row is None else _app(row)


async def list_apps(database: Database, *, after: UUID | None = None, limit: int = 100) -> list[AppRow]:
    """Give apps in the order of their making, at most 500, from behind `after` on."""
    page = min(limit, MAX_PAGE)
    if after is None:
        rows = await database.read(_SELECT + " ORDER BY id LIMIT ?", (page,))
    else:
        rows = await database.read(_SELECT + " WHERE id > ? ORDER BY id LIMIT ?", (after, page))
    return [_app(row) for row in rows]


async def list_app_tokens_valid_from(database: Database, since: datetime) -> list[tuple[UUID, datetime]]:
    """Give the apps whose older tokens stopped to count after `since`, for a start-up."""
    sql = _SELECT + " WHERE secret_rotated_at >= ? OR disabled_at >= ?"
    apps = [_app(row) for row in await database.read(sql, (since, since))]
    return [(app.id, app.tokens_valid_from) for app in apps if app.tokens_valid_from is not None]


def _app(row: Row) -> AppRow:
    return AppRow(
        id=uuid_of(row[0]),
        name=str(row[1]),
        secret_hash=None if row[2] is None else bytes_of(row[2]),
        push_enabled=bool(row[3]),
        open_enrolment=bool(row[4]),
        created_at=instant_of(row[5]),
        secret_rotated_at=optional_instant_of(row[6]),
        disabled_at=optional_instant_of(row[7]),
    )
