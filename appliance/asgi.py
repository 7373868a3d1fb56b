"""The composition root: puts the parts together and serves them as one Litestar application.

The only module that may import everything, the wizard too.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from random import Random
from typing import Any, Final

from granian.utils.proxies import wrap_asgi_with_proxy_headers
from litestar import Request, asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import ASGIApp, Receive, Scope, Send

from appliance.api.application import Faces, make_litestar
from appliance.api.authentication import Authentication, principal_of
from appliance.api.identity.service import open_identity
from appliance.api.pages import Pages
from appliance.channels.registry import build_channels
from appliance.clock import SystemClock
from appliance.delivery.accept import Acceptor
from appliance.delivery.addresses import Installations, open_address
from appliance.delivery.engine import DeliveryEngine
from appliance.delivery.housekeeping import Housekeeper
from appliance.delivery.live import LiveBackend
from appliance.delivery.remote import RemoteTries
from appliance.delivery.seen import SeenDevices
from appliance.domain.errors import CarillonError
from appliance.hub.hub import Hub
from appliance.hub.limits import HubLimits
from appliance.hub.requests import MOUNT_PATH
from appliance.ops.health import HealthProbe, health_router
from appliance.ops.metrics import ApplianceCollector, RequestCounter, make_registry, metrics_handler
from appliance.security.sealing import Sealer
from appliance.settings import Settings
from appliance.storage.database import open_database
from wizard.routes import wizard_router

logger = logging.getLogger(__name__)

DRAIN_S: Final = 8.0
STOP_S: Final = 10.0


class Application:
    """The running appliance. `asgi` is served; `drain` comes before the server stops taking requests.

    `serve_hub` is served where a port is the hub's alone. Behind one of `trusted_proxies` (addresses or networks) the
    client and the scheme are those that it forwards.
    """

    def __init__(
        self,
        served: ASGIApp,
        hub: Hub,
        probe: HealthProbe,
        requests: RequestCounter,
        *,
        trusted_proxies: Sequence[str] = (),
    ) -> None:
        self._served = served
        self._hub = hub
        self._probe = probe
        self._requests = requests
        self.asgi: ASGIApp = self._serve
        if trusted_proxies:
            self.asgi = wrap_asgi_with_proxy_headers(self._serve, list(trusted_proxies))

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection; the server's own pair travels along for the hub, which must not be wrapped."""
        kind = scope["type"]
        if kind == "lifespan":
            await _answer_lifespan(receive, send)
            return
        scope["raw_send"] = send
        scope["raw_receive"] = receive
        if kind == "http":
            send = self._counting(scope, send)
            if scope["method"] == "HEAD" and not scope["path"].startswith(MOUNT_PATH):
                # RFC 9110 section 9.3.2: as GET, without the content. Monitors ask so.
                scope["method"], send = "GET", _without_content(send)
            await self._served(scope, receive, send)
        else:
            await self._served(scope, receive, send)

    def serve_hub(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        """Serve one connection on the hub's own port: no layer stands between the server and the hub."""
        if scope["type"] == "http":
            send = self._counting(scope, send)
        return self._hub.own_port_app(scope, receive, send)

    async def drain(self) -> None:
        """Close the hub politely: clients are told that they may come back. Takes at most 8 seconds."""
        self._probe.is_stopping = True
        await self._hub.drain(DRAIN_S)

    def _counting(self, scope: Any, send: Send) -> Send:
        requests = self._requests

        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                requests.count(scope["path"], message["status"])
            await send(message)

        return counted


@asynccontextmanager
async def build(settings: Settings) -> AsyncIterator[Application]:
    """Open everything and run it in the background; leaving stops the engine and closes the data.

    Raises what opening the database, the keys or the settings raises, before anything is served.
    """
    clock = SystemClock()
    sealer = Sealer(settings.secret_key, [settings.secret_key_previous] if settings.secret_key_previous else [])
    channels = build_channels(settings)
    async with (
        open_database(settings.data_dir, settings.database_url or None) as database,
        open_identity(database, settings, clock) as identity,
    ):
        seen = SeenDevices(database, clock)
        installations = Installations(database, sealer, clock, seen)
        backend = LiveBackend(database, clock, identity.authenticate, installations.bind)
        hub = Hub(backend, clock, _hub_limits(settings), redirect_to=_hub_address(settings))
        remote = RemoteTries(
            database,
            channels,
            lambda sealed: open_address(sealer, sealed),
            clock,
            Random(),  # noqa: S311 - jitter
        )
        engine = DeliveryEngine(database, hub, channels, remote, clock)
        backend.attach(engine)
        identity.watch(hub)
        probe = HealthProbe(database, settings.data_dir, lambda: engine.is_running)
        requests = RequestCounter()
        collector = ApplianceCollector(hub, engine, database.writer, requests)
        pages = Pages()
        litestar = make_litestar(
            Faces(
                settings=settings,
                database=database,
                sealer=sealer,
                clock=clock,
                identity=identity,
                acceptor=Acceptor(database, engine, clock),
                engine=engine,
                hub=hub,
                pages=pages,
            ),
            extra=[
                _mount_hub(hub),
                wizard_router(identity, pages),
                health_router(probe),
                metrics_handler(make_registry(collector), _is_admin),
            ],
        )
        housekeeper = Housekeeper(database, clock, retention=timedelta(days=settings.retention_days))
        if database.is_sqlite:
            await engine.recover()
        try:
            async with litestar.lifespan(), _running(engine, housekeeper, seen):
                served = Authentication(litestar, identity)
                yield Application(served, hub, probe, requests, trusted_proxies=settings.trusted_proxies)
        finally:
            await channels.close()


@asynccontextmanager
async def _running(engine: DeliveryEngine, housekeeper: Housekeeper, seen: SeenDevices) -> AsyncIterator[None]:
    tasks = [
        asyncio.create_task(engine.run(), name="engine"),
        asyncio.create_task(housekeeper.run(), name="housekeeper"),
        asyncio.create_task(seen.run(), name="seen-devices"),
    ]
    try:
        yield
    finally:
        engine.stop()
        housekeeper.stop()
        seen.stop()
        _, late = await asyncio.wait(tasks, timeout=STOP_S)
        for task in late:
            logger.error("task_did_not_stop", extra={"task": task.get_name()})
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _without_content(send: Send) -> Send:
    async def sent(message: Any) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return sent


def _mount_hub(hub: Hub) -> ASGIRouteHandler:
    @asgi(MOUNT_PATH, is_mount=True, copy_scope=False)
    async def notification_hub(scope: Scope, receive: Receive, send: Send) -> None:
        await hub.app(scope, receive, send)  # type: ignore[arg-type]

    return notification_hub


def _hub_limits(settings: Settings) -> HubLimits:
    return HubLimits(
        connections=settings.hub_max_connections,
        connections_per_user=settings.hub_max_connections_per_user,
        connections_per_address=settings.hub_max_connections_per_address,
        handshakes_pending_per_address=max(1_000, settings.hub_max_connections_per_address // 2),
        negotiations_pending_per_user=settings.hub_max_connections_per_user,
        negotiations_pending_per_address=settings.hub_max_connections_per_address * 2,
    )


def _hub_address(settings: Settings) -> str | None:
    """Give the address of the hub on its own port, where clients are to be sent there."""
    return f"{settings.hub_public_url.rstrip('/')}{MOUNT_PATH}" if settings.hub_public_url else None


def _is_admin(request: Request[Any, Any, Any]) -> bool:
    try:
        return principal_of(request).is_admin
    except CarillonError:
        return False


async def _answer_lifespan(receive: Any, send: Any) -> None:
    """Tell the server that all is ready: what must start has started before it, and stops after it."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
