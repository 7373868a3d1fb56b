"""A device is given up while something waits for it: the timeline and the app's webhook say so."""

import pytest

from appliance.domain.receipt import ReceiptStatus
from appliance.storage.devices import unregister_by_app_job, unregister_by_user_job
from appliance.storage.giving_up import HANDED_ON, UNREGISTERED
from appliance.storage.receipts import list_receipts
from tests.unit.delivery.test_receipts import add_hooked_app


async def _send_to_one_phone(house):
    app_id, _ = await add_hooked_app(house, "https://app.example.org/receipts")
    user_id = await house.add_user(app_id)
    device_id = await house.add_device(user_id, app_id, "token-1")
    sent = await house.send(app_id, user_id)
    await house.settle()
    assert await house.state(sent) == ["queued"]
    return app_id, user_id, device_id, sent


async def _told(house, app_id):
    rows = await list_receipts(house.database, app_id, state=None, after=None, limit=9)
    return [(row.status, row.error) for row in rows]


@pytest.mark.parametrize("by", ["user", "app"])
async def test_what_waited_for_a_device_that_is_unregistered_has_failed_for_that_reason(house, by):
    """It was settled in silence: no receipt, and a timeline whose last word was that of an earlier try."""
    app_id, user_id, device_id, sent = await _send_to_one_phone(house)
    now = house.clock.now()
    job = unregister_by_user_job(device_id, user_id, now)
    await house.database.write(job if by == "user" else unregister_by_app_job(device_id, app_id, now))
    [delivery] = (await house.story(sent)).deliveries
    assert (delivery.state, delivery.explanation) == ("gone", UNREGISTERED)
    assert [(one.layer, one.code) for one in delivery.attempts] == [("hub", "device_unregistered")]
    assert await _told(house, app_id) == [(ReceiptStatus.FAILED, UNREGISTERED)]


async def test_what_waited_for_a_device_that_now_is_another_users_has_failed_for_that_reason(house):
    app_id, _, device_id, sent = await _send_to_one_phone(house)
    assert await house.add_device(await house.add_user(app_id), app_id, "token-1") == device_id
    [delivery] = (await house.story(sent)).deliveries
    assert delivery.state == "suppressed"
    assert [one.code for one in delivery.attempts] == ["device_handed_on"]
    assert await _told(house, app_id) == [(ReceiptStatus.FAILED, HANDED_ON)]


async def test_an_acknowledgement_after_all_is_told_too(house):
    app_id, user_id, device_id, sent = await _send_to_one_phone(house)
    await house.database.write(unregister_by_user_job(device_id, user_id, house.clock.now()))
    assert await house.backend.acknowledge(device_id, sent, 0.1)
    assert await house.state(sent) == ["confirmed"]
    assert [status for status, _ in await _told(house, app_id)] == [ReceiptStatus.DELIVERED, ReceiptStatus.FAILED]
