"""The one place where addresses are sealed: registering devices, and finding the one that a hub client stands for."""

import asyncio
import logging
from typing import Final
from uuid import UUID

from appliance.domain.clock import Clock
from appliance.domain.device import MAX_LABEL_CHARS, Address, AddressKind, Platform
from appliance.domain.errors import CarillonError, NotFound
from appliance.domain.notification import is_storable_text
from appliance.security.sealing import Sealer
from appliance.storage.database import Database
from appliance.storage.devices import (
    Registered,
    Registration,
    SealedAddress,
    bind_installation_job,
    load_live_device,
    register_job,
    touch_job,
)
from appliance.storage.sql import optional_instant_of, uuid_of

logger = logging.getLogger(__name__)

ADDRESS_PURPOSE: Final = "device.address"
"""Under which addresses are sealed and fingerprinted; the channels open them with it."""

MAX_SEEN: Final = 100_000
"""Most devices remembered as seen between two flushes; what is over it is not noted this time."""
SEEN_EVERY_S: Final = 60.0


class DeviceRegistry:
    """Registers devices and remembers when they were seen. Belongs to one event loop."""

    def __init__(self, database: Database, sealer: Sealer, clock: Clock) -> None:
        self._database = database
        self._sealer = sealer
        self._clock = clock
        self._seen: set[UUID] = set()

    async def register(
        self,
        user_id: UUID,
        app_id: UUID,
        platform: Platform,
        address: Address,
        *,
        label: str | None = None,
        locale: str | None = None,
    ) -> Registered:
        """Register a device with an app; a known address keeps its id and moves to this user and app.

        Raises `NotFound`, `PushDisabled`, `NotEnrolled`, `TooMany`.
        """
        registration = Registration(user_id, app_id, platform, self.seal(address), label, locale)
        return await self._database.write(register_job(registration, self._clock.now()))

    async def bind(self, user_id: UUID, installation_id: str, *, label: str | None, platform: str | None) -> UUID:
        """Find the user's device with this id, or the hub-only one that this installation id stands for, or make it.

        An installation id means something for its own user only. Raises `NotFound` for a registered device of somebody
        else, and `TooMany`.
        """
        if (device_id := _device_id(installation_id)) is not None and await self._is_known(user_id, device_id):
            self.note_seen(device_id)
            return device_id
        return await self.bind_installation(user_id, installation_id, label=label, platform=platform)

    async def bind_installation(
        self, user_id: UUID, installation_id: str, *, label: str | None, platform: str | None
    ) -> UUID:
        """Find or make the hub-only device of one user's installation. Raises `TooMany`."""
        address = self.seal(Address(AddressKind.HUB, f"{user_id}|{installation_id}"))
        # A client that comes back, which is nearly every Hello, costs no write.
        if (known := await load_live_device(self._database, user_id, address)) is not None:
            self.note_seen(known)
            return known
        registration = Registration(user_id, None, _platform(platform), address, _fit_label(label) or None, None)
        registered = await self._database.write(bind_installation_job(registration, self._clock.now()))
        return registered.device_id

    def note_seen(self, device_id: UUID) -> None:
        """Remember that a device was seen just now; `flush_seen` writes it down. Returns at once."""
        if len(self._seen) < MAX_SEEN:
            self._seen.add(device_id)

    async def run(self) -> None:
        """Flush every minute until cancelled, and once more then. Give it to a task group."""
        try:
            while True:
                await asyncio.sleep(SEEN_EVERY_S)
                await self.flush_seen()
        finally:
            await self.flush_seen()

    async def flush_seen(self) -> None:
        """Write down who was seen, in one transaction."""
        seen, self._seen = self._seen, set()
        if not seen:
            return
        try:
            await self._database.write(touch_job(sorted(seen), self._clock.now()))
        except CarillonError as refusal:
            # It is a courtesy, not a fact that anybody was promised.
            logger.warning("devices_seen_not_kept", extra={"devices": len(seen), "code": refusal.code})

    def seal(self, address: Address) -> SealedAddress:
        """Seal an address for storage."""
        text = address.text.encode()
        return SealedAddress(
            kind=address.kind,
            sealed=self._sealer.seal(text, purpose=ADDRESS_PURPOSE),
            fingerprints=self._sealer.fingerprints(b"%d|" % address.kind + text, purpose=ADDRESS_PURPOSE),
        )

    async def _is_known(self, user_id: UUID, device_id: UUID) -> bool:
        row = await self._database.read_one('SELECT "user", retired_at FROM device WHERE id = ?', (device_id,))
        if row is None:
            return False
        if uuid_of(row[0]) != user_id or optional_instant_of(row[1]) is not None:
            raise NotFound("This device id is not one of yours any more. Register the device again.")
        return True


def _device_id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _platform(name: str | None) -> Platform:
    known = {"android": Platform.ANDROID, "ios": Platform.IOS, "web": Platform.WEB}
    return known.get((name or "").lower(), Platform.HUB)


def _fit_label(label: str | None) -> str:
    return label[:MAX_LABEL_CHARS] if label is not None and is_storable_text(label) else ""
