"""Devices at rest: registering, moving to another user, the hourly limit, retiring, being seen."""

import sqlite3
from datetime import timedelta
from typing import cast

import psycopg
import pytest

from appliance.domain.device import REGISTRATIONS_PER_HOUR, AddressKind, Platform
from appliance.domain.errors import Forbidden, NotEnrolled, NotFound, PushDisabled, TooMany
from appliance.domain.identifier import make_id
from appliance.domain.ladder import DeliveryState
from appliance.storage.database import Database
from appliance.storage.deliveries import retire_device_job
from appliance.storage.devices import (
    HUB_DEVICES_PER_HOUR,
    Registration,
    SealedAddress,
    Standing,
    bind_installation_job,
    list_app_devices,
    list_user_devices,
    load_live_device,
    load_standing,
    register_job,
    revive_job,
    touch_job,
    unregister_by_app_job,
    unregister_by_user_job,
)
from appliance.storage.sending import Plan, Target, accept_job

FCM = AddressKind.FCM_TOKEN
WITH_FCM = Plan(frozenset({FCM}), timedelta(seconds=10))


def _address(*fingerprints: bytes, sealed: bytes = b"sealed", kind: AddressKind = FCM) -> SealedAddress:
    return SealedAddress(kind, sealed, [fingerprint.ljust(32) for fingerprint in fingerprints])


@pytest.fixture
def register(database, clock):
    async def registering(user_id, app_id, *fingerprints, sealed=b"sealed", **more):
        address = _address(*fingerprints, sealed=sealed)
        registration = Registration(user_id, app_id, Platform.ANDROID, address, **more)
        return await database.write(register_job(registration, clock.now()))

    return registering


@pytest.fixture
async def app_id(town):
    return await town.add_app()


@pytest.fixture
async def user_id(town, app_id):
    return await town.add_user(app_id)


async def test_a_known_address_keeps_its_row(register, town, app_id, user_id):
    first = await register(user_id, app_id, b"one")
    again = await register(user_id, app_id, b"one")
    other = await register(user_id, app_id, b"two")
    assert (first.is_new, again.is_new, other.is_new) == (True, False, True)
    assert first.device_id == again.device_id != other.device_id
    assert await town.count("device") == 2


async def test_an_address_sealed_under_the_previous_key_is_found_and_sealed_anew(register, town, app_id, user_id):
    old = await register(user_id, app_id, b"old key", sealed=b"under the old key")
    again = await register(user_id, app_id, b"new key", b"old key", sealed=b"under the new key")
    assert (again.device_id, again.is_new) == (old.device_id, False)
    row = await town.database.read_one("SELECT address_sealed, address_fingerprint FROM device")
    assert (bytes(row[0]), bytes(row[1]).strip()) == (b"under the new key", b"new key")


async def test_registering_again_keeps_a_label_and_changes_it_when_it_is_given(register, database, app_id, user_id):
    await register(user_id, app_id, b"one", label="Phone")
    await register(user_id, app_id, b"one")
    assert [row.label for row in (await list_app_devices(database, app_id, after=None, limit=10))[0]] == ["Phone"]
    await register(user_id, app_id, b"one", label="Tablet")
    assert [row.label for row in (await list_app_devices(database, app_id, after=None, limit=10))[0]] == ["Tablet"]


@pytest.mark.parametrize("state", [DeliveryState.QUEUED, DeliveryState.OFFERED, DeliveryState.CLAIMED])
async def test_what_waits_for_the_former_owner_is_held_back_in_every_open_state(
    register, database, town, clock, content, app_id, user_id, state
):
    """A claimed delivery whose try fails would be tried again, at an address that is somebody else's by then."""
    device_id = (await register(user_id, app_id, b"one")).device_id
    job = accept_job(
        app_id, [Target(user_id, content)], field="user_id", idempotency=None, now=clock.now(), plan=WITH_FCM
    )
    await database.write(job)
    await database.write(lambda tx: tx.execute("UPDATE delivery SET state = ?", (state,)))
    other_id = await town.add_user(app_id)
    moved = await register(other_id, app_id, b"one")
    assert (moved.device_id, moved.former_user_id) == (device_id, user_id)
    row = await database.read_one("SELECT state, due_at, lease_until, settled_at FROM delivery")
    assert (row[0], row[1], row[2]) == (DeliveryState.SUPPRESSED, None, None)
    assert row[3] is not None


async def test_what_is_settled_stays_as_it_is_when_the_device_moves(
    register, database, town, clock, content, app_id, user_id
):
    await register(user_id, app_id, b"one")
    job = accept_job(
        app_id, [Target(user_id, content)], field="user_id", idempotency=None, now=clock.now(), plan=WITH_FCM
    )
    await database.write(job)
    await database.write(
        lambda tx: tx.execute("UPDATE delivery SET state = ?, settled_at = ?", (DeliveryState.CONFIRMED, clock.now()))
    )
    await register(await town.add_user(app_id), app_id, b"one")
    assert await town.value("SELECT state FROM delivery") == DeliveryState.CONFIRMED


async def test_a_user_may_register_ten_times_in_any_hour(register, database, clock, town, app_id, user_id):
    for _ in range(REGISTRATIONS_PER_HOUR):
        await register(user_id, app_id, b"one")
        clock.pass_s(60)
    with pytest.raises(TooMany) as refusal:
        await register(user_id, app_id, b"one")
    # The first of them leaves the window an hour after it was made.
    assert refusal.value.retry_after_s == 3600 - 600 + 1
    clock.pass_s(3000)
    await register(user_id, app_id, b"one")
    with pytest.raises(TooMany):
        await register(user_id, app_id, b"one")
    assert await town.count("registration") == REGISTRATIONS_PER_HOUR


async def test_a_refused_registration_leaves_nothing_behind(register, town, clock, app_id, user_id):
    off, gone = await town.add_app(enabled=False), await town.add_app(disabled_at=clock.now())
    closed = await town.add_app()
    await town.database.write(lambda tx: tx.execute("UPDATE app SET open_enrolment = ? WHERE id = ?", (False, closed)))
    for target, error in (
        (off, PushDisabled),
        (gone, Forbidden),
        (closed, NotEnrolled),
        (make_id(clock.now()), NotFound),
    ):
        with pytest.raises(error):
            await register(user_id, target, b"one")
    assert await town.count("registration") == 0
    assert await town.count("device") == 0
    assert await town.count("enrolment") == 1


async def test_hub_devices_leave_the_ten_registrations_to_push_addresses(database, town, clock, user_id):
    """Ten terminals that said Hello once left their user unable to register a phone, and the hub refused the next."""

    async def bind(name: bytes, kind: AddressKind = AddressKind.HUB):
        registration = Registration(user_id, None, Platform.HUB, _address(name, kind=kind))
        return await database.write(bind_installation_job(registration, clock.now()))

    first = await bind(b"terminal")
    for _ in range(20):
        assert (await bind(b"terminal")).device_id == first.device_id
    for number in range(HUB_DEVICES_PER_HOUR - 1):
        await bind(b"%d" % number)
    assert await town.count("registration") == 0
    with pytest.raises(TooMany, match="deviceId"):
        await bind(b"one more")
    await bind(b"terminal")
    clock.pass_s(3_601)
    await bind(b"one more")


async def test_an_installation_that_its_user_revoked_is_not_revived_by_coming_back(database, town, clock, user_id):
    """The revoked client said Hello again a second later, and that alone had made it a live device again."""
    registration = Registration(user_id, None, Platform.HUB, _address(b"terminal", kind=AddressKind.HUB))
    device_id = (await database.write(bind_installation_job(registration, clock.now()))).device_id
    await database.write(unregister_by_user_job(device_id, user_id, clock.now()))
    with pytest.raises(Forbidden) as refusal:
        await database.write(bind_installation_job(registration, clock.now()))
    assert refusal.value.detail == "This device was revoked. Sign in again with a new device id."
    assert await load_live_device(database, user_id, registration.address.fingerprints[0]) is None
    assert await town.count("registration") == 0


@pytest.mark.parametrize("by", ["user", "app"])
async def test_a_registered_device_that_was_revoked_is_revived_by_registering_only(
    register, database, clock, app_id, user_id, by
):
    device_id = (await register(user_id, app_id, b"one")).device_id
    await database.write(
        unregister_by_user_job(device_id, user_id, clock.now())
        if by == "user"
        else unregister_by_app_job(device_id, app_id, clock.now())
    )
    with pytest.raises(Forbidden) as refusal:
        await database.write(revive_job(device_id, user_id, clock.now()))
    assert refusal.value.detail == "This device was revoked. Register it again."
    assert (await register(user_id, app_id, b"one")).device_id == device_id
    assert await load_standing(database, user_id, device_id) == Standing(
        device_id, is_hub_only=False, is_retired=False, is_revoked=False
    )


async def test_a_device_whose_provider_disowned_its_address_is_revived_for_the_hub_and_keeps_the_address(
    register, database, town, clock, app_id, user_id
):
    device_id = (await register(user_id, app_id, b"one")).device_id
    await database.write(retire_device_job(device_id, "The provider does not know it.", clock.now()))
    await database.write(revive_job(device_id, user_id, clock.now()))
    await database.write(revive_job(device_id, user_id, clock.now()))
    # The answer to a try that was under way all the time.
    await database.write(retire_device_job(device_id, "The provider does not know it.", clock.now()))
    assert await town.value("SELECT address_kind FROM device WHERE retired_at IS NULL") == AddressKind.HUB
    # For the device alone: coming back by Hello is no registration.
    assert await town.count("registration") == 1
    assert (await register(user_id, app_id, b"one")).device_id == device_id
    assert await town.value("SELECT address_kind FROM device") == AddressKind.FCM_TOKEN


async def test_nobody_revives_another_user_s_device(register, database, town, clock, app_id, user_id):
    device_id = (await register(user_id, app_id, b"one")).device_id
    await database.write(retire_device_job(device_id, "The provider does not know it.", clock.now()))
    with pytest.raises(NotFound):
        await database.write(revive_job(device_id, await town.add_user(app_id), clock.now()))
    assert await town.count("device", "retired_at IS NOT NULL") == 1


async def test_a_retired_device_is_hidden_and_its_open_deliveries_end(
    register, database, town, clock, content, app_id, user_id
):
    device_id = (await register(user_id, app_id, b"one")).device_id
    job = accept_job(
        app_id, [Target(user_id, content)], field="user_id", idempotency=None, now=clock.now(), plan=WITH_FCM
    )
    await database.write(job)
    stranger = await town.add_user(app_id)
    for refused in (
        unregister_by_user_job(device_id, stranger, clock.now()),
        unregister_by_app_job(device_id, await town.add_app(), clock.now()),
    ):
        with pytest.raises(NotFound):
            await database.write(refused)
    await database.write(unregister_by_app_job(device_id, app_id, clock.now()))
    with pytest.raises(NotFound):
        await database.write(unregister_by_user_job(device_id, user_id, clock.now()))
    assert await list_app_devices(database, app_id, after=None, limit=10) == ([], 0)
    assert await list_user_devices(database, user_id) == []
    assert await load_live_device(database, user_id, _address(b"one").fingerprints[0]) is None
    assert await town.value("SELECT state FROM delivery") == DeliveryState.GONE
    assert (await register(user_id, app_id, b"one")).device_id == device_id
    assert await load_live_device(database, user_id, _address(b"one").fingerprints[0]) == device_id


async def test_devices_for_all_apps_are_listed_last_and_by_no_app(register, database, clock, app_id, user_id):
    await register(user_id, app_id, b"one")
    registration = Registration(user_id, None, Platform.HUB, _address(b"terminal", kind=AddressKind.HUB))
    await database.write(bind_installation_job(registration, clock.now()))
    assert [(group.app_id, group.name) for group in await list_user_devices(database, user_id)] == [
        (app_id, "App"),
        (None, "All apps"),
    ]
    assert (await list_app_devices(database, app_id, after=None, limit=10))[1] == 1


# On SQLite only: PostgreSQL is not read on the event loop, and chooses its plans by the numbers it has.
@pytest.mark.parametrize("database_url", [None])
async def test_an_app_s_devices_are_paged_and_counted_from_an_index_alone(register, database, app_id, user_id):
    """A page of an app with 200 000 devices sorted and counted all of their rows, and held everybody up meanwhile."""
    device_id = (await register(user_id, app_id, b"one")).device_id
    told = _Listening(database)
    await list_app_devices(cast(Database, told), app_id, after=device_id, limit=10)
    plans = [await database.read(f"EXPLAIN QUERY PLAN {sql}", parameters) for sql, parameters in told.statements]
    assert [[row[3] for row in plan] for plan in plans] == [
        ["SEARCH device USING INDEX device_app_live (app=? AND id>?)"],
        ["SEARCH device USING COVERING INDEX device_app_live (app=?)"],
    ]


class _Listening:
    """Reads from a database, and remembers what was asked."""

    def __init__(self, database):
        self._database = database
        self.statements = []

    async def read(self, sql, parameters=()):
        self.statements.append((sql, parameters))
        return await self._database.read(sql, parameters)

    async def read_one(self, sql, parameters=()):
        rows = await self.read(sql, parameters)
        return rows[0] if rows else None


async def test_one_notification_has_one_delivery_to_one_device(register, database, clock, content, app_id, user_id):
    await register(user_id, app_id, b"one")
    job = accept_job(
        app_id, [Target(user_id, content)], field="user_id", idempotency=None, now=clock.now(), plan=WITH_FCM
    )
    await database.write(job)
    columns = 'notification, device, "user", state, attempts, expires_at'
    again = f"INSERT INTO delivery (id, {columns}) SELECT ?, {columns} FROM delivery"
    with pytest.raises((sqlite3.IntegrityError, psycopg.errors.UniqueViolation)):
        await database.write(lambda tx: tx.execute(again, (make_id(clock.now()),)))


async def test_being_seen_only_moves_forward(register, database, clock, app_id, user_id):
    device_id = (await register(user_id, app_id, b"one")).device_id
    before, later = clock.now(), clock.now() + timedelta(minutes=5)
    for at in (later, before):
        await database.write(touch_job([device_id], at))
        (row,), _ = await list_app_devices(database, app_id, after=None, limit=10)
        assert row.last_seen_at == later
