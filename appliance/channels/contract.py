"""What a channel is. The contract suite in `tests/contract` runs on every channel of the registry.

A channel stands for one credential: an app that has its own Firebase project or Apple key has its own channels, and
what happens to one credential is no other's weather.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Protocol
from uuid import UUID

from appliance.domain.device import AddressKind, Platform
from appliance.domain.language import Language
from appliance.domain.notification import Envelope
from appliance.domain.outcome import Outcome
from appliance.domain.secret import Secret


class ChannelName(IntEnum):
    """The ways out, as an attempt stores them; never renumber."""

    HUB = 0
    FCM = 1
    APNS = 2
    WEB_PUSH = 3
    RELAY = 4
    EMAIL = 5


class Presentation(IntEnum):
    """How the device is to treat a push."""

    ALERT = 0
    """Shown by the system, even when the app does not run."""
    DATA = 1
    """Handed to the app without a word to the person."""
    CALL = 2
    """Rings: VoIP on Apple devices, a high-priority data message elsewhere."""


@dataclass(frozen=True, slots=True)
class LetterEntry:
    """One notification of a letter."""

    app_name: str
    title: str
    body: str
    sent_at: datetime


@dataclass(frozen=True, slots=True)
class Letter:
    """What an e-mail tells: one notification, or several in a digest.

    `id` is the same at every try. `count` is how many notifications it stands for, of which `entries` holds the oldest.
    """

    id: UUID
    language: Language
    entries: tuple[LetterEntry, ...]
    count: int
    unsubscribe_url: str | None = None


@dataclass(frozen=True, slots=True)
class Push:
    """One attempt's work: the notification, the address in the clear, and how long the channel may take.

    `registered_at` is when the device last gave this address: older evidence that it is dead does not count. A mailbox
    is no device and of no platform; what goes there has a `letter`, and its envelope is the newest that it tells of.
    """

    envelope: Envelope
    app_id: UUID
    device_id: UUID | None
    platform: Platform | None
    address: Secret
    timeout_s: float
    registered_at: datetime
    presentation: Presentation = Presentation.ALERT
    letter: Letter | None = None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a probe found: whether the channel works now, in plain words with the next step when it does not."""

    works: bool
    detail: str


class Channel(Protocol):
    """One way out.

    `deliver` answers within `push.timeout_s` with one outcome; it does not retry, sleep, log content or touch the
    database; exceptions are bugs. `lane_of` names what shares its weather within the channel: the push service of a
    browser's subscription, or always the same where the credential is all there is; it holds no secret, since admins
    see it. `slots` is how many pushes one lane takes at once. `close` lets what it holds finish.
    """

    @property
    def name(self) -> ChannelName: ...

    @property
    def address_kinds(self) -> frozenset[AddressKind]: ...

    @property
    def slots(self) -> int: ...

    @property
    def has_one_lane(self) -> bool:
        """Whether `lane_of` always gives the same name."""
        ...

    def lane_of(self, push: Push) -> str: ...

    async def deliver(self, push: Push) -> Outcome: ...

    async def probe(self) -> Diagnosis: ...

    async def close(self) -> None: ...
