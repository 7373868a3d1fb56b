"""When a device last gave its address: older evidence that the address is dead does not count."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.columns import Timestamptz

ID = "2026-11-22T08:00:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "The instant of a device's last registration"


async def forwards() -> MigrationManager:
    # Null in older rows: there the device's creation stands in for it.
    manager = MigrationManager(migration_id=ID, app_name="carillon", description=DESCRIPTION)
    manager.add_column(
        table_class_name="Device",
        tablename="device",
        column_name="registered_at",
        db_column_name="registered_at",
        column_class_name="Timestamptz",
        column_class=Timestamptz,
        params={"default": None, "null": True},
    )
    return manager
