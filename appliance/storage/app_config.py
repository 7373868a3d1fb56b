"""An app's push configuration: whether push is on, where receipts go, its quota and its keys."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from appliance.domain.errors import Conflict, NotFound
from appliance.domain.mailbox import EmailPolicy
from appliance.domain.quota import quota_day
from appliance.storage.audit import record
from appliance.storage.database import Database
from appliance.storage.sql import Row, bytes_of
from appliance.storage.writer import Job, Transaction


@dataclass(frozen=True, slots=True)
class PushConfig:
    """A configuration with today's use. The secret is sealed; it and the key exist once push was on for the first time.

    `device_count` are devices registered with the app and not retired.
    """

    is_enabled: bool
    is_enrolment_open: bool
    webhook_url: str | None
    webhook_secret_sealed: bytes | None = field(repr=False)
    daily_quota: int
    vapid_public_key: str | None
    device_count: int
    notifications_today: int
    notification_email: str | None
    email_policy: EmailPolicy


@dataclass(frozen=True, slots=True)
class FreshKeys:
    """What the first enabling stores when it is not there yet: the sealed secrets and the public key."""

    webhook_secret_sealed: bytes = field(repr=False)
    vapid_private_key_sealed: bytes = field(repr=False)
    vapid_public_key: str


@dataclass(frozen=True, slots=True)
class StoredVapidKey:
    """An app's VAPID key pair as it is stored."""

    private_key_sealed: bytes = field(repr=False)
    public_key: str


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """The columns that an admin changes, with their new values."""

    values: Sequence[tuple[str, object]]
    fresh_keys: FreshKeys | None = None


CHANGEABLE: Final = frozenset(
    {"push_enabled", "open_enrolment", "webhook_url", "daily_quota", "notification_email", "email_policy"}
)

_SELECT: Final = (
    "SELECT a.push_enabled, a.open_enrolment, a.webhook_url, a.webhook_secret_sealed, a.daily_quota, "
    "a.vapid_public_key, "
    "(SELECT COUNT(*) FROM device d WHERE d.app = a.id AND d.retired_at IS NULL), "
    "(SELECT q.used FROM quota_day q WHERE q.id = ?), a.notification_email, a.email_policy FROM app a WHERE a.id = ?"
)


async def load_push_config(database: Database, app_id: UUID, now: datetime) -> PushConfig:
    """Read a configuration. Raises `NotFound`."""
    return _config(await database.read_one(_SELECT, _key(app_id, now)))


async def load_vapid_key(database: Database, app_id: UUID) -> StoredVapidKey | None:
    """Read an app's VAPID key pair, None when it has none."""
    row = await database.read_one("SELECT vapid_private_key_sealed, vapid_public_key FROM app WHERE id = ?", (app_id,))
    return None if row is None or row[0] is None else StoredVapidKey(bytes_of(row[0]), str(row[1]))


def change_push_config_job(
    app_id: UUID, change: ConfigChange, *, actor: str, address: str, now: datetime
) -> Job[PushConfig]:
    """Make the job that changes what the change names and gives the whole configuration. Raises `NotFound`.

    Keys that exist are kept: two admins who enable push at the same moment end with one pair.
    """
    for column, _ in change.values:
        if column not in CHANGEABLE:
            raise ValueError(f"{column} is not part of the push configuration.")

    def job(transaction: Transaction) -> PushConfig:
        if transaction.fetch_one("SELECT 1 FROM app WHERE id = ?", (app_id,)) is None:
            raise _no_such_app()
        for column, value in change.values:
            transaction.execute(f"UPDATE app SET {column} = ? WHERE id = ?", (value, app_id))
        if change.fresh_keys is not None:
            _keep_fresh_keys(transaction, app_id, change.fresh_keys)
        if change.values:
            names = ",".join(column for column, _ in change.values)
            record(
                transaction,
                at=now,
                actor=actor,
                action="push_config_changed",
                target=f"app:{app_id} {names}",
                address=address,
            )
        return _config(transaction.fetch_one(_SELECT, _key(app_id, now)))

    return job


def rotate_webhook_secret_job(app_id: UUID, sealed: bytes, *, actor: str, address: str, now: datetime) -> Job[None]:
    """Make the job that replaces an app's webhook secret and keeps the one before. Raises `NotFound`, `Conflict`."""

    def job(transaction: Transaction) -> None:
        rotated = transaction.execute(
            "UPDATE app SET webhook_secret_previous_sealed = webhook_secret_sealed, webhook_secret_sealed = ?, "
            "webhook_secret_rotated_at = ? WHERE id = ? AND webhook_secret_sealed IS NOT NULL",
            (sealed, now, app_id),
        )
        if rotated:
            record(
                transaction,
                at=now,
                actor=actor,
                action="webhook_secret_rotated",
                target=f"app:{app_id}",
                address=address,
            )
            return
        if transaction.fetch_one("SELECT 1 FROM app WHERE id = ?", (app_id,)) is None:
            raise _no_such_app()
        raise Conflict("This app has no webhook secret yet. Enable push for it first.")

    return job


def _keep_fresh_keys(transaction: Transaction, app_id: UUID, keys: FreshKeys) -> None:
    transaction.execute(
        "UPDATE app SET webhook_secret_sealed = ? WHERE id = ? AND webhook_secret_sealed IS NULL",
        (keys.webhook_secret_sealed, app_id),
    )
    transaction.execute(
        "UPDATE app SET vapid_private_key_sealed = ?, vapid_public_key = ? WHERE id = ? AND vapid_public_key IS NULL",
        (keys.vapid_private_key_sealed, keys.vapid_public_key, app_id),
    )


def _key(app_id: UUID, now: datetime) -> tuple[str, UUID]:
    return f"{app_id}|{quota_day(now)}", app_id


def _config(row: Row | None) -> PushConfig:
    if row is None:
        raise _no_such_app()
    return PushConfig(
        is_enabled=bool(row[0]),
        is_enrolment_open=bool(row[1]),
        webhook_url=row[2],
        webhook_secret_sealed=None if row[3] is None else bytes_of(row[3]),
        daily_quota=int(row[4]),
        vapid_public_key=row[5],
        device_count=int(row[6]),
        notifications_today=int(row[7] or 0),
        notification_email=row[8],
        email_policy=EmailPolicy(int(row[9])),
    )


def _no_such_app() -> NotFound:
    return NotFound("There is no app with this id.")
