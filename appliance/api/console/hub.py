"""The hub in the console: its figures, who is connected, and ending one connection."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal, Protocol
from uuid import UUID

import msgspec
from litestar import Request, Router, delete, get
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp
from msgspec import Meta

from appliance.api.authentication import address_of
from appliance.api.identity.changes import user_target
from appliance.api.operations import Access, Operation, Parameter, Success, described
from appliance.api.paging import limit_parameter, read_id, read_limit
from appliance.api.push.access import admin_of
from appliance.api.replies import empty_reply, json_reply
from appliance.domain.clock import Clock
from appliance.domain.errors import NotFound
from appliance.hub.hub import HubStats
from appliance.hub.roster import Census, ConnectionFacts
from appliance.hub.round_trips import RoundTrips
from appliance.storage import audit
from appliance.storage.database import Database
from appliance.storage.writer import Transaction

PAGE: Final = 100
MAX_PAGE: Final = 500
CONNECTION_ENDED: Final = "hub_connection_ended"
_TAG: Final = "Console"

Counts = Annotated[dict[str, int], Meta(description="By kind; a kind without any is left out.")]
Since = Annotated[dict[str, int], Meta(description="By reason, since the start of the server.")]


class LiveHub(Protocol):
    """What the console needs of the hub."""

    @property
    def round_trips(self) -> RoundTrips: ...

    def stats(self) -> HubStats: ...

    def take_census(self) -> Census: ...

    def list_presence(
        self, user_id: UUID | None = None, *, limit: int, cursor: UUID | None = None
    ) -> tuple[Sequence[ConnectionFacts], UUID | None]: ...

    def find_presence(self, connection_id: UUID) -> ConnectionFacts | None: ...

    def disconnect(self, connection_id: UUID) -> bool: ...


@dataclass(frozen=True, slots=True)
class HubParts:
    """What the routes are made of."""

    hub: LiveHub
    database: Database
    clock: Clock


class RoundTripStep(msgspec.Struct, frozen=True):
    """How many acknowledgements took at most `up_to_s` seconds; null stands for any time."""

    up_to_s: float | None
    count: int


class HubFigures(msgspec.Struct, frozen=True):
    """The hub of this node at this moment, and its counts since the start."""

    connections: int
    sessions: Annotated[int, Meta(description="Devices whose client has said Hello.")]
    away: Annotated[int, Meta(description="Connections whose client lost its socket and may still come back.")]
    transports: Counts
    encodings: Counts
    dialects: Counts
    handshakes_pending: int
    negotiations_pending: int
    offered: int
    offered_plain: int
    replayed: int
    acknowledged: int
    acknowledged_late: Annotated[int, Meta(description="Answers that came after the next layer was on.")]
    cut: Annotated[dict[str, int], Meta(description="Offers never written, which went to the next layer, by reason.")]
    ended: Since
    refused: Since
    round_trips: list[RoundTripStep]


class HubConnection(msgspec.Struct, frozen=True):
    """One open connection. `encoding` and `dialect` are null before its handshake, `device_id` without a Hello."""

    connection_id: UUID
    user_id: UUID
    device_id: UUID | None
    transport: Literal["WebSockets", "ServerSentEvents", "LongPolling"]
    encoding: str | None
    dialect: Literal["plain", "full"] | None
    address: str
    user_agent: str
    connected_at: datetime
    last_heard_at: datetime
    window_s: Annotated[float | None, Meta(description="How long the hub waits for this device's acknowledgement.")]
    queued_bytes: int
    is_away: bool


class HubConnectionPage(msgspec.Struct, frozen=True):
    """Connections, the oldest first; `next_cursor` is null on the last page, `total` counts all of this node."""

    connections: list[HubConnection]
    total: int
    next_cursor: UUID | None


def console_hub_router(parts: HubParts) -> Router:
    """Give the routes below /console/api/hub."""
    return Router(
        path="/", route_handlers=[_figures_handler(parts), _connections_handler(parts), _disconnect_handler(parts)]
    )


def _figures_handler(parts: HubParts) -> HTTPRouteHandler:
    operation = Operation(
        tag=_TAG,
        summary="Look at the hub's figures",
        access=(Access.ADMIN,),
        success={200: Success("The figures.", HubFigures)},
    )

    @get("/console/api/hub", opt=described(operation))
    async def console_hub(request: Request[Any, Any, Any]) -> ASGIApp:
        """Tell how many clients are connected to this node and by which ways, and what came of the notifications."""
        admin_of(request)
        return json_reply(_figures(parts.hub))

    return console_hub


def _connections_handler(parts: HubParts) -> HTTPRouteHandler:
    operation = Operation(
        tag=_TAG,
        summary="List who is connected",
        access=(Access.ADMIN,),
        parameters=(
            Parameter("user", {"type": "string", "format": "uuid"}, "Only the connections of this user."),
            limit_parameter(default=PAGE, most=MAX_PAGE),
            Parameter("cursor", {"type": "string", "format": "uuid"}, "The `next_cursor` of the page before."),
        ),
        success={200: Success("A page of connections.", HubConnectionPage)},
    )

    @get("/console/api/hub/connections", opt=described(operation))
    async def console_hub_connections(request: Request[Any, Any, Any]) -> ASGIApp:
        """List the hub connections of this node, of one user or of all, the oldest first."""
        admin_of(request)
        limit = read_limit(request, default=PAGE, most=MAX_PAGE)
        facts, following = parts.hub.list_presence(
            read_id(request, "user"), limit=limit, cursor=read_id(request, "cursor")
        )
        page = [_connection(one) for one in facts]
        return json_reply(HubConnectionPage(page, parts.hub.stats().connections, following))

    return console_hub_connections


def _disconnect_handler(parts: HubParts) -> HTTPRouteHandler:
    operation = Operation(
        tag=_TAG,
        summary="End one connection",
        access=(Access.ADMIN,),
        success={204: Success("It has ended; its client may come back, since its right to be here has not changed.")},
        problems=(507,),
    )

    @delete("/console/api/hub/connections/{connection_id:uuid}", status_code=200, opt=described(operation))
    async def console_hub_disconnect(request: Request[Any, Any, Any], connection_id: UUID) -> ASGIApp:
        """End a hub connection. To keep its user out, revoke the device or disable the account instead."""
        admin = admin_of(request)
        facts = parts.hub.find_presence(connection_id)
        if facts is None:
            raise NotFound("There is no connection with this id; it may have ended.")

        def job(transaction: Transaction) -> None:
            audit.record(
                transaction,
                at=parts.clock.now(),
                actor="" if admin.user_id is None else user_target(admin.user_id),
                action=CONNECTION_ENDED,
                target=f"connection:{connection_id} {user_target(facts.user_id)}",
                address=address_of(request),
            )

        await parts.database.write(job)
        parts.hub.disconnect(connection_id)
        return empty_reply()

    return console_hub_disconnect


def _figures(hub: LiveHub) -> HubFigures:
    stats, census = hub.stats(), hub.take_census()
    steps = [RoundTripStep(None if bound == float("inf") else bound, count) for bound, count in hub.round_trips]
    return HubFigures(
        connections=stats.connections,
        sessions=stats.sessions,
        away=census.away,
        transports=dict(census.transports),
        encodings=dict(census.encodings),
        dialects=dict(census.dialects),
        handshakes_pending=stats.handshakes_pending,
        negotiations_pending=stats.negotiations_pending,
        offered=stats.offered,
        offered_plain=stats.offered_plain,
        replayed=stats.replayed,
        acknowledged=stats.acknowledged,
        acknowledged_late=stats.acknowledged_late,
        cut=dict(stats.cut_by_reason),
        ended=dict(stats.ended),
        refused=dict(stats.refused),
        round_trips=steps,
    )


def _connection(facts: ConnectionFacts) -> HubConnection:
    return HubConnection(
        connection_id=facts.id,
        user_id=facts.user_id,
        device_id=facts.device_id,
        transport=facts.transport,  # type: ignore[arg-type]
        encoding=facts.encoding,
        dialect=facts.dialect,  # type: ignore[arg-type]
        address=facts.address,
        user_agent=facts.user_agent,
        connected_at=facts.connected_at,
        last_heard_at=facts.last_heard_at,
        window_s=facts.window_s,
        queued_bytes=facts.queued_bytes,
        is_away=facts.is_away,
    )
