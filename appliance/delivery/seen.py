"""When devices were last seen: remembered in memory, written down once a minute in one transaction."""

import asyncio
import contextlib
import logging
from typing import Final
from uuid import UUID

from appliance.domain.clock import Clock
from appliance.domain.errors import CarillonError
from appliance.storage.database import Database
from appliance.storage.devices import touch_job

logger = logging.getLogger(__name__)

MAX_SEEN: Final = 100_000
"""Most devices remembered between two flushes; what is over it is not noted this time."""
FLUSH_EVERY_S: Final = 60.0


class SeenDevices:
    """Notes that a device was seen. Belongs to one event loop; `stop` ends `run` after a last flush."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._seen: set[UUID] = set()
        self._stopping = asyncio.Event()

    def note(self, device_id: UUID) -> None:
        """Remember that the device was seen just now. Returns at once."""
        if len(self._seen) < MAX_SEEN:
            self._seen.add(device_id)

    async def run(self) -> None:
        """Flush every minute until told to stop, and once more then."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), FLUSH_EVERY_S)
            await self.flush()
            if self._stopping.is_set():
                return

    def stop(self) -> None:
        """End `run`."""
        self._stopping.set()

    async def flush(self) -> None:
        """Write down who was seen since the last flush."""
        seen, self._seen = self._seen, set()
        if not seen:
            return
        try:
            await self._database.write(touch_job(sorted(seen), self._clock.now()))
        except CarillonError as refusal:
            # It is a courtesy, not a fact that anybody was promised.
            logger.warning("devices_seen_not_kept", extra={"devices": len(seen), "code": refusal.code})
        except Exception:
            logger.exception("devices_seen_not_kept", extra={"devices": len(seen)})
