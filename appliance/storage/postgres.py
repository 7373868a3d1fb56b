"""PostgreSQL: the writer's connection (psycopg, synchronous, on the writer's thread)."""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import psycopg

from appliance.domain.errors import CarillonError, OutOfSpace, Unavailable
from appliance.domain.secret import Secret
from appliance.storage.sql import Row, percent_marks

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10
STATEMENT_TIMEOUT_S = 15
"""Longest statement, waiting for another node's locks included."""
LOCK_TIMEOUT_S = 8
"""Longest wait for what another node or program has locked; the job is then run again."""
IDLE_TIMEOUT_S = 10
"""A node that hangs in the middle of a group loses it, and the turn with it, after so long."""
SILENCE_S = 15
"""How long a server may be silent, on a connection that waits for it, before it counts as gone."""
_TURN = 0x0CA2_1111


class PostgresWriterConnection:
    """The one writing connection of this node, as `storage.writer.Writer` drives it. Reopened when it breaks."""

    def __init__(self, url: Secret) -> None:
        self._url = url
        self._connection: psycopg.Connection[Row]

    def open(self) -> None:
        self._connection = psycopg.connect(
            self._url.reveal(),
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="carillon",
            keepalives_idle=SILENCE_S,
            keepalives_interval=5,
            keepalives_count=3,
            tcp_user_timeout=SILENCE_S * 1000,
        )
        self._connection.execute(f"SET statement_timeout = '{STATEMENT_TIMEOUT_S}s'")
        self._connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT_S}s'")
        self._connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_TIMEOUT_S}s'")
        self._connection.execute("SET TIME ZONE 'UTC'")
        # Accepted means kept, whatever the server's own default is. Stricter settings (replicas) are left as they are.
        self._connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )

    def begin(self) -> None:
        if self._connection.closed or self._connection.broken:
            self.open()
        try:
            self._begin()
        except psycopg.errors.LockNotAvailable:
            raise
        except psycopg.OperationalError:
            # The server was restarted while nobody wrote. Nothing is under way yet, so a new connection will do.
            self._connection.close()
            self.open()
            self._begin()

    def _begin(self) -> None:
        self._connection.execute("BEGIN")
        # Groups of several nodes take turns. Each holds the rows of all its jobs, locked in the order in which they
        # came; two at once would wait for each other in a circle, all the time. What waits makes the next group larger.
        self._connection.execute("SELECT pg_advisory_xact_lock(%s)", (_TURN,))

    def begin_job(self) -> None:
        self._connection.execute("SAVEPOINT job")

    def keep_job(self) -> None:
        self._connection.execute("RELEASE SAVEPOINT job")

    def undo_job(self) -> bool:
        if self._connection.closed or self._connection.broken:
            return False
        self._connection.execute("ROLLBACK TO SAVEPOINT job")
        self._connection.execute("RELEASE SAVEPOINT job")
        return True

    def commit(self) -> None:
        # PostgreSQL answers COMMIT in a failed transaction by rolling it back, without an error.
        if self._connection.execute("COMMIT").statusmessage != "COMMIT":
            raise psycopg.OperationalError("The server rolled the transaction back.")

    def rollback(self) -> None:
        if self._connection.closed or self._connection.broken:
            return
        try:
            self._connection.execute("ROLLBACK")
        except psycopg.Error:
            logger.exception("writer_rollback_failed")
            self._connection.close()

    def close(self) -> None:
        self._connection.close()

    def is_repeatable(self, error: Exception) -> bool:
        return isinstance(
            error,
            psycopg.errors.DeadlockDetected | psycopg.errors.SerializationFailure | psycopg.errors.LockNotAvailable,
        )

    def translate(self, error: Exception) -> CarillonError | None:
        if isinstance(error, psycopg.errors.DiskFull):
            return OutOfSpace()
        if self.is_repeatable(error):
            return Unavailable("The database asked to try again; nothing was accepted.")
        if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | psycopg.errors.ReadOnlySqlTransaction):
            return Unavailable("The database does not answer; nothing was accepted.", retry_after_s=5)
        return None

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        return self._connection.execute(percent_marks(sql), [_value(value) for value in parameters]).rowcount

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        with self._connection.cursor() as cursor:
            cursor.executemany(percent_marks(sql), [[_value(value) for value in row] for row in rows])

    def fetch_one(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        return self._connection.execute(percent_marks(sql), [_value(value) for value in parameters]).fetchone()

    def fetch_all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        return self._connection.execute(percent_marks(sql), [_value(value) for value in parameters]).fetchall()


def _value(value: Any) -> Any:
    # psycopg adapts an IntEnum by its class, which PostgreSQL does not know.
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value
