"""What the hub asks of the layers above it: they implement `HubBackend`, the hub never imports them."""

from collections.abc import Mapping, Sequence
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


class DeviceLost(Exception):
    """The device is no longer this user's; `text` is shown to the client, which `may_return` by itself or not."""

    def __init__(self, text: str, *, may_return: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.may_return = may_return


@dataclass(frozen=True, slots=True)
class Missed:
    """One page of what a device has not received, in the order of sequence numbers, the oldest first.

    `complete` is False when something behind the given number can no longer be given. `cursor` is how far the page
    reaches: up to this number nothing else is to be given. While there are more pages it is the number of the last
    notification, else the user's newest at the moment of loading, 0 when there is none.
    """

    notifications: Sequence[EncodedNotification]
    complete: bool
    cursor: int
    has_more: bool = False


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

    async def load_missed(
        self, user_id: UUID, device_id: UUID, after_sequence: int, limit: int, *, is_open_only: bool = False
    ) -> Missed:
        """Load the oldest `limit` of what the device missed behind a number; `is_open_only` where it has no cursor.

        Everything committed before the call must be in it or, while `has_more`, in the pages behind it. What is left
        out (expired, withdrawn, another app's) must never be told of this device as confirmed. Raises `DeviceLost`.
        """
        ...

    async def count_missed(
        self, user_id: UUID, device_id: UUID, after_sequence: int, *, is_open_only: bool = False
    ) -> int:
        """Count what the pages behind that number would hold; may stop at a number that then means "or more"."""
        ...

    async def load_newest(self, device_ids: Sequence[UUID]) -> Mapping[UUID, tuple[UUID, int]]:
        """Load the user of each device and that user's newest number; devices that are retired are left out.

        Asked on one node among several only.
        """
        ...

    async def acknowledge(
        self, device_id: UUID, notification_id: UUID, round_trip_s: float | None, *, is_late: bool = False
    ) -> bool:
        """Record durably that the device has it; False when it was never meant for this device.

        `is_late`: its window had passed, and another layer may have been on meanwhile.
        """
        ...

    def device_seated(self, user_id: UUID, device_id: UUID, seat_stamp: int) -> None:
        """Notice, on one node among several only: the device speaks here now; the larger stamp is the newer seat."""
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
