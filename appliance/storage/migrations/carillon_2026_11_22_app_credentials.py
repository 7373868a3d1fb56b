"""Credentials of their own that apps have for a push service."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.columns import UUID, Bytea, Column, SmallInt, Text, Timestamptz, Varchar

ID = "2026-11-22T08:00:05:000000"
VERSION = "1.38.0"
DESCRIPTION = "Credentials of apps"

COLUMNS: dict[str, Column] = {
    "id": Varchar(length=50, primary_key=True, default=""),
    "app": UUID(default=None),
    "address_kind": SmallInt(default=0),
    "version": UUID(default=None),
    "credential_sealed": Bytea(default=b""),
    "facts": Text(default=""),
    "changed_at": Timestamptz(default=None),
}


async def forwards() -> MigrationManager:
    manager = MigrationManager(migration_id=ID, app_name="carillon", description=DESCRIPTION)
    manager.add_table(class_name="AppCredential", tablename="app_credential", schema=None, columns=None)
    for name, column in COLUMNS.items():
        manager.add_column(
            table_class_name="AppCredential",
            tablename="app_credential",
            column_name=name,
            db_column_name=name,
            column_class_name=type(column).__name__,
            column_class=type(column),
            params=column._meta.params,
            schema=None,
        )
    return manager
