"""Mailboxes: where notifications are mailed to, what was mailed lately, and who wants none of an app."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.columns import UUID, Boolean, Column, Integer, Text, Timestamptz, Varchar

ID = "2026-11-22T08:00:03:000000"
VERSION = "1.38.0"
DESCRIPTION = "Mailboxes"

MAILBOX: dict[str, Column] = {
    "id": UUID(primary_key=True, default=None),
    "address": Text(unique=True, default=""),
    "digest": UUID(null=True, default=None),
    "gathered": Integer(default=0),
    "created_at": Timestamptz(default=None),
}
MAIL: dict[str, Column] = {
    "id": UUID(primary_key=True, default=None),
    "mailbox": UUID(default=None),
    "begun_at": Timestamptz(default=None),
}
MAILBOX_MUTE: dict[str, Column] = {
    "id": Varchar(length=80, primary_key=True, default=""),
    "muted_at": Timestamptz(default=None),
}
NOTIFICATION: dict[str, Column] = {"email": Boolean(null=True, default=None)}
DELIVERY: dict[str, Column] = {
    "mailbox": UUID(null=True, default=None),
    "digest": UUID(null=True, default=None),
    "if_unconfirmed": Boolean(default=False),
}


async def forwards() -> MigrationManager:
    manager = MigrationManager(migration_id=ID, app_name="carillon", description=DESCRIPTION)
    for class_name, tablename in (("Mailbox", "mailbox"), ("Mail", "mail"), ("MailboxMute", "mailbox_mute")):
        manager.add_table(class_name=class_name, tablename=tablename, schema=None, columns=None)
    for class_name, tablename, columns in (
        ("Mailbox", "mailbox", MAILBOX),
        ("Mail", "mail", MAIL),
        ("MailboxMute", "mailbox_mute", MAILBOX_MUTE),
        ("Notification", "notification", NOTIFICATION),
        ("Delivery", "delivery", DELIVERY),
    ):
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
