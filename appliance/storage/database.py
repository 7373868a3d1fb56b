"""The opened database: schema brought up to date, one writer, readers."""

import asyncio
import contextlib
import io
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from piccolo.engine.base import Engine
from piccolo.engine.postgres import PostgresEngine
from piccolo.table import TABLE_REGISTRY

from appliance.domain.errors import Unavailable
from appliance.domain.secret import Secret
from appliance.storage import piccolo_conf
from appliance.storage.postgres import PostgresWriterConnection
from appliance.storage.sql import Row, dollar_marks
from appliance.storage.sqlite import PersistentSQLiteEngine, SQLiteReader, SQLiteWriterConnection, connect, translate
from appliance.storage.writer import Job, Writer, WriterConnection

logger = logging.getLogger(__name__)

T = TypeVar("T")

DATABASE_FILE = "carillon.sqlite"
BACKUP_FOLDER = "backups"
BACKUPS_KEPT = 5
POOL_SIZE = 10
_UPGRADE_LOCK = 0x0CA2_1110


class SchemaTooNew(Exception):
    """The database was made by a newer Carillon; this one must not touch it."""


class SchemaUpgradeFailed(Exception):
    """A schema upgrade did not go through; the database is as it was before."""


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

    async def write(self, job: Job[T]) -> T:
        """Commit the job and give its result; see `Writer.commit` for what it raises."""
        return await self._writer.commit(job)

    async def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run a query and give its rows; it sees every write that completed before. Bound its size with LIMIT."""
        return await self._reader.fetch_all(sql, parameters)

    async def read_one(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        """Run a query and give its first row."""
        rows = await self._reader.fetch_all(sql, parameters)
        return rows[0] if rows else None


@asynccontextmanager
async def open_database(data_dir: Path, database_url: Secret | None) -> AsyncIterator[Database]:
    """Open SQLite in the data folder, or PostgreSQL where `database_url` is given, with its schema up to date."""
    opening = _open_postgres(database_url) if database_url else _open_sqlite(data_dir)
    async with opening as database:
        try:
            yield database
        finally:
            await database.writer.close()


@asynccontextmanager
async def _open_sqlite(data_dir: Path) -> AsyncIterator[Database]:
    path = data_dir / DATABASE_FILE
    await upgrade_sqlite(path, data_dir / BACKUP_FOLDER)
    writer = await _start_writer(SQLiteWriterConnection(path))
    engine = PersistentSQLiteEngine(path, writer)
    _use_engine(engine)
    reader = SQLiteReader(path)
    try:
        yield Database(writer, _InlineReader(reader), engine, is_sqlite=True)
    finally:
        reader.close()
        engine.close()


@asynccontextmanager
async def _open_postgres(url: Secret) -> AsyncIterator[Database]:
    engine = PostgresEngine(config={"dsn": url.reveal()}, extensions=())
    _use_engine(engine)
    await upgrade_postgres(engine)
    await engine.start_connection_pool(min_size=1, max_size=POOL_SIZE)
    writer = await _start_writer(PostgresWriterConnection(url))
    try:
        yield Database(writer, _PoolReader(engine), engine, is_sqlite=False)
    finally:
        await engine.close_connection_pool()


async def _start_writer(connection: WriterConnection) -> Writer:
    writer = Writer(connection)
    await writer.start()
    return writer


class _InlineReader:
    def __init__(self, reader: SQLiteReader) -> None:
        self._reader = reader

    async def fetch_all(self, sql: str, parameters: Sequence[Any]) -> list[Row]:
        try:
            return self._reader.fetch_all(sql, parameters)
        except sqlite3.Error as error:
            raise translate(error) or error from error


class _PoolReader:
    def __init__(self, engine: PostgresEngine) -> None:
        self._engine = engine

    async def fetch_all(self, sql: str, parameters: Sequence[Any]) -> list[Row]:
        pool = self._engine.pool
        if pool is None:
            raise Unavailable("The database is not open.")
        try:
            async with pool.acquire() as connection:
                values = [
                    int(value) if isinstance(value, int) and not isinstance(value, bool) else value
                    for value in parameters
                ]
                return [tuple(record) for record in await connection.fetch(dollar_marks(sql), *values)]
        except (OSError, TimeoutError) as error:
            raise Unavailable("The database does not answer.", retry_after_s=5) from error


def _use_engine(engine: Engine[Any]) -> None:
    """Point Piccolo and every table that has already looked for its engine at this one."""
    os.environ["PICCOLO_CONF"] = "appliance.storage.piccolo_conf"
    piccolo_conf.DB = engine
    for table in TABLE_REGISTRY:
        table._meta._db = engine


async def upgrade_sqlite(path: Path, backup_folder: Path) -> None:
    """Apply the migrations that are missing; a copy of the database as it was is kept first.

    Raises `SchemaTooNew`, or `SchemaUpgradeFailed` after the copy has been put back.
    """
    _use_engine(PersistentSQLiteEngine(path, None))
    existed = await asyncio.to_thread(_holds_data, path)
    known, done = await _migrations()
    if not existed:
        await _migrate(path)
        return
    _refuse_newer(known, done)
    if set(known) <= set(done):
        return
    copy = await asyncio.to_thread(_copy_before_upgrade, path, backup_folder)
    logger.info("schema_upgrade_started", extra={"copy": copy.name, "missing": len(set(known) - set(done))})
    try:
        await _migrate(path)
    except Exception as error:
        await asyncio.to_thread(_put_back, copy, path)
        raise SchemaUpgradeFailed(
            f"The schema upgrade failed and the database was put back as it was; a copy is at {copy}. {error}"
        ) from error


async def upgrade_postgres(engine: PostgresEngine) -> None:
    """Apply the migrations that are missing, one node at a time. Keep your own dump: PostgreSQL is not copied here."""
    connection = await engine.get_new_connection()
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", _UPGRADE_LOCK)
        known, done = await _migrations()
        _refuse_newer(known, done)
        if not set(known) <= set(done):
            await _migrate(None)
    finally:
        await connection.close()


def _refuse_newer(known: list[str], done: list[str]) -> None:
    unknown = sorted(set(done) - set(known))
    if unknown:
        raise SchemaTooNew(
            f"This database was made by a newer Carillon (schema {unknown[-1]}). Start that version again, "
            "or restore a backup made before the upgrade."
        )


async def _migrations() -> tuple[list[str], list[str]]:
    # Imported late: the migration machinery brings a formatter along that nothing else needs.
    from piccolo.apps.migrations.commands.base import BaseMigrationManager
    from piccolo.apps.migrations.tables import Migration

    from appliance.storage.piccolo_app import APP_CONFIG

    manager = BaseMigrationManager()
    known = sorted(manager.get_migration_modules(APP_CONFIG.resolved_migrations_folder_path))
    if not await Migration.table_exists().run():
        return known, []
    return known, list(await Migration.get_migrations_which_ran(app_name=APP_CONFIG.app_name))


async def _migrate(path: Path | None) -> None:
    from piccolo.apps.migrations.commands.forwards import ForwardsMigrationManager

    talk = io.StringIO()
    with contextlib.redirect_stdout(talk):
        result = await ForwardsMigrationManager(app_name="carillon").run()
    if not result.success:
        raise SchemaUpgradeFailed(result.message or talk.getvalue())
    if path is not None:
        await asyncio.to_thread(path.chmod, 0o600)


def _holds_data(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _copy_before_upgrade(path: Path, folder: Path) -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    copy = folder / f"before-upgrade-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.sqlite"
    copy_sqlite(path, copy)
    for old in sorted(folder.glob("before-upgrade-*.sqlite"))[:-BACKUPS_KEPT]:
        old.unlink()
    return copy


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a database, its WAL included, into one file of mode 600, through SQLite's own backup."""
    partial = target.with_suffix(".partial")
    partial.touch(mode=0o600)
    origin = connect(source, read_only=True)
    copied = sqlite3.connect(partial)
    try:
        origin.backup(copied)
    finally:
        copied.close()
        origin.close()
    partial.rename(target)


def _put_back(copy: Path, path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    restored = path.with_suffix(".restored")
    copy_sqlite(copy, restored)
    restored.rename(path)
