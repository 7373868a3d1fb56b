"""Which offers of other nodes this one has taken, so that they hear what became of them. Pure."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final
from uuid import UUID

MOST: Final = 100_000
LIFETIME_S: Final = 30.0
"""Longer than any acknowledgement window: after it nobody waits for the answer any more."""


class TakenOffers:
    """Offers by device and notification, and the node that waits. Beyond `most` the oldest is forgotten."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._taken: OrderedDict[tuple[UUID, UUID], tuple[UUID, float]] = OrderedDict()
        self._by_device: dict[UUID, dict[UUID, None]] = {}

    def __len__(self) -> int:
        return len(self._taken)

    def add(self, device_id: UUID, notification_id: UUID, node: UUID, now_mono: float) -> None:
        """Note that this offer was taken for a node."""
        self._drop_old(now_mono)
        self.take(device_id, notification_id)
        self._taken[device_id, notification_id] = (node, now_mono)
        self._by_device.setdefault(device_id, {})[notification_id] = None

    def take(self, device_id: UUID, notification_id: UUID) -> UUID | None:
        """Forget an offer and give the node that waits for its answer, None when nobody does."""
        entry = self._taken.pop((device_id, notification_id), None)
        if entry is None:
            return None
        of_device = self._by_device[device_id]
        del of_device[notification_id]
        if not of_device:
            del self._by_device[device_id]
        return entry[0]

    def take_device(self, device_id: UUID) -> dict[UUID, list[UUID]]:
        """Forget all offers of a device; gives their notifications by the node that waits."""
        return self.take_several(device_id, list(self._by_device.get(device_id, ())))

    def take_several(self, device_id: UUID, notification_ids: Sequence[UUID]) -> dict[UUID, list[UUID]]:
        """Forget these offers of a device; gives those that were known by the node that waits."""
        by_node: dict[UUID, list[UUID]] = {}
        for notification_id in notification_ids:
            node = self.take(device_id, notification_id)
            if node is not None:
                by_node.setdefault(node, []).append(notification_id)
        return by_node

    def _drop_old(self, now_mono: float) -> None:
        while self._taken:
            (device_id, notification_id), (_, taken_at) = next(iter(self._taken.items()))
            if len(self._taken) < self._most and now_mono - taken_at <= LIFETIME_S:
                return
            self.take(device_id, notification_id)
