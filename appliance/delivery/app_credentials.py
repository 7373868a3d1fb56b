"""An app's own credentials, as an admin sees and changes them: checked before they are kept, never shown again."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

import msgspec

from appliance.channels.own_credential import (
    ApnsDocument,
    Document,
    FcmDocument,
    check_apns,
    check_fcm,
    encode_document,
)
from appliance.delivery.own_channels import PURPOSE, StoredOwnChannels
from appliance.domain.clock import Clock
from appliance.domain.device import AddressKind
from appliance.domain.errors import CarillonError
from appliance.security.sealing import Sealer
from appliance.settings import Settings
from appliance.storage.app_credentials import (
    StoredCredential,
    check_app,
    delete_credential_job,
    load_credential,
    no_such_credential,
    put_credential_job,
)
from appliance.storage.database import Database

logger = logging.getLogger(__name__)


class Woken(Protocol):
    """What must look again after a change: the engine."""

    def wake(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Author:
    """Who makes a change, and from where; both go to the audit log."""

    actor: str
    address: str


@dataclass(frozen=True, slots=True)
class ShownCredential:
    """What may be shown: the facts, which hold no secret, and when they were stored."""

    facts: Mapping[str, object]
    changed_at: datetime


class AppCredentials:
    """Keeps the credentials of apps. A change counts at once on this node and within a minute on the others."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        settings: Settings,
        channels: StoredOwnChannels,
        engine: Woken,
        clock: Clock,
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._settings = settings
        self._channels = channels
        self._engine = engine
        self._clock = clock

    async def show(self, app_id: UUID, kind: AddressKind) -> ShownCredential:
        """Give what may be shown of a credential. Raises `NotFound` when the app has none."""
        stored = await load_credential(self._database, app_id, kind)
        if stored is None:
            await check_app(self._database, app_id)
            raise no_such_credential()
        return _shown(stored)

    async def check_app(self, app_id: UUID) -> None:
        """Raises `NotFound` when there is no such app."""
        await check_app(self._database, app_id)

    async def put(self, app_id: UUID, document: Document, by: Author) -> ShownCredential:
        """Check a credential and keep it in place of the one before. Raises `InvalidField`, `NotFound`."""
        now = self._clock.now()
        match document:
            case FcmDocument():
                kind = AddressKind.FCM_TOKEN
                facts: msgspec.Struct = await asyncio.to_thread(check_fcm, document, self._settings)
            case ApnsDocument():
                kind = AddressKind.APNS_TOKEN
                facts = await asyncio.to_thread(check_apns, document, now)
        sealed = self._sealer.seal(encode_document(document), purpose=PURPOSE)
        told: dict[str, object] = msgspec.to_builtins(facts)
        job = put_credential_job(app_id, kind, sealed, told, actor=by.actor, address=by.address, now=now)
        stored = await self._database.write(job)
        await self._follow()
        return _shown(stored)

    async def delete(self, app_id: UUID, kind: AddressKind, by: Author) -> None:
        """Take a credential away: the instance's is used again. Raises `NotFound` when the app has none."""
        job = delete_credential_job(app_id, kind, actor=by.actor, address=by.address, now=self._clock.now())
        await self._database.write(job)
        await self._follow()

    async def _follow(self) -> None:
        try:
            await self._channels.refresh()
        except CarillonError as refusal:
            # It is stored; the channels look again by themselves.
            logger.warning("own_channels_not_refreshed", extra={"code": refusal.code})
        self._engine.wake()


def _shown(stored: StoredCredential) -> ShownCredential:
    return ShownCredential(stored.facts, stored.changed_at)
