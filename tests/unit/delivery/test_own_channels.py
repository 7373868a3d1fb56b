"""Apps with a credential of their own: used at once, replaced at run time, and nobody else's weather."""

import asyncio
import json
from contextlib import asynccontextmanager
from functools import partial

import pytest

from appliance.channels.apns_credential import ApnsKey, SharedProviderTokens
from appliance.channels.own_credential import FcmDocument, OwnParts, encode_document
from appliance.delivery.app_credentials import AppCredentials, Author
from appliance.delivery.own_channel import SLOTS
from appliance.delivery.own_channels import PURPOSE, StoredOwnChannels
from appliance.domain.device import AddressKind
from appliance.domain.secret import Secret
from appliance.security.sealing import Sealer
from appliance.settings import load_settings
from appliance.storage.app_credentials import put_credential_job
from tests.doubles.apns import make_provider_key
from tests.doubles.channel import ScriptedChannel
from tests.doubles.fcm import registration_token, run_fcm

WITHIN_S = 20
FCM = AddressKind.FCM_TOKEN
ADMIN = Author("user:admin", "192.0.2.1")


@pytest.fixture
async def google(clock):
    async with run_fcm(None, now=clock.now) as double:
        yield double


@pytest.fixture
def open_town(open_house, tmp_path, google):
    """A house whose apps may have service accounts at Google's double; the instance's own channel is scripted."""

    @asynccontextmanager
    async def opened(*channels, mode="firebase", most_open=64):
        settings = load_settings(tmp_path, {"DELIVERY_MODE": mode, "FCM_BASE_URL": google.url})

        def make_own(database, sealer, clock):
            parts = OwnParts(settings, clock, SharedProviderTokens())
            return StoredOwnChannels(database, sealer, parts, most_open=most_open)

        async with open_house(*channels, make_own=make_own) as house:
            house.credentials = AppCredentials(
                house.database, house.sealer, settings, house.own, house.engine, house.clock
            )
            async with house.running():
                yield house
            await house.channels.close()

    return opened


def account(google, **changes):
    return FcmDocument(Secret(json.dumps(google.service_account(**changes))))


async def add_phone(house, token):
    app_id = await house.add_app()
    user_id = await house.add_user(app_id)
    await house.add_device(user_id, app_id, token)
    return app_id, user_id


async def until(is_so):
    async with asyncio.timeout(WITHIN_S):
        while True:
            if is_so():
                return
            await asyncio.sleep(0.01)


async def until_state(house, notification_id, state):
    async with asyncio.timeout(WITHIN_S):
        while True:
            if await house.state(notification_id) == [state]:
                return
            await asyncio.sleep(0.02)


def targets(google):
    return [taken.target for taken in google.control.accepted]


async def test_an_apps_own_credential_goes_before_the_instances_and_serves_no_other_app(open_town, google):
    instance = ScriptedChannel()
    async with open_town(instance) as house:
        mine, theirs = registration_token(number=1), registration_token(number=2)
        app_id, user_id = await add_phone(house, mine)
        other_app_id, other_user_id = await add_phone(house, theirs)
        await house.credentials.put(app_id, account(google), ADMIN)
        first = await house.send(app_id, user_id)
        second = await house.send(other_app_id, other_user_id)
        await until_state(house, first, "sent")
        await until_state(house, second, "sent")
        assert targets(google) == [mine]
        assert [push.address.reveal() for push in instance.pushes] == [theirs]


async def test_an_app_with_a_credential_is_reached_where_the_instance_has_none(open_town, google):
    async with open_town() as house:
        app_id, user_id = await add_phone(house, registration_token(number=1))
        await house.credentials.put(app_id, account(google), ADMIN)
        await until_state(house, await house.send(app_id, user_id), "sent")


async def test_after_a_credential_was_deleted_the_instances_is_used(open_town, google):
    instance = ScriptedChannel()
    async with open_town(instance) as house:
        app_id, user_id = await add_phone(house, registration_token(number=1))
        await house.credentials.put(app_id, account(google), ADMIN)
        await until_state(house, await house.send(app_id, user_id), "sent")
        await house.credentials.delete(app_id, FCM, ADMIN)
        await until_state(house, await house.send(app_id, user_id), "sent")
        assert (len(targets(google)), len(instance.pushes)) == (1, 1)
        await until(lambda: not google.server.connections)


async def test_a_replaced_credential_finishes_what_it_holds_and_begins_nothing_more(open_town, google):
    async with open_town() as house:
        app_id, user_id = await add_phone(house, registration_token("slow", 1))
        await house.credentials.put(app_id, account(google), ADMIN)
        held = await house.send(app_id, user_id)
        await until(lambda: house.remote.in_flight == 1 and google.server.connections)
        before = house.channels.channel_for(FCM, app_id)
        await house.credentials.put(app_id, account(google, private_key_id="another"), ADMIN)
        assert house.channels.channel_for(FCM, app_id) is not before
        await until_state(house, held, "sent")
        assert len(targets(google)) == 1
        await until(lambda: not google.server.connections)
        await until_state(house, await house.send(app_id, user_id), "sent")


async def test_what_another_node_changed_is_followed_within_a_minute(open_town, google):
    async with open_town() as house:
        app_id, user_id = await add_phone(house, registration_token(number=1))
        await house.settle()
        sealed = house.sealer.seal(encode_document(account(google)), purpose=PURPOSE)
        job = put_credential_job(app_id, FCM, sealed, {}, actor="user:x", address="", now=house.clock.now())
        await house.database.write(job)
        await house.pass_s(1)
        assert house.channels.channel_for(FCM, app_id) is None
        for _ in range(2):
            await house.pass_s(30)
        await until(lambda: house.channels.channel_for(FCM, app_id) is not None)
        await until_state(house, await house.send(app_id, user_id), "sent")


async def test_a_credential_that_hangs_delays_no_others(open_town, google):
    instance = ScriptedChannel()
    async with open_town(instance) as house:
        hanging, patient = await add_phone(house, registration_token("silent", 1))
        well, quick = await add_phone(house, registration_token(number=2))
        plain, usual = await add_phone(house, registration_token(number=3))
        for app_id in (hanging, well):
            await house.credentials.put(app_id, account(google), ADMIN)
        stuck = [await house.send(hanging, patient) for _ in range(SLOTS + 6)]
        await until(lambda: house.remote.in_flight == SLOTS)
        await until_state(house, await house.send(well, quick), "sent")
        await until_state(house, await house.send(plain, usual), "sent")
        assert house.remote.in_flight == SLOTS
        # What did not fit waits in the database, without being read again and again.
        assert [await house.state(one) for one in stuck[-6:]] == [["queued"]] * 6
        (left_out,) = house.remote.busy()
        assert (left_out.kind, left_out.apps, left_out.is_all_but) == (FCM, (hanging,), False)


async def test_an_instance_credential_that_is_full_does_not_keep_apps_with_their_own_waiting(open_town, google):
    instance = ScriptedChannel(slots=1)
    instance.gate.clear()
    async with open_town(instance) as house:
        plain, usual = await add_phone(house, registration_token(number=1))
        own, quick = await add_phone(house, registration_token(number=2))
        await house.credentials.put(own, account(google), ADMIN)
        waiting = [await house.send(plain, usual) for _ in range(3)]
        await until(lambda: house.remote.in_flight == 1)
        await until_state(house, await house.send(own, quick), "sent")
        assert await house.state(waiting[-1]) == ["queued"]
        instance.gate.set()
        for one in waiting:
            await until_state(house, one, "sent")


async def test_a_refused_credential_closes_its_own_lane_only_and_retires_nobody(open_town, google):
    async with open_town() as house:
        refused, unlucky = await add_phone(house, registration_token(number=1))
        well, quick = await add_phone(house, registration_token(number=2))
        await house.credentials.put(refused, account(google, project_id="not-theirs"), ADMIN)
        await house.credentials.put(well, account(google), ADMIN)
        stuck = [await house.send(refused, unlucky) for _ in range(12)]
        await until(lambda: google.control.answers["403 PERMISSION_DENIED"] >= 5)
        await until_state(house, await house.send(well, quick), "sent")
        assert targets(google) == [registration_token(number=2)]
        story = await house.story(stuck[0])
        assert {attempt.outcome for attempt in story.deliveries[0].attempts} == {"misconfigured"}
        rows = await house.database.read("SELECT COUNT(*) FROM device WHERE retired_at IS NOT NULL")
        assert rows[0][0] == 0


async def test_in_mode_local_a_stored_credential_is_not_used(open_town, google):
    async with open_town(mode="local") as house:
        app_id, user_id = await add_phone(house, registration_token(number=1))
        await house.credentials.put(app_id, account(google), ADMIN)
        notification_id = await house.send(app_id, user_id)
        await house.pass_s(60)
        assert house.channels.channel_for(FCM, app_id) is None
        assert (await house.state(notification_id), targets(google)) == (["queued"], [])


async def test_of_many_channels_the_longest_unused_one_is_closed_and_opened_again_when_needed(open_town, google):
    async with open_town(most_open=1) as house:
        phones = [await add_phone(house, registration_token(number=number)) for number in range(3)]
        for app_id, _ in phones:
            await house.credentials.put(app_id, account(google), ADMIN)
        for app_id, user_id in (*phones, phones[0]):
            await until_state(house, await house.send(app_id, user_id), "sent")
        is_open = [house.channels.channel_for(FCM, app_id).is_open for app_id, _ in phones]
        assert is_open == [True, False, False]


async def test_a_credential_sealed_with_another_key_says_so_and_waits(open_town, google):
    async with open_town() as house:
        app_id, user_id = await add_phone(house, registration_token(number=1))
        sealed = Sealer(Secret("z" * 40)).seal(encode_document(account(google)), purpose=PURPOSE)
        put = partial(put_credential_job, actor="user:x", address="", now=house.clock.now())
        await house.database.write(put(app_id, FCM, sealed, {}))
        await house.own.refresh()
        notification_id = await house.send(app_id, user_id)
        await house.settle()
        (attempt,) = (await house.story(notification_id)).deliveries[0].attempts
        assert attempt.outcome == "misconfigured"
        assert "SECRET_KEY" in attempt.reason


async def test_changes_are_written_to_the_audit_log(open_town, google):
    async with open_town() as house:
        app_id, _ = await add_phone(house, registration_token(number=1))
        await house.credentials.put(app_id, account(google), ADMIN)
        await house.credentials.delete(app_id, FCM, ADMIN)
        rows = await house.database.read("SELECT action, actor, target, address FROM audit ORDER BY at, action")
        assert [tuple(row) for row in rows] == [
            (f"app_credential_{what}", "user:admin", f"app:{app_id} fcm_token", "192.0.2.1")
            for what in ("changed", "deleted")
        ]


async def test_channels_with_the_same_apple_key_share_its_provider_token(clock):
    tokens = SharedProviderTokens()
    key, wrong = make_provider_key(), make_provider_key()
    shared = [tokens.find(ApnsKey(Secret(key.p8), key.key_id, key.team_id), clock) for _ in range(2)]
    other = tokens.find(ApnsKey(Secret(wrong.p8), key.key_id, key.team_id), clock)
    assert shared[0] is shared[1]
    assert other is not shared[0]
