"""One time for all nodes: the machine's clock, put right by the database's, which all of them share.

Leases, due and expiry instants are written by one node and compared by another. A node whose clock is ahead would take
what another one is still waiting for, or expire it; so each measures how far its clock is off when it starts, and every
minute from then on.
"""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Final

from appliance.domain.clock import Clock
from appliance.domain.errors import CarillonError
from appliance.storage.database import Database

logger = logging.getLogger(__name__)

EVERY_S: Final = 60.0
LONGEST_TRIP_S: Final = 1.0
"""A measurement that took longer tells too little: its error is half of the time it took."""
MUCH: Final = timedelta(seconds=2)


class SharedClock:
    """`domain.clock.Clock` that tells the time of the database, to within about half a round trip to it.

    Monotonic time is the machine's own. While the database does not answer, the last measurement counts.
    """

    def __init__(self, own: Clock, database: Database) -> None:
        self._own = own
        self._database = database
        self._stopping = asyncio.Event()
        self._was_much = False
        self.offset = timedelta()
        """What the database's clock is ahead of the machine's."""

    def now(self) -> datetime:
        return self._own.now() + self.offset

    def monotonic(self) -> float:
        return self._own.monotonic()

    async def measure(self) -> None:
        """Compare the clocks once; a database that does not answer, or late, changes nothing."""
        asked_at, asked_mono = self._own.now(), self._own.monotonic()
        try:
            row = await self._database.read_one("SELECT clock_timestamp()")
        except CarillonError as refusal:
            logger.debug("clock_not_compared", extra={"code": refusal.code})
            return
        took_s = self._own.monotonic() - asked_mono
        if row is None or took_s > LONGEST_TRIP_S:
            return
        told_at: datetime = row[0].astimezone(UTC)
        self.offset = told_at - asked_at - timedelta(seconds=took_s / 2)
        is_much = abs(self.offset) > MUCH
        if is_much and not self._was_much:
            fact = {"database_ahead_s": round(self.offset.total_seconds(), 1)}
            logger.warning("clock_differs_from_database", extra=fact)
        self._was_much = is_much

    async def run(self) -> None:
        """Compare the clocks every minute, until `stop`."""
        while not self._stopping.is_set():
            try:
                async with asyncio.timeout(EVERY_S):
                    await self._stopping.wait()
            except TimeoutError:
                await self.measure()

    def stop(self) -> None:
        """End `run`."""
        self._stopping.set()
