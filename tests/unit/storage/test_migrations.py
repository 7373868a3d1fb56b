"""The schema at start-up: made fresh, brought up to date all or nothing, put back when that fails, never downwards."""

import asyncio
import contextlib
import importlib
import re
import sqlite3
import stat
import sys
from pathlib import Path
from textwrap import dedent

import psycopg
import pytest
from piccolo.table import create_db_tables

from appliance.domain.secret import Secret
from appliance.storage.database import DATABASE_FILE, POOL_SIZE, open_database
from appliance.storage.piccolo_app import APP_CONFIG
from appliance.storage.tables import TABLES
from appliance.storage.upgrade import BACKUP_FOLDER, BACKUPS_KEPT, SchemaTooNew, SchemaUpgradeFailed, copy_sqlite

SHIPPED = Path(APP_CONFIG.resolved_migrations_folder_path)
SHIPPED_COUNT = len(list(SHIPPED.glob("carillon_*.py")))


@pytest.fixture
def migrations(tmp_path, monkeypatch):
    """A folder of migrations that a test may add to: what the next version would ship."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    for file in SHIPPED.glob("carillon_*.py"):
        (folder / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(APP_CONFIG, "migrations_folder_path", str(folder))
    monkeypatch.setattr(sys, "path", list(sys.path))
    _forget_migrations()
    yield Migrations(folder)
    _forget_migrations()


def _forget_migrations():
    # Piccolo imports migrations by their bare names, so those of another test would be taken for this one's.
    for name in [name for name in sys.modules if name.startswith("carillon_2")]:
        del sys.modules[name]
    importlib.invalidate_caches()


class Migrations:
    """Adds migrations that run raw statements; each is later than all before it."""

    def __init__(self, folder):
        self.folder = folder
        self.added = 0

    def add(self, *statements, fails=False):
        self.added += 1
        name = f"carillon_2099_01_01_{self.added}.py"
        (self.folder / name).write_text(
            dedent(f"""
                from piccolo.apps.migrations.auto.migration_manager import MigrationManager
                from piccolo.table import Table

                ID = "2099-01-01T00:00:0{self.added}:000000"
                VERSION = "1"
                DESCRIPTION = ""

                class Anywhere(Table):
                    pass

                async def change():
                    for statement in {statements!r}:
                        await Anywhere.raw(statement).run()
                    {"raise RuntimeError('the disk fell over')" if fails else ""}

                async def forwards():
                    manager = MigrationManager(migration_id=ID, app_name="carillon", description="")
                    manager.add_raw(change)
                    return manager
            """),
            encoding="utf-8",
        )
        return self.folder / name


def rows_of(path, statement):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def schema_of(path):
    return sorted(rows_of(path, "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL"))


def backups_of(folder):
    return sorted((folder / BACKUP_FOLDER).glob("*")) if (folder / BACKUP_FOLDER).exists() else []


async def add_audit(database, action):
    now_text = "2026-03-01 12:00:00+00:00"
    await database.write(
        lambda tx: tx.execute(
            f"INSERT INTO audit (id, at, actor, action, target, address) VALUES (?, '{now_text}', '', ?, '', '')",
            (f"00000000-0000-7000-8000-{abs(hash(action)) % 10**12:012}", action),
        )
    )


async def actions(database):
    return [row[0] for row in await database.read("SELECT action FROM audit ORDER BY action")]


async def test_a_fresh_database_is_made_private_and_without_a_copy(tmp_path):
    async with open_database(tmp_path, None) as database:
        assert await database.read("SELECT COUNT(*) FROM notification") == [(0,)]
    assert stat.S_IMODE((tmp_path / DATABASE_FILE).stat().st_mode) == 0o600
    assert backups_of(tmp_path) == []


async def test_opening_again_changes_nothing_and_keeps_the_data(database, open_again):
    await add_audit(database, "kept")
    before = await database.read("SELECT name, ran_on FROM migration ORDER BY name")
    async with open_again() as again:
        assert await actions(again) == ["kept"]
        assert await again.read("SELECT name, ran_on FROM migration ORDER BY name") == before


async def test_the_migrations_make_on_sqlite_what_the_tables_declare(tmp_path):
    async with open_database(tmp_path, None):
        pass
    expected = tmp_path / "expected"
    expected.mkdir()
    async with open_database(expected, None) as database:
        with contextlib.closing(sqlite3.connect(expected / DATABASE_FILE)) as connection:
            for table in TABLES:
                connection.execute(f"DROP TABLE {table._meta.tablename}")
        await create_db_tables(*TABLES)
        assert database.is_sqlite
    assert _sqlite_columns(tmp_path) == _sqlite_columns(expected)
    assert _sqlite_indexes(expected) <= _sqlite_indexes(tmp_path)


def _sqlite_columns(folder):
    return sorted(
        rows_of(
            folder / DATABASE_FILE,
            'SELECT t.name, c.name, c.type, c."notnull", c.dflt_value, c.pk FROM sqlite_master t, '
            "pragma_table_info(t.name) c WHERE t.type = 'table' AND t.name NOT IN ('migration', 'sqlite_sequence')",
        ),
        key=str,
    )


def _sqlite_indexes(folder):
    return set(
        rows_of(
            folder / DATABASE_FILE,
            'SELECT t.name, i."unique", i.partial, (SELECT group_concat(c.name) FROM pragma_index_info(i.name) c) '
            "FROM sqlite_master t, pragma_index_list(t.name) i WHERE t.type = 'table' AND t.name <> 'migration'",
        )
    )


async def test_the_migrations_make_on_postgresql_what_the_tables_declare(tmp_path, postgresql):
    migrated, declared = postgresql.make_database(), postgresql.make_database()
    async with open_database(tmp_path, Secret(migrated)):
        pass
    async with open_database(tmp_path, Secret(declared)):
        with psycopg.connect(declared, autocommit=True) as connection:
            for table in TABLES:
                connection.execute(f"DROP TABLE {table._meta.tablename}")
        await create_db_tables(*TABLES)
    assert _postgres_columns(migrated) == _postgres_columns(declared)
    assert _postgres_indexes(declared) <= _postgres_indexes(migrated)


def _postgres_columns(url):
    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT table_name, column_name, data_type, character_maximum_length, is_nullable, column_default "
            "FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'migration' "
            "ORDER BY table_name, column_name"
        ).fetchall()


def _postgres_indexes(url):
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'").fetchall()
    # The names of constraints' indexes may differ, what they index may not.
    return {re.sub(r"INDEX \S+ ON", "INDEX ON", row[0]) for row in rows if " public.migration " not in row[0]}


async def test_every_column_means_the_same_on_both_databases(tmp_path, postgresql):
    url = postgresql.make_database()
    async with open_database(tmp_path, Secret(url)):
        pass
    async with open_database(tmp_path, None):
        pass
    in_postgres = {(row[0], row[1]) for row in _postgres_columns(url)}
    assert {row[:2] for row in _sqlite_columns(tmp_path)} == in_postgres


async def test_an_upgrade_keeps_a_copy_of_what_was_there_before(tmp_path, migrations):
    async with open_database(tmp_path, None) as database:
        await add_audit(database, "before")
    before = schema_of(tmp_path / DATABASE_FILE)
    migrations.add("CREATE TABLE extra (id INTEGER)")
    async with open_database(tmp_path, None) as database:
        await add_audit(database, "after")
        assert await database.read("SELECT COUNT(*) FROM extra") == [(0,)]
    (copy,) = backups_of(tmp_path)
    assert schema_of(copy) == before
    assert rows_of(copy, "SELECT action FROM audit") == [("before",)]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert stat.S_IMODE(copy.parent.stat().st_mode) == 0o700


async def test_the_copy_holds_what_was_still_in_the_wal(tmp_path, migrations):
    # A program that was killed leaves its last commits in the WAL only.
    async with open_database(tmp_path, None) as database:
        await add_audit(database, "in the wal")
        killed = tmp_path / "killed"
        killed.mkdir()
        for file in tmp_path.glob(f"{DATABASE_FILE}*"):
            (killed / file.name).write_bytes(file.read_bytes())
    assert (killed / f"{DATABASE_FILE}-wal").stat().st_size > 0
    migrations.add("CREATE TABLE extra (id INTEGER)")
    async with open_database(killed, None) as database:
        assert await actions(database) == ["in the wal"]
    (copy,) = backups_of(killed)
    assert rows_of(copy, "SELECT action FROM audit") == [("in the wal",)]


async def test_only_the_newest_copies_are_kept(tmp_path, migrations):
    async with open_database(tmp_path, None):
        pass
    seen = []
    for number in range(BACKUPS_KEPT + 2):
        migrations.add(f"CREATE TABLE extra_{number} (id INTEGER)")
        async with open_database(tmp_path, None):
            pass
        seen.append(backups_of(tmp_path)[-1].name)
    assert [copy.name for copy in backups_of(tmp_path)] == seen[-BACKUPS_KEPT:]


async def test_an_upgrade_that_fails_leaves_the_database_as_it_was(tmp_path, migrations):
    async with open_database(tmp_path, None) as database:
        await add_audit(database, "before")
    before = schema_of(tmp_path / DATABASE_FILE)
    migrations.add("CREATE TABLE extra (id INTEGER)", "DELETE FROM audit")
    broken = migrations.add("CREATE TABLE more (id INTEGER)", fails=True)
    with pytest.raises(SchemaUpgradeFailed, match=r"put back as it was.*backups.*the disk fell over"):
        async with open_database(tmp_path, None):
            pass
    assert schema_of(tmp_path / DATABASE_FILE) == before
    assert rows_of(tmp_path / DATABASE_FILE, "SELECT action FROM audit") == [("before",)]
    assert stat.S_IMODE((tmp_path / DATABASE_FILE).stat().st_mode) == 0o600
    broken.unlink()
    async with open_database(tmp_path, None) as database:
        assert await database.read("SELECT COUNT(*) FROM extra") == [(0,)]


async def test_an_upgrade_that_fails_on_postgresql_leaves_the_database_as_it_was(tmp_path, migrations, postgresql):
    url = postgresql.make_database()
    async with open_database(tmp_path, Secret(url)) as database:
        await add_audit(database, "before")
    before = _postgres_columns(url)
    migrations.add("CREATE TABLE extra (id INTEGER)", "DELETE FROM audit")
    migrations.add("CREATE TABLE more (id INTEGER)", fails=True)
    with pytest.raises(SchemaUpgradeFailed, match=r"is as it was.*the disk fell over"):
        async with open_database(tmp_path, Secret(url)):
            pass
    assert _postgres_columns(url) == before
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT action FROM audit").fetchall() == [("before",)]


async def test_what_a_migration_did_outside_its_transaction_is_undone_from_the_copy(tmp_path, migrations):
    async with open_database(tmp_path, None) as database:
        await add_audit(database, "before")
    file = migrations.add(fails=True)
    # Such a migration exists where a table has to be rebuilt; this one writes through a connection of its own.
    text = file.read_text(encoding="utf-8").replace(
        "async def change():",
        "async def change():\n"
        "    import sqlite3\n"
        f"    other = sqlite3.connect({str(tmp_path / DATABASE_FILE)!r}, isolation_level=None)\n"
        "    other.execute('DELETE FROM audit')\n"
        "    other.close()",
    )
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SchemaUpgradeFailed):
        async with open_database(tmp_path, None):
            pass
    assert rows_of(tmp_path / DATABASE_FILE, "SELECT action FROM audit") == [("before",)]


async def test_a_newer_schema_is_refused_and_left_alone(tmp_path, migrations):
    newer = migrations.add("CREATE TABLE extra (id INTEGER)")
    async with open_database(tmp_path, None) as database:
        await add_audit(database, "newer")
    newer.unlink()
    before = (tmp_path / DATABASE_FILE).read_bytes()
    with pytest.raises(SchemaTooNew, match="newer Carillon"):
        async with open_database(tmp_path, None):
            pass
    assert (tmp_path / DATABASE_FILE).read_bytes() == before
    assert backups_of(tmp_path) == []


async def test_a_newer_schema_on_postgresql_is_refused(tmp_path, migrations, postgresql):
    url = Secret(postgresql.make_database())
    newer = migrations.add("CREATE TABLE extra (id INTEGER)")
    async with open_database(tmp_path, url):
        pass
    newer.unlink()
    with pytest.raises(SchemaTooNew):
        async with open_database(tmp_path, url):
            pass


async def test_two_nodes_that_start_together_upgrade_once(tmp_path, postgresql):
    url = postgresql.make_database()
    code = (
        "import asyncio, sys\nfrom pathlib import Path\n"
        "from appliance.domain.secret import Secret\nfrom appliance.storage.database import open_database\n"
        "async def main():\n"
        "    async with open_database(Path('.'), Secret(sys.argv[1])) as database:\n"
        "        print(len(await database.read('SELECT name FROM migration')))\n"
        "asyncio.run(main())"
    )
    nodes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", code, url, stdout=asyncio.subprocess.PIPE)
        for _ in range(3)
    ]
    assert POOL_SIZE * len(nodes) < 60
    for node in nodes:
        assert (await node.communicate())[0].strip() == str(SHIPPED_COUNT).encode()


async def test_when_no_copy_can_be_kept_the_schema_is_not_touched(tmp_path, migrations):
    async with open_database(tmp_path, None):
        pass
    (tmp_path / BACKUP_FOLDER).write_text("a file where the folder should be", encoding="utf-8")
    before = schema_of(tmp_path / DATABASE_FILE)
    migrations.add("CREATE TABLE extra (id INTEGER)")
    with pytest.raises(SchemaUpgradeFailed, match="Make room"):
        async with open_database(tmp_path, None):
            pass
    assert schema_of(tmp_path / DATABASE_FILE) == before


async def test_a_copy_is_there_whole_or_not_at_all(tmp_path):
    async with open_database(tmp_path, None) as database:
        await add_audit(database, "one")
        copy_sqlite(tmp_path / DATABASE_FILE, tmp_path / "copy.sqlite")
        await add_audit(database, "two")
    assert rows_of(tmp_path / "copy.sqlite", "SELECT action FROM audit") == [("one",)]
    assert rows_of(tmp_path / "copy.sqlite", "PRAGMA integrity_check") == [("ok",)]
    assert not (tmp_path / "copy.partial").exists()
    (tmp_path / "nonsense").write_bytes(b"no database" * 1000)
    with pytest.raises(sqlite3.DatabaseError):
        copy_sqlite(tmp_path / "nonsense", tmp_path / "other.sqlite")
    assert not (tmp_path / "other.sqlite").exists()
    assert not (tmp_path / "other.partial").exists()
