"""What waits for delivery when its user or its app is disabled.

The story: disabling ended tokens and connections, but what waited for a provider's answer or for a retry went on being
sent: somebody who had left kept getting the house's notifications on their phone for as long as the time to live said.
"""

from contextlib import asynccontextmanager

import pytest

from appliance.api.identity import apps as app_registry
from appliance.api.identity.service import open_identity
from appliance.domain.outcome import Accepted, Retry
from appliance.domain.secret import Secret
from appliance.security.passwords import Argon2Cost, PasswordHasher
from appliance.settings import Settings
from tests.doubles.channel import ScriptedChannel


@pytest.fixture
def open_identity_of(tmp_path):
    @asynccontextmanager
    async def opened(house):
        passwords = PasswordHasher(Argon2Cost(memory_kib=8, passes=1, lanes=1))
        settings = Settings(data_dir=tmp_path, secret_key=Secret("k" * 40), secret_key_previous=Secret(""))
        async with open_identity(
            house.database, settings, house.clock, passwords=passwords, is_server=False
        ) as identity:
            yield identity
        passwords.close()

    return opened


async def shut_out(identity, who, user_id, app_id):
    if who == "user":
        await identity.disable_user(user_id)
    else:
        await identity.apps.disable_app(app_id)


@pytest.mark.parametrize("who", ["user", "app"])
async def test_what_waits_for_a_retry_is_held_back_and_says_why(open_house, open_identity_of, who):
    channel = ScriptedChannel(Retry("The provider is busy.", code="503"))
    async with open_house(channel) as house, house.running(), open_identity_of(house) as identity:
        app_id, other_app = await house.add_app(), await house.add_app()
        user_id, other_user = await house.add_user(app_id, other_app), await house.add_user(app_id, other_app)
        await house.add_device(user_id, app_id, "token-1")
        await house.add_device(other_user, other_app, "token-2")
        waiting = await house.send(app_id, user_id, collapse_key="news")
        await house.settle()
        assert len(channel.pushes) == 1
        await shut_out(identity, who, user_id, app_id)
        await house.pass_s(7_200)
        assert len(channel.pushes) == 1
        delivery = (await house.story(waiting)).deliveries[0]
        assert delivery.state == "suppressed"
        assert delivery.explanation == f"It was held back: the {who} was disabled before it was delivered."
        elsewhere = await house.send(other_app, other_user)
        await house.settle()
        assert await house.state(elsewhere) == ["sent"]


@pytest.mark.parametrize("who", ["user", "app"])
async def test_a_try_under_way_is_not_repeated(open_house, open_identity_of, who):
    channel = ScriptedChannel(Retry("The provider is busy.", code="503"), Accepted("2"))
    async with open_house(channel) as house, house.running(), open_identity_of(house) as identity:
        app_id = await house.add_app()
        user_id = await house.add_user(app_id)
        await house.add_device(user_id, app_id, "token-1")
        channel.gate.clear()
        notification_id = await house.send(app_id, user_id)
        await house.settle()
        assert await house.state(notification_id) == ["claimed"]
        await shut_out(identity, who, user_id, app_id)
        channel.gate.set()
        await house.pass_s(7_200)
        assert (len(channel.pushes), await house.state(notification_id)) == (1, ["suppressed"])


async def test_a_backlog_of_more_than_a_page_is_held_back_whole_and_nobody_elses(
    open_house, open_identity_of, monkeypatch
):
    monkeypatch.setattr(app_registry, "SUPPRESSED_AT_ONCE", 3)
    async with open_house() as house, open_identity_of(house) as identity:
        app_id, other_app = await house.add_app(), await house.add_app()
        user_id = await house.add_user(app_id, other_app)
        await house.add_hub_device(user_id)
        waiting = [await house.send(app_id, user_id) for _ in range(7)]
        others = [await house.send(other_app, user_id) for _ in range(2)]
        await identity.apps.disable_app(app_id)
        assert [await house.state(one) for one in waiting] == [["suppressed"]] * 7
        assert [await house.state(one) for one in others] == [["queued"]] * 2


async def test_disabling_again_goes_on_where_an_interrupted_disabling_ended(open_house, open_identity_of):
    async with open_house() as house, open_identity_of(house) as identity:
        app_id = await house.add_app()
        user_id = await house.add_user(app_id)
        await house.add_hub_device(user_id)
        waiting = await house.send(app_id, user_id)
        now = house.clock.now()
        await house.database.write(lambda tx: tx.execute("UPDATE app SET disabled_at = ? WHERE id = ?", (now, app_id)))
        await identity.apps.disable_app(app_id)
        assert await house.state(waiting) == ["suppressed"]


async def test_a_disabled_users_other_devices_and_other_users_devices_are_told_apart(open_house, open_identity_of):
    async with open_house() as house, open_identity_of(house) as identity:
        app_id = await house.add_app()
        user_id, neighbour = await house.add_user(app_id), await house.add_user(app_id)
        for device in ("phone", "tablet"):
            await house.add_hub_device(user_id, device)
        await house.add_hub_device(neighbour)
        mine, theirs = await house.send(app_id, user_id), await house.send(app_id, neighbour)
        await identity.disable_user(user_id)
        assert await house.state(mine) == ["suppressed", "suppressed"]
        assert await house.state(theirs) == ["queued"]
