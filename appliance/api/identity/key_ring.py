"""The keys that sign access tokens: kept sealed, loaded at start, rotated every 90 days."""

import logging
from dataclasses import replace
from datetime import timedelta
from typing import Final

from appliance.api.identity.changes import ACTOR_SYSTEM, Change
from appliance.domain.clock import Clock
from appliance.security.sealing import Sealer
from appliance.security.signing_keys import SigningKey, pack_signing_key, rotate_signing_keys, unpack_signing_key
from appliance.storage import audit
from appliance.storage.database import Database
from appliance.storage.signing_keys import (
    SigningKeyRecord,
    delete_retired_signing_keys,
    has_signing_key_since,
    insert_signing_key,
    list_signing_keys,
    replace_signing_key,
)
from appliance.storage.writer import Transaction

logger = logging.getLogger(__name__)

ROTATE_EVERY: Final = timedelta(days=90)

_PURPOSE: Final = "signing-key"


class KeyRing:
    """Loads and rotates the signing keys; several processes may share one database."""

    def __init__(self, database: Database, sealer: Sealer, clock: Clock) -> None:
        self._database = database
        self._sealer = sealer
        self._clock = clock

    async def load(self) -> tuple[SigningKey, ...]:
        """Give all keys, the newest first; makes a new one when the newest is 90 days old, or there is none.

        A key that was retired verifies until every token it signed has run out. Raises `SealError` when SECRET_KEY is
        not the one under which the keys were sealed.
        """
        now = self._clock.now()
        keys = await self._read()
        if not any(key.retire_after is None and key.created_at > now - ROTATE_EVERY for key in keys):
            if await self._database.write(lambda transaction: self._rotate(transaction, keys)):
                logger.info("signing_key_rotated", extra={"keys": len(keys) + 1})
            keys = await self._read()
        return keys

    async def _read(self) -> tuple[SigningKey, ...]:
        records = await list_signing_keys(self._database)
        keys = tuple(self._open(record) for record in records)
        stale = [
            self._seal(key)
            for record, key in zip(records, keys, strict=True)
            if self._sealer.needs_resealing(record.private_key_sealed)
        ]
        if stale:
            await self._database.write(lambda transaction: _replace(transaction, stale))
        return keys

    def _rotate(self, transaction: Transaction, known: tuple[SigningKey, ...]) -> bool:
        now = self._clock.now()
        if has_signing_key_since(transaction, now - ROTATE_EVERY):
            return False
        new, *kept = rotate_signing_keys(known, now)
        insert_signing_key(transaction, self._seal(new))
        for key in kept:
            replace_signing_key(transaction, self._seal(key))
        delete_retired_signing_keys(transaction, now)
        audit.record(
            transaction, at=now, actor=ACTOR_SYSTEM, action=Change.SIGNING_KEY_ROTATED, target=f"key:{new.kid}"
        )
        return True

    def _open(self, record: SigningKeyRecord) -> SigningKey:
        key = unpack_signing_key(self._sealer.unseal(record.private_key_sealed, purpose=_PURPOSE))
        # The columns are the truth: they can be changed without opening the seal.
        return replace(key, created_at=record.created_at, retire_after=record.retire_at)

    def _seal(self, key: SigningKey) -> SigningKeyRecord:
        sealed = self._sealer.seal(pack_signing_key(key), purpose=_PURPOSE)
        return SigningKeyRecord(key.kid, sealed, key.created_at, key.retire_after)


def _replace(transaction: Transaction, records: list[SigningKeyRecord]) -> None:
    for record in records:
        replace_signing_key(transaction, record)
