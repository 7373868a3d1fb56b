"""Test push: what would happen to a notification right now, layer by layer, in plain words with the next step.

A test travels the very way that a notification of this moment would, under an id of its own, and leaves nothing behind:
it is in no inbox, costs no quota, has no receipt, and retires no device. It passes the lanes by, so that a credential
can be tried out again while its breaker is open, and tells the lane nothing.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final, Protocol
from uuid import UUID

from appliance.channels.contract import Channel, ChannelName, Diagnosis, Push
from appliance.channels.registry import ChannelSet
from appliance.delivery.test_words import NEXT_STEPS, NOT_CONFIGURED, missing_channel
from appliance.domain.clock import Clock
from appliance.domain.device import AddressKind
from appliance.domain.errors import NotFound, TooMany
from appliance.domain.identifier import make_id
from appliance.domain.notification import Envelope, Priority
from appliance.domain.outcome import Accepted, Confirmed, Outcome, kind_of, reason_of
from appliance.domain.secret import Secret
from appliance.hub.hub import Offered
from appliance.hub.messages import EncodedNotification
from appliance.security.sealing import SealError
from appliance.settings import DeliveryMode
from appliance.storage.database import Database
from appliance.storage.probing import ProbedDevice, load_probed_device

logger = logging.getLogger(__name__)

LONGEST_HUB_WAIT_S: Final = 7.0
PROVIDER_TIMEOUT_S: Final = 10.0
"""Together with the wait for the hub's answer below the 20 seconds within which a test is told."""
MOST_AT_ONCE: Final = 8
TEST_TYPE: Final = "test"
TEST_TTL: Final = timedelta(minutes=5)
_NO_APP: Final = UUID(int=0)
_ANSWERED: Final = "answered"


class Finding(StrEnum):
    """What one step came to."""

    CONFIRMED = "confirmed"
    """The device said that it has it."""
    ACCEPTED = "accepted"
    """The provider took it."""
    WORKS = "works"
    """It was asked without sending anything, and is fine."""
    UNKNOWN = "unknown"
    """It was sent, and nobody can say whether it arrived."""
    SKIPPED = "skipped"
    """There is nothing to try here."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Step:
    """One layer: what it came to, in plain words, and what to do next where something is to be done.

    `layer` is `device`, `hub` or the channel's name in lower case. `code` is the provider's.
    """

    layer: str
    finding: Finding
    detail: str
    next_step: str | None = None
    code: str | None = None
    took_ms: int | None = None


@dataclass(frozen=True, slots=True)
class PushReport:
    """What a test found. `works` when a notification would arrive; the id is None where nothing was sent."""

    works: bool
    summary: str
    notification_id: UUID | None
    steps: Sequence[Step]


class TestedHub(Protocol):
    """What a test needs of the live connections of this node."""

    def offer_aside(self, device_id: UUID, notification: EncodedNotification) -> Offered | None: ...


class Asker(Protocol):
    """Lets a channel deliver, and has an outcome whatever the channel does."""

    async def ask(self, channel: Channel, push: Push, key: UUID) -> Outcome: ...


class PushTester:
    """Tests one device or one channel, at most eight at once."""

    def __init__(
        self,
        database: Database,
        channels: ChannelSet,
        hub: TestedHub,
        asker: Asker,
        open_address: Callable[[bytes], Secret],
        clock: Clock,
        mode: DeliveryMode,
    ) -> None:
        self._database = database
        self._channels = channels
        self._hub = hub
        self._asker = asker
        self._open_address = open_address
        self._clock = clock
        self._mode = mode
        self._waiting: dict[tuple[UUID, UUID], asyncio.Future[str]] = {}
        self._under_way = 0

    async def test_channel(self, name: ChannelName) -> PushReport:
        """Probe a channel, sending nothing to anybody. Raises `TooMany`."""
        with _Turn(self):
            channel = next((one for one in self._channels.channels if one.name is name), None)
            if channel is None:
                step = Step(_word(name), Finding.SKIPPED, NOT_CONFIGURED, missing_channel(name, self._mode))
            else:
                step = await self._probe(channel)
            return PushReport(step.finding is Finding.WORKS, _summarize([step]), None, [step])

    async def test_device(self, device_id: UUID, *, owner_id: UUID | None = None) -> PushReport:
        """Send a test to a device, within 20 seconds. With `owner_id` it must be that user's.

        Raises `NotFound`, `TooMany`.
        """
        with _Turn(self):
            device = await load_probed_device(self._database, device_id)
            if device is None or owner_id not in (None, device.user_id):
                raise NotFound("There is no device with this id.")
            obstacle = _find_obstacle(device)
            if obstacle is not None:
                return PushReport(False, _summarize([obstacle]), None, [obstacle])
            envelope = self._make_envelope(device)
            over_hub = await self._try_hub(device, envelope)
            steps = [over_hub]
            is_live = over_hub.finding is Finding.CONFIRMED
            # How the next layer stands is the admin's business, and the person has got the test already.
            if not is_live or owner_id is None:
                steps.append(await self._try_remote(device, envelope, is_live=is_live))
            findings = {step.finding for step in steps}
            works = not findings.isdisjoint({Finding.CONFIRMED, Finding.ACCEPTED})
            was_sent = works or not findings.isdisjoint({Finding.UNKNOWN, Finding.FAILED})
            return PushReport(works, _summarize(steps), envelope.id if was_sent else None, steps)

    # What the live connections tell.

    def acknowledged(self, device_id: UUID, notification_id: UUID) -> bool:
        """A device has acknowledged; False when that was no test."""
        return self._answer(device_id, notification_id, _ANSWERED)

    def cut(self, device_id: UUID, notification_ids: Sequence[UUID], reason: str) -> None:
        """What was offered to the device was never written."""
        for notification_id in notification_ids:
            self._answer(device_id, notification_id, f"It could not be written to the connection ({reason}).")

    def disconnected(self, device_id: UUID, reason: str) -> None:
        """The device's connection has ended."""
        for waited_for, notification_id in list(self._waiting):
            if waited_for == device_id:
                self._answer(device_id, notification_id, reason)

    def _answer(self, device_id: UUID, notification_id: UUID, text: str) -> bool:
        future = self._waiting.get((device_id, notification_id))
        if future is None:
            return False
        if not future.done():
            future.set_result(text)
        return True

    async def _try_hub(self, device: ProbedDevice, envelope: Envelope) -> Step:
        key = (device.id, envelope.id)
        began = self._clock.monotonic()
        future = self._waiting[key] = asyncio.get_running_loop().create_future()
        try:
            offered = self._hub.offer_aside(device.id, EncodedNotification(envelope))
            if offered is None:
                return _not_live(device)
            if not offered.acknowledges:
                text = "This device is connected now, but its client does not say what it has received."
                return Step("hub", Finding.UNKNOWN, text, "Look at the device: the test should be there.")
            try:
                async with asyncio.timeout(min(offered.deadline_s, LONGEST_HUB_WAIT_S)):
                    answer = await future
            except TimeoutError:
                waited_s = self._clock.monotonic() - began
                text = f"This device seems to be connected, but did not answer within {waited_s:.0f} s."
                return Step("hub", Finding.FAILED, text, NEXT_STEPS["silent"], code="no_acknowledgement")
        finally:
            del self._waiting[key]
        took_ms = self._took_ms(began)
        if answer != _ANSWERED:
            return Step("hub", Finding.FAILED, answer, NEXT_STEPS["silent"], code="connection_lost", took_ms=took_ms)
        text = f"This device is connected now and acknowledged in {took_ms} ms."
        return Step("hub", Finding.CONFIRMED, text, took_ms=took_ms)

    async def _try_remote(self, device: ProbedDevice, envelope: Envelope, *, is_live: bool) -> Step:
        if device.address_kind is AddressKind.HUB:
            return Step("device", Finding.SKIPPED, "This device is reached over its live connection only.")
        channel = self._channels.channel_for(device.address_kind, device.app_id)
        if channel is None:
            return Step("device", Finding.SKIPPED, NOT_CONFIGURED, missing_channel(device.address_kind, self._mode))
        if is_live:
            # The person has it already; whether the next layer is ready can be asked without a second alert.
            return await self._probe(channel)
        try:
            address = self._open_address(device.address_sealed)
        except SealError:
            text = "The stored address cannot be opened: SECRET_KEY is not the one it was sealed with."
            return Step("device", Finding.FAILED, text, "Give SECRET_KEY_PREVIOUS, or register the device again.")
        push = Push(
            envelope=envelope,
            app_id=envelope.app_id,
            device_id=device.id,
            platform=device.platform,
            address=address,
            timeout_s=PROVIDER_TIMEOUT_S,
            registered_at=device.registered_at,
        )
        began = self._clock.monotonic()
        outcome = await self._asker.ask(channel, push, envelope.id)
        return _step_of(channel.name, outcome, self._took_ms(began))

    async def _probe(self, channel: Channel) -> Step:
        began = self._clock.monotonic()
        try:
            async with asyncio.timeout(PROVIDER_TIMEOUT_S + 1):
                diagnosis = await channel.probe()
        except TimeoutError:
            diagnosis = Diagnosis(False, "The provider did not answer in time.")
        except Exception:
            logger.exception("probe_failed", extra={"channel": _word(channel.name)})
            diagnosis = Diagnosis(False, "An unexpected error occurred while asking; it is logged.")
        finding = Finding.WORKS if diagnosis.works else Finding.FAILED
        next_step = None if diagnosis.works else NEXT_STEPS["probe"]
        return Step(_word(channel.name), finding, diagnosis.detail, next_step, took_ms=self._took_ms(began))

    def _make_envelope(self, device: ProbedDevice) -> Envelope:
        now = self._clock.now()
        return Envelope(
            id=make_id(now),
            app_id=device.app_id or _NO_APP,
            user_id=device.user_id,
            title="Test notification",
            body="If you can read this, notifications reach this device.",
            data={"test": "true"},
            type=TEST_TYPE,
            priority=Priority.HIGH,
            # It has no place in the user's order, and must not move any client's cursor.
            sequence=0,
            sent_at=now,
            expires_at=now + TEST_TTL,
        )

    def _took_ms(self, began: float) -> int:
        return round((self._clock.monotonic() - began) * 1000)

    def begin(self) -> None:
        """A test begins; `end` must follow. Raises `TooMany`."""
        if self._under_way >= MOST_AT_ONCE:
            raise TooMany("Other tests are running. Try again in a moment.", retry_after_s=5)
        self._under_way += 1

    def end(self) -> None:
        """A test has ended."""
        self._under_way -= 1


class _Turn:
    """One of the tests that may run at once."""

    def __init__(self, tester: PushTester) -> None:
        self._tester = tester

    def __enter__(self) -> None:
        self._tester.begin()

    def __exit__(self, *raised: object) -> None:
        self._tester.end()


def _word(name: ChannelName) -> str:
    return name.name.lower()


def _find_obstacle(device: ProbedDevice) -> Step | None:
    """Give why nothing would be sent to the device at all, None when nothing stands in the way."""
    if device.is_user_disabled:
        return Step("device", Finding.FAILED, "The device's user is disabled.", "Enable the user first.")
    if device.is_app_disabled:
        return Step("device", Finding.FAILED, "The device's app is disabled.", "Enable the app first.")
    if not device.has_push:
        return Step("device", Finding.FAILED, "Push is off for the device's app.", "Enable push for the app.")
    if device.retired_reason is not None:
        text = f"The device is retired and gets nothing: {device.retired_reason}"
        return Step("device", Finding.FAILED, text, NEXT_STEPS["gone"])
    return None


def _not_live(device: ProbedDevice) -> Step:
    next_step = "Open the app or the page on the device." if device.address_kind is AddressKind.HUB else None
    return Step("hub", Finding.SKIPPED, "This device is not connected to this server now.", next_step)


def _step_of(name: ChannelName, outcome: Outcome, took_ms: int) -> Step:
    is_taken = isinstance(outcome, Accepted | Confirmed)
    next_step = None if is_taken else NEXT_STEPS[kind_of(outcome).name.lower()]
    finding = Finding.ACCEPTED if is_taken else Finding.FAILED
    return Step(_word(name), finding, reason_of(outcome), next_step, code=outcome.code, took_ms=took_ms)


def _summarize(steps: Sequence[Step]) -> str:
    """Give the one sentence that a person needs: what worked, else what stands in the way, else what is missing."""
    for findings in (
        {Finding.CONFIRMED},
        {Finding.ACCEPTED},
        {Finding.WORKS},
        {Finding.FAILED},
        {Finding.UNKNOWN},
    ):
        for step in steps:
            if step.finding in findings:
                return step.detail
    # Nothing could be tried: the last step says what is missing.
    told = next((step for step in steps if step.next_step), steps[-1])
    return f"{told.detail} {told.next_step or ''}".strip()
