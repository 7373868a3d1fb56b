"""The first schema: the tables as they were, written down here so that later changes of `tables` do not reach it."""

from typing import Any, NamedTuple

from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.columns import UUID, BigInt, Boolean, Bytea, Date, Integer, SmallInt, Text, Timestamptz, Varchar

ID = "2026-11-22T05:00:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "The first schema"


class Created(NamedTuple):
    class_name: str
    tablename: str
    columns: dict[str, Any]


TABLES = (
    Created(
        "App",
        "app",
        {
            "id": UUID(primary_key=True, default=None),
            "name": Varchar(length=100),
            "secret_hash": Bytea(null=True, default=None),
            "push_enabled": Boolean(default=False),
            "open_enrolment": Boolean(default=True),
            "webhook_url": Text(null=True, default=None),
            "webhook_secret_sealed": Bytea(null=True, default=None),
            "webhook_secret_previous_sealed": Bytea(null=True, default=None),
            "daily_quota": Integer(default=10_000),
            "vapid_public_key": Text(null=True, default=None),
            "vapid_private_key_sealed": Bytea(null=True, default=None),
            "notification_email": Text(null=True, default=None),
            "email_policy": SmallInt(default=0),
            "delivery_mode": SmallInt(null=True, default=None),
            "created_at": Timestamptz(default=None),
            "secret_rotated_at": Timestamptz(null=True, default=None),
            "disabled_at": Timestamptz(null=True, default=None),
        },
    ),
    Created(
        "User",
        "account",
        {
            "id": UUID(primary_key=True, default=None),
            "username": Varchar(length=150),
            "username_key": Varchar(length=300, unique=True),
            "password_hash": Text(null=True, default=None),
            "role": SmallInt(default=0),
            "email": Text(null=True, default=None),
            "email_verified_at": Timestamptz(null=True, default=None),
            "external_subject": Text(null=True, default=None, unique=True),
            "last_sequence": BigInt(default=0),
            "oldest_sequence": BigInt(default=1),
            "created_at": Timestamptz(default=None),
            "tokens_valid_from": Timestamptz(null=True, default=None),
            "disabled_at": Timestamptz(null=True, default=None),
        },
    ),
    Created(
        "Enrolment",
        "enrolment",
        {
            "id": Varchar(length=80, primary_key=True, default=""),
            "user": UUID(default=None, index=True),
            "app": UUID(default=None, index=True),
            "created_at": Timestamptz(default=None),
        },
    ),
    Created(
        "WebSession",
        "web_session",
        {
            "id": Varchar(length=64, primary_key=True, default=""),
            "user": UUID(default=None, index=True),
            "created_at": Timestamptz(default=None),
            "last_seen_at": Timestamptz(default=None),
            "expires_at": Timestamptz(default=None, index=True),
            "user_agent": Varchar(length=200, default=""),
        },
    ),
    Created(
        "RefreshToken",
        "refresh_token",
        {
            "id": Varchar(length=64, primary_key=True, default=""),
            "family": UUID(default=None, index=True),
            "user": UUID(default=None, index=True),
            "app": UUID(null=True, default=None),
            "created_at": Timestamptz(default=None),
            "expires_at": Timestamptz(default=None, index=True),
            "used_at": Timestamptz(null=True, default=None),
            "revoked_at": Timestamptz(null=True, default=None),
        },
    ),
    Created(
        "SigningKeyRow",
        "signing_key",
        {
            "id": Varchar(length=64, primary_key=True, default=""),
            "private_key_sealed": Bytea(default=b""),
            "created_at": Timestamptz(default=None),
            "retire_at": Timestamptz(null=True, default=None),
        },
    ),
    Created(
        "Device",
        "device",
        {
            "id": UUID(primary_key=True, default=None),
            "user": UUID(default=None, index=True),
            "app": UUID(null=True, default=None, index=True),
            "platform": SmallInt(default=0),
            "address_kind": SmallInt(default=0),
            "address_sealed": Bytea(default=b""),
            "address_fingerprint": Bytea(default=b"", unique=True),
            "label": Varchar(length=100, default=""),
            "locale": Varchar(length=20, default=""),
            "created_at": Timestamptz(default=None),
            "last_seen_at": Timestamptz(default=None),
            "last_delivered_at": Timestamptz(null=True, default=None),
            "retired_at": Timestamptz(null=True, default=None),
            "retired_reason": Text(null=True, default=None),
        },
    ),
    Created(
        "Registration",
        "registration",
        {
            "id": UUID(primary_key=True, default=None),
            "user": UUID(default=None, index=True),
            "registered_at": Timestamptz(default=None, index=True),
        },
    ),
    Created(
        "Notification",
        "notification",
        {
            "id": UUID(primary_key=True, default=None),
            "app": UUID(default=None),
            "user": UUID(default=None),
            "title": Text(default=""),
            "body": Text(default=""),
            "data": Text(default="{}"),
            "type": Varchar(length=64, default="notification"),
            "priority": SmallInt(default=1),
            "ttl_s": Integer(default=86_400),
            "collapse_key": Varchar(length=64, null=True, default=None),
            "state": SmallInt(default=1),
            "sequence": BigInt(null=True, default=None),
            "accepted_at": Timestamptz(default=None),
            "send_at": Timestamptz(null=True, default=None),
            "released_at": Timestamptz(null=True, default=None),
            "expires_at": Timestamptz(default=None),
            "withdrawn_at": Timestamptz(null=True, default=None),
            "read_at": Timestamptz(null=True, default=None),
        },
    ),
    Created(
        "Delivery",
        "delivery",
        {
            "id": UUID(primary_key=True, default=None),
            "notification": UUID(default=None, index=True),
            "device": UUID(null=True, default=None),
            "user": UUID(default=None),
            "state": SmallInt(default=0),
            "channel": SmallInt(null=True, default=None),
            "attempts": Integer(default=0),
            "due_at": Timestamptz(null=True, default=None),
            "lease_until": Timestamptz(null=True, default=None),
            "expires_at": Timestamptz(default=None),
            "provider_id": Text(null=True, default=None),
            "settled_at": Timestamptz(null=True, default=None),
        },
    ),
    Created(
        "Attempt",
        "attempt",
        {
            "id": UUID(primary_key=True, default=None),
            "delivery": UUID(default=None, index=True),
            "number": Integer(default=1),
            "channel": SmallInt(default=0),
            "started_at": Timestamptz(default=None),
            "latency_ms": Integer(null=True, default=None),
            "outcome": SmallInt(default=0),
            "code": Varchar(length=100, default=""),
            "reason": Text(default=""),
        },
    ),
    Created(
        "Idempotency",
        "idempotency",
        {
            "id": Varchar(length=110, primary_key=True, default=""),
            "body_fingerprint": Bytea(default=b""),
            "status": SmallInt(default=202),
            "reply": Text(default=""),
            "expires_at": Timestamptz(default=None, index=True),
        },
    ),
    Created(
        "QuotaDay",
        "quota_day",
        {
            "id": Varchar(length=60, primary_key=True, default=""),
            "app": UUID(default=None, index=True),
            "day": Date(default=None),
            "used": Integer(default=0),
        },
    ),
    Created(
        "Claim",
        "claim",
        {
            "id": Varchar(length=64, primary_key=True, default=""),
            "created_at": Timestamptz(default=None),
            "expires_at": Timestamptz(default=None),
            "used_at": Timestamptz(null=True, default=None),
        },
    ),
    Created(
        "Audit",
        "audit",
        {
            "id": UUID(primary_key=True, default=None),
            "at": Timestamptz(default=None, index=True),
            "actor": Varchar(length=80, default=""),
            "action": Varchar(length=80, default=""),
            "target": Text(default=""),
            "address": Varchar(length=64, default=""),
        },
    ),
)


async def forwards() -> MigrationManager:
    manager = MigrationManager(migration_id=ID, app_name="carillon", description=DESCRIPTION)
    for table in TABLES:
        manager.add_table(class_name=table.class_name, tablename=table.tablename, schema=None, columns=None)
        for name, column in table.columns.items():
            manager.add_column(
                table_class_name=table.class_name,
                tablename=table.tablename,
                column_name=name,
                db_column_name=name,
                column_class_name=type(column).__name__,
                column_class=type(column),
                params=column._meta.params,
                schema=None,
            )
    return manager
