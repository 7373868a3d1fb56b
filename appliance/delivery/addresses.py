"""Addresses of devices at rest: sealed, and found by a keyed fingerprint; and the devices of hub clients."""

from typing import Final
from uuid import UUID

from appliance.delivery.seen import SeenDevices
from appliance.domain.clock import Clock
from appliance.domain.device import MAX_LABEL_CHARS, Address, AddressKind, Platform
from appliance.domain.errors import Forbidden, InvalidField
from appliance.domain.notification import is_storable_text
from appliance.domain.secret import Secret
from appliance.security.sealing import Sealer
from appliance.storage.database import Database
from appliance.storage.devices import (
    Registration,
    SealedAddress,
    Standing,
    bind_installation_job,
    load_live_device,
    load_standing,
    revive_job,
)

MAX_INSTALLATION_CHARS: Final = 128
_PURPOSE: Final = "device-address"


def seal_address(sealer: Sealer, address: Address) -> SealedAddress:
    """Seal an address and give the fingerprints under which it may be found."""
    return SealedAddress(
        kind=address.kind,
        sealed=sealer.seal(address.text.encode(), purpose=_PURPOSE),
        fingerprints=sealer.fingerprints(_marked(address), purpose=_PURPOSE),
    )


def _marked(address: Address) -> bytes:
    # The kind is part of the fingerprint: the same text may be an address of two kinds.
    return f"{address.kind.name}|{address.text}".encode()


def open_address(sealer: Sealer, sealed: bytes) -> Secret:
    """Open a sealed address for the one provider that it is for."""
    return Secret(sealer.unseal(sealed, purpose=_PURPOSE).decode())


class Installations:
    """Finds the device that a hub client's own id stands for, or registers a hub-only one."""

    def __init__(self, database: Database, sealer: Sealer, clock: Clock, seen: SeenDevices | None = None) -> None:
        self._database = database
        self._sealer = sealer
        self._clock = clock
        self._seen = seen or SeenDevices(database, clock)

    async def bind(
        self, user_id: UUID, installation_id: str, *, label: str | None = None, platform: str | None = None
    ) -> UUID:
        """Give the device's id.

        `installation_id` is the id of a device that the user registered, or any id of 1 to 128 characters that the
        client made up and keeps; that one is the user's alone. A device that its provider retired, or its silence, is
        live on the hub again by this; one that was revoked stays so. Raises `InvalidField`, `Forbidden` (revoked),
        `TooMany` (ten new ones an hour).
        """
        if not 1 <= len(installation_id) <= MAX_INSTALLATION_CHARS or not is_storable_text(installation_id):
            raise InvalidField("deviceId", f"Give deviceId 1 to {MAX_INSTALLATION_CHARS} characters.")
        if (registered := await self._find_registered(user_id, installation_id)) is not None:
            return await self._greet(user_id, registered)
        address = Address(AddressKind.HUB, f"{user_id}|{installation_id}")
        # A client that comes back, which is nearly every Hello, costs no write and no sealing.
        fingerprint = self._sealer.fingerprint(_marked(address), purpose=_PURPOSE)
        if (known := await load_live_device(self._database, user_id, fingerprint)) is not None:
            self._seen.note(known)
            return known
        registration = Registration(
            user_id=user_id,
            app_id=None,
            platform=_platform(platform),
            address=seal_address(self._sealer, address),
            label=label[:MAX_LABEL_CHARS] if label is not None and is_storable_text(label) else None,
        )
        bound = await self._database.write(bind_installation_job(registration, self._clock.now()))
        return bound.device_id

    async def _find_registered(self, user_id: UUID, installation_id: str) -> Standing | None:
        try:
            device_id = UUID(installation_id)
        except ValueError:
            return None
        return await load_standing(self._database, user_id, device_id)

    async def _greet(self, user_id: UUID, device: Standing) -> UUID:
        # A revoked device must not fall through to a new one of the same name: that would get what all apps send.
        if device.revoked_text is not None:
            raise Forbidden(device.revoked_text)
        if device.is_retired:
            await self._database.write(revive_job(device.id, user_id, self._clock.now()))
        self._seen.note(device.id)
        return device.id


def _platform(name: str | None) -> Platform:
    try:
        return Platform[name.upper()] if name else Platform.HUB
    except KeyError:
        return Platform.HUB
