"""The hub as an ASGI application: `POST …/negotiate` and the transports, below the path where it is mounted."""

import logging
from typing import cast

import msgspec

from appliance.hub.asgi_types import Receive, Scope, Send
from appliance.hub.core import HubCore
from appliance.hub.gate import Gate
from appliance.hub.http_transports import HttpTransports
from appliance.hub.negotiate import WEBSOCKETS
from appliance.hub.refusals import Refusal
from appliance.hub.requests import NO_STORE, deny, read_request, refuse, respond
from appliance.hub.transport_websocket import serve_websocket

logger = logging.getLogger(__name__)


class HubApplication:
    """Answers requests below `/hubs/notifications`; a mount may or may not have cut that prefix off the path.

    Neither tokens nor ids are logged.
    """

    def __init__(self, core: HubCore, gate: Gate) -> None:
        self._core = core
        self._gate = gate
        self._http_transports = HttpTransports(core, gate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The server's own pair: a wrapped send is a lazy coroutine, and a write could not be started by calling it.
        raw_send = cast(Send, scope.get("raw_send", send))
        raw_receive = cast(Receive, scope.get("raw_receive", receive))
        if scope["type"] == "http":
            await self._serve_http(scope, raw_receive, send)
        elif scope["type"] == "websocket":
            await self._serve_websocket(scope, raw_receive, raw_send)

    async def _serve_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            request = read_request(scope)
            guest = await self._gate.authenticate(request)
            if not request.is_negotiation:
                await self._http_transports.serve(request, guest, receive, send)
                return
            if request.method != "POST":
                raise Refusal(405, "", (("allow", "POST"),), cause="method")
            answer = self._gate.negotiate(guest, request)
        except Refusal as refusal:
            self._core.counters.count_refused(refusal.cause)
            await refuse(send, refusal)
        else:
            await respond(send, 200, msgspec.json.encode(answer), "application/json", (NO_STORE,))

    async def _serve_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        try:
            request = read_request(scope)
            if request.is_negotiation:
                raise Refusal(404, "", cause="path")
            guest = await self._gate.authenticate(request)
            negotiation = self._gate.admit(guest, request.id, WEBSOCKETS)
        except Refusal as refusal:
            self._core.counters.count_refused(refusal.cause)
            await deny(scope, send, refusal)
            return
        # No await between the admission and the connection: what was counted is counted at once.
        await serve_websocket(self._core, self._gate, guest, negotiation, receive, send)
