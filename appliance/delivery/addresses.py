"""Addresses of devices at rest: sealed, and found by a keyed fingerprint; and the devices of hub clients."""

from typing import Final
from uuid import UUID

from appliance.delivery.seen import SeenDevices
from appliance.domain.clock import Clock
from appliance.domain.device import MAX_LABEL_CHARS, Address, AddressKind, Platform
from appliance.domain.errors import InvalidField
from appliance.domain.notification import is_storable_text
from appliance.domain.secret import Secret
from appliance.security.sealing import Sealer
from appliance.storage.database import Database
from appliance.storage.devices import Registration, SealedAddress, bind_installation_job, load_live_device
from appliance.storage.sql import uuid_of

MAX_INSTALLATION_CHARS: Final = 128
_PURPOSE: Final = "device-address"


def seal_address(sealer: Sealer, address: Address) -> SealedAddress:
    """Seal an address and give the fingerprints under which it may be found."""
    text = address.text.encode()
    # The kind is part of the fingerprint: the same text may be an address of two kinds.
    marked = f"{address.kind.name}|{address.text}".encode()
    return SealedAddress(
        kind=address.kind,
        sealed=sealer.seal(text, purpose=_PURPOSE),
        fingerprints=tuple(sealer.fingerprints(marked, purpose=_PURPOSE)),
    )


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
        client made up and keeps; that one is the user's alone. Raises `InvalidField`, `TooMany` (ten new ones an hour).
        """
        if not 1 <= len(installation_id) <= MAX_INSTALLATION_CHARS or not is_storable_text(installation_id):
            raise InvalidField("deviceId", f"Give deviceId 1 to {MAX_INSTALLATION_CHARS} characters.")
        if (registered := await self._find_registered(user_id, installation_id)) is not None:
            self._seen.note(registered)
            return registered
        address = seal_address(self._sealer, Address(AddressKind.HUB, f"{user_id}|{installation_id}"))
        # A client that comes back, which is nearly every Hello, costs no write.
        if (known := await load_live_device(self._database, user_id, address)) is not None:
            self._seen.note(known)
            return known
        registration = Registration(
            user_id=user_id,
            app_id=None,
            platform=_platform(platform),
            address=address,
            label=label[:MAX_LABEL_CHARS] if label is not None and is_storable_text(label) else None,
        )
        bound = await self._database.write(bind_installation_job(registration, self._clock.now()))
        return bound.device_id

    async def _find_registered(self, user_id: UUID, installation_id: str) -> UUID | None:
        try:
            device_id = UUID(installation_id)
        except ValueError:
            return None
        row = await self._database.read_one(
            'SELECT id FROM device WHERE id = ? AND "user" = ? AND retired_at IS NULL', (device_id, user_id)
        )
        return None if row is None else uuid_of(row[0])


def _platform(name: str | None) -> Platform:
    try:
        return Platform[name.upper()] if name else Platform.HUB
    except KeyError:
        return Platform.HUB
