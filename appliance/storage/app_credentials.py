"""The credentials of their own that apps have for a push service: sealed, with what may be shown of them beside."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import msgspec

from appliance.domain.device import AddressKind
from appliance.domain.errors import NotFound
from appliance.domain.identifier import make_id
from appliance.storage.audit import record
from appliance.storage.database import Database
from appliance.storage.sql import bytes_of, instant_of, uuid_of
from appliance.storage.writer import Job, Transaction

Slot = tuple[UUID, AddressKind]
"""The place of one credential: the app, and the kind of address that it reaches."""


@dataclass(frozen=True, slots=True)
class StoredCredential:
    """A credential as it is stored. `version` is another one after each change; `facts` hold no secret."""

    version: UUID
    sealed: bytes = field(repr=False)
    facts: Mapping[str, object]
    changed_at: datetime


async def load_versions(database: Database) -> dict[Slot, UUID]:
    """Read which apps have credentials of their own, and the version of each."""
    rows = await database.read("SELECT app, address_kind, version FROM app_credential")
    return {(uuid_of(row[0]), AddressKind(int(row[1]))): uuid_of(row[2]) for row in rows}


async def load_credential(database: Database, app_id: UUID, kind: AddressKind) -> StoredCredential | None:
    """Read one credential, None when the app has none of its own."""
    row = await database.read_one(
        "SELECT version, credential_sealed, facts, changed_at FROM app_credential WHERE id = ?", (_id(app_id, kind),)
    )
    if row is None:
        return None
    facts = msgspec.json.decode(str(row[2]), type=dict[str, object])
    return StoredCredential(uuid_of(row[0]), bytes_of(row[1]), facts, instant_of(row[3]))


async def check_app(database: Database, app_id: UUID) -> None:
    """Raises `NotFound` when there is no such app."""
    if await database.read_one("SELECT 1 FROM app WHERE id = ?", (app_id,)) is None:
        raise _no_such_app()


def put_credential_job(
    app_id: UUID,
    kind: AddressKind,
    sealed: bytes,
    facts: Mapping[str, object],
    *,
    actor: str,
    address: str,
    now: datetime,
) -> Job[StoredCredential]:
    """Make the job that gives an app a credential, in place of the one that it may have. Raises `NotFound`."""
    stored = StoredCredential(make_id(now), sealed, facts, now)

    def job(transaction: Transaction) -> StoredCredential:
        if transaction.fetch_one("SELECT 1 FROM app WHERE id = ?", (app_id,)) is None:
            raise _no_such_app()
        transaction.execute(
            "INSERT INTO app_credential (id, app, address_kind, version, credential_sealed, facts, changed_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET version = excluded.version, "
            "credential_sealed = excluded.credential_sealed, facts = excluded.facts, changed_at = excluded.changed_at",
            (_id(app_id, kind), app_id, kind, stored.version, sealed, msgspec.json.encode(facts).decode(), now),
        )
        _audit(transaction, "app_credential_changed", app_id, kind, actor=actor, address=address, now=now)
        return stored

    return job


def delete_credential_job(app_id: UUID, kind: AddressKind, *, actor: str, address: str, now: datetime) -> Job[None]:
    """Make the job that takes an app's credential away. Raises `NotFound` when it has none."""

    def job(transaction: Transaction) -> None:
        if not transaction.execute("DELETE FROM app_credential WHERE id = ?", (_id(app_id, kind),)):
            raise no_such_credential()
        _audit(transaction, "app_credential_deleted", app_id, kind, actor=actor, address=address, now=now)

    return job


def no_such_credential() -> NotFound:
    """Give the error for an app without a credential of its own."""
    return NotFound("This app has no credential of its own for this push service; the instance's is used, if any.")


def _audit(
    transaction: Transaction, action: str, app_id: UUID, kind: AddressKind, *, actor: str, address: str, now: datetime
) -> None:
    target = f"app:{app_id} {kind.name.lower()}"
    record(transaction, at=now, actor=actor, action=action, target=target, address=address)


def _id(app_id: UUID, kind: AddressKind) -> str:
    return f"{app_id}|{int(kind)}"


def _no_such_app() -> NotFound:
    return NotFound("There is no app with this id.")
