"""What the hub asks of the layers above it: they implement `HubBackend`, the hub never imports them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from appliance.domain.principal import Principal
from appliance.hub.messages import EncodedNotification


@dataclass(frozen=True, slots=True)
class Hello:
    """How a client introduces its device.

    `device_id` is a registered device's id or any installation id the client made up (1 to 128 characters); `cursor` is
    the newest sequence number it has received, None when it has none; `acknowledges` promises an answer to every
    notification, by `Acknowledge` or by an invocation result.
    """

    device_id: str
    cursor: int | None
    acknowledges: bool
    label: str | None = None
    platform: str | None = None


@dataclass(frozen=True, slots=True)
class HelloAccepted:
    """The device row that the client's device id stands for."""

    device_id: UUID


class HelloRefused(Exception):
    """The device may not speak for this user; `text` is shown to the client."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


@dataclass(frozen=True, slots=True)
class Missed:
    """What a device has not received, in the order of sequence numbers.

    `complete` is False when something in between can no longer be given; `cursor` is the user's newest sequence number
    at the moment of loading, 0 when there is none.
    """

    notifications: Sequence[EncodedNotification]
    complete: bool
    cursor: int


class HubBackend(Protocol):
    """The layers above, as the hub sees them. Everything runs on the hub's event loop.

    The hub bounds every awaited call by `HubLimits.backend_deadline_s`. The plain methods are notices: they must return
    at once, and an exception in them is logged and otherwise ignored.
    """

    async def authenticate(self, bearer: str) -> Principal | None:
        """Verify an access token or redeem a one-use ticket; None refuses it (401)."""
        ...

    async def register_hello(self, principal: Principal, hello: Hello) -> HelloAccepted:
        """Find or make the device and settle what its cursor confirms. Raises `HelloRefused`."""
        ...

    async def load_missed(self, user_id: UUID, device_id: UUID, after_sequence: int | None, limit: int) -> Missed:
        """Load what the device missed, at most `limit`; everything committed before the call must be in it."""
        ...

    async def acknowledge(self, device_id: UUID, notification_id: UUID, round_trip_s: float | None) -> bool:
        """Record durably that the device has it; False when it was never meant for this device."""
        ...

    def device_connected(self, user_id: UUID, device_id: UUID, acknowledges: bool) -> None:
        """Notice: the device's replay is finished and its session is live."""
        ...

    def device_disconnected(self, user_id: UUID, device_id: UUID, reason: str) -> None:
        """Notice: a session that was announced by `device_connected` has ended."""
        ...

    def offer_cut(self, device_id: UUID, notification_ids: Sequence[UUID], reason: str) -> None:
        """Notice: these were offered but never written, so the next layer is on. Never called from within `offer`."""
        ...
