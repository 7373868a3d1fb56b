"""A provider that is down for hours while much is sent, and then is there again: in virtual time, at any size.

The suite runs it small, the benchmark at fifty thousand.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from uuid import UUID

from appliance.channels.contract import ChannelName
from appliance.delivery.accept import SendRequest
from appliance.domain.device import AddressKind, Platform
from appliance.domain.notification import check_content
from appliance.domain.outcome import Accepted, Retry
from tests.doubles.apns import device_token
from tests.doubles.channel import ScriptedChannel

BATCH = 500
USERS = 20
SHORT_TTL_S = 3_600
LONG_TTL_S = 24 * 3_600
OUTAGE_STEPS = 36
OUTAGE_STEP_S = 300.0
TICK_S = 1.0
REAL_DEADLINE_S = 300.0


class PacedProvider(ScriptedChannel):
    """Answers everything that is under way once a tick, so that its slots bound its rate; keeps what it accepted."""

    def __init__(self, *, slots):
        super().__init__(slots=slots)
        self.is_down = True
        self.tries = 0
        self.accepted: Counter[UUID] = Counter()
        self.most_in_a_tick = 0
        self._in_this_tick = 0
        self._tick = asyncio.Event()

    async def deliver(self, push):
        self.tries += 1
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await self._tick.wait()
        finally:
            self._at_once -= 1
        if self.is_down:
            return Retry("It is down.", code="503")
        self.accepted[push.envelope.id] += 1
        self._in_this_tick += 1
        self.most_in_a_tick = max(self.most_in_a_tick, self._in_this_tick)
        return Accepted(f"fcm/{push.envelope.id}")

    def tick(self):
        self._in_this_tick = 0
        done, self._tick = self._tick, asyncio.Event()
        done.set()


class HealthyProvider(ScriptedChannel):
    """Accepts everything at once."""

    name = ChannelName.APNS
    address_kinds = frozenset({AddressKind.APNS_TOKEN})


@dataclass(slots=True)
class OutageStory:
    """What came of it; instants are virtual seconds."""

    kept: list[UUID] = field(default_factory=list)
    doomed: list[UUID] = field(default_factory=list)
    tries_while_down: int = 0
    drained_in_s: float = 0.0
    others_late: int = 0
    """Pushes through the healthy provider that were not sent before the clock moved on."""
    others: int = 0


async def live_through_outage(house, sick, well, *, count):
    """Send `count` while `sick` is down for three hours, a tenth of it worth an hour; then let it come back."""
    story = OutageStory()
    app_id = await house.add_app(quota=10_000_000)
    users = [await house.add_user(app_id) for _ in range(USERS)]
    for number, user_id in enumerate(users):
        await house.add_device(user_id, app_id, f"token-{number}")
    other = await house.add_user(app_id)
    await house.add_device(other, app_id, device_token(number=1), Platform.IOS)
    await _send(house, app_id, users, story, count)
    for _ in range(OUTAGE_STEPS):
        await _step(house, sick, OUTAGE_STEP_S)
        await _send_elsewhere(house, well, app_id, other, story)
    story.tries_while_down = sick.tries
    sick.is_down = False
    began = house.clock.monotonic()
    async with asyncio.timeout(REAL_DEADLINE_S):
        while len(sick.accepted) < len(story.kept):
            await _step(house, sick, TICK_S if sick.accepted else OUTAGE_STEP_S / 5)
            if len(sick.accepted) % 7 == 0:
                await _send_elsewhere(house, well, app_id, other, story)
    story.drained_in_s = house.clock.monotonic() - began
    await _step(house, sick, TICK_S)
    return story


async def _send(house, app_id, users, story, count):
    for start in range(0, count, BATCH):
        requests = []
        for number in range(start, min(start + BATCH, count)):
            ttl_s = SHORT_TTL_S if number % 10 == 0 else LONG_TTL_S
            content = check_content(title=f"Title {number}", body="Body", ttl_s=ttl_s)
            requests.append(SendRequest(users[number % len(users)], content))
        accepted = await house.acceptor.accept(app_id, requests, field="notifications", fingerprint=b"")
        for offset, notification_id in enumerate(accepted.notification_ids):
            (story.doomed if (start + offset) % 10 == 0 else story.kept).append(notification_id)


async def _send_elsewhere(house, well, app_id, user_id, story):
    before = len(well.pushes)
    await house.send(app_id, user_id, ttl_s=LONG_TTL_S)
    story.others += 1
    # The clock stands still meanwhile: whatever of its time passes, passes for the one that is sick.
    async with asyncio.timeout(REAL_DEADLINE_S):
        for _ in range(500):
            await house.settle(2)
            if len(well.pushes) > before:
                return
    story.others_late += 1


async def _step(house, sick, seconds):
    house.clock.pass_s(seconds)
    sick.tick()
    await house.settle(8)
