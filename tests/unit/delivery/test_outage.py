"""Through the whole engine: an answer that got lost, and a provider that is down for hours."""

import asyncio
import json
import ssl

import pytest

from appliance.channels.apns import ApnsChannel
from appliance.channels.apns_credential import ApnsKey
from appliance.channels.fcm import FcmChannel
from appliance.domain.device import Platform
from appliance.domain.secret import Secret
from tests.doubles.apns import device_token, run_apns
from tests.doubles.certificates import Authority
from tests.doubles.fcm import registration_token, run_fcm
from tests.doubles.outage import HealthyProvider, PacedProvider, live_through_outage

COUNT = 1_500
SLOTS = 64


async def until(house, is_so):
    async with asyncio.timeout(30):
        while not is_so():
            await house.pass_s(0.5)


@pytest.mark.parametrize("provider", ["google", "apple"])
async def test_a_lost_answer_leads_to_one_more_send_under_the_same_ids_and_is_shown_once(
    open_house, clock, tmp_path, provider
):
    """The provider took it and the connection died: nobody can know, so it is repeated, and the phone replaces it."""
    authority = Authority(tmp_path)

    def trusting():
        return authority.trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    async with run_fcm(authority, now=clock.now) as google, run_apns(authority, now=clock.now) as apple:
        fcm = FcmChannel(Secret(json.dumps(google.service_account())), clock, trusting, base_url=google.url)
        key = ApnsKey(Secret(apple.key.p8), apple.key.key_id, apple.key.team_id)
        apns = ApnsChannel(key, clock, trusting, topic=min(apple.topics), base_url=apple.url)
        double = google if provider == "google" else apple
        double.control.script.append("swallow")
        async with open_house(fcm, apns) as house, house.running():
            app_id = await house.add_app()
            user_id = await house.add_user(app_id)
            if provider == "google":
                await house.add_device(user_id, app_id, registration_token())
            else:
                await house.add_device(user_id, app_id, device_token(), Platform.IOS)
            sent = await house.send(app_id, user_id)
            await until(house, lambda: len(double.control.accepted) >= 2)
            async with asyncio.timeout(30):
                while await house.state(sent) != ["sent"]:
                    await house.settle(5)
            await house.pass_s(3_600)
            first, second = double.control.accepted
            attempts = (await house.story(sent)).deliveries[0].attempts
        await fcm.close()
        await apns.close()
    assert [attempt.outcome for attempt in attempts] == ["retry", "accepted"]
    assert list(double.control.ids.values()) == [2]
    if provider == "google":
        shown = {taken.payload["android"]["notification"]["tag"] for taken in (first, second)}  # type: ignore[index]
    else:
        shown = {taken.headers["apns-collapse-id"] for taken in (first, second)}
        assert {taken.headers["apns-id"] for taken in (first, second)} == {str(sent)}
    assert shown == {str(sent)}


async def test_hours_of_outage_end_in_a_bounded_drain_and_cost_neither_devices_nor_the_others(open_house):
    sick, well = PacedProvider(slots=SLOTS), HealthyProvider()
    async with open_house(sick, well) as house, house.running():
        story = await live_through_outage(house, sick, well, count=COUNT)
        states = dict(await house.database.read("SELECT state, COUNT(*) FROM delivery GROUP BY state"))
        retired = await house.database.read("SELECT id FROM device WHERE retired_at IS NOT NULL")
        open_left = await house.database.read("SELECT id FROM delivery WHERE settled_at IS NULL")
    assert retired == []
    # While it is down it is asked now and then, not once for each of what waits.
    assert story.tries_while_down < 250
    assert sick.most_at_once <= SLOTS
    assert sick.most_in_a_tick <= SLOTS
    assert set(sick.accepted) == set(story.kept)
    assert set(sick.accepted.values()) == {1}
    assert not set(story.doomed) & set(sick.accepted)
    assert (story.others_late, len(well.pushes)) == (0, story.others)
    assert sum(states.values()) == COUNT + story.others
    assert open_left == []
