"""Lanes: what fails or hangs harms only itself, and an outage costs neither devices nor other lanes' time."""

import asyncio
from datetime import timedelta

from appliance.channels.contract import ChannelName
from appliance.domain.breaker import BreakerState
from appliance.domain.device import AddressKind, Platform
from appliance.domain.outcome import Accepted, Gone, Misconfigured, Retry
from tests.doubles.channel import ScriptedChannel

KEYS = '"keys":{"p256dh":"BNcRdreALRFXTkOOUHK1EtK2wtaz5Ry4YfYCA_0QTpQtUbVlUls0VJXg7A8u-Ts1XbjhazAkj7I99e8QcYP7DkM","auth":"tBHItJI5svbpez7KI4CCXg"}'  # noqa: E501


class Hosts(ScriptedChannel):
    """A channel whose lanes are the hosts of its addresses; what each host does is told by `hanging` and `down`."""

    name = ChannelName.WEB_PUSH
    address_kinds = frozenset({AddressKind.WEB_PUSH})
    has_one_lane = False

    def __init__(self, **options):
        super().__init__(**options)
        self.hanging, self.down = set(), set()
        self.release = asyncio.Event()

    def lane_of(self, push):
        return push.address.reveal().split("//")[1].split("/")[0]

    async def deliver(self, push):
        host = self.lane_of(push)
        self.pushes.append(push)
        if host in self.hanging:
            await self.release.wait()
        return Retry("It is down.", code="503") if host in self.down else Accepted()

    def count(self, host):
        return sum(1 for push in self.pushes if self.lane_of(push) == host)


async def browser(house, user_id, app_id, host, name):
    token = f'{{"endpoint":"https://{host}/{name}",{KEYS}}}'
    return await house.add_device(user_id, app_id, token, Platform.WEB)


async def test_a_push_service_that_hangs_does_not_hold_up_another_one(open_house):
    channel = Hosts(slots=4)
    channel.hanging.add("sick.example")
    async with open_house(channel) as house, house.running():
        app_id = await house.add_app()
        one, other = await house.add_user(app_id), await house.add_user(app_id)
        await browser(house, one, app_id, "sick.example", "a")
        await browser(house, other, app_id, "well.example", "b")
        for _ in range(60):
            await house.send(app_id, one)
        for _ in range(20):
            await house.send(app_id, other)
        async with asyncio.timeout(10):
            while channel.count("well.example") < 20:
                await house.pass_s(0.5)
        assert channel.count("sick.example") == 4
        channel.release.set()
        async with asyncio.timeout(10):
            while channel.count("sick.example") < 60:
                await house.pass_s(1)


async def test_a_provider_that_was_down_for_hours_costs_no_device_and_drains_at_its_slots(open_house):
    channel = ScriptedChannel(slots=8)
    outage = [Retry("It is down.", code="503")] * 10_000
    channel.script = outage
    async with open_house(channel) as house, house.running():
        app_id = await house.add_app()
        user_id = await house.add_user(app_id)
        device_id = await house.add_device(user_id, app_id, "token")
        kept = [await house.send(app_id, user_id, ttl_s=24 * 3600) for _ in range(60)]
        lost = await house.send(app_id, user_id, ttl_s=600)
        for _ in range(30):
            await house.pass_s(400)
        tries = len(channel.pushes)
        # The breaker let through some five faults, and then one try in five minutes or so.
        assert tries < 120
        [lane] = house.remote.report_lanes()
        assert (lane.state in (BreakerState.OPEN, BreakerState.HALF_OPEN), lane.reason) == (True, "It is down.")
        channel.script = []
        async with asyncio.timeout(20):
            while not all([await house.state(one) == ["sent"] for one in kept]):
                await house.pass_s(300)
        assert channel.most_at_once <= 8
        assert await house.state(lost) == ["expired"]
        assert lost not in {push.envelope.id for push in channel.pushes[tries:]}
        rows = await house.database.read("SELECT retired_at FROM device WHERE id = ?", (device_id,))
        assert rows[0][0] is None


async def test_what_a_provider_says_about_devices_leaves_the_breaker_closed(open_house):
    channel = ScriptedChannel(*[Retry("Too many for this device.", is_about_device=True)] * 20, Gone("dead"))
    async with open_house(channel) as house, house.running():
        app_id = await house.add_app()
        for number in range(21):
            user_id = await house.add_user(app_id)
            await house.add_device(user_id, app_id, f"token-{number}")
            await house.send(app_id, user_id)
        await house.settle(100)
        assert len(channel.pushes) >= 21
        assert house.remote.report_lanes() == []


async def test_a_device_of_another_project_does_not_stop_the_others_of_its_credential(open_house):
    """Twenty phones of an older Firebase project refused in a row had opened the breaker of the whole project."""
    refusal = Misconfigured("The device registered with another project.", is_about_device=True)
    channel = ScriptedChannel(*[refusal] * 20)
    async with open_house(channel) as house, house.running():
        app_id = await house.add_app()
        for number in range(20):
            user_id = await house.add_user(app_id)
            await house.add_device(user_id, app_id, f"strange-{number}")
            await house.send(app_id, user_id)
        await house.settle(100)
        assert (len(channel.pushes), house.remote.report_lanes()) == (20, [])
        well = await house.add_user(app_id)
        await house.add_device(well, app_id, "well")
        sent = await house.send(app_id, well)
        await house.settle(100)
        assert await house.state(sent) == ["sent"]


async def test_a_quota_of_the_whole_credential_pauses_all_that_is_sent_with_it(open_house):
    channel = ScriptedChannel(Retry("Quota.", after=timedelta(seconds=90), code="429", pauses_all=True), slots=1)
    async with open_house(channel) as house, house.running():
        app_id = await house.add_app()
        user_id = await house.add_user(app_id)
        await house.add_device(user_id, app_id, "token")
        for _ in range(5):
            await house.send(app_id, user_id)
        await house.settle()
        await house.pass_s(80)
        assert len(channel.pushes) == 1
        await house.pass_s(15)
        await house.pass_s(15)
        assert len(channel.pushes) == 6


async def test_a_broken_credential_is_asked_about_now_and_then_instead_of_for_every_push(open_house):
    channel = ScriptedChannel(*[Misconfigured("The key was revoked.")] * 1_000, slots=2)
    async with open_house(channel) as house, house.running():
        app_id = await house.add_app()
        user_id = await house.add_user(app_id)
        await house.add_device(user_id, app_id, "token")
        for _ in range(40):
            await house.send(app_id, user_id)
        for _ in range(20):
            await house.pass_s(30)
        assert len(channel.pushes) < 25
