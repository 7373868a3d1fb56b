"""Indexes of the mailboxes that Piccolo's column options cannot say."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.table import Table

ID = "2026-11-22T08:00:04:000000"
VERSION = "1.38.0"
DESCRIPTION = "Indexes of the mailboxes"

INDEXES = (
    "CREATE INDEX mail_mailbox ON mail (mailbox, begun_at)",
    "CREATE INDEX delivery_mail_due ON delivery (due_at) WHERE mailbox IS NOT NULL AND due_at IS NOT NULL",
    "CREATE INDEX delivery_digest ON delivery (digest) WHERE digest IS NOT NULL",
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
