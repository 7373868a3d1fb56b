"""The transports that ride on plain HTTP requests, by method and by what the client accepts."""

from typing import Final

from appliance.hub.asgi_types import Receive, Send
from appliance.hub.core import HubCore
from appliance.hub.gate import Gate, Guest
from appliance.hub.negotiate import NegotiationState
from appliance.hub.refusals import OTHER_TRANSPORT, UNKNOWN_ID, Refusal
from appliance.hub.requests import HubRequest

_METHODS: Final = ("GET", "POST", "DELETE")


class HttpTransports:
    """Serves the requests that carry an id. Raises `Refusal` before anything is answered."""

    def __init__(self, core: HubCore, gate: Gate) -> None:
        self._core = core
        self._gate = gate

    async def serve(self, request: HubRequest, guest: Guest, receive: Receive, send: Send) -> None:
        """Serve one request; returns when it is answered."""
        if request.method not in _METHODS:
            raise Refusal(405, "", (("allow", ", ".join(_METHODS)),), cause="method")
        negotiation = self._gate.find(guest, request.id)
        if negotiation.state is NegotiationState.OPEN:
            if request.method == "POST":
                raise Refusal(405, "POST requests are not allowed for WebSocket connections.", cause="other_transport")
            if request.method == "DELETE":
                text = "Cannot terminate this connection using the DELETE endpoint."
                raise Refusal(400, text, cause="other_transport")
            raise Refusal(400, OTHER_TRANSPORT, cause="other_transport")
        raise Refusal(404, UNKNOWN_ID, cause="transport_off")
