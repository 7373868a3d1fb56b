"""The keys that sign access tokens, sealed."""

from dataclasses import dataclass, field
from datetime import datetime

from appliance.storage.database import Database
from appliance.storage.sql import bytes_of, instant_of, optional_instant_of
from appliance.storage.writer import Transaction


@dataclass(frozen=True, slots=True)
class SigningKeyRecord:
    """A sealed key; it may sign while `retire_at` is None and verifies until then."""

    id: str
    private_key_sealed: bytes = field(repr=False)
    created_at: datetime
    retire_at: datetime | None


def insert_signing_key(transaction: Transaction, key: SigningKeyRecord) -> None:
    """Add a key."""
    transaction.execute(
        "INSERT INTO signing_key (id, private_key_sealed, created_at, retire_at) VALUES (?, ?, ?, ?)",
        (key.id, key.private_key_sealed, key.created_at, key.retire_at),
    )


def replace_signing_key(transaction: Transaction, key: SigningKeyRecord) -> None:
    """Store a key anew: with an end to its life, or sealed under another SECRET_KEY."""
    transaction.execute(
        "UPDATE signing_key SET private_key_sealed = ?, retire_at = ? WHERE id = ?",
        (key.private_key_sealed, key.retire_at, key.id),
    )


def has_signing_key_since(transaction: Transaction, since: datetime) -> bool:
    """Tell, inside a transaction, whether there is a signing key that was made after `since`."""
    sql = "SELECT 1 FROM signing_key WHERE retire_at IS NULL AND created_at > ? LIMIT 1"
    return transaction.fetch_one(sql, (since,)) is not None


def delete_retired_signing_keys(transaction: Transaction, now: datetime) -> int:
    """Drop the keys of which no token can be alive, and give their number."""
    return transaction.execute("DELETE FROM signing_key WHERE retire_at <= ?", (now,))


async def list_signing_keys(database: Database) -> list[SigningKeyRecord]:
    """Give all keys, the newest first; there are never more than a handful."""
    rows = await database.read(
        "SELECT id, private_key_sealed, created_at, retire_at FROM signing_key ORDER BY created_at DESC, id LIMIT 100"
    )
    return [
        SigningKeyRecord(str(row[0]), bytes_of(row[1]), instant_of(row[2]), optional_instant_of(row[3])) for row in rows
    ]
