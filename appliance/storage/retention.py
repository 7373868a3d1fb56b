"""Deleting what has had its time."""

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from appliance.storage.sql import marks, uuid_of
from appliance.storage.writer import Job, Transaction

REGISTRATIONS_KEPT: Final = timedelta(hours=2)
QUOTA_DAYS_KEPT: Final = timedelta(days=400)


def delete_old_notifications_job(accepted_before: datetime, limit: int) -> Job[int]:
    """Make the job that deletes the oldest notifications with their deliveries and attempts, at most `limit`.

    A user's `oldest_sequence` moves with it, so that a cursor that points before it is told: history incomplete.
    What can still be delivered is kept whatever its age.
    """

    def job(transaction: Transaction) -> int:
        rows = transaction.fetch_all(
            'SELECT id, "user", sequence FROM notification WHERE accepted_at < ? AND expires_at < ? '
            "ORDER BY accepted_at LIMIT ?",
            (accepted_before, accepted_before, limit),
        )
        if not rows:
            return 0
        ids = [uuid_of(row[0]) for row in rows]
        inside = marks(len(ids))
        transaction.execute(
            f"DELETE FROM attempt WHERE delivery IN (SELECT id FROM delivery WHERE notification IN ({inside}))", ids
        )
        transaction.execute(f"DELETE FROM delivery WHERE notification IN ({inside})", ids)
        transaction.execute(f"DELETE FROM notification WHERE id IN ({inside})", ids)
        newest: dict[UUID, int] = {}
        for _, user_id, sequence in rows:
            if sequence is not None:
                newest[uuid_of(user_id)] = max(int(sequence), newest.get(uuid_of(user_id), 0))
        transaction.execute_many(
            "UPDATE account SET oldest_sequence = ? WHERE id = ? AND oldest_sequence <= ?",
            [(sequence + 1, user_id, sequence) for user_id, sequence in newest.items()],
        )
        return len(rows)

    return job


def delete_stale_job(now: datetime) -> Job[None]:
    """Make the job that deletes expired idempotency records, sessions, refresh tokens, claims and old counters."""

    def job(transaction: Transaction) -> None:
        for table in ("idempotency", "web_session", "refresh_token", "claim"):
            transaction.execute(f"DELETE FROM {table} WHERE expires_at < ?", (now,))
        transaction.execute("DELETE FROM registration WHERE registered_at < ?", (now - REGISTRATIONS_KEPT,))
        transaction.execute("DELETE FROM quota_day WHERE day < ?", ((now - QUOTA_DAYS_KEPT).date(),))

    return job
