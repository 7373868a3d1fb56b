"""SQLite: the writer's connection, and Piccolo's engine with connections that stay open."""

import logging
import re
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from piccolo.columns import UUID, Boolean, Column, Date, Timestamptz
from piccolo.engine.sqlite import SQLiteEngine
from piccolo.table import TABLE_REGISTRY

from appliance.domain.errors import CarillonError, OutOfSpace, Unavailable
from appliance.storage.sql import Row, instant_of, sqlite_values, uuid_of
from appliance.storage.writer import Job, Transaction, Writer

logger = logging.getLogger(__name__)

T = TypeVar("T")

BUSY_TIMEOUT_S = 5.0
"""How long a write waits for another program that holds the database."""
READ_BUSY_TIMEOUT_S = 0.2
"""Reads run on the event loop and meet a lock only while somebody recovers or rebuilds the file."""
_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cache_size = -16000",
    "PRAGMA mmap_size = 134217728",
    "PRAGMA wal_autocheckpoint = 4000",
    "PRAGMA journal_size_limit = 67108864",
)


def connect(
    path: Path, *, read_only: bool = False, piccolo_types: bool = False, busy_timeout_s: float = BUSY_TIMEOUT_S
) -> sqlite3.Connection:
    """Open a connection that stays open, in autocommit mode, with Carillon's pragmas."""
    connection = sqlite3.connect(
        path,
        timeout=busy_timeout_s,
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

    def __init__(self, path: Path, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self._path = path
        self._busy_timeout_s = busy_timeout_s
        self._connection: sqlite3.Connection
        self._is_lost = False

    def open(self) -> None:
        self._connection = connect(self._path, busy_timeout_s=self._busy_timeout_s)
        self._is_lost = False

    def begin(self) -> None:
        if self._is_lost:
            self.open()
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
            # Closing ends the transaction in any case. Opening may fail as well now, so that is left to `begin`.
            logger.exception("writer_rollback_failed")
            self._is_lost = True
            self._connection.close()

    def close(self) -> None:
        self._connection.close()

    def translate(self, error: Exception) -> CarillonError | None:
        return translate(error)

    def is_repeatable(self, error: Exception) -> bool:
        # There is one writer, and it has waited for the lock of another program already.
        return False

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        return self._connection.execute(sql, sqlite_values(parameters)).rowcount

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        self._connection.executemany(sql, [sqlite_values(row) for row in rows])

    def fetch_one(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        # All rows are taken: a half-read statement would keep the savepoint from being released.
        rows = self.fetch_all(sql, parameters)
        return rows[0] if rows else None

    def fetch_all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        return self._connection.execute(sql, sqlite_values(parameters)).fetchall()


class SQLiteReader:
    """Reads inline on one kept connection: a point query takes microseconds, a thread hop takes longer.

    Callers bound their page sizes. Each statement sees all that was committed before it began.
    """

    def __init__(self, path: Path) -> None:
        self._connection = connect(path, read_only=True, busy_timeout_s=READ_BUSY_TIMEOUT_S)
        self._lock = threading.Lock()

    def fetch_all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        with self._lock:
            return self._connection.execute(sql, sqlite_values(parameters)).fetchall()

    def close(self) -> None:
        self._connection.close()


class PersistentSQLiteEngine(SQLiteEngine):
    """Piccolo's SQLite engine without a connection and a thread for every statement.

    Reads run on one kept read-only connection, writes become jobs of the group-commit writer. An explicit
    `transaction()` still opens its own connection, which waits its turn behind SQLite's lock.
    """

    def __init__(self, path: Path, writer: Writer | None) -> None:
        super().__init__(path=str(path), timeout=BUSY_TIMEOUT_S)
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
        return _with_types(query, await self._writer.commit(_piccolo_job(query, parameters)))

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
        cursor = connection.execute(query, sqlite_values(parameters))
        rows = cursor.fetchall()
        return [_as_dict(cursor, row) for row in rows] if cursor.description else []

    return job


_WRITTEN_TABLE = re.compile(r'\s*(?:INSERT INTO|UPDATE|DELETE FROM)\s+"?(\w+)"?', re.IGNORECASE)
_READ_AS: dict[type[Column], Callable[[Any], Any]] = {
    UUID: uuid_of,
    Timestamptz: instant_of,
    Date: date.fromisoformat,
    Boolean: bool,
}


def _with_types(query: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give what RETURNING gave as Piccolo expects it; the writer's connection hands out what SQLite stores."""
    named = _WRITTEN_TABLE.match(query) if rows else None
    table = next((table for table in TABLE_REGISTRY if named and table._meta.tablename == named[1]), None)
    if table is None:
        return rows
    readers = {
        column._meta.db_column_name: _READ_AS[type(column)]
        for column in table._meta.columns
        if type(column) in _READ_AS
    }
    return [
        {name: value if value is None else readers.get(name, _as_is)(value) for name, value in row.items()}
        for row in rows
    ]


def _as_is(value: Any) -> Any:
    return value
