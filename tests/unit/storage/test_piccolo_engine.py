"""Piccolo through the persistent engine: schema tools and the admin work on what the hot path reads and writes."""

import asyncio
import sqlite3
from datetime import UTC, date, datetime, timedelta

import asyncpg
import psycopg
import pytest

from appliance.domain.identifier import make_id
from appliance.storage.tables import App, QuotaDay, User

UNIQUE_VIOLATIONS = (sqlite3.IntegrityError, asyncpg.UniqueViolationError, psycopg.errors.UniqueViolation)
NOW = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)


def make_app(name="Shop", **columns):
    return App(id=make_id(NOW), name=name, created_at=NOW, **columns)


def make_user(name):
    return User(id=make_id(NOW), username=name, username_key=name, created_at=NOW)


async def test_what_piccolo_writes_piccolo_reads_as_the_same_types(database):
    app = make_app(secret_hash=b"\x00\xff", push_enabled=True)
    await app.save()
    found = await App.objects().first()
    assert found is not None
    assert (found.id, found.name, found.secret_hash, found.push_enabled) == (app.id, "Shop", b"\x00\xff", True)
    assert (found.created_at, found.daily_quota) == (NOW, 10_000)
    assert found.disabled_at is None


async def test_what_piccolo_writes_the_hot_path_finds_by_the_same_values(database):
    app = make_app()
    await app.save()
    assert await database.read_one("SELECT name FROM app WHERE id = ? AND created_at = ?", (app.id, NOW)) == ("Shop",)


async def test_what_the_hot_path_writes_piccolo_finds_by_the_same_values(database):
    app_id, day = make_id(NOW), date(2026, 3, 1)
    await database.write(
        lambda tx: tx.execute(
            "INSERT INTO quota_day (id, app, day, used) VALUES (?, ?, ?, ?)", (f"{app_id}|{day}", app_id, day, 3)
        )
    )
    row = await QuotaDay.objects().get((QuotaDay.app == app_id) & (QuotaDay.day == day))
    assert row is not None
    assert (row.app, row.day, row.used) == (app_id, day, 3)


async def test_instants_order_alike_with_and_without_fractions(database):
    at = [NOW.replace(microsecond=0) + timedelta(seconds=second, microseconds=us) for second in (0, 1) for us in (0, 5)]
    for instant in reversed(at):
        await App(id=make_id(instant), name="x", created_at=instant).save()
    rows = await App.select(App.created_at).order_by(App.created_at)
    assert [row["created_at"] for row in rows] == at
    assert await App.count().where(App.created_at <= at[2]) == 3


async def test_returning_gives_the_types_of_the_columns(database):
    app = make_app()
    assert await App.insert(app).returning(App.id, App.created_at, App.push_enabled, App.disabled_at) == [
        {"id": app.id, "created_at": NOW, "push_enabled": False, "disabled_at": None}
    ]
    assert await App.select(App.id) == [{"id": app.id}]
    assert await App.update({App.name: "New"}).where(App.id == app.id).returning(App.id, App.name) == [
        {"id": app.id, "name": "New"}
    ]
    assert await App.delete().where(App.id == app.id).returning(App.created_at) == [{"created_at": NOW}]


async def test_a_second_row_of_a_unique_value_is_refused_and_harms_no_other_write(database):
    await make_user("ada").save()
    results = await asyncio.gather(
        make_user("ben").save(), make_user("ada").save(), make_user("cleo").save(), return_exceptions=True
    )
    assert isinstance(results[1], UNIQUE_VIOLATIONS)
    assert not isinstance(results[0], Exception)
    assert not isinstance(results[2], Exception)
    names = await User.select(User.username).order_by(User.username)
    assert [row["username"] for row in names] == ["ada", "ben", "cleo"]


async def test_a_transaction_that_fails_leaves_nothing(database):
    with pytest.raises(ZeroDivisionError):
        async with App._meta.db.transaction():
            await make_app().save()
            assert await App.count() == 1
            raise ZeroDivisionError
    assert await App.count() == 0


async def test_a_transaction_that_ends_well_is_kept_whole(database):
    async with App._meta.db.transaction():
        await make_app("one").save()
        await make_app("two").save()
    assert await database.read("SELECT COUNT(*) FROM app") == [(2,)]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_many_writes_at_once_share_commits(database):
    before = database.writer.groups
    await asyncio.gather(*(make_app(f"n{number}").save() for number in range(60)))
    assert await App.count() == 60
    assert database.writer.groups - before < 60


async def test_a_read_sees_every_write_that_completed_before_it(database):
    for number in range(1, 20):
        await make_app().save()
        assert await App.count() == number
        assert await database.read("SELECT COUNT(*) FROM app") == [(number,)]
