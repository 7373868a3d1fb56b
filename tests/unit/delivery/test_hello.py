"""Who may say Hello: devices that were revoked may not, ones that only lost their address may, over the hub alone."""

import asyncio
from datetime import timedelta

import pytest

from appliance.domain.outcome import Gone
from appliance.domain.principal import Principal, PrincipalKind, Role
from appliance.hub.backend import DeviceLost, Hello, HelloRefused
from appliance.storage.deliveries import retire_device_job
from appliance.storage.devices import unregister_by_app_job, unregister_by_user_job
from tests.doubles.channel import ScriptedChannel


def say_hello(house, user_id, device):
    expires_at = house.clock.now() + timedelta(hours=1)
    principal = Principal(PrincipalKind.USER, user_id, None, Role.MEMBER, frozenset(), expires_at, "token")
    return house.backend.register_hello(principal, Hello(str(device), cursor=0, acknowledges=True))


@pytest.mark.parametrize("by", ["user", "app"])
async def test_a_revoked_device_of_one_app_does_not_come_back_as_one_of_all_apps(house, by):
    """Its Hello found no live device with this id, and made a new one under it that got what every app sent."""
    app_id, other_id = await house.add_app(), await house.add_app()
    user_id = await house.add_user(app_id, other_id)
    device_id = await house.add_device(user_id, app_id, "token")
    now = house.clock.now()
    revoke = unregister_by_user_job(device_id, user_id, now)
    await house.database.write(revoke if by == "user" else unregister_by_app_job(device_id, app_id, now))
    with pytest.raises(HelloRefused) as refusal:
        await say_hello(house, user_id, device_id)
    assert refusal.value.text == "This device was revoked. Register it again."
    assert (await house.database.read_one("SELECT COUNT(*) FROM device"))[0] == 1
    assert await house.add_device(user_id, app_id, "token") == device_id
    assert (await say_hello(house, user_id, device_id)).device_id == device_id


@pytest.mark.parametrize("named_by", ["its own name", "the id it was given"])
async def test_a_revoked_hub_client_is_told_to_sign_in_again_whatever_it_calls_itself(house, named_by):
    """The user revoked it, and its own reconnect a second later had made it live again."""
    user_id = await house.add_user(await house.add_app())
    device_id = await house.add_hub_device(user_id, "phone")
    await house.database.write(unregister_by_user_job(device_id, user_id, house.clock.now()))
    with pytest.raises(HelloRefused) as refusal:
        await say_hello(house, user_id, "phone" if named_by == "its own name" else device_id)
    assert refusal.value.text == "This device was revoked. Sign in again with a new device id."
    assert (await say_hello(house, user_id, "another phone")).device_id != device_id


async def test_a_device_that_is_revoked_while_it_says_hello_is_given_no_history(house):
    """The Hello waited for its write while the revocation was committed: the revoked device was seated, and stayed."""
    app_id = await house.add_app()
    user_id = await house.add_user(app_id)
    device_id = await house.add_hub_device(user_id, "phone")
    await house.send(app_id, user_id)
    hello = asyncio.ensure_future(say_hello(house, user_id, "phone"))
    await asyncio.sleep(0)
    await house.database.write(unregister_by_user_job(device_id, user_id, house.clock.now()))
    assert (await hello).device_id == device_id
    with pytest.raises(DeviceLost) as lost:
        await house.backend.load_missed(user_id, device_id, 0, 100)
    assert lost.value.text == "This device was revoked. Sign in again with a new device id."
    assert not lost.value.may_return


async def test_a_device_that_is_retired_or_moved_while_it_says_hello_is_told_so(house):
    app_id = await house.add_app()
    user_id, other_id = await house.add_user(app_id), await house.add_user(app_id)
    device_id = await house.add_device(user_id, app_id, "token")
    await say_hello(house, user_id, device_id)
    await house.database.write(retire_device_job(device_id, "UNREGISTERED", house.clock.now()))
    with pytest.raises(DeviceLost) as lost:
        await house.backend.load_missed(user_id, device_id, 0, 100)
    assert (lost.value.text, lost.value.may_return) == ("This device was retired. Connect again.", True)

    assert await house.add_device(other_id, app_id, "token") == device_id
    with pytest.raises(DeviceLost) as lost:
        await house.backend.load_missed(user_id, device_id, 0, 100)
    assert (lost.value.text, lost.value.may_return) == ("This device belongs to another user now.", False)


async def test_a_device_whose_provider_disowned_its_token_goes_on_over_the_hub_alone(open_house):
    """It is closed with leave to come back; by its Hello the same device is live, and its dead token is not asked."""
    channel = ScriptedChannel(Gone("UNREGISTERED", code="unregistered"))
    async with open_house(channel) as house, house.running():
        app_id = await house.add_app()
        user_id = await house.add_user(app_id)
        device_id = await house.add_device(user_id, app_id, "token")
        gone = await house.send(app_id, user_id)
        await house.settle()
        assert await house.state(gone) == ["gone"]

        assert (await say_hello(house, user_id, device_id)).device_id == device_id
        house.hub.connect(device_id)
        later = await house.send(app_id, user_id)
        await house.settle()
        assert await house.state(later) == ["offered"]
        await house.pass_s(60)
        assert await house.state(later) == ["queued"]
        assert len(channel.pushes) == 1
        missed = await house.backend.load_missed(user_id, device_id, 1, 100)
        assert [one.id for one in missed.notifications] == [later]


async def test_a_cursor_with_nothing_open_behind_it_costs_no_write(house):
    """After a restart everybody says Hello with a cursor at once; each of them had a write of its own."""
    app_id = await house.add_app()
    user_id = await house.add_user(app_id)
    device_id = await house.add_device(user_id, app_id, "token")
    before = house.database.writer.jobs
    await say_hello(house, user_id, device_id)
    # Whoever waits for a write has heard of all before it.
    await house.database.write(lambda transaction: None)
    assert house.database.writer.jobs == before + 1
