"""The next layer: claims, outcomes, retries, and what an acknowledgement does to them."""

import asyncio
from datetime import timedelta

import pytest

from appliance.domain.outcome import Accepted, Gone, Misconfigured, Rejected, Retry
from tests.doubles.channel import ScriptedChannel


async def _phone(house, token="token-1"):
    app_id = await house.add_app()
    user_id = await house.add_user(app_id)
    return app_id, user_id, await house.add_device(user_id, app_id, token)


async def test_a_device_that_is_not_live_is_pushed_at_once_with_its_address_in_the_clear(open_house):
    channel = ScriptedChannel(Accepted("projects/x/messages/1"))
    async with open_house(channel) as house, house.running():
        app_id, user_id, device_id = await _phone(house)
        notification_id = await house.send(app_id, user_id)
        await house.settle()
        assert [(push.address.reveal(), push.envelope.id, push.device_id) for push in channel.pushes] == [
            ("token-1", notification_id, device_id)
        ]
        story = await house.story(notification_id)
        assert (story.state, story.deliveries[0].attempts[0].layer) == ("delivered", "direct")


async def test_an_acknowledged_offer_is_never_pushed(open_house):
    channel = ScriptedChannel()
    async with open_house(channel) as house, house.running():
        app_id, user_id, device_id = await _phone(house)
        house.hub.connect(device_id, window_s=4.0)
        notification_id = await house.send(app_id, user_id)
        await house.settle()
        await house.backend.acknowledge(device_id, notification_id, None)
        await house.pass_s(3_600)
        assert channel.pushes == []
        assert await house.state(notification_id) == ["confirmed"]


async def test_an_unanswered_offer_is_pushed_when_its_window_has_passed_and_not_before(open_house):
    channel = ScriptedChannel()
    async with open_house(channel) as house, house.running():
        app_id, user_id, device_id = await _phone(house)
        house.hub.connect(device_id, window_s=4.0)
        notification_id = await house.send(app_id, user_id)
        await house.pass_s(3)
        assert channel.pushes == []
        await house.pass_s(2)
        assert len(channel.pushes) == 1
        assert [a.outcome for a in (await house.story(notification_id)).deliveries[0].attempts] == [
            "unanswered",
            "accepted",
        ]


async def test_a_late_acknowledgement_after_the_push_confirms_what_was_sent(open_house):
    async with open_house(ScriptedChannel()) as house, house.running():
        app_id, user_id, device_id = await _phone(house)
        notification_id = await house.send(app_id, user_id)
        await house.settle()
        assert await house.state(notification_id) == ["sent"]
        assert await house.backend.acknowledge(device_id, notification_id, None)
        assert await house.state(notification_id) == ["confirmed"]


async def test_a_late_acknowledgement_cancels_the_tries_that_are_left_and_says_that_it_was_late(open_house):
    channel = ScriptedChannel(Retry("503", code="UNAVAILABLE"))
    async with open_house(channel) as house, house.running():
        app_id, user_id, device_id = await _phone(house)
        house.hub.connect(device_id, window_s=4.0)
        notification_id = await house.send(app_id, user_id)
        await house.pass_s(5)
        assert len(channel.pushes) == 1
        assert await house.backend.acknowledge(device_id, notification_id, 5.0, is_late=True)
        await house.pass_s(3_600)
        assert len(channel.pushes) == 1
        story = await house.story(notification_id)
        assert story.deliveries[0].state == "confirmed"
        assert story.deliveries[0].attempts[-1].code == "acknowledged_late"
        assert "later than it was waited for" in story.deliveries[0].attempts[-1].reason


async def test_a_client_that_cannot_acknowledge_gets_the_hub_message_and_the_push(open_house):
    channel = ScriptedChannel()
    async with open_house(channel) as house, house.running():
        app_id, user_id, device_id = await _phone(house)
        house.hub.connect(device_id, acknowledges=False)
        await house.send(app_id, user_id)
        await house.settle()
        assert (len(house.hub.offers), len(channel.pushes)) == (1, 1)


async def test_weather_is_retried_with_growing_waits_until_it_is_taken(open_house):
    channel = ScriptedChannel(Retry("503", code="UNAVAILABLE"), Retry("503", code="UNAVAILABLE"), Accepted())
    async with open_house(channel) as house, house.running():
        app_id, user_id, _ = await _phone(house)
        notification_id = await house.send(app_id, user_id)
        await house.settle()
        assert len(channel.pushes) == 1
        story = await house.story(notification_id)
        assert story.deliveries[0].state == "queued"
        assert story.deliveries[0].next_attempt_at <= house.clock.now() + timedelta(seconds=1)
        await house.pass_s(1.1)
        await house.pass_s(2.1)
        assert len(channel.pushes) == 3
        assert {push.envelope.id for push in channel.pushes} == {notification_id}
        assert await house.state(notification_id) == ["sent"]


async def test_the_provider_s_retry_after_is_waited_out(open_house):
    channel = ScriptedChannel(Retry("slow down", after=timedelta(minutes=10)))
    async with open_house(channel) as house, house.running():
        app_id, user_id, _ = await _phone(house)
        await house.send(app_id, user_id)
        await house.settle()
        await house.pass_s(599)
        assert len(channel.pushes) == 1
        await house.pass_s(2)
        assert len(channel.pushes) == 2


async def test_retries_end_with_the_time_to_live(open_house):
    channel = ScriptedChannel(*[Retry("down")] * 50)
    async with open_house(channel) as house, house.running():
        app_id, user_id, _ = await _phone(house)
        notification_id = await house.send(app_id, user_id, ttl_s=30)
        for _ in range(12):
            await house.pass_s(5)
        assert await house.state(notification_id) == ["expired"]
        tries = len(channel.pushes)
        await house.pass_s(3_600)
        assert len(channel.pushes) == tries


async def test_evidence_retires_the_device_softly_and_registering_again_revives_it(open_house):
    channel = ScriptedChannel(Gone("FCM says UNREGISTERED."))
    async with open_house(channel) as house, house.running():
        app_id, user_id, device_id = await _phone(house)
        gone = await house.send(app_id, user_id)
        await house.settle()
        assert await house.state(gone) == ["gone"]
        skipped = await house.send(app_id, user_id)
        await house.settle()
        assert await house.state(skipped) == []
        assert await house.add_device(user_id, app_id, "token-1") == device_id
        revived = await house.send(app_id, user_id)
        await house.settle()
        assert await house.state(revived) == ["sent"]


@pytest.mark.parametrize("outcome", [Retry("503"), Misconfigured("SENDER_ID_MISMATCH"), Rejected("too big")])
async def test_weather_misconfiguration_and_refusal_never_cost_a_device(open_house, outcome):
    channel = ScriptedChannel(outcome)
    async with open_house(channel) as house, house.running():
        app_id, user_id, _ = await _phone(house)
        await house.send(app_id, user_id)
        await house.settle()
        after = await house.send(app_id, user_id)
        await house.settle()
        assert len((await house.story(after)).deliveries) == 1


async def test_a_channel_that_breaks_is_retried_and_does_not_stop_the_engine(open_house):
    channel = ScriptedChannel(RuntimeError("bug"), Accepted())
    async with open_house(channel) as house, house.running():
        app_id, user_id, _ = await _phone(house)
        notification_id = await house.send(app_id, user_id)
        await house.settle()
        await house.pass_s(2)
        assert await house.state(notification_id) == ["sent"]


async def test_a_channel_never_has_more_at_once_than_its_slots_and_nothing_is_left_behind(open_house):
    channel = ScriptedChannel(slots=3)
    channel.gate.clear()
    async with open_house(channel) as house, house.running():
        app_id = await house.add_app()
        users = [await house.add_user(app_id) for _ in range(10)]
        for number, user_id in enumerate(users):
            await house.add_device(user_id, app_id, f"token-{number}")
            await house.send(app_id, user_id)
        await house.settle()
        assert len(channel.pushes) == 3
        channel.gate.set()
        await house.settle(100)
        assert (len(channel.pushes), channel.most_at_once) == (10, 3)


async def test_a_graceful_stop_hands_claims_back_and_the_next_start_pushes_them(open_house):
    stuck = ScriptedChannel()
    stuck.gate.clear()
    async with open_house(stuck) as house:
        async with house.running():
            app_id, user_id, _ = await _phone(house)
            notification_id = await house.send(app_id, user_id)
            await house.settle()
            assert await house.state(notification_id) == ["claimed"]
        assert await house.state(notification_id) == ["queued"]
    healthy = ScriptedChannel()
    async with open_house(healthy) as house, house.running():
        await house.settle()
        assert [push.envelope.id for push in healthy.pushes] == [notification_id]


async def test_a_claim_of_a_process_that_died_is_open_again_at_the_next_start(open_house):
    stuck = ScriptedChannel()
    stuck.gate.clear()
    async with open_house(stuck) as house:
        run = asyncio.create_task(house.engine.run())
        app_id, user_id, _ = await _phone(house)
        notification_id = await house.send(app_id, user_id)
        await house.settle()
        assert await house.state(notification_id) == ["claimed"]
        # Dies without a word: no hand-back.
        house.remote.hand_back = lambda: asyncio.sleep(0)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
    healthy = ScriptedChannel()
    async with open_house(healthy) as house:
        await house.engine.recover()
        async with house.running():
            await house.settle()
            assert [push.envelope.id for push in healthy.pushes] == [notification_id]


async def test_an_address_that_cannot_be_opened_stops_its_own_delivery_only(open_house):
    """One device left over from a changed SECRET_KEY once ended the engine, and with it every delivery, for good."""
    channel = ScriptedChannel()
    async with open_house(channel) as house, house.running():
        app_id, user_id, device_id = await _phone(house)
        await house.database.write(
            lambda tx: tx.execute("UPDATE device SET address_sealed = ? WHERE id = ?", (b"x" * 60, device_id))
        )
        broken = await house.send(app_id, user_id)
        await house.settle()
        other = await house.add_user(app_id)
        await house.add_device(other, app_id, "token-2")
        healthy = await house.send(app_id, other)
        await house.settle()
        assert house.engine.is_running
        assert await house.state(healthy) == ["sent"]
        story = await house.story(broken)
        assert story.deliveries[0].state == "queued"
        assert "SECRET_KEY" in story.deliveries[0].attempts[0].reason


async def test_a_withdrawal_during_a_try_that_is_then_deferred_stops_the_next_try(open_house):
    """Withdrawn while the provider had it in hand, answered 503, and then pushed again ten seconds later."""
    channel = ScriptedChannel(Retry("503"))
    channel.gate.clear()
    async with open_house(channel) as house, house.running():
        app_id, user_id, _ = await _phone(house)
        notification_id = await house.send(app_id, user_id)
        await house.settle()
        await house.acceptor.withdraw(app_id, notification_id)
        channel.gate.set()
        await house.pass_s(3_600)
        assert len(channel.pushes) == 1
        assert await house.state(notification_id) == ["withdrawn"]


async def test_a_clock_that_jumps_during_a_try_does_not_send_it_twice(open_house):
    """A home server without a clock battery jumps by years at boot; its leases looked lapsed while still in hand."""
    channel = ScriptedChannel()
    channel.gate.clear()
    async with open_house(channel) as house, house.running():
        app_id, user_id, _ = await _phone(house)
        notification_id = await house.send(app_id, user_id)
        await house.settle()
        house.clock.wall += timedelta(hours=1)
        await house.settle()
        assert len(channel.pushes) == 1
        channel.gate.set()
        await house.settle()
        assert len(channel.pushes) == 1
        assert await house.state(notification_id) == ["sent"]


async def test_a_device_that_its_provider_retired_is_asked_to_come_back_live(open_house):
    """Retired while connected, it was offered nothing any more, and believed that all was well."""
    channel = ScriptedChannel(Gone("FCM says UNREGISTERED."))
    async with open_house(channel) as house, house.running():
        app_id, user_id, device_id = await _phone(house)
        house.hub.connect(device_id, window_s=4.0)
        await house.send(app_id, user_id)
        await house.pass_s(5)
        assert house.hub.closed == [(device_id, True)]
