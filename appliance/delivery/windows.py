"""Acknowledgement windows: which offers wait for their device's answer, and until when.

Pure bookkeeping on one heap, told the monotonic time: no task and no timer for a single offer.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Window:
    """An offer on the hub that waits for its acknowledgement until `deadline` (monotonic seconds)."""

    delivery_id: UUID
    device_id: UUID
    notification_id: UUID
    offered_at: datetime
    offered_mono: float
    deadline: float
    expires_at: datetime
    has_remote: bool
    acknowledges: bool = True
    """False: nobody will answer; when the window passes without a cut, the socket has taken it."""
    holder: UUID | None = None
    """The other node that has the device's session, None for this one."""
    is_asking: bool = False
    """Nobody has it yet: other nodes are asked whether the device has a session there."""


class Windows:
    """All open windows."""

    def __init__(self) -> None:
        self._open: dict[tuple[UUID, UUID], Window] = {}
        self._by_device: dict[UUID, dict[UUID, None]] = {}
        self._heap: list[tuple[float, int, tuple[UUID, UUID]]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._open)

    @property
    def next_deadline(self) -> float | None:
        """When the next window passes; it may turn out to be closed already."""
        return self._heap[0][0] if self._heap else None

    def open(self, window: Window) -> None:
        """Begin to wait. A window for the same offer is replaced."""
        key = (window.device_id, window.notification_id)
        self._open[key] = window
        self._by_device.setdefault(window.device_id, {})[window.notification_id] = None
        self._count += 1
        heapq.heappush(self._heap, (window.deadline, self._count, key))

    def close(self, device_id: UUID, notification_id: UUID) -> Window | None:
        """Stop waiting for one answer; None when nobody waited."""
        window = self._open.pop((device_id, notification_id), None)
        if window is not None:
            waiting = self._by_device[device_id]
            del waiting[notification_id]
            if not waiting:
                del self._by_device[device_id]
        return window

    def close_device(self, device_id: UUID) -> list[Window]:
        """Stop waiting for all answers of a device's session here; its connection is gone."""
        return self.close_held(None, device_id, list(self._by_device.get(device_id, ())))

    def close_held(self, holder: UUID | None, device_id: UUID, notification_ids: Sequence[UUID]) -> list[Window]:
        """Stop waiting for these answers where this node (None) or that other one has the session; gives which."""
        return [
            window
            for notification_id in notification_ids
            if (window := self._open.get((device_id, notification_id))) is not None
            and not window.is_asking
            and window.holder == holder
            and self.close(device_id, notification_id) is not None
        ]

    def find_asking(self, device_id: UUID, notification_id: UUID) -> Window | None:
        """Give the window in which other nodes are asked for the device, None when none of them is waited for."""
        window = self._open.get((device_id, notification_id))
        return window if window is not None and window.is_asking else None

    def close_notification(self, notification_id: UUID) -> list[Window]:
        """Stop waiting for a notification's answers; it was withdrawn."""
        devices = [device_id for device_id, other_id in self._open if other_id == notification_id]
        closed = [self.close(device_id, notification_id) for device_id in devices]
        return [window for window in closed if window is not None]

    def is_open(self, device_id: UUID, notification_id: UUID) -> bool:
        """Tell whether the offer waits for its answer."""
        window = self._open.get((device_id, notification_id))
        return window is not None and not window.is_asking

    def close_passed(self, now_mono: float) -> list[Window]:
        """Stop waiting where the deadline has come, and give those windows."""
        passed: list[Window] = []
        while self._heap and self._heap[0][0] <= now_mono:
            deadline, _, key = heapq.heappop(self._heap)
            window = self._open.get(key)
            if window is not None and window.deadline == deadline:
                self.close(*key)
                passed.append(window)
        return passed
