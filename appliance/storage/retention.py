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
    What can still be delivered, or told to a webhook, is kept whatever its age.
    """

    def job(transaction: Transaction) -> int:
        rows = transaction.fetch_all(
            'SELECT id, "user", sequence FROM notification WHERE accepted_at < ? AND expires_at < ? AND NOT EXISTS '
            "(SELECT 1 FROM receipt r WHERE r.notification = notification.id AND r.next_try_at IS NOT NULL) "
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
        transaction.execute(f"DELETE FROM receipt WHERE notification IN ({inside})", ids)
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


def delete_stale_job(now: datetime, limit: int) -> Job[int]:
    """Make the job that deletes expired idempotency records, sessions, refresh tokens, claims and old counters.

    At most `limit` of each, so that the writer is not held for long; gives the largest number of one kind that went.
    """

    def job(transaction: Transaction) -> int:
        return max(
            transaction.execute(
                f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE {column} < ? LIMIT ?)", (before, limit)
            )
            for table, column, before in (
                ("idempotency", "expires_at", now),
                ("web_session", "expires_at", now),
                ("refresh_token", "expires_at", now),
                ("claim", "expires_at", now),
                ("registration", "registered_at", now - REGISTRATIONS_KEPT),
                ("quota_day", "day", (now - QUOTA_DAYS_KEPT).date()),
            )
        )

    return job
