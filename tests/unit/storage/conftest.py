"""The storage suite runs on both databases: every test that asks for `database` runs on SQLite and on PostgreSQL."""

from contextlib import asynccontextmanager

import pytest

from appliance.domain.identifier import make_id
from appliance.domain.notification import check_content
from appliance.domain.secret import Secret
from appliance.storage.database import open_database
from appliance.storage.devices import Registration, SealedAddress, register_job
from tests.doubles.hand_clock import HandClock


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request):
    """A new, empty database: None for SQLite in the test's folder, else the URL of one on a real server."""
    if request.param == "sqlite":
        return None
    return Secret(request.getfixturevalue("postgresql").make_database())


@pytest.fixture
async def database(tmp_path, database_url):
    async with open_database(tmp_path, database_url) as opened:
        yield opened


class Town:
    """Apps, users and devices in a database, made with as few words as a test wants to spend."""

    def __init__(self, database, clock):
        self.database = database
        self.clock = clock
        self._devices = 0

    async def add_app(self, *, quota=10_000, enabled=True, disabled_at=None):
        app_id = make_id(self.clock.now())
        await self.database.write(
            lambda tx: tx.execute(
                "INSERT INTO app (id, name, push_enabled, open_enrolment, daily_quota, email_policy, created_at, "
                "disabled_at) VALUES (?, ?, ?, ?, ?, 0, ?, ?)",
                (app_id, "App", enabled, True, quota, self.clock.now(), disabled_at),
            )
        )
        return app_id

    async def add_user(self, *app_ids, disabled_at=None):
        user_id = make_id(self.clock.now())
        now = self.clock.now()

        def job(tx):
            tx.execute(
                "INSERT INTO account (id, username, username_key, role, last_sequence, oldest_sequence, created_at, "
                "disabled_at) VALUES (?, ?, ?, 0, 0, 1, ?, ?)",
                (user_id, str(user_id), str(user_id), now, disabled_at),
            )
            for app_id in app_ids:
                tx.execute(
                    'INSERT INTO enrolment (id, "user", app, created_at) VALUES (?, ?, ?, ?)',
                    (f"{user_id}|{app_id}", user_id, app_id, now),
                )

        await self.database.write(job)
        return user_id

    async def add_device(self, user_id, app_id, kind, platform):
        self._devices += 1
        address = SealedAddress(kind, b"sealed", [self._devices.to_bytes(8, "big")])
        registration = Registration(user_id=user_id, app_id=app_id, platform=platform, address=address)
        return (await self.database.write(register_job(registration, self.clock.now()))).device_id

    async def count(self, table, condition="1 = 1", parameters=()):
        rows = await self.database.read(f"SELECT COUNT(*) FROM {table} WHERE {condition}", parameters)
        return rows[0][0]

    async def value(self, sql, *parameters):
        row = await self.database.read_one(sql, parameters)
        return None if row is None else row[0]


@pytest.fixture
def town(database, clock):
    return Town(database, clock)


@pytest.fixture
def content():
    return check_content(title="Title", body="Body", data={"order": 7})


@pytest.fixture
def open_again(tmp_path, database_url):
    """Open the same data once more, as the next start of the program does."""

    @asynccontextmanager
    async def opened(**options):
        async with open_database(tmp_path, database_url, **options) as database:
            yield database

    return opened
