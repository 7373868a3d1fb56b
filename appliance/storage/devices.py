"""Devices: registering, moving to another user, listing, retiring.

One address belongs to one user and one app: whoever registers it last has it. The row keeps its id, and what still
waited for the former owner is held back, so that nobody gets what was meant for somebody else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from appliance.domain.device import REGISTRATIONS_PER_HOUR, AddressKind, Platform
from appliance.domain.errors import Forbidden, NotEnrolled, NotFound, PushDisabled, TooMany, Unavailable
from appliance.domain.identifier import make_id
from appliance.storage.apps import enrol_user, enrolment_id
from appliance.storage.database import Database
from appliance.storage.giving_up import settle_handed_on, settle_unregistered
from appliance.storage.sql import Row, instant_of, marks, optional_uuid_of, uuid_of
from appliance.storage.writer import Job, Transaction

REGISTRATION_WINDOW: Final = timedelta(hours=1)
HUB_DEVICES_PER_HOUR: Final = 100
MAX_PAGE: Final = 500
MAX_USER_DEVICES: Final = 1_000

BY_ITS_USER: Final = "Unregistered by its user."
BY_THE_APP: Final = "Unregistered by the app."
_REVOKED: Final = frozenset({BY_ITS_USER, BY_THE_APP})


@dataclass(frozen=True, slots=True)
class SealedAddress:
    """An address as it is stored: sealed, and found by its fingerprint.

    `fingerprints` are of the same address under the current key and, after it, under each previous one.
    """

    kind: AddressKind
    sealed: bytes = field(repr=False)
    fingerprints: Sequence[bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Registration:
    """What a user's client registers. Without `app_id` the device gets what any of the user's apps sends."""

    user_id: UUID
    app_id: UUID | None
    platform: Platform
    address: SealedAddress
    label: str | None = None
    locale: str | None = None


@dataclass(frozen=True, slots=True)
class Registered:
    """The device's id; whether the row is new; and the user who had it before, when it was somebody else."""

    device_id: UUID
    is_new: bool
    former_user_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A device as it is listed; its address stays sealed."""

    id: UUID
    user_id: UUID
    app_id: UUID | None
    platform: Platform
    label: str
    created_at: datetime
    last_seen_at: datetime


@dataclass(frozen=True, slots=True)
class AppDevices:
    """A user's devices in one app; `app_id` None holds those that serve all apps of the user."""

    app_id: UUID | None
    name: str
    devices: Sequence[DeviceRow]


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether a device is retired, and how: what somebody decided (`is_revoked`) only registering again undoes.

    What a provider said about its address, or its silence, says nothing about its own connection to the hub.
    """

    id: UUID
    is_hub_only: bool
    is_retired: bool
    is_revoked: bool

    @property
    def revoked_text(self) -> str | None:
        """What the client of a revoked device is told; None when it is not revoked."""
        if not self.is_revoked:
            return None
        again = "Sign in again with a new device id." if self.is_hub_only else "Register it again."
        return f"This device was revoked. {again}"


def register_job(registration: Registration, now: datetime) -> Job[Registered]:
    """Make the job that registers a device with an app, enrolling the user where the app allows it.

    Raises `NotFound` (no such app), `PushDisabled`, `NotEnrolled`, `TooMany`.
    """

    def job(transaction: Transaction) -> Registered:
        if registration.app_id is None:
            raise ValueError("A registration names its app; bind_installation_job does not.")
        _admit(transaction, registration.user_id, registration.app_id, now)
        _count_registration(transaction, registration.user_id, now)
        return _put(transaction, registration, now)

    return job


def bind_installation_job(registration: Registration, now: datetime) -> Job[Registered]:
    """Make the job that finds or makes the device of a hub client, at most a hundred new ones of a user an hour.

    It does not count among the ten registrations: those are for push addresses, and must be left for them.
    One that was revoked stays so: a client that says Hello knows nothing of what its user decided. Raises `Forbidden`,
    `TooMany`.
    """

    def job(transaction: Transaction) -> Registered:
        known = _find(transaction, registration.address)
        if known is not None:
            _check_not_revoked(_load_standing(transaction, registration.user_id, uuid_of(known[0])))
        if known is None:
            _check_hub_devices(transaction, registration.user_id, now)
        return _put(transaction, registration, now)

    return job


def revive_job(device_id: UUID, user_id: UUID, now: datetime) -> Job[None]:
    """Make the job by which the Hello of a retired device makes it reachable again, over the hub alone.

    Its provider has disowned the address, and is not asked again: the row keeps it, so that registering the same
    address finds the device, but its kind becomes `HUB`. Nothing changes for a device that is not retired. Raises
    `NotFound` when it is not (or no longer) theirs, `Forbidden` when it was revoked.
    """

    def job(transaction: Transaction) -> None:
        standing = _load_standing(transaction, user_id, device_id)
        if standing is None:
            raise NotFound("This device belongs to another user now.")
        _check_not_revoked(standing)
        if standing.is_retired:
            transaction.execute(
                "UPDATE device SET address_kind = ?, last_seen_at = ?, retired_at = NULL, retired_reason = NULL "
                "WHERE id = ?",
                (AddressKind.HUB, now, device_id),
            )

    return job


def unregister_by_user_job(device_id: UUID, user_id: UUID, now: datetime) -> Job[None]:
    """Make the job by which a user gives a device up. Raises `NotFound` when it is not (or no longer) theirs."""
    return _retire_job(device_id, '"user" = ?', user_id, BY_ITS_USER, now)


def unregister_by_app_job(device_id: UUID, app_id: UUID, now: datetime) -> Job[None]:
    """Make the job by which an app drops a device of its own. Raises `NotFound` for any other."""
    return _retire_job(device_id, "app = ?", app_id, BY_THE_APP, now)


async def load_standing(database: Database, user_id: UUID, device_id: UUID) -> Standing | None:
    """Tell how a device of the user stands, retired or not; None when they have none with this id."""
    row = await database.read_one(_STANDING, (device_id, user_id))
    return None if row is None else _standing(row)


def touch_job(device_ids: Sequence[UUID], now: datetime) -> Job[None]:
    """Make the job that notes that these devices were seen, in one statement; at most 500 at a time."""

    def job(transaction: Transaction) -> None:
        for start in range(0, len(device_ids), MAX_PAGE):
            page = device_ids[start : start + MAX_PAGE]
            transaction.execute(
                f"UPDATE device SET last_seen_at = ? WHERE id IN ({marks(len(page))}) AND last_seen_at < ?",
                (now, *page, now),
            )

    return job


async def list_app_devices(
    database: Database, app_id: UUID, *, after: UUID | None, limit: int
) -> tuple[list[DeviceRow], int]:
    """Give an app's devices in the order of their making from behind `after` on, and the number of all of them."""
    behind = "AND id > ? " if after is not None else ""
    rows = await database.read(
        f"{_SELECT} WHERE app = ? AND retired_at IS NULL {behind}ORDER BY id LIMIT ?",
        (app_id, *([after] if after is not None else ()), min(limit, MAX_PAGE)),
    )
    counted = await database.read_one("SELECT COUNT(*) FROM device WHERE app = ? AND retired_at IS NULL", (app_id,))
    return [_device(row) for row in rows], int(counted[0]) if counted else 0


async def list_user_devices(database: Database, user_id: UUID) -> list[AppDevices]:
    """Give a user's devices grouped by app, apps by name, those for all apps last; at most 1000 devices."""
    rows = await database.read(
        'SELECT d.id, d."user", d.app, d.platform, d.label, d.created_at, d.last_seen_at, a.name '
        'FROM device d LEFT JOIN app a ON a.id = d.app WHERE d."user" = ? AND d.retired_at IS NULL '
        "ORDER BY d.id LIMIT ?",
        (user_id, MAX_USER_DEVICES),
    )
    groups: dict[UUID | None, tuple[str, list[DeviceRow]]] = {}
    for row in rows:
        device = _device(row)
        name = str(row[7]) if row[7] is not None else "All apps"
        groups.setdefault(device.app_id, (name, []))[1].append(device)
    ordered = sorted(groups.items(), key=lambda group: (group[0] is None, group[1][0].casefold(), str(group[0])))
    return [AppDevices(app_id, name, devices) for app_id, (name, devices) in ordered]


async def load_live_device(database: Database, user_id: UUID, fingerprint: bytes) -> UUID | None:
    """Find the user's device whose address has this fingerprint under the current key, unless it is retired."""
    row = await database.read_one(
        'SELECT id FROM device WHERE address_fingerprint = ? AND "user" = ? AND retired_at IS NULL',
        (fingerprint, user_id),
    )
    return None if row is None else uuid_of(row[0])


_STANDING: Final = 'SELECT id, app, retired_at, retired_reason FROM device WHERE id = ? AND "user" = ?'
_SELECT: Final = 'SELECT id, "user", app, platform, label, created_at, last_seen_at FROM device'


def _admit(transaction: Transaction, user_id: UUID, app_id: UUID, now: datetime) -> None:
    row = transaction.fetch_one("SELECT push_enabled, open_enrolment, disabled_at FROM app WHERE id = ?", (app_id,))
    if row is None:
        raise NotFound("There is no app with this app_id. Use the client id that the app's operator gave you.")
    if row[2] is not None:
        raise Forbidden("This app is disabled. Ask an admin to enable it.")
    if not row[0]:
        raise PushDisabled
    if transaction.fetch_one("SELECT 1 FROM enrolment WHERE id = ?", (enrolment_id(user_id, app_id),)):
        return
    if not row[1]:
        raise NotEnrolled("app_id")
    enrol_user(transaction, user_id, app_id, now)


def _load_standing(transaction: Transaction, user_id: UUID, device_id: UUID) -> Standing | None:
    row = transaction.fetch_one(_STANDING, (device_id, user_id))
    return None if row is None else _standing(row)


def _check_not_revoked(standing: Standing | None) -> None:
    if standing is not None and standing.revoked_text is not None:
        raise Forbidden(standing.revoked_text)


def _check_hub_devices(transaction: Transaction, user_id: UUID, now: datetime) -> None:
    ((count,),) = transaction.fetch_all(
        'SELECT COUNT(*) FROM device WHERE "user" = ? AND address_kind = ? AND created_at > ?',
        (user_id, AddressKind.HUB, now - REGISTRATION_WINDOW),
    )
    if count >= HUB_DEVICES_PER_HOUR:
        raise TooMany(
            f"A user may bring {HUB_DEVICES_PER_HOUR} new devices an hour to the hub. Keep the deviceId of this client "
            "and say Hello with the same one each time.",
            retry_after_s=int(REGISTRATION_WINDOW.total_seconds()),
        )


def _count_registration(transaction: Transaction, user_id: UUID, now: datetime) -> None:
    transaction.execute(
        'DELETE FROM registration WHERE "user" = ? AND registered_at <= ?', (user_id, now - REGISTRATION_WINDOW)
    )
    count, oldest = transaction.fetch_all(
        'SELECT COUNT(*), MIN(registered_at) FROM registration WHERE "user" = ?', (user_id,)
    )[0]
    if count >= REGISTRATIONS_PER_HOUR:
        left_s = (instant_of(oldest) + REGISTRATION_WINDOW - now).total_seconds()
        raise TooMany(
            f"A user may register {REGISTRATIONS_PER_HOUR} devices an hour. Register again after Retry-After.",
            retry_after_s=int(left_s) + 1,
        )
    transaction.execute(
        'INSERT INTO registration (id, "user", registered_at) VALUES (?, ?, ?)', (make_id(now), user_id, now)
    )


def _find(transaction: Transaction, address: SealedAddress) -> Row | None:
    return transaction.fetch_one(
        'SELECT id, "user", app, retired_at FROM device '
        f"WHERE address_fingerprint IN ({marks(len(address.fingerprints))}) LIMIT 1",
        address.fingerprints,
    )


def _put(transaction: Transaction, registration: Registration, now: datetime) -> Registered:
    known = _find(transaction, registration.address)
    if known is None:
        if (device_id := _insert(transaction, registration, now)) is not None:
            return Registered(device_id, is_new=True)
        # Another node registered the same address a moment ago.
        known = _find(transaction, registration.address)
        if known is None:
            raise Unavailable("The device was registered elsewhere at this moment. Register it again.")
    device_id, owner_id, app_id, retired_at = uuid_of(known[0]), uuid_of(known[1]), optional_uuid_of(known[2]), known[3]
    if owner_id != registration.user_id or app_id != registration.app_id:
        settle_handed_on(transaction, device_id, now)
    _update(transaction, device_id, registration, now, anew=owner_id != registration.user_id or retired_at is not None)
    return Registered(device_id, is_new=False, former_user_id=owner_id if owner_id != registration.user_id else None)


def _insert(transaction: Transaction, registration: Registration, now: datetime) -> UUID | None:
    device_id = make_id(now)
    address = registration.address
    added = transaction.execute(
        'INSERT INTO device (id, "user", app, platform, address_kind, address_sealed, address_fingerprint, label, '
        "locale, created_at, registered_at, last_seen_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (address_fingerprint) DO NOTHING",
        (
            device_id,
            registration.user_id,
            registration.app_id,
            registration.platform,
            address.kind,
            address.sealed,
            address.fingerprints[0],
            registration.label or "",
            registration.locale or "",
            now,
            now,
            now,
        ),
    )
    return device_id if added == 1 else None


def _update(
    transaction: Transaction, device_id: UUID, registration: Registration, now: datetime, *, anew: bool
) -> None:
    # The address is written again too: it may have been sealed and fingerprinted under a key that is being retired.
    address = registration.address
    transaction.execute(
        'UPDATE device SET "user" = ?, app = ?, platform = ?, address_kind = ?, address_sealed = ?, '
        "address_fingerprint = ?, registered_at = ?, last_seen_at = ?, retired_at = NULL, retired_reason = NULL "
        "WHERE id = ?",
        (
            registration.user_id,
            registration.app_id,
            registration.platform,
            address.kind,
            address.sealed,
            address.fingerprints[0],
            now,
            now,
            device_id,
        ),
    )
    if anew:
        # Somebody else's label says nothing about the new owner's device.
        transaction.execute(
            "UPDATE device SET created_at = ?, label = ?, locale = ?, last_delivered_at = NULL WHERE id = ?",
            (now, registration.label or "", registration.locale or "", device_id),
        )
        return
    for column, value in (("label", registration.label), ("locale", registration.locale)):
        if value is not None:
            transaction.execute(f"UPDATE device SET {column} = ? WHERE id = ?", (value, device_id))


def _retire_job(device_id: UUID, condition: str, owner_id: UUID, reason: str, now: datetime) -> Job[None]:
    def job(transaction: Transaction) -> None:
        retired = transaction.execute(
            f"UPDATE device SET retired_at = ?, retired_reason = ? WHERE id = ? AND {condition} AND retired_at IS NULL",
            (now, reason, device_id, owner_id),
        )
        if retired != 1:
            raise NotFound("There is no such device, or it is not yours.")
        settle_unregistered(transaction, device_id, now)

    return job


def _standing(row: Row) -> Standing:
    # Only a device of a hub client serves all apps of its user.
    return Standing(
        id=uuid_of(row[0]),
        is_hub_only=row[1] is None,
        is_retired=row[2] is not None,
        is_revoked=row[2] is not None and row[3] in _REVOKED,
    )


def _device(row: Row) -> DeviceRow:
    return DeviceRow(
        id=uuid_of(row[0]),
        user_id=uuid_of(row[1]),
        app_id=optional_uuid_of(row[2]),
        platform=Platform(int(row[3])),
        label=str(row[4]),
        created_at=instant_of(row[5]),
        last_seen_at=instant_of(row[6]),
    )
