"""Killed in the middle of bringing the schema up to date: the next start must find it as it was, and finish."""

import contextlib
import shutil
import sqlite3
from pathlib import Path
from textwrap import dedent

import pytest

from appliance.storage.database import DATABASE_FILE
from appliance.storage.piccolo_app import APP_CONFIG
from appliance.storage.upgrade import BACKUP_FOLDER
from tests.crash.launched import LaunchedAppliance, check_integrity

pytestmark = [pytest.mark.crash, pytest.mark.slow]

NEXT_VERSION = dedent("""
    from piccolo.apps.migrations.auto.migration_manager import MigrationManager
    from piccolo.table import Table

    ID = "2099-01-01T00:00:00:000000"
    VERSION = "1"
    DESCRIPTION = ""

    class Anywhere(Table):
        pass

    async def change():
        await Anywhere.raw("CREATE TABLE extra (id INTEGER)").run()
        await Anywhere.raw("DELETE FROM audit").run()

    async def forwards():
        manager = MigrationManager(migration_id=ID, app_name="carillon", description="")
        manager.add_raw(change)
        return manager
""")


@pytest.fixture
def appliance(tmp_path):
    made = LaunchedAppliance(tmp_path / "data")
    yield made
    made.kill()


@pytest.fixture
def next_version(tmp_path):
    """The migrations of a version that has one more."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    for file in Path(APP_CONFIG.resolved_migrations_folder_path).glob("carillon_*.py"):
        shutil.copyfile(file, folder / file.name)
    (folder / "carillon_2099_01_01_extra.py").write_text(NEXT_VERSION, encoding="utf-8")
    return folder


def tables_of(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


@pytest.mark.parametrize(
    ("point", "passes"),
    [("mid_migration", 1), ("after_migration_before_its_note", 1), ("after_migration_before_its_note", 2)],
)
def test_a_first_start_that_is_killed_can_simply_be_repeated(appliance, point, passes):
    appliance.arm(point, passes)
    appliance.spawn()
    appliance.wait_killed(30)
    appliance.arm("")
    appliance.start()
    assert appliance.stop() == 0
    assert "notification" in tables_of(appliance.data_dir / DATABASE_FILE)
    check_integrity(appliance.data_dir / DATABASE_FILE)


@pytest.mark.parametrize(
    ("point", "passes"), [("after_copy_before_upgrade", 1), ("after_migration_before_its_note", 1)]
)
def test_an_upgrade_that_is_killed_leaves_the_old_schema_and_the_next_start_finishes_it(
    appliance, next_version, point, passes
):
    appliance.start()
    assert appliance.stop() == 0
    database = appliance.data_dir / DATABASE_FILE
    with contextlib.closing(sqlite3.connect(database)) as connection:
        before = connection.execute("SELECT COUNT(*) FROM audit").fetchall()
    appliance.environment["MIGRATIONS_UNDER_TEST"] = str(next_version)
    appliance.arm(point, passes)
    appliance.spawn()
    appliance.wait_killed(30)
    assert "extra" not in tables_of(database)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT COUNT(*) FROM audit").fetchall() == before
    appliance.arm("")
    appliance.start()
    assert appliance.stop() == 0
    assert "extra" in tables_of(database)
    for copy in (appliance.data_dir / BACKUP_FOLDER).iterdir():
        check_integrity(copy)
        assert "extra" not in tables_of(copy)
