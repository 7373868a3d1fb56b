"""SQLite: the writer's connection, and Piccolo's engine with connections that stay open."""

import logging
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from piccolo.engine.sqlite import SQLiteEngine

from appliance.domain.errors import CarillonError, OutOfSpace, Unavailable
from appliance.storage.sql import Row, sqlite_value
from appliance.storage.writer import Job, Transaction, Writer

logger = logging.getLogger(__name__)

T = TypeVar("T")

BUSY_TIMEOUT_MS = 5_000
_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cache_size = -16000",
    "PRAGMA mmap_size = 134217728",
    "PRAGMA wal_autocheckpoint = 4000",
    "PRAGMA journal_size_limit = 67108864",
)


def connect(path: Path, *, read_only: bool = False, piccolo_types: bool = False) -> sqlite3.Connection:
    """Open a connection that stays open, in autocommit mode, with Carillon's pragmas."""
    connection = sqlite3.connect(
        path,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
        detect_types=sqlite3.PARSE_DECLTYPES | sqlite3.PARSE_COLNAMES if piccolo_types else 0,
    )
    for pragma in _PRAGMAS:
        connection.execute(pragma)
    if read_only:
        connection.execute("PRAGMA query_only = ON")
    return connection


def translate(error: Exception) -> CarillonError | None:
    """Give the refusal that an error of SQLite means for the caller, or None for a bug."""
    if not isinstance(error, sqlite3.Error):
        return None
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return OutOfSpace()
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable("Another program holds the database; nothing was accepted.", retry_after_s=5)
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        # A full or failing file system shows up as an I/O error in the WAL or its index.
        return Unavailable("The data disk does not take writes; nothing was accepted.", retry_after_s=10)
    return None


class SQLiteWriterConnection:
    """The one writing connection, as `storage.writer.Writer` drives it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection

    def open(self) -> None:
        self._connection = connect(self._path)

    def begin(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def begin_job(self) -> None:
        self._connection.execute("SAVEPOINT job")

    def keep_job(self) -> None:
        self._connection.execute("RELEASE job")

    def undo_job(self) -> bool:
        # On a full disk or an I/O error SQLite may already have rolled the whole transaction back.
        if not self._connection.in_transaction:
            return False
        self._connection.execute("ROLLBACK TO job")
        self._connection.execute("RELEASE job")
        return True

    def commit(self) -> None:
        self._connection.execute("COMMIT")

    def rollback(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            logger.exception("writer_rollback_failed")
            self._reopen()

    def _reopen(self) -> None:
        self._connection.close()
        self._connection = connect(self._path)

    def close(self) -> None:
        self._connection.close()

    def translate(self, error: Exception) -> CarillonError | None:
        return translate(error)

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        return self._connection.execute(sql, [sqlite_value(value) for value in parameters]).rowcount

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        self._connection.executemany(sql, [[sqlite_value(value) for value in row] for row in rows])

    def fetch_one(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        # All rows are taken: a half-read statement would keep the savepoint from being released.
        rows = self.fetch_all(sql, parameters)
        return rows[0] if rows else None

    def fetch_all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        return self._connection.execute(sql, [sqlite_value(value) for value in parameters]).fetchall()


class SQLiteReader:
    """Reads inline on one kept connection: a point query takes microseconds, a thread hop takes longer.

    Callers bound their page sizes. Each statement sees all that was committed before it began.
    """

    def __init__(self, path: Path) -> None:
        self._connection = connect(path, read_only=True)
        self._lock = threading.Lock()

    def fetch_all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        with self._lock:
            return self._connection.execute(sql, [sqlite_value(value) for value in parameters]).fetchall()

    def close(self) -> None:
        self._connection.close()


class PersistentSQLiteEngine(SQLiteEngine):
    """Piccolo's SQLite engine without a connection and a thread for every statement.

    Reads run on one kept read-only connection, writes become jobs of the group-commit writer. An explicit
    `transaction()` still opens its own connection, which waits its turn behind SQLite's lock.
    """

    def __init__(self, path: Path, writer: Writer | None) -> None:
        super().__init__(path=str(path), timeout=BUSY_TIMEOUT_MS / 1000)
        self._writer = writer
        self._file = path
        self._piccolo_reader: sqlite3.Connection | None = None

    async def _run_in_new_connection(
        self, query: str, args: list[Any] | None = None, query_type: str = "generic", table: Any = None
    ) -> Any:
        if self._writer is None:
            return await super()._run_in_new_connection(query, args, query_type, table)
        parameters = args or []
        if _is_read(query):
            if self._piccolo_reader is None:
                self._piccolo_reader = connect(self._file, read_only=True, piccolo_types=True)
            cursor = self._piccolo_reader.execute(query, parameters)
            return [_as_dict(cursor, row) for row in cursor.fetchall()]
        return await self._writer.commit(_piccolo_job(query, parameters))

    def close(self) -> None:
        """Close the kept reading connection."""
        if self._piccolo_reader is not None:
            self._piccolo_reader.close()
            self._piccolo_reader = None


def _is_read(query: str) -> bool:
    # WITH may lead to an INSERT, so only a plain SELECT is known to read.
    return query.lstrip().upper().startswith("SELECT")


def _as_dict(cursor: sqlite3.Cursor, row: Row) -> dict[str, Any]:
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


def _piccolo_job(query: str, parameters: Sequence[Any]) -> Job[list[dict[str, Any]]]:
    def job(transaction: Transaction) -> list[dict[str, Any]]:
        connection: sqlite3.Connection = transaction._connection  # type: ignore[attr-defined]
        cursor = connection.execute(query, [sqlite_value(value) for value in parameters])
        rows = cursor.fetchall()
        return [_as_dict(cursor, row) for row in rows] if cursor.description else []

    return job
