"""Housekeeping: what has had its time is deleted, in small steps that never hold the writer for long."""

import asyncio
import logging
from datetime import datetime, timedelta
from typing import Final

from appliance.domain.clock import Clock
from appliance.domain.errors import CarillonError
from appliance.storage.database import Database
from appliance.storage.retention import delete_old_notifications_job, delete_stale_job
from appliance.storage.writer import Job

logger = logging.getLogger(__name__)

PAGE: Final = 500
PAUSE_S: Final = 600.0


class Housekeeper:
    """Deletes notifications past their retention, and records that no longer mean anything."""

    def __init__(self, database: Database, clock: Clock, *, retention: timedelta) -> None:
        self._database = database
        self._clock = clock
        self._retention = retention
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Ask `run` to end."""
        self._stop.set()

    async def run(self) -> None:
        """Tidy every ten minutes until `stop`."""
        while not self._stop.is_set():
            try:
                await self.tidy(self._clock.now())
            except CarillonError as refusal:
                logger.warning("housekeeping_waits", extra={"code": refusal.code})
            except Exception:
                logger.exception("housekeeping_failed")
            try:
                await asyncio.wait_for(self._stop.wait(), PAUSE_S)
            except TimeoutError:
                continue

    async def tidy(self, now: datetime) -> int:
        """Delete what is due; gives how many notifications went."""
        await self._repeat(delete_stale_job(now, PAGE))
        deleted = await self._repeat(delete_old_notifications_job(now - self._retention, PAGE))
        if deleted:
            logger.info("notifications_deleted", extra={"notifications": deleted})
        return deleted

    async def _repeat(self, job: Job[int]) -> int:
        """Run the job, others' writes in between, until it deletes less than a page."""
        deleted = 0
        while not self._stop.is_set():
            page = await self._database.write(job)
            deleted += page
            if page < PAGE:
                break
        return deleted
