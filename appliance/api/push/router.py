"""All routes of the push API."""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from litestar import Router

from appliance.api.push.config import Configuring, config_handlers
from appliance.api.push.credentials import credential_handlers
from appliance.api.push.devices import Devices, LiveDevices, device_handlers
from appliance.api.push.notifications import Stories, notification_handlers
from appliance.api.push.receipts import Receipts, Sender, receipt_handlers
from appliance.api.push.send import Sending, send_handlers
from appliance.delivery.accept import Acceptor
from appliance.delivery.app_credentials import AppCredentials
from appliance.domain.clock import Clock
from appliance.security.sealing import Sealer
from appliance.storage.database import Database


@dataclass(frozen=True, slots=True)
class PushParts:
    """What the push API is made of; `live` is the hub."""

    database: Database
    sealer: Sealer
    clock: Clock
    acceptor: Acceptor
    live: LiveDevices
    receipts: Sender
    credentials: AppCredentials
    max_batch: int = 500
    is_offered: Callable[[UUID, UUID], bool] | None = None


def push_router(parts: PushParts) -> Router:
    """Give the router of /push."""
    handlers = [
        *send_handlers(Sending(parts.acceptor, parts.database, parts.max_batch)),
        *config_handlers(Configuring(parts.database, parts.sealer, parts.clock)),
        *credential_handlers(parts.credentials),
        *device_handlers(Devices(parts.database, parts.sealer, parts.clock, parts.live)),
        *receipt_handlers(Receipts(parts.database, parts.sealer, parts.clock, parts.receipts)),
        *notification_handlers(Stories(parts.database, parts.acceptor, parts.is_offered)),
    ]
    return Router(path="/", route_handlers=handlers)
