"""What a channel is. The contract suite in `tests/contract` runs on every channel of the registry."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol
from uuid import UUID

from appliance.domain.device import AddressKind, Platform
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


@dataclass(frozen=True, slots=True)
class Push:
    """One attempt's work: the notification, the address in the clear, and how long the channel may take."""

    envelope: Envelope
    app_id: UUID
    device_id: UUID
    platform: Platform
    address: Secret
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a probe found: whether the channel works now, in plain words with the next step when it does not."""

    works: bool
    detail: str


class Channel(Protocol):
    """One way out.

    `deliver` answers within `push.timeout_s` with one outcome; it does not retry, sleep, log content or touch the
    database; exceptions are bugs. `slots` is how many pushes it takes at once. `close` lets what it holds finish.
    """

    @property
    def name(self) -> ChannelName: ...

    @property
    def address_kinds(self) -> frozenset[AddressKind]: ...

    @property
    def slots(self) -> int: ...

    async def deliver(self, push: Push) -> Outcome: ...

    async def probe(self) -> Diagnosis: ...

    async def close(self) -> None: ...
