"""The transports that ride on plain HTTP requests, by method and by what the client accepts."""

from typing import Final
from uuid import UUID

from appliance.domain.clock import Clock
from appliance.hub import endings
from appliance.hub.asgi_types import Receive, Scope, Send
from appliance.hub.connection import Connection
from appliance.hub.core import HubCore
from appliance.hub.gate import Gate, Guest
from appliance.hub.negotiate import (
    LONG_POLLING,
    SERVER_SENT_EVENTS,
    WEBSOCKETS,
    Negotiation,
    NegotiationState,
    TransportOffer,
)
from appliance.hub.refusals import NO_ID, UNKNOWN_ID, Refusal
from appliance.hub.requests import HubRequest, read_body, respond
from appliance.hub.transport_long_polling import UNCACHED, LongPolling
from appliance.hub.transport_sse import EventStream, StreamOutput

_METHODS: Final = ("GET", "POST", "DELETE")
_NO_POSTS: Final = "POST requests are not allowed for WebSocket connections."
_NO_DELETE: Final = "Cannot terminate this connection using the DELETE endpoint."


class EndedPolls:
    """Ids of long-polling connections whose clients may not know yet that they have ended.

    Such a client's next poll is told 204, which ends its polling; some poll on without a pause when told anything else.
    Bound: `most` ids for `lifetime_s`, the oldest forgotten first.
    """

    def __init__(self, clock: Clock, *, most: int, lifetime_s: float) -> None:
        self._clock = clock
        self._most = most
        self._lifetime_s = lifetime_s
        self._ended: dict[str, tuple[UUID, float]] = {}

    def add(self, token: str, user_id: UUID) -> None:
        """This user's connection has ended."""
        while len(self._ended) >= self._most:
            del self._ended[next(iter(self._ended))]
        self._ended[token] = (user_id, self._clock.monotonic() + self._lifetime_s)

    def take(self, token: str, user_id: UUID) -> bool:
        """Tell whether this poll of this user is the one to be told, and forget the id if so."""
        owner, until = self._ended.get(token, (None, 0.0))
        if owner != user_id:
            return False
        del self._ended[token]
        return self._clock.monotonic() < until

    def forget(self, token: str) -> None:
        """The client knows."""
        self._ended.pop(token, None)


class HttpTransports:
    """Serves the requests that carry an id. Raises `Refusal` before anything is answered."""

    def __init__(self, core: HubCore, gate: Gate) -> None:
        self._core = core
        self._gate = gate
        self._streams: dict[str, EventStream] = {}
        self._polled: dict[str, LongPolling] = {}
        self._posted_early: set[str] = set()
        self._ended = EndedPolls(core.clock, most=core.limits.ended_polls, lifetime_s=core.limits.disconnect_timeout_s)

    async def serve(self, request: HubRequest, guest: Guest, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; returns when it is answered."""
        if request.method == "GET":
            if request.accepts_events:
                await self._stream(request, guest, scope, receive, send)
            else:
                await self._poll(request, guest, receive, send)
        elif request.method == "POST":
            await self._post(request, guest, receive, send)
        elif request.method == "DELETE":
            await self._delete(request, guest, send)
        else:
            raise Refusal(405, "", (("allow", ", ".join(_METHODS)),), cause="method")

    async def _stream(self, request: HubRequest, guest: Guest, scope: Scope, receive: Receive, send: Send) -> None:
        output = StreamOutput.of(scope, send)
        negotiation = self._admit(request, guest, SERVER_SENT_EVENTS)
        stream = EventStream(self._core, guest, negotiation, output)
        self._streams[negotiation.token] = stream
        posted_early = bool(negotiation.posted)
        stream.posts.take_early(negotiation.posted)
        try:
            await stream.serve(self._gate, receive)
        finally:
            del self._streams[negotiation.token]
            if stream.is_unheard:
                self._gate.distrusted_streams.note_unheard(guest.user_id, guest.address)
            elif stream.is_heard and not posted_early:
                self._gate.distrusted_streams.note_heard(guest.user_id, guest.address)

    async def _poll(self, request: HubRequest, guest: Guest, receive: Receive, send: Send) -> None:
        if self._ended.take(request.id or "", guest.user_id):
            await respond(send, 204, b"", None, UNCACHED)
            return
        polled = self._polled.get(request.id or "")
        if polled is not None:
            self._gate.find(guest, request.id)
            _renew(polled.connection, guest)
            await polled.answer_poll(receive, send)
            return
        negotiation = self._admit(request, guest, LONG_POLLING)
        polled = LongPolling(self._core, guest, negotiation, self._note_end)
        self._polled[negotiation.token] = polled
        polled.posts.take_early(negotiation.posted)
        await polled.answer_first(send)

    async def _post(self, request: HubRequest, guest: Guest, receive: Receive, send: Send) -> None:
        negotiation = self._gate.find(guest, request.id)
        if negotiation.transport is WEBSOCKETS:
            raise Refusal(405, _NO_POSTS, (("allow", "GET"),), cause="other_transport")
        if negotiation.state is NegotiationState.PENDING:
            with self._gate.count_arriving(guest):
                await self._keep(request, guest, negotiation, receive, send)
            return
        carrier = self._find_carrier(negotiation)
        if carrier is None:
            raise Refusal(404, UNKNOWN_ID, cause="not_open")
        _renew(carrier.connection, guest)
        with self._gate.count_arriving(guest):
            await carrier.posts.take(request, receive, send)

    async def _keep(
        self, request: HubRequest, guest: Guest, negotiation: Negotiation[Connection], receive: Receive, send: Send
    ) -> None:
        """Keep what is posted before a transport opens, as ASP.NET does. One body at a time may be arriving."""
        limits = self._core.limits
        most = limits.posted_early_bytes
        if negotiation.token in self._posted_early:
            raise self._gate.refuse_second_early_post()
        self._posted_early.add(negotiation.token)
        try:
            body = await read_body(request, receive, limit_bytes=most, deadline_s=limits.posted_early_deadline_s)
        finally:
            self._posted_early.discard(negotiation.token)
        if self._gate.find(guest, request.id).state is not NegotiationState.PENDING:
            raise Refusal(409, "The connection was opened meanwhile", cause="opened_meanwhile")
        if len(negotiation.posted) + len(body) > most:
            raise Refusal(413, "Open a transport first", cause="post_too_large")
        negotiation.posted += body
        await respond(send, 200, b"", "text/plain")

    async def _delete(self, request: HubRequest, guest: Guest, send: Send) -> None:
        self._ended.forget(request.id or "")
        negotiation = self._gate.find(guest, request.id)
        polled = self._polled.get(negotiation.token)
        if polled is None:
            raise Refusal(400, _NO_DELETE, cause="other_transport")
        await polled.delete(send)

    def _admit(self, request: HubRequest, guest: Guest, transport: TransportOffer) -> Negotiation[Connection]:
        # The id is judged before the caps are: without one no HTTP transport begins.
        self._gate.find(guest, request.id)
        negotiation = self._gate.admit(guest, request.id, transport)
        if negotiation is None:
            raise Refusal(400, NO_ID, cause="no_id")
        return negotiation

    def _find_carrier(self, negotiation: Negotiation[Connection]) -> EventStream | LongPolling | None:
        stream = self._streams.get(negotiation.token)
        if stream is not None:
            return stream if stream.is_open else None
        return self._polled.get(negotiation.token)

    def _note_end(self, polled: LongPolling) -> None:
        negotiation = polled.negotiation
        self._gate.finish(negotiation)
        del self._polled[negotiation.token]
        # Who has not polled for so long is told 404, as by ASP.NET.
        if not polled.is_client_told and polled.connection.ending is not endings.SOCKET_LOST:
            self._ended.add(negotiation.token, negotiation.user_id)


def _renew(connection: Connection, guest: Guest) -> None:
    """Go on with the request's token, unless it ends before the one that the connection has."""
    if guest.principal.expires_at >= connection.principal.expires_at:
        connection.renew(guest.principal)
