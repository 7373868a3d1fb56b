"""Lanes: what fails or hangs harms only itself, and an outage costs neither devices nor other lanes' time."""

import asyncio
from datetime import timedelta

import pytest

from appliance.channels.contract import ChannelName
from appliance.domain.breaker import BreakerState
from appliance.domain.device import AddressKind, Platform
from appliance.domain.errors import OutOfSpace
from appliance.domain.outcome import Accepted, Gone, Misconfigured, Retry
from appliance.storage.database import open_database
from appliance.storage.deliveries import load_due
from tests.doubles.channel import ScriptedChannel
from tests.unit.delivery.conftest import House

KEYS = '"keys":{"p256dh":"BNcRdreALRFXTkOOUHK1EtK2wtaz5Ry4YfYCA_0QTpQtUbVlUls0VJXg7A8u-Ts1XbjhazAkj7I99e8QcYP7DkM","auth":"tBHItJI5svbpez7KI4CCXg"}'  # noqa: E501


class Hosts(ScriptedChannel):
    """A channel whose lanes are the hosts of its addresses; what each host does is told by `hanging` and `down`."""

    name = ChannelName.WEB_PUSH
    address_kinds = frozenset({AddressKind.WEB_PUSH})
    has_one_lane = False

    def __init__(self, **options):
        super().__init__(**options)
        self.hanging, self.down, self.unreadable = set(), set(), set()
        self.release = asyncio.Event()

    def lane_of(self, push):
        host = push.address.reveal().split("//")[1].split("/")[0]
        if host in self.unreadable:
            raise ValueError("This address cannot be read.")
        return host

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


class ShortOfSpace:
    """A database that has no room for its next `refuses` writes."""

    def __init__(self, database):
        self._database = database
        self.refuses = 0

    def __getattr__(self, name):
        return getattr(self._database, name)

    async def write(self, *arguments):
        if self.refuses:
            self.refuses -= 1
            raise OutOfSpace
        return await self._database.write(*arguments)


async def test_what_could_not_be_claimed_or_put_off_keeps_no_slot(tmp_path, clock, database_url):
    """A full disk at the wrong moment had taken a lane's slots for good, a few more each time."""
    channel = Hosts(slots=2)
    channel.hanging.add("sick.example")
    async with open_database(tmp_path, database_url) as database:
        house = House(ShortOfSpace(database), clock, [channel])
        app_id = await house.add_app()
        for number in range(6):
            user_id = await house.add_user(app_id)
            host = "well.example" if number % 2 else "sick.example"
            await browser(house, user_id, app_id, host, number)
            await house.send(app_id, user_id)
        clock.pass_s(60)
        due = await load_due(database, clock.now(), limit=100)
        assert len(due) == 6
        async with asyncio.TaskGroup() as group:
            house.remote.use(group, on_free=lambda: None, on_retired=lambda device_id: None)
            for _ in range(5):
                house.database.refuses = 1
                with pytest.raises(OutOfSpace):
                    await house.remote.start(due, clock.now())
                assert (house.remote.report_lanes(), house.remote.in_flight) == ([], 0)
            assert await house.remote.start(due, clock.now()) == 6
            await house.settle()
            assert (channel.count("sick.example"), channel.count("well.example")) == (2, 2)
            await house.remote.hand_back()


async def test_an_address_that_the_channel_cannot_read_does_not_keep_the_others_waiting(open_house):
    channel = Hosts()
    async with open_house(channel) as house, house.running():
        app_id = await house.add_app()
        one, other = await house.add_user(app_id), await house.add_user(app_id)
        await browser(house, one, app_id, "odd.example", "a")
        await browser(house, other, app_id, "well.example", "b")
        channel.unreadable.add("odd.example")
        await house.send(app_id, one)
        await house.send(app_id, other)
        await house.settle()
        assert channel.count("well.example") == 1


async def test_hosts_of_one_user_that_hang_hold_only_some_tries_and_channels_with_one_lane_keep_their_share(open_house):
    """Sixteen hosts that never answer had held every try there is: nothing went to phones or mailboxes any more."""
    browsers, phones = Hosts(slots=32), ScriptedChannel(slots=32)
    async with open_house(browsers, phones) as house, house.running():
        app_id = await house.add_app()
        people = []
        for number in range(30):
            user_id = await house.add_user(app_id)
            people.append(user_id)
            for way in range(7):
                host = f"sick-{number}-{way}.example"
                browsers.hanging.add(host)
                await browser(house, user_id, app_id, host, "a")
            for _ in range(3):
                await house.send(app_id, user_id)
        async with asyncio.timeout(30):
            while len(browsers.pushes) < 384:
                await house.pass_s(0.5)
        await house.settle()
        assert (len(browsers.pushes), house.remote.in_flight) == (384, 384)
        held = [sum(1 for push in browsers.pushes if push.envelope.user_id == user_id) for user_id in people]
        assert max(held) == 16
        user_id = await house.add_user(app_id)
        await house.add_device(user_id, app_id, "token")
        sent = await house.send(app_id, user_id)
        await house.settle()
        assert await house.state(sent) == ["sent"]


async def test_what_waits_for_a_push_service_that_hangs_comes_back_the_later_the_more_it_is(open_house):
    """Ten thousand notifications that waited for one host had been written again a few times a second, all of them."""
    channel = Hosts(slots=32)
    channel.hanging.add("sick.example")
    async with open_house(channel) as house, house.running():
        app_id = await house.add_app()
        user_id = await house.add_user(app_id)
        await browser(house, user_id, app_id, "sick.example", "a")
        for _ in range(300):
            await house.send(app_id, user_id)
        house.clock.pass_s(60)
        await house.settle(100)
        [[due, waiting, instants]] = await house.database.read(
            "SELECT SUM(CASE WHEN due_at <= ? THEN 1 ELSE 0 END), COUNT(*), COUNT(DISTINCT due_at) FROM delivery "
            "WHERE state = 0",
            (house.clock.now(),),
        )
        # None is looked at until then, and then many at once.
        assert (due, waiting) == (0, 296)
        assert instants <= 6
        channel.release.set()
        channel.hanging.clear()
        async with asyncio.timeout(20):
            while channel.count("sick.example") < 300:
                await house.pass_s(1)


async def test_a_lane_that_failed_once_and_is_never_used_again_is_not_reported_for_ever(open_house):
    channel = Hosts()
    channel.down.add("gone.example")
    async with open_house(channel) as house, house.running():
        app_id = await house.add_app()
        user_id = await house.add_user(app_id)
        await browser(house, user_id, app_id, "gone.example", "a")
        await house.send(app_id, user_id, ttl_s=60)
        await house.settle()
        [lane] = house.remote.report_lanes()
        assert (lane.name, lane.reason) == ("gone.example", "It is down.")
        await house.pass_s(120)
        await house.pass_s(3_700)
        assert house.remote.report_lanes() == []


async def test_a_provider_that_asks_for_days_is_asked_again_after_minutes(open_house):
    days = Retry("Later.", after=timedelta(days=20), code="429", pauses_all=True)
    channel = ScriptedChannel(days)
    async with open_house(channel) as house, house.running():
        app_id = await house.add_app()
        one, other = await house.add_user(app_id), await house.add_user(app_id)
        for user_id in (one, other):
            await house.add_device(user_id, app_id, f"token-{user_id}")
        patient = await house.send(app_id, one, ttl_s=27 * 86_400)
        await house.settle()
        sent = await house.send(app_id, other)
        await house.pass_s(590)
        assert len(channel.pushes) == 1
        for _ in range(30):
            await house.pass_s(30)
        assert await house.state(sent) == ["sent"]
        assert await house.state(patient) == ["queued"]
