"""The claim code of a new appliance: at most one counts at any time."""

from collections.abc import Sequence
from datetime import datetime

from appliance.storage.database import Database
from appliance.storage.sql import marks
from appliance.storage.writer import Transaction


def replace_claim(transaction: Transaction, claim_id: str, *, at: datetime, expires_at: datetime) -> None:
    """Store a new code's hash; every earlier code is void from now on."""
    transaction.execute("DELETE FROM claim")
    transaction.execute("INSERT INTO claim (id, created_at, expires_at) VALUES (?, ?, ?)", (claim_id, at, expires_at))


def burn_claim(transaction: Transaction, claim_ids: Sequence[str], now: datetime) -> bool:
    """Use up the code under one of the hashes; of several callers exactly one gets True.

    The hash is keyed, so looking it up tells nothing about the code by its timing.
    """
    sql = "UPDATE claim SET used_at = ? WHERE used_at IS NULL AND expires_at > ? AND id IN ("
    return transaction.execute(sql + marks(len(claim_ids)) + ")", (now, now, *claim_ids)) == 1


async def is_claim_open(database: Database, claim_ids: Sequence[str], now: datetime) -> bool:
    """Tell whether one of the hashes is that of the code that counts, without using it up."""
    sql = "SELECT 1 FROM claim WHERE used_at IS NULL AND expires_at > ? AND id IN ("
    return await database.read_one(sql + marks(len(claim_ids)) + ")", (now, *claim_ids)) is not None
