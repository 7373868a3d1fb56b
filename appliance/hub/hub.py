"""The hub's face for the layers above: they offer notifications, and learn through `HubBackend` what came of them."""

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import msgspec

from appliance.domain.clock import Clock
from appliance.hub import endings
from appliance.hub.asgi import HubApplication
from appliance.hub.asgi_types import AsgiApplication
from appliance.hub.backend import HubBackend
from appliance.hub.connection import Connection
from appliance.hub.core import HubCore
from appliance.hub.deadlines import Deadlines
from appliance.hub.encoding import HubEncoding
from appliance.hub.encoding_json import JsonEncoding
from appliance.hub.encoding_messagepack import MessagePackEncoding
from appliance.hub.fanout import Fanout
from appliance.hub.gate import Gate
from appliance.hub.limits import HubLimits
from appliance.hub.messages import EncodedNotification
from appliance.hub.negotiate import LONG_POLLING, SERVER_SENT_EVENTS, WEBSOCKETS, Negotiations
from appliance.hub.notices import Notices
from appliance.hub.presence import Presence
from appliance.hub.resync import resync
from appliance.hub.roster import Census, ConnectionFacts, Roster
from appliance.hub.round_trips import RoundTrips
from appliance.hub.seats import SeatClock
from appliance.security.cross_origin import allow_origins

logger = logging.getLogger(__name__)

_TURN: Final = 64
# The hub knows no cookies, and its clients in browsers ask with credentials.
_EVERY_PATH: Final = {"": True}


class Offered(msgspec.Struct, frozen=True):
    """A device took the offer; when it `acknowledges`, wait `deadline_s` for that before the next layer is on."""

    acknowledges: bool
    deadline_s: float


@dataclass(frozen=True, slots=True)
class HubStats:
    """The hub at one moment, and its counts since the start. What is by reason is by a closed set of them."""

    connections: int
    plain_connections: int
    sessions: int
    handshakes_pending: int
    negotiations_pending: int
    offered: int
    offered_plain: int
    replayed: int
    acknowledged: int
    acknowledged_late: int
    cut: int
    cut_by_reason: Mapping[str, int]
    caught_up: int
    resumed: int
    ended: Mapping[str, int]
    refused: Mapping[str, int]


# One notification for one connection, and the device that is meant; None in the plain dialect. A bare tuple, because
# one is made for every connection that a notification goes to.
_Parcel = tuple[EncodedNotification, UUID | None]


class Hub:
    """The live connections of one process. Everything runs on one event loop; nothing here blocks it.

    `app` is the ASGI application for `/hubs/notifications`, `own_port_app` the same for a port where nothing else is
    served; with `redirect_to`, `app` sends clients on to that port. Call `drain` before the server stops. With
    `is_one_of_many` other nodes accept notifications for these sessions, too: offers may come out of order, or never
    (`hub.order`). Pages of `origins` may use the hub from a browser.
    """

    def __init__(
        self,
        backend: HubBackend,
        clock: Clock,
        limits: HubLimits | None = None,
        *,
        randomness: random.Random | None = None,
        redirect_to: str | None = None,
        origins: Sequence[str] = (),
        is_one_of_many: bool = False,
    ) -> None:
        limits = limits or HubLimits()
        encodings: dict[str, HubEncoding] = {one.name: one for one in (JsonEncoding(), MessagePackEncoding())}
        self._core = HubCore(
            backend=backend,
            clock=clock,
            limits=limits,
            encodings=encodings,
            presence=Presence(),
            deadlines=Deadlines(clock),
            notices=Notices(backend),
            seats=SeatClock(clock) if is_one_of_many else None,
        )
        self._negotiations: Negotiations[Connection] = Negotiations(clock, lifetime_s=limits.negotiation_lifetime_s)
        self._fanout: Fanout[Connection, _Parcel] = Fanout(_send, limits.fanout_pending, failed=_report_unsent)
        self._roster = Roster(self._core)
        # The jitter of Retry-After is no secret.
        jitter = randomness or random.Random()  # noqa: S311
        offers = (WEBSOCKETS, SERVER_SENT_EVENTS, LONG_POLLING)
        gate = Gate(self._core, self._negotiations, offers, jitter)
        application = HubApplication(self._core, gate, redirect_to=redirect_to)
        self.app: AsgiApplication = allow_origins(application, origins, _EVERY_PATH)
        self.own_port_app: AsgiApplication = allow_origins(application.serve_own_port, origins, _EVERY_PATH)

    def offer(self, notification: EncodedNotification, device_ids: Sequence[UUID]) -> Mapping[UUID, Offered]:
        """Send to those of the devices that have a session; only these are in the answer.

        Never blocks. What cannot be written after all comes back through `HubBackend.offer_cut`, after this call.
        """
        offered: dict[UUID, Offered] = {}
        sendings: list[tuple[Connection, _Parcel]] = []
        longest_s = self._core.limits.window_most_s
        find_device = self._core.presence.find_device
        for device_id in device_ids:
            connection = find_device(device_id)
            session = None if connection is None else connection.session
            if connection is None or session is None:
                continue
            offered[device_id] = Offered(session.acknowledges, session.window_s(longest_s))
            # Asked by the size: to hash an id takes longer than all the rest here. One that comes twice is sent once.
            if len(offered) > len(sendings):
                sendings.append((connection, (notification, device_id)))
        self._core.counters.offered += len(sendings)
        if len(sendings) == 1:
            self._fanout.submit_one(*sendings[0])
        else:
            self._fanout.submit(sendings)
        if self._core.seats is not None:
            self._pass_over(notification, offered)
        return offered

    def offer_aside(self, device_id: UUID, notification: EncodedNotification) -> Offered | None:
        """Send what has no number to the device's session, beside the user's order; None when it has none here.

        Never blocks. Its acknowledgement, or that it was cut, comes back through `HubBackend` like any other's.
        """
        connection = self._core.presence.find_device(device_id)
        session = None if connection is None else connection.session
        if connection is None or session is None:
            return None
        self._core.counters.offered += 1
        connection.send_full(session, notification, is_measured=True)
        return Offered(session.acknowledges, session.window_s(self._core.limits.window_most_s))

    def _pass_over(self, notification: EncodedNotification, offered: Mapping[UUID, Offered]) -> None:
        envelope = notification.envelope
        for connection in self._core.presence.list_user(envelope.user_id):
            session = connection.session
            if session is not None and session.order is not None and session.device_id not in offered:
                session.order.pass_over(envelope.sequence)

    def offer_plain(self, user_id: UUID, notification: EncodedNotification) -> int:
        """Send to the user's connections that have not said Hello; gives their number. Never blocks."""
        connections = self._core.presence.list_plain(user_id)
        self._core.counters.offered_plain += len(connections)
        parcel: _Parcel = (notification, None)
        self._fanout.submit((connection, parcel) for connection in connections)
        return len(connections)

    async def resync(self) -> int:
        """Let the sessions that lag behind catch up, see `hub.resync`; gives how many. Raises what the backend does."""
        return await resync(self._core)

    def list_seats(self) -> list[tuple[UUID, int]]:
        """Give every device that has a session here, and the stamp of its seat."""
        seated = self._core.presence.list_devices()
        return [(device_id, one.session.seat_stamp) for device_id, one in seated if one.session is not None]

    def give_way(self, device_id: UUID, seat_stamp: int) -> int | None:
        """End the device's session here if the given seat on another node is newer; else give the stamp of ours."""
        seats = self._core.seats
        if seats is None:
            return None
        seats.learn(seat_stamp)
        connection = self._core.presence.find_device(device_id)
        if connection is None or connection.session is None:
            return None
        if not seats.is_newer(seat_stamp, connection.session.seat_stamp):
            return connection.session.seat_stamp
        connection.end(endings.REPLACED)
        return None

    def close_user(self, user_id: UUID, reason: str) -> None:
        """End all connections of a user, who may not come back with them; `reason` is shown to the client."""
        self._negotiations.revoke(user_id=user_id)
        self._close(self._core.presence.list_user(user_id), reason)

    def close_device(self, device_id: UUID, reason: str, *, allow_reconnect: bool = False) -> None:
        """End the device's session; `reason` is shown to the client, which comes back by itself only if allowed."""
        connection = self._core.presence.find_device(device_id)
        if connection is not None:
            connection.end(endings.make_revocation(reason, allow_reconnect=allow_reconnect))

    def close_app(self, app_id: UUID, reason: str) -> None:
        """End all connections whose credential is bound to this app. `reason` is shown to the client."""
        self._negotiations.revoke(app_id=app_id)
        connections = self._core.presence.list_all()
        self._close([connection for connection in connections if connection.principal.app_id == app_id], reason)

    def close_token(self, token_id: str, reason: str) -> None:
        """End all connections that came in with this credential. `reason` is shown to the client."""
        self._negotiations.revoke(credential_id=token_id)
        self._close(self._core.presence.list_token(token_id), reason)

    async def drain(self, deadline_s: float) -> None:
        """Let nobody in any more, tell everybody to come back, and end all connections within `deadline_s` seconds.

        Connections that do not close in time are dropped. The hub cannot be used afterwards.
        """
        core = self._core
        core.is_draining = True
        # What was offered goes out before the goodbye; what is offered from now on is reported as cut.
        self._fanout.run_out()
        for number, connection in enumerate(core.presence.list_all(), start=1):
            connection.end(endings.SERVER_STOPPING)
            if number % _TURN == 0:
                await asyncio.sleep(0)
        running = set(core.tasks)
        if running:
            _, late = await asyncio.wait(running, timeout=deadline_s)
            for task in late:
                task.cancel()
            if late:
                logger.warning("hub_drain_incomplete", extra={"connections": len(late)})
                await asyncio.wait(late, timeout=1.0)
        self._fanout.run_out()
        core.deadlines.close()
        core.notices.flush()

    def stats(self) -> HubStats:
        """Give the present numbers."""
        core = self._core
        counters = core.counters
        return HubStats(
            connections=core.presence.connections,
            plain_connections=core.presence.plain_connections,
            sessions=core.presence.devices,
            handshakes_pending=core.handshakes_pending,
            negotiations_pending=self._negotiations.count_pending(),
            offered=counters.offered,
            offered_plain=counters.offered_plain,
            replayed=counters.replayed,
            acknowledged=counters.acknowledged,
            acknowledged_late=counters.acknowledged_late,
            cut=counters.cut,
            cut_by_reason=dict(counters.cut_by_reason),
            caught_up=counters.caught_up,
            resumed=counters.resumed,
            ended=dict(counters.ended),
            refused=dict(counters.refused),
        )

    @property
    def round_trips(self) -> RoundTrips:
        """How long devices took to acknowledge."""
        return self._core.counters.round_trips

    def take_census(self) -> Census:
        """Count the connections by kind. Walks over all of them."""
        return self._roster.take_census()

    def list_presence(
        self, user_id: UUID | None = None, *, limit: int, cursor: UUID | None = None
    ) -> tuple[Sequence[ConnectionFacts], UUID | None]:
        """Give a page of who is connected, oldest first, and the cursor of the next page, None on the last one."""
        return self._roster.list(user_id, limit=limit, after=cursor)

    def is_connected(self, device_id: UUID) -> bool:
        """Tell whether the device has a live session on this node."""
        return self._core.presence.find_device(device_id) is not None

    def find_presence(self, connection_id: UUID) -> ConnectionFacts | None:
        """Tell of one connection, None when there is none of this id."""
        return self._roster.describe(connection_id)

    def disconnect(self, connection_id: UUID) -> bool:
        """End one connection, whose client may come back; False when there is none of this id."""
        connection = self._roster.find(connection_id)
        if connection is None:
            return False
        connection.end(endings.DISCONNECTED)
        return True

    def _close(self, connections: Sequence[Connection], text: str) -> None:
        ending = endings.make_revocation(text)
        for connection in connections:
            connection.end(ending)


def _send(connection: Connection, parcel: _Parcel) -> None:
    notification, device_id = parcel
    if device_id is None:
        connection.offer_plain(notification)
    else:
        connection.offer(device_id, notification)


def _report_unsent(connection: Connection, parcel: _Parcel) -> None:
    notification, device_id = parcel
    if device_id is not None:
        connection.report_cut(device_id, [notification.id], endings.INTERNAL_ERROR.reason)
