"""Test push without HTTP: silence, a wrong key, a channel with a bug, and the bound on tests at once."""

import asyncio

import pytest

from appliance.channels.contract import ChannelName
from appliance.delivery.addresses import open_address
from appliance.delivery.test_push import MOST_AT_ONCE, PushTester
from appliance.delivery.test_words import missing_channel
from appliance.domain.device import AddressKind
from appliance.domain.errors import NotFound, TooMany
from appliance.domain.identifier import make_id
from appliance.domain.outcome import Gone, Misconfigured, Retry
from appliance.domain.secret import Secret
from appliance.hub.hub import Offered
from appliance.security.sealing import Sealer
from appliance.settings import DeliveryMode
from tests.doubles.channel import ScriptedChannel


class Hub:
    """Says who is connected, and what becomes of the test."""

    def __init__(self):
        self.live = None
        self.on_offer = lambda device_id, notification: None

    def offer_aside(self, device_id, notification):
        if self.live is not None:
            self.on_offer(device_id, notification)
        return self.live


def make_tester(house, hub, *, sealer=None, mode=DeliveryMode.FIREBASE):
    opener = sealer or house.sealer
    return PushTester(
        house.database,
        house.channels,
        hub,
        house.remote,
        lambda sealed: open_address(opener, sealed),
        house.clock,
        mode,
    )


async def phone_of(house, token="token"):
    app_id = await house.add_app()
    return await house.add_device(await house.add_user(app_id), app_id, token)


def told(report):
    return [(step.layer, step.finding, step.code) for step in report.steps]


async def test_a_device_that_seems_connected_and_says_nothing_is_tried_the_next_way(open_house):
    channel, hub = ScriptedChannel(), Hub()
    hub.live = Offered(acknowledges=True, deadline_s=0.01)
    async with open_house(channel) as house:
        tester = make_tester(house, hub)
        report = await tester.test_device(await phone_of(house))
        assert told(report) == [("hub", "failed", "no_acknowledgement"), ("fcm", "accepted", "accepted")]
        assert (report.works, report.notification_id) == (True, channel.pushes[0].envelope.id)
        # What comes later is nobody's any more, and not taken for a test.
        assert tester.acknowledged(channel.pushes[0].device_id, report.notification_id) is False


async def test_an_answer_that_comes_with_the_offer_counts(open_house):
    channel, hub = ScriptedChannel(), Hub()
    hub.live = Offered(acknowledges=True, deadline_s=1)
    async with open_house(channel) as house:
        tester = make_tester(house, hub)
        hub.on_offer = lambda device_id, notification: tester.acknowledged(device_id, notification.id)
        report = await tester.test_device(await phone_of(house))
        assert told(report) == [("hub", "confirmed", None), ("fcm", "works", None)]
        assert channel.pushes == []


async def test_an_offer_that_is_cut_goes_the_next_way(open_house):
    channel, hub = ScriptedChannel(), Hub()
    hub.live = Offered(acknowledges=True, deadline_s=1)
    async with open_house(channel) as house:
        tester = make_tester(house, hub)
        hub.on_offer = lambda device_id, notification: tester.cut(device_id, [notification.id], "slow_reader")
        report = await tester.test_device(await phone_of(house))
        assert told(report)[0] == ("hub", "failed", "connection_lost")
        assert report.steps[0].detail == "It could not be written to the connection (slow_reader)."
        assert len(channel.pushes) == 1


@pytest.mark.parametrize(
    "outcome", [Retry("It is down.", code="503"), Gone("It is dead."), Misconfigured("The key was revoked.")]
)
async def test_a_failed_test_moves_no_breaker_and_retires_nobody(open_house, outcome):
    channel = ScriptedChannel(*[outcome] * 20)
    async with open_house(channel) as house:
        tester = make_tester(house, Hub())
        device_id = await phone_of(house)
        for _ in range(20):
            report = await tester.test_device(device_id)
            assert (report.works, told(report)[1][:2]) == (False, ("fcm", "failed"))
        assert house.remote.report_lanes() == []
        [row] = await house.database.read("SELECT retired_at FROM device WHERE id = ?", (device_id,))
        assert row[0] is None
        assert await house.database.read("SELECT id FROM notification") == []
        assert await house.database.read("SELECT id FROM receipt") == []


async def test_a_bug_in_a_channel_is_told_and_not_thrown(open_house):
    class Broken(ScriptedChannel):
        async def probe(self):
            raise KeyError("secret-in-an-exception")

    async with open_house(Broken(RuntimeError("secret-in-an-exception"))) as house:
        tester = make_tester(house, Hub())
        pushed = await tester.test_device(await phone_of(house))
        probed = await tester.test_channel(ChannelName.FCM)
        for report in (pushed, probed):
            assert not report.works
            assert "secret" not in repr(report)


async def test_an_address_under_another_key_is_told_as_that(open_house):
    async with open_house(ScriptedChannel()) as house:
        tester = make_tester(house, Hub(), sealer=Sealer(Secret("another-key-" * 4)))
        report = await tester.test_device(await phone_of(house))
        assert "SECRET_KEY is not the one" in report.summary


async def test_nobody_tests_what_is_not_theirs_or_not_there(open_house):
    async with open_house(ScriptedChannel()) as house:
        tester = make_tester(house, Hub())
        device_id = await phone_of(house)
        with pytest.raises(NotFound):
            await tester.test_device(device_id, owner_id=make_id(house.clock.now()))
        with pytest.raises(NotFound):
            await tester.test_device(make_id(house.clock.now()))


async def test_more_tests_at_once_than_eight_are_refused_and_room_comes_back(open_house):
    channel = ScriptedChannel()
    channel.gate.clear()
    async with open_house(channel) as house:
        tester = make_tester(house, Hub())
        device_id = await phone_of(house)
        running = [asyncio.create_task(tester.test_device(device_id)) for _ in range(MOST_AT_ONCE)]
        await house.settle(200)
        assert len(channel.pushes) == MOST_AT_ONCE
        with pytest.raises(TooMany):
            await tester.test_device(device_id)
        channel.gate.set()
        assert all(report.works for report in await asyncio.gather(*running))
        assert (await tester.test_device(device_id)).works


# Members of different enumerations are equal when their numbers are, so they are told apart by `is`.
SOUGHT = [one for one in (*ChannelName, *AddressKind) if one is not ChannelName.HUB and one is not AddressKind.HUB]


@pytest.mark.parametrize("sought", SOUGHT)
@pytest.mark.parametrize("mode", list(DeliveryMode))
def test_whatever_is_missing_there_is_a_next_step(sought, mode):
    text = missing_channel(sought, mode)
    assert any(name in text for name in ("DELIVERY_MODE", "SMTP_HOST"))
    # In relay mode there is no talk of credentials that only one's own channels need, for a mere address.
    if mode is DeliveryMode.RELAY and isinstance(sought, AddressKind):
        assert "FIREBASE_CREDENTIALS_JSON" not in text
