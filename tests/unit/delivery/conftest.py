"""A house with real storage, a clock under the test's hand, and an engine whose steps the test runs."""

import asyncio
from contextlib import asynccontextmanager
from random import Random

import pytest

from appliance.channels.registry import ChannelSet
from appliance.delivery.accept import Acceptor, SendRequest
from appliance.delivery.addresses import Installations, open_address, seal_address
from appliance.delivery.engine import DeliveryEngine
from appliance.delivery.live import LiveBackend
from appliance.delivery.remote import RemoteTries
from appliance.delivery.timeline import load_timeline
from appliance.delivery.unsubscribing import UnsubscribeLinks
from appliance.domain.device import Platform, parse_address
from appliance.domain.identifier import make_id
from appliance.domain.notification import check_content
from appliance.domain.secret import Secret
from appliance.security.sealing import Sealer
from appliance.storage.database import open_database
from appliance.storage.devices import Registration, register_job
from tests.doubles.hand_clock import HandClock
from tests.doubles.hub_stand_in import HubStandIn


class House:
    """Everything between a send and a device, without HTTP."""

    def __init__(self, database, clock, channels, make_own=None):
        self.database = database
        self.clock = clock
        self.hub = HubStandIn()
        self.sealer = Sealer(Secret("k" * 40))
        self.own = None if make_own is None else make_own(database, self.sealer, clock)
        self.channels = ChannelSet(channels, self.own)
        self.links = UnsubscribeLinks(self.sealer, "https://push.example.org")
        self.remote = RemoteTries(
            database, self.channels, lambda sealed: open_address(self.sealer, sealed), clock, Random(7), self.links
        )
        self.engine = DeliveryEngine(database, self.hub, self.channels, self.remote, clock)
        self.acceptor = Acceptor(database, self.engine, clock)
        self.backend = LiveBackend(database, clock, self._nobody, Installations(database, self.sealer, clock).bind)
        self.backend.attach(self.engine)

    async def _nobody(self, bearer):
        return None

    async def add_app(self, *, quota=10_000, enabled=True):
        app_id = make_id(self.clock.now())
        await self.database.write(
            lambda tx: tx.execute(
                "INSERT INTO app (id, name, push_enabled, open_enrolment, daily_quota, email_policy, created_at) "
                "VALUES (?, ?, ?, ?, ?, 0, ?)",
                (app_id, "App", enabled, True, quota, self.clock.now()),
            )
        )
        return app_id

    async def add_user(self, *app_ids):
        user_id = make_id(self.clock.now())
        now = self.clock.now()

        def job(tx):
            tx.execute(
                "INSERT INTO account (id, username, username_key, role, last_sequence, oldest_sequence, created_at) "
                "VALUES (?, ?, ?, 0, 0, 1, ?)",
                (user_id, str(user_id), str(user_id), now),
            )
            for app_id in app_ids:
                tx.execute(
                    'INSERT INTO enrolment (id, "user", app, created_at) VALUES (?, ?, ?, ?)',
                    (f"{user_id}|{app_id}", user_id, app_id, now),
                )

        await self.database.write(job)
        return user_id

    async def add_device(self, user_id, app_id, token, platform=Platform.ANDROID):
        address = seal_address(self.sealer, parse_address(platform, token))
        registration = Registration(user_id=user_id, app_id=app_id, platform=platform, address=address)
        return (await self.database.write(register_job(registration, self.clock.now()))).device_id

    async def add_hub_device(self, user_id, installation="phone"):
        return await self.backend._bind(user_id, installation, label="Phone", platform=None)

    async def send(self, app_id, user_id, *, send_at=None, key=None, body="Body", email=None, title="Title", **content):
        request = SendRequest(user_id, check_content(title=title, body=body, **content), send_at, email)
        accepted = await self.acceptor.accept(
            app_id, [request], field="user_id", idempotency_key=key, fingerprint=body.encode()
        )
        return accepted.notification_ids[0]

    async def story(self, notification_id):
        return await load_timeline(self.database, notification_id, is_offered=self.engine.is_offered)

    async def state(self, notification_id):
        return [delivery.state for delivery in (await self.story(notification_id)).deliveries]

    @asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self.engine.run())
        try:
            yield
        finally:
            self.engine.stop()
            await asyncio.wait_for(task, 5)

    async def settle(self, rounds=40):
        """Let the engine do all that can be done without the clock moving."""
        self.engine.wake()
        for _ in range(rounds):
            await asyncio.sleep(0.002)

    async def pass_s(self, seconds):
        await self.settle()
        self.clock.pass_s(seconds)
        await self.settle()


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request):
    if request.param == "sqlite":
        return None
    return Secret(request.getfixturevalue("postgresql").make_database())


@pytest.fixture
def open_house(tmp_path, clock, database_url):
    @asynccontextmanager
    async def opened(*channels, make_own=None):
        async with open_database(tmp_path, database_url) as database:
            yield House(database, clock, channels, make_own)

    return opened


@pytest.fixture
async def house(open_house):
    async with open_house() as opened, opened.running():
        yield opened
