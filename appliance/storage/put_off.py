"""Putting deliveries off whose lane is full or closed: many at once, and only what nobody holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from appliance.domain.ladder import Event, sources
from appliance.storage.database import Database
from appliance.storage.sql import instant_of, marks, uuid_of
from appliance.storage.writer import Job, Transaction


@dataclass(frozen=True, slots=True)
class Waiting:
    """A delivery that is due."""

    id: UUID
    device_id: UUID
    expires_at: datetime


async def load_waiting(database: Database, device_ids: Sequence[UUID], now: datetime, limit: int) -> list[Waiting]:
    """Read what is due for these devices and held by nobody, at most `limit`."""
    claimable = sources(Event.CLAIM)
    rows = await database.read(
        "SELECT id, device, expires_at FROM delivery WHERE due_at <= ? AND expires_at > ? "
        f"AND device IN ({marks(len(device_ids))}) AND state IN ({marks(len(claimable))}) LIMIT ?",
        (now, now, *device_ids, *claimable, limit),
    )
    return [Waiting(uuid_of(row[0]), uuid_of(row[1]), instant_of(row[2])) for row in rows]


def put_off_job(dues: Sequence[tuple[UUID, datetime]]) -> Job[None]:
    """Make the job that has these deliveries looked at again at these instants, unless somebody has claimed them."""

    def job(transaction: Transaction) -> None:
        claimable = sources(Event.CLAIM)
        transaction.execute_many(
            f"UPDATE delivery SET due_at = ? WHERE id = ? AND state IN ({marks(len(claimable))})",
            [(due_at, delivery_id, *claimable) for delivery_id, due_at in dues],
        )

    return job
