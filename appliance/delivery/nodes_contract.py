"""What nodes need: a bus below them, and the hub and the engine of their own process beside them."""

from collections.abc import Mapping, Sequence
from typing import Protocol
from uuid import UUID

from appliance.delivery.nodes_queue import Outgoing
from appliance.hub.hub import Offered
from appliance.hub.messages import EncodedNotification


class Bus(Protocol):
    """Carries frames between nodes: at most once, in the order of each sender. Calls its `BusUser` on the loop."""

    def wake(self) -> None:
        """There is something to take. Never blocks."""

    def reopen(self) -> None:
        """Begin anew with another connection: this one carries nothing."""

    async def run(self, user: "BusUser") -> None:
        """Carry until `stop`."""

    def stop(self) -> None:
        """Say what waits to be said, for a moment, and end `run`."""


class BusUser(Protocol):
    """Who speaks and hears over a bus. No call blocks."""

    @property
    def id(self) -> UUID: ...

    def take(self) -> Outgoing | None: ...

    def hear(self, data: bytes) -> None: ...

    def opened(self) -> None: ...

    def closed(self, reason: str) -> None: ...


class LocalHub(Protocol):
    """What this needs of the hub; only `resync` waits for anything."""

    def offer(self, notification: EncodedNotification, device_ids: Sequence[UUID]) -> Mapping[UUID, Offered]: ...

    def offer_plain(self, user_id: UUID, notification: EncodedNotification) -> int: ...

    def is_connected(self, device_id: UUID) -> bool: ...

    def close_device(self, device_id: UUID, reason: str, *, allow_reconnect: bool = False) -> None: ...

    def give_way(self, device_id: UUID, seat_stamp: int) -> int | None: ...

    def list_seats(self) -> list[tuple[UUID, int]]: ...

    async def resync(self) -> int: ...


class Asking(Protocol):
    """What this needs of the engine: it waits for the answers."""

    @property
    def handed_over(self) -> int:
        """How much was accepted and is not told to anybody yet."""

    def taken(self, node: UUID, device_id: UUID, notification_id: UUID, offer: Offered) -> None: ...

    def acknowledged(self, device_id: UUID, notification_id: UUID) -> object: ...

    def lost_elsewhere(
        self, node: UUID, device_id: UUID, notification_ids: Sequence[UUID], *, code: str, why: str
    ) -> None: ...

    def forget_here(self, notification_id: UUID) -> None: ...
