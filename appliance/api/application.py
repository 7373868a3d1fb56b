"""All faces as one Litestar application."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from litestar import Litestar, Router
from litestar.handlers import BaseRouteHandler

from appliance.api.identity.service import Identity
from appliance.api.problems import exception_handlers
from appliance.delivery.accept import Acceptor
from appliance.delivery.engine import DeliveryEngine
from appliance.domain.clock import Clock
from appliance.hub.hub import Hub
from appliance.security.sealing import Sealer
from appliance.settings import Settings
from appliance.storage.database import Database


@dataclass(frozen=True, slots=True)
class Faces:
    """What the HTTP faces are made of."""

    settings: Settings
    database: Database
    sealer: Sealer
    clock: Clock
    identity: Identity
    acceptor: Acceptor
    engine: DeliveryEngine
    hub: Hub


def make_litestar(faces: Faces, extra: Sequence[Router | BaseRouteHandler]) -> Litestar:
    """Put all routes together; `extra` are those of the layers above."""
    handlers: list[Any] = [*extra]
    # `logging_config=None`: Litestar would replace the root handler, and with it the redaction of what is logged.
    return Litestar(
        route_handlers=handlers, exception_handlers=exception_handlers(), openapi_config=None, logging_config=None
    )
