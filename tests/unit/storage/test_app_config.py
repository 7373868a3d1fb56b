"""An app's push configuration at rest."""

import pytest

from appliance.domain.errors import NotFound
from appliance.domain.identifier import make_id
from appliance.storage.app_config import ConfigChange, FreshKeys, change_push_config_job, load_push_config

FIRST, SECOND = FreshKeys(b"first", b"first private", "first"), FreshKeys(b"second", b"second private", "second")


@pytest.fixture
def change(database, clock):
    async def changing(app_id, *values, keys=None):
        job = change_push_config_job(
            app_id, ConfigChange(values, keys), actor="user:1", address="192.0.2.1", now=clock.now()
        )
        return await database.write(job)

    return changing


async def test_keys_that_exist_are_kept(change, town):
    app_id = await town.add_app(enabled=False)
    first = await change(app_id, ("push_enabled", True), keys=FIRST)
    again = await change(app_id, ("push_enabled", True), keys=SECOND)
    assert (first.webhook_secret_sealed, first.vapid_public_key) == (b"first", "first")
    assert again == first
    assert bytes(await town.value("SELECT vapid_private_key_sealed FROM app")) == b"first private"


async def test_a_change_is_in_the_audit_log_without_its_values(change, town):
    app_id = await town.add_app()
    await change(app_id, ("webhook_url", "https://example.org/hook?token=abc"), ("daily_quota", 5))
    row = await town.database.read_one("SELECT actor, action, target, address FROM audit")
    assert row == ("user:1", "push_config_changed", f"app:{app_id} webhook_url,daily_quota", "192.0.2.1")


async def test_a_change_of_nothing_is_not_in_the_audit_log(change, town):
    await change(await town.add_app())
    assert await town.count("audit") == 0


async def test_an_unknown_app_or_column_is_refused(change, database, clock, town):
    with pytest.raises(NotFound):
        await change(make_id(clock.now()), ("push_enabled", True))
    with pytest.raises(NotFound):
        await load_push_config(database, make_id(clock.now()), clock.now())
    with pytest.raises(ValueError, match="secret_hash"):
        await change(await town.add_app(), ("secret_hash", b"x"))


async def test_todays_use_starts_anew_at_midnight_utc(database, town, clock):
    app_id = await town.add_app()
    now = clock.now()
    await database.write(
        lambda tx: tx.execute(
            "INSERT INTO quota_day (id, app, day, used) VALUES (?, ?, ?, ?)",
            (f"{app_id}|{now.date()}", app_id, now.date(), 7),
        )
    )
    assert (await load_push_config(database, app_id, now)).notifications_today == 7
    clock.pass_s(12 * 3600)
    assert (await load_push_config(database, app_id, clock.now())).notifications_today == 0
