"""The composition root: puts the parts together and serves them as one Litestar application.

The only module that may import everything, the wizard too.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from random import Random
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from litestar import Request, asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import ASGIApp, Receive, Scope, Send

from appliance.api.application import Faces, make_litestar
from appliance.api.authentication import Authentication, principal_of
from appliance.api.identity.service import Identity, open_identity
from appliance.api.pages import Pages
from appliance.api.unsubscribe import Unsubscribing, unsubscribe_router
from appliance.channels.own_credential import OwnParts
from appliance.channels.registry import ChannelParts, build_channels
from appliance.clock import SystemClock
from appliance.delivery.accept import Acceptor
from appliance.delivery.addresses import Installations, open_address
from appliance.delivery.app_credentials import AppCredentials
from appliance.delivery.engine import DeliveryEngine
from appliance.delivery.housekeeping import Housekeeper
from appliance.delivery.live import LiveBackend
from appliance.delivery.nodes import Nodes
from appliance.delivery.nodes_bus import RedisBus
from appliance.delivery.own_channels import StoredOwnChannels
from appliance.delivery.receipts import ReceiptSender
from appliance.delivery.remote import RemoteTries
from appliance.delivery.seen import SeenDevices
from appliance.delivery.test_push import PushTester
from appliance.delivery.unsubscribing import UnsubscribeLinks
from appliance.delivery.vapid import StoredVapidKeys
from appliance.domain.clock import Clock
from appliance.domain.errors import CarillonError
from appliance.hub.hub import Hub
from appliance.hub.limits import HubLimits
from appliance.hub.requests import MOUNT_PATH
from appliance.ops.health import HealthProbe, health_router
from appliance.ops.metrics import ApplianceCollector, RequestCounter, make_registry, metrics_handler
from appliance.security.cross_origin import allow_origins
from appliance.security.outbound_ways import open_ways_out
from appliance.security.sealing import Sealer
from appliance.security.trusted_proxies import believe
from appliance.settings import Settings, SettingsError
from appliance.storage.database import Database, open_database
from appliance.storage.shared_clock import SharedClock
from wizard.routes import wizard_router

logger = logging.getLogger(__name__)

DRAIN_S: Final = 8.0
STOP_S: Final = 10.0
# What pages of CORS_ORIGINS may read, and whether with credentials: not where the session cookie counts, which a page
# on a neighbouring host could bring along. The hub sees to its own answers; it may have a port of its own.
_SHARED_PATHS: Final = {"/push": True, "/oauth": True, "/.well-known": True, "/account": False}


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
        self.asgi: ASGIApp = believe(self._serve, trusted_proxies)

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
    sealer = Sealer(settings.secret_key, [settings.secret_key_previous] if settings.secret_key_previous else [])
    async with (
        open_database(settings.data_dir, settings.database_url or None) as database,
        _keep_time(database) as clock,
        open_identity(database, settings, clock) as identity,
    ):
        seen = SeenDevices(database, clock)
        installations = Installations(database, sealer, clock, seen)
        backend = LiveBackend(database, clock, identity.authenticate, installations.bind)
        hub = Hub(
            backend,
            clock,
            _hub_limits(settings),
            redirect_to=_hub_address(settings),
            origins=_hub_origins(settings),
            is_one_of_many=bool(settings.redis_url),
        )
        nodes = _join_nodes(settings, sealer, hub, clock, identity) if settings.redis_url else None
        ways = open_ways_out(settings)
        parts = ChannelParts(settings, clock, ways.to_browsers, StoredVapidKeys(database, sealer), ways.to_relay)
        own_channels = StoredOwnChannels(database, sealer, OwnParts(settings, clock, parts.provider_tokens))
        await own_channels.refresh()
        channels = build_channels(parts, own_channels)
        links = UnsubscribeLinks(sealer, settings.public_url)
        open_sealed = partial(open_address, sealer)
        remote = RemoteTries(
            database,
            channels,
            open_sealed,
            clock,
            Random(),  # noqa: S311 - jitter
            links,
        )
        engine = DeliveryEngine(database, hub, channels, remote, clock, nodes)
        backend.attach(engine, nodes)
        tester = PushTester(database, channels, hub, remote, open_sealed, clock, settings.delivery_mode)
        backend.watch(tester)
        identity.watch(hub)
        if nodes is not None:
            nodes.attach(engine)
            identity.watch(nodes)
        describe_nodes = None if nodes is None else nodes.describe
        probe = HealthProbe(database, settings.data_dir, lambda: engine.is_running, describe_nodes)
        requests = RequestCounter()
        collector = ApplianceCollector(hub, engine, database.writer, requests, nodes)
        pages = Pages()
        receipts = ReceiptSender(
            database,
            ways.to_webhooks,
            sealer,
            clock,
            Random(),  # noqa: S311 - jitter
        )
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
                live=nodes or hub,
                receipts=receipts,
                credentials=AppCredentials(database, sealer, settings, own_channels, engine, clock),
                tester=tester,
                pages=pages,
            ),
            extra=[
                _mount_hub(hub),
                unsubscribe_router(Unsubscribing(links, database, clock)),
                wizard_router(identity, pages),
                health_router(probe),
                metrics_handler(make_registry(collector), _is_admin),
            ],
        )
        housekeeper = Housekeeper(database, clock, retention=timedelta(days=settings.retention_days))
        if database.is_sqlite:
            await engine.recover()
        try:
            lasting: dict[str, Background] = {"housekeeper": housekeeper}
            if nodes is not None:
                # The last thing to end: what the engine says while it stops must still reach the other nodes.
                lasting["nodes"] = nodes
            background: dict[str, Background] = {"engine": engine, "receipts": receipts, "seen-devices": seen}
            async with litestar.lifespan(), _running(lasting), _running(background):
                served = allow_origins(Authentication(litestar, identity), settings.cors_origins, _SHARED_PATHS)
                yield Application(served, hub, probe, requests, trusted_proxies=settings.trusted_proxies)
        finally:
            await channels.close()
            await ways.close()


@asynccontextmanager
async def _keep_time(database: Database) -> AsyncIterator[Clock]:
    """Give the clock that all nodes of this database share; a single node on SQLite has its own."""
    if database.is_sqlite:
        yield SystemClock()
        return
    clock = SharedClock(SystemClock(), database)
    await clock.measure()
    async with _running({"clock": clock}):
        yield clock


def _join_nodes(settings: Settings, sealer: Sealer, hub: Hub, clock: Clock, identity: Identity) -> Nodes:
    """Make this one node among several. Raises `SettingsError` for a REDIS_URL that cannot be understood."""
    # Nodes of one installation know each other by their SECRET_KEY; while it is rotated, by the old one, too.
    names = [f"carillon:{mark.hex()[:32]}" for mark in sealer.fingerprints(b"all nodes", purpose="nodes")]
    random = Random()  # noqa: S311 - jitter
    try:
        bus = RedisBus(settings.redis_url, names, random)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    return Nodes(bus, hub, clock, identity.follow_revocations, random)


class Background(Protocol):
    """Something that runs beside the requests until it is asked to stop."""

    async def run(self) -> None: ...

    def stop(self) -> None: ...


@asynccontextmanager
async def _running(background: Mapping[str, Background]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(work.run(), name=name) for name, work in background.items()]
    try:
        yield
    finally:
        for work in background.values():
            work.stop()
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


def _hub_origins(settings: Settings) -> tuple[str, ...]:
    """Give the origins whose pages may use the hub; our own are others where the hub has an address of its own."""
    if not settings.hub_public_url or not settings.public_url:
        return settings.cors_origins
    own = urlsplit(settings.public_url)
    return (*settings.cors_origins, f"{own.scheme}://{own.netloc}")


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
