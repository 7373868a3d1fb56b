"""Notices to the layers above, one after another and never from within a call of theirs."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from uuid import UUID

from appliance.hub.backend import HubBackend

logger = logging.getLogger(__name__)


class Notices:
    """Hands notices to the backend in the order in which they arose, on the next turn of the loop.

    So whoever calls `Hub.offer` has its answer before a notice about the same notification reaches it. Bound: what one
    turn of the loop can raise; `flush` hands over at once, for the end of the hub.
    """

    def __init__(self, backend: HubBackend) -> None:
        self._backend = backend
        self._pending: deque[Callable[[], None]] = deque()
        self._handle: asyncio.Handle | None = None

    def device_seated(self, user_id: UUID, device_id: UUID, seat_stamp: int) -> None:
        self._add(lambda: self._backend.device_seated(user_id, device_id, seat_stamp))

    def device_connected(self, user_id: UUID, device_id: UUID, acknowledges: bool) -> None:
        self._add(lambda: self._backend.device_connected(user_id, device_id, acknowledges))

    def device_disconnected(self, user_id: UUID, device_id: UUID, reason: str) -> None:
        self._add(lambda: self._backend.device_disconnected(user_id, device_id, reason))

    def offer_cut(self, device_id: UUID, notification_ids: Sequence[UUID], reason: str) -> None:
        if notification_ids:
            self._add(lambda: self._backend.offer_cut(device_id, notification_ids, reason))

    def flush(self) -> None:
        """Hand over everything that is pending."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        while self._pending:
            notice = self._pending.popleft()
            try:
                notice()
            except Exception:
                # A fault above must not end somebody's connection; the engine's own deadlines cover a lost notice.
                logger.exception("hub_notice_failed")

    def _add(self, notice: Callable[[], None]) -> None:
        self._pending.append(notice)
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_soon(self.flush)
