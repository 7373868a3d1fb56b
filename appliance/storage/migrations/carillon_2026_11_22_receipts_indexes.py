"""Indexes of the receipts that Piccolo's column options cannot say."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.table import Table

ID = "2026-11-22T08:00:02:000000"
VERSION = "1.38.0"
DESCRIPTION = "Indexes of the receipts"

INDEXES = (
    "CREATE UNIQUE INDEX receipt_delivery_status ON receipt (delivery, status)",
    "CREATE INDEX receipt_due ON receipt (next_try_at) WHERE next_try_at IS NOT NULL",
    "CREATE INDEX receipt_app_due ON receipt (app, next_try_at) WHERE next_try_at IS NOT NULL",
    "CREATE INDEX receipt_tell_until ON receipt (tell_until) WHERE next_try_at IS NOT NULL",
    "CREATE INDEX receipt_app_number ON receipt (app, number)",
    "CREATE INDEX receipt_notification ON receipt (notification)",
)


class _Anywhere(Table):
    """Gives raw statements a table to be run from."""


async def _create_indexes() -> None:
    for statement in INDEXES:
        await _Anywhere.raw(statement).run()


async def forwards() -> MigrationManager:
    manager = MigrationManager(migration_id=ID, app_name="carillon", description=DESCRIPTION)
    manager.add_raw(_create_indexes)
    return manager
