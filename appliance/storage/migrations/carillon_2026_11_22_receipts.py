"""Receipts: one row for each status of a delivery that an app's webhook is told."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.columns import UUID, BigInt, Column, Integer, SmallInt, Text, Timestamptz

ID = "2026-11-22T08:00:01:000000"
VERSION = "1.38.0"
DESCRIPTION = "Delivery receipts"

APP: dict[str, Column] = {
    "last_receipt": BigInt(default=0),
    "webhook_secret_rotated_at": Timestamptz(null=True, default=None),
}
RECEIPT: dict[str, Column] = {
    "id": UUID(primary_key=True, default=None),
    "app": UUID(default=None),
    "delivery": UUID(default=None),
    "notification": UUID(default=None),
    "user": UUID(default=None),
    "device": UUID(null=True, default=None),
    "number": BigInt(default=0),
    "status": SmallInt(default=0),
    "error": Text(null=True, default=None),
    "state": SmallInt(default=0),
    "tries": Integer(default=0),
    "next_try_at": Timestamptz(null=True, default=None),
    "lease_until": Timestamptz(null=True, default=None),
    "tell_until": Timestamptz(default=None),
    "created_at": Timestamptz(default=None),
    "settled_at": Timestamptz(null=True, default=None),
    "answer": Text(null=True, default=None),
}


async def forwards() -> MigrationManager:
    manager = MigrationManager(migration_id=ID, app_name="carillon", description=DESCRIPTION)
    manager.add_table(class_name="Receipt", tablename="receipt", schema=None, columns=None)
    for class_name, tablename, columns in (("App", "app", APP), ("Receipt", "receipt", RECEIPT)):
        for name, column in columns.items():
            manager.add_column(
                table_class_name=class_name,
                tablename=tablename,
                column_name=name,
                db_column_name=name,
                column_class_name=type(column).__name__,
                column_class=type(column),
                params=column._meta.params,
                schema=None,
            )
    return manager
