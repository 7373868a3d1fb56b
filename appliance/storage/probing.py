"""Reading what a test push needs to know of one device, and whether anything would be sent to it at all."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from appliance.domain.device import AddressKind, Platform
from appliance.storage.database import Database
from appliance.storage.sql import instant_of, optional_uuid_of, uuid_of

_SELECT: Final = (
    'SELECT d.id, d."user", d.app, d.platform, d.address_kind, d.address_sealed, '
    "COALESCE(d.registered_at, d.created_at), d.retired_at, d.retired_reason, a.push_enabled, a.disabled_at, "
    'u.disabled_at FROM device d JOIN account u ON u.id = d."user" LEFT JOIN app a ON a.id = d.app WHERE d.id = ?'
)


@dataclass(frozen=True, slots=True)
class ProbedDevice:
    """A device with its address, still sealed. `retired_reason` is None unless it is retired.

    `has_push` and `is_app_disabled` are its app's; a device of all apps has none and nothing in its way.
    """

    id: UUID
    user_id: UUID
    app_id: UUID | None
    platform: Platform
    address_kind: AddressKind
    address_sealed: bytes = field(repr=False)
    registered_at: datetime
    retired_reason: str | None
    has_push: bool
    is_app_disabled: bool
    is_user_disabled: bool


async def load_probed_device(database: Database, device_id: UUID) -> ProbedDevice | None:
    """Load a device, retired or not; None when there is none with this id."""
    row = await database.read_one(_SELECT, (device_id,))
    if row is None:
        return None
    app_id = optional_uuid_of(row[2])
    return ProbedDevice(
        id=uuid_of(row[0]),
        user_id=uuid_of(row[1]),
        app_id=app_id,
        platform=Platform(int(row[3])),
        address_kind=AddressKind(int(row[4])),
        address_sealed=bytes(row[5]),
        registered_at=instant_of(row[6]),
        retired_reason=None if row[7] is None else str(row[8] or "It was retired."),
        has_push=app_id is None or bool(row[9]),
        is_app_disabled=row[10] is not None,
        is_user_disabled=row[11] is not None,
    )
