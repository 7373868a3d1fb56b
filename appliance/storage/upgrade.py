"""Bringing the schema up to date at start-up: all or nothing, with a copy kept, and never downwards."""

import asyncio
import contextlib
import io
import logging
import os
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from piccolo.engine.base import Engine
from piccolo.engine.postgres import PostgresEngine
from piccolo.table import TABLE_REGISTRY

from appliance.storage import piccolo_conf
from appliance.storage.sqlite import PersistentSQLiteEngine, connect

logger = logging.getLogger(__name__)

BACKUP_FOLDER = "backups"
BACKUPS_KEPT = 5
UPGRADE_WAIT_S = 300.0
"""How long a node waits for another one that upgrades the schema."""
_UPGRADE_LOCK = 0x0CA2_1110


class SchemaTooNew(Exception):
    """The database was made by a newer Carillon; this one must not touch it."""


class SchemaUpgradeFailed(Exception):
    """A schema upgrade did not go through; the database is as it was before."""


def use_engine(engine: Engine[Any]) -> None:
    """Point Piccolo and every table that has already looked for its engine at this one."""
    os.environ["PICCOLO_CONF"] = "appliance.storage.piccolo_conf"
    piccolo_conf.DB = engine
    for table in TABLE_REGISTRY:
        table._meta._db = engine


async def upgrade_sqlite(path: Path, backup_folder: Path) -> None:
    """Apply the migrations that are missing, all or none; a copy of the database as it was is kept first.

    A crash in the middle leaves the database as it was. Raises `SchemaTooNew`, or `SchemaUpgradeFailed` after the copy
    has been put back.
    """
    engine = PersistentSQLiteEngine(path, None)
    use_engine(engine)
    if not await asyncio.to_thread(_holds_data, path):
        await asyncio.to_thread(path.touch, mode=0o600)
        await _migrate(engine)
        return
    known, done = await _migrations()
    _refuse_newer(known, done)
    if set(known) <= set(done):
        return
    copy = await asyncio.to_thread(_copy_before_upgrade, path, backup_folder)
    logger.info("schema_upgrade_started", extra={"copy": copy.name, "missing": len(set(known) - set(done))})
    try:
        await _migrate(engine)
    except Exception as error:
        # The transaction has undone it already, unless a migration chose to do without one.
        await asyncio.to_thread(_put_back, copy, path)
        raise SchemaUpgradeFailed(
            f"The schema upgrade failed and the database was put back as it was; a copy is at {copy}. {error}"
        ) from error


async def upgrade_postgres(engine: PostgresEngine) -> None:
    """Apply the migrations that are missing, all or none, one node at a time.

    Keep your own dump: PostgreSQL is not copied here. Raises `SchemaTooNew`, `SchemaUpgradeFailed`.
    """
    connection = await engine.get_new_connection()
    try:
        await _lock_upgrades(connection)
        known, done = await _migrations()
        _refuse_newer(known, done)
        if not set(known) <= set(done):
            await _migrate(engine)
    except (SchemaTooNew, SchemaUpgradeFailed):
        raise
    except Exception as error:
        raise SchemaUpgradeFailed(f"The schema upgrade failed and the database is as it was. {error}") from error
    finally:
        await connection.close()


async def _lock_upgrades(connection: Any) -> None:
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", _UPGRADE_LOCK, timeout=UPGRADE_WAIT_S)
    except TimeoutError:
        raise SchemaUpgradeFailed(
            f"Another node has been upgrading the schema for more than {UPGRADE_WAIT_S:.0f} s. "
            "Look at that one, or start this one again later."
        ) from None


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


async def _migrate(engine: PersistentSQLiteEngine | PostgresEngine) -> None:
    from piccolo.apps.migrations.commands.forwards import ForwardsMigrationManager

    talk = io.StringIO()
    # One transaction around all of it: left alone, each migration and the note that it ran are separate commits, and a
    # crash between them would have the next start run it again, over its own work.
    with contextlib.redirect_stdout(talk):
        async with engine.transaction():
            result = await ForwardsMigrationManager(app_name="carillon").run()
            if not result.success:
                raise SchemaUpgradeFailed(result.message or talk.getvalue())


def _holds_data(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _copy_before_upgrade(path: Path, folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        for cut_short in folder.glob("before-upgrade-*.partial"):
            cut_short.unlink()
        copy = folder / f"before-upgrade-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.sqlite"
        copy_sqlite(path, copy)
        for old in sorted(folder.glob("before-upgrade-*.sqlite"))[:-BACKUPS_KEPT]:
            old.unlink()
    except (OSError, sqlite3.Error) as error:
        raise SchemaUpgradeFailed(
            f"No copy of the database could be kept in {folder} ({error}), so the schema was not upgraded. "
            "Make room there and start again."
        ) from error
    return copy


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a database, its WAL included, into one file of mode 600, through SQLite's own backup.

    The target is there whole and fsynced, or not at all. Raises `sqlite3.Error` or `OSError`.
    """
    partial = target.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600)
    try:
        with (
            contextlib.closing(connect(source, read_only=True)) as origin,
            contextlib.closing(sqlite3.connect(partial)) as copied,
        ):
            origin.backup(copied)
        partial.rename(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _put_back(copy: Path, path: Path) -> None:
    restored = path.with_suffix(".restored")
    copy_sqlite(copy, restored)
    _fold_wal_in(path)
    restored.rename(path)
    _sync_folder(path.parent)


def _fold_wal_in(path: Path) -> None:
    """Leave no WAL beside a file that is about to be replaced: it would be played into the new one."""
    try:
        with contextlib.closing(connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error:
        logger.exception("database_left_unreadable_by_upgrade")
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
