"""All faces as one Litestar application."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from litestar import Litestar, Router
from litestar.handlers import BaseRouteHandler

from appliance import __version__
from appliance.api.account import account_router
from appliance.api.console.hub import HubParts, console_hub_router
from appliance.api.identity.service import Identity
from appliance.api.oauth import oauth_router
from appliance.api.openapi import correct_allow_headers
from appliance.api.pages import Pages, pages_router
from appliance.api.problems import exception_handlers
from appliance.api.push.devices import Devices, LiveDevices
from appliance.api.push.router import PushParts, push_router
from appliance.api.schema_page import schema_router
from appliance.api.sign_in import sign_in_router
from appliance.api.test_push import TestPushParts, test_push_router
from appliance.delivery.accept import Acceptor
from appliance.delivery.app_credentials import AppCredentials
from appliance.delivery.engine import DeliveryEngine
from appliance.delivery.receipts import ReceiptSender
from appliance.delivery.test_push import PushTester
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
    live: LiveDevices
    receipts: ReceiptSender
    credentials: AppCredentials
    tester: PushTester
    pages: Pages


def make_litestar(faces: Faces, extra: Sequence[Router | BaseRouteHandler]) -> Litestar:
    """Put all routes together; `extra` are those of the layers above. The caller wraps it in `Authentication`."""
    devices = Devices(faces.database, faces.sealer, faces.clock, faces.live)
    push = PushParts(
        database=faces.database,
        sealer=faces.sealer,
        clock=faces.clock,
        acceptor=faces.acceptor,
        live=faces.live,
        receipts=faces.receipts,
        credentials=faces.credentials,
        max_batch=faces.settings.push_max_batch_size,
        is_offered=faces.engine.is_offered,
    )
    handlers: list[Any] = [
        push_router(push),
        account_router(devices),
        oauth_router(faces.identity),
        sign_in_router(faces.identity),
        console_hub_router(HubParts(faces.hub, faces.database, faces.clock)),
        test_push_router(TestPushParts(faces.tester, faces.database, faces.clock)),
        pages_router(faces.pages),
        schema_router(version=__version__),
        *extra,
    ]
    # `logging_config=None`: Litestar would replace the root handler, and with it the redaction of what is logged.
    litestar = Litestar(
        route_handlers=handlers,
        exception_handlers=exception_handlers(),
        openapi_config=None,
        logging_config=None,
    )
    correct_allow_headers(litestar)
    return litestar
