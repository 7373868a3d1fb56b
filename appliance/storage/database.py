"""The opened database: schema brought up to date, one writer, readers."""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import asyncpg
from piccolo.engine.base import Engine
from piccolo.engine.postgres import PostgresEngine

from appliance.domain.errors import Unavailable
from appliance.domain.secret import Secret
from appliance.storage.postgres import CONNECT_TIMEOUT_S, PostgresWriterConnection
from appliance.storage.sql import Row, dollar_marks
from appliance.storage.sqlite import (
    BUSY_TIMEOUT_S,
    PersistentSQLiteEngine,
    SQLiteReader,
    SQLiteWriterConnection,
    translate,
)
from appliance.storage.upgrade import BACKUP_FOLDER, upgrade_postgres, upgrade_sqlite, use_engine
from appliance.storage.writer import Job, Then, Writer, WriterConnection

logger = logging.getLogger(__name__)

T = TypeVar("T")

DATABASE_FILE = "carillon.sqlite"
POOL_SIZE = 10
READ_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 5.0


class _Reader(Protocol):
    async def fetch_all(self, sql: str, parameters: Sequence[Any]) -> list[Row]: ...


class Database:
    """The one way to the data: `write` commits a job with others in a group, `read` runs a bounded query."""

    def __init__(self, writer: Writer, reader: _Reader, engine: Engine[Any], *, is_sqlite: bool) -> None:
        self._writer = writer
        self._reader = reader
        self.engine = engine
        self.is_sqlite = is_sqlite

    @property
    def writer(self) -> Writer:
        return self._writer

    async def write(self, job: Job[T], then: Then[T] | None = None) -> T:
        """Commit the job and give its result, of which `then` hears first; see `Writer.commit` for what it raises."""
        return await self._writer.commit(job, then)

    async def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run a query and give its rows; it sees every write that completed before. Bound its size with LIMIT."""
        return await self._reader.fetch_all(sql, parameters)

    async def read_one(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        """Run a query and give its first row."""
        rows = await self._reader.fetch_all(sql, parameters)
        return rows[0] if rows else None


@asynccontextmanager
async def open_database(
    data_dir: Path, database_url: Secret | None, *, busy_timeout_s: float = BUSY_TIMEOUT_S
) -> AsyncIterator[Database]:
    """Open SQLite in the data folder, or PostgreSQL where `database_url` is given, with its schema up to date.

    `busy_timeout_s` is how long a write waits for another program that holds the SQLite file.
    """
    opening = _open_postgres(database_url) if database_url else _open_sqlite(data_dir, busy_timeout_s)
    async with opening as database:
        yield database


@asynccontextmanager
async def _open_sqlite(data_dir: Path, busy_timeout_s: float) -> AsyncIterator[Database]:
    path = data_dir / DATABASE_FILE
    await upgrade_sqlite(path, data_dir / BACKUP_FOLDER)
    async with _writing(SQLiteWriterConnection(path, busy_timeout_s=busy_timeout_s)) as writer:
        engine = PersistentSQLiteEngine(path, writer)
        use_engine(engine)
        with contextlib.closing(engine), contextlib.closing(SQLiteReader(path)) as reader:
            try:
                yield Database(writer, _InlineReader(reader), engine, is_sqlite=True)
            finally:
                # What queues is finished while there are readers: whoever waits for a write may read after it.
                await writer.close()


@asynccontextmanager
async def _open_postgres(url: Secret) -> AsyncIterator[Database]:
    engine = PostgresEngine(config={"dsn": url.reveal(), "timeout": CONNECT_TIMEOUT_S}, extensions=())
    use_engine(engine)
    await upgrade_postgres(engine)
    await engine.start_connection_pool(min_size=1, max_size=POOL_SIZE, command_timeout=READ_TIMEOUT_S)
    try:
        async with _writing(PostgresWriterConnection(url)) as writer:
            yield Database(writer, _PoolReader(engine), engine, is_sqlite=False)
    finally:
        await _close_pool(engine)


async def _close_pool(engine: PostgresEngine) -> None:
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await engine.close_connection_pool()
    except TimeoutError:
        logger.warning("database_pool_closed_late")
        if engine.pool is not None:
            engine.pool.terminate()


@asynccontextmanager
async def _writing(connection: WriterConnection) -> AsyncIterator[Writer]:
    writer = Writer(connection)
    await writer.start()
    try:
        yield writer
    finally:
        await writer.close()


class _InlineReader:
    def __init__(self, reader: SQLiteReader) -> None:
        self._reader = reader

    async def fetch_all(self, sql: str, parameters: Sequence[Any]) -> list[Row]:
        try:
            return self._reader.fetch_all(sql, parameters)
        except sqlite3.Error as error:
            raise translate(error) or error from error


_POSTGRES_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    # What the driver says of a connection that broke while it was between two states.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
)


class _PoolReader:
    def __init__(self, engine: PostgresEngine) -> None:
        self._engine = engine

    async def fetch_all(self, sql: str, parameters: Sequence[Any]) -> list[Row]:
        pool = self._engine.pool
        if pool is None:
            raise Unavailable("The database is not open.")
        try:
            async with pool.acquire(timeout=READ_TIMEOUT_S) as connection:
                values = [
                    int(value) if isinstance(value, int) and not isinstance(value, bool) else value
                    for value in parameters
                ]
                return [tuple(record) for record in await connection.fetch(dollar_marks(sql), *values)]
        except _POSTGRES_AWAY as error:
            raise Unavailable("The database does not answer.", retry_after_s=5) from error
