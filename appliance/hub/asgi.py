"""The hub as an ASGI application: `POST …/negotiate` and the transports, below the path where it is mounted."""

import logging
from collections.abc import Awaitable, Callable
from typing import Final, cast

import msgspec

from appliance.hub.asgi_types import Receive, Scope, Send
from appliance.hub.core import HubCore
from appliance.hub.gate import Gate
from appliance.hub.http_transports import HttpTransports
from appliance.hub.negotiate import WEBSOCKETS
from appliance.hub.refusals import Refusal
from appliance.hub.requests import MOUNT_PATH, NO_STORE, HubRequest, deny, read_request, refuse, respond
from appliance.hub.transport_websocket import resume_websocket, serve_websocket
from appliance.security.tickets import TICKET_PREFIX

logger = logging.getLogger(__name__)

_IS_OWN_PORT: Final = "is_own_port"


class HubApplication:
    """Answers requests below `/hubs/notifications`; a mount may or may not have cut that prefix off the path.

    Neither tokens nor ids are logged. With `redirect_to`, the hub's address on a port of its own, who negotiates is
    sent there; who asks for no negotiate version is served where they are, because such clients follow no redirect.
    """

    def __init__(self, core: HubCore, gate: Gate, *, redirect_to: str | None = None) -> None:
        self._core = core
        self._gate = gate
        self._redirect_to = redirect_to
        self._http_transports = HttpTransports(core, gate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The server's own pair: a wrapped send is a lazy coroutine, and a write could not be started by calling it.
        raw_send = cast(Send, scope.get("raw_send", send))
        raw_receive = cast(Receive, scope.get("raw_receive", receive))
        if scope["type"] == "http":
            await self._serve_http(scope, raw_receive, send)
        elif scope["type"] == "websocket":
            await self._serve_websocket(scope, raw_receive, raw_send)

    def serve_own_port(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer on a port that is the hub's alone: no mount stands before it, and nobody is sent elsewhere."""
        own = cast("dict[str, object]", scope)
        own[_IS_OWN_PORT] = True
        if not str(own["path"]).startswith(MOUNT_PATH):
            own["path"] = f"{MOUNT_PATH}/-"
        return self(own, receive, send)

    def _find_redirect(self, scope: Scope, request: HubRequest) -> dict[str, object] | None:
        """Give the answer that sends a client to the hub's own port. Its credential goes along by itself."""
        is_served_here = self._redirect_to is None or _IS_OWN_PORT in scope
        if is_served_here or not request.is_negotiation or request.query.get("negotiateversion", "0") == "0":
            return None
        return {"url": self._redirect_to}

    async def _serve_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            request = read_request(scope)
            redirect = self._find_redirect(scope, request)
            if redirect is not None and _has_ticket(request):
                # A ticket counts once, and is to be redeemed where its bearer is sent.
                await _answer(send, redirect)
                return
            guest = await self._gate.authenticate(request)
            if not request.is_negotiation:
                _leave_place(scope)
                await self._http_transports.serve(request, guest, scope, receive, send)
                return
            if request.method != "POST":
                raise Refusal(405, "", (("allow", "POST"),), cause="method")
            answer = redirect or self._gate.negotiate(guest, request)
        except Refusal as refusal:
            self._core.counters.count_refused(refusal.cause)
            await refuse(send, refusal)
        else:
            await _answer(send, answer)

    async def _serve_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        try:
            request = read_request(scope)
            if request.is_negotiation:
                raise Refusal(404, "", cause="path")
            self._gate.check_room(request)
            guest = await self._gate.authenticate(request, is_upgrade=True)
            again = self._gate.admit_again(guest, request.id)
            negotiation = None if again is not None else self._gate.admit(guest, request.id, WEBSOCKETS)
        except Refusal as refusal:
            self._core.counters.count_refused(refusal.cause)
            await deny(scope, send, refusal)
            return
        if again is not None:
            await resume_websocket(self._core, self._gate, guest, *again, receive, send)
            return
        # No await between the admission and the connection: what was counted is counted at once.
        await serve_websocket(self._core, self._gate, guest, negotiation, receive, send)


def _has_ticket(request: HubRequest) -> bool:
    return request.method == "POST" and any(one.startswith(TICKET_PREFIX) for one in request.credentials)


def _leave_place(scope: Scope) -> None:
    """Tell a server that counts connections until they are the hub's that this one is: the hub has caps of its own."""
    leave = scope.get("leave_place")
    if leave is not None:
        cast("Callable[[], None]", leave)()


async def _answer(send: Send, answer: dict[str, object]) -> None:
    await respond(send, 200, msgspec.json.encode(answer), "application/json", (NO_STORE,))
