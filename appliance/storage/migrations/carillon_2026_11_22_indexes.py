"""Indexes that Piccolo's column options cannot say: partial ones and ones over several columns."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.table import Table

ID = "2026-11-22T05:00:01:000000"
VERSION = "1.38.0"
DESCRIPTION = "Indexes for the engine, the replay and the timeline"

INDEXES = (
    "CREATE INDEX notification_scheduled ON notification (send_at) WHERE state = 0",
    "CREATE INDEX delivery_due ON delivery (due_at) WHERE due_at IS NOT NULL",
    "CREATE INDEX delivery_device_open ON delivery (device) WHERE settled_at IS NULL",
    "CREATE UNIQUE INDEX delivery_notification_device ON delivery (notification, device) WHERE device IS NOT NULL",
    # Holding what its condition tells, or SQLite looks into every row to count an app's devices.
    "CREATE INDEX device_app_live ON device (app, id, retired_at) WHERE retired_at IS NULL",
    'CREATE UNIQUE INDEX notification_user_sequence ON notification ("user", sequence)',
    'CREATE INDEX notification_collapse ON notification ("user", collapse_key) WHERE collapse_key IS NOT NULL',
    "CREATE INDEX notification_accepted ON notification (accepted_at)",
    "CREATE INDEX attempt_delivery_number ON attempt (delivery, number)",
    "CREATE INDEX audit_target ON audit (target, at)",
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
