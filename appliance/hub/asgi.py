"""The hub as an ASGI application: `POST …/negotiate` and the transports, below the path where it is mounted."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final, cast
from urllib.parse import parse_qsl

import msgspec

from appliance.hub.asgi_types import Receive, Scope, Send
from appliance.hub.connection import Connection
from appliance.hub.core import HubCore
from appliance.hub.gate import OTHER_TRANSPORT, UNKNOWN_ID, Gate, Guest, Refusal
from appliance.hub.negotiate import NegotiationState
from appliance.hub.transport_websocket import NAME as WEBSOCKETS
from appliance.hub.transport_websocket import WebSocketPipe, close_websocket, read_websocket

logger = logging.getLogger(__name__)

MOUNT_PATH: Final = "/hubs/notifications"
_NO_STORE: Final = ("cache-control", "no-store")
_MOST_QUERY_FIELDS: Final = 32


class HubApplication:
    """Answers requests below `/hubs/notifications`; a mount may or may not have cut that prefix off the path.

    A credential is taken from the query `access_token` first, then from `Authorization: Bearer`; cookies are not looked
    at, so a foreign page cannot act for its visitor. Neither tokens nor ids are logged.
    """

    def __init__(self, core: HubCore, gate: Gate, running: "set[asyncio.Task[object]]") -> None:
        self._core = core
        self._gate = gate
        self._running = running
        self._by_method: dict[str, Callable[[Guest, Mapping[str, str]], None]] = {
            "GET": self._refuse_get,
            "POST": self._refuse_post,
            "DELETE": self._refuse_delete,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._serve_http(scope, send)
        elif scope["type"] == "websocket":
            # The server's own pair: a wrapped send is a lazy coroutine, and a write could not be started by calling it.
            raw_send = cast(Send, scope.get("raw_send", send))
            raw_receive = cast(Receive, scope.get("raw_receive", receive))
            await self._serve_websocket(scope, raw_receive, raw_send)

    # HTTP.

    async def _serve_http(self, scope: Scope, send: Send) -> None:
        try:
            answer = await self._answer_http(scope)
        except Refusal as refusal:
            self._core.counters.count_refused(refusal.cause)
            await _respond(send, refusal.status, refusal.text.encode(), "text/plain", refusal.headers)
        else:
            await _respond(send, 200, msgspec.json.encode(answer), "application/json", (_NO_STORE,))

    async def _answer_http(self, scope: Scope) -> dict[str, object]:
        place = _find_place(scope)
        query = _read_query(scope)
        guest = await self._gate.authenticate(_read_credentials(scope, query))
        method = str(scope["method"])
        if place == "negotiate":
            if method != "POST":
                raise Refusal(405, "", (("allow", "POST"),), cause="method")
            return self._gate.negotiate(guest, query)
        refuse = self._by_method.get(method)
        if refuse is None:
            raise Refusal(405, "", (("allow", ", ".join(self._by_method)),), cause="method")
        refuse(guest, query)
        raise Refusal(404, UNKNOWN_ID, cause="transport_off")

    def _refuse_get(self, guest: Guest, query: Mapping[str, str]) -> None:
        if self._gate.find(guest, query.get("id")).state is NegotiationState.OPEN:
            raise Refusal(400, OTHER_TRANSPORT, cause="other_transport")

    def _refuse_post(self, guest: Guest, query: Mapping[str, str]) -> None:
        if self._gate.find(guest, query.get("id")).transport == WEBSOCKETS:
            raise Refusal(405, "POST requests are not allowed for WebSocket connections.", cause="other_transport")

    def _refuse_delete(self, guest: Guest, query: Mapping[str, str]) -> None:
        if self._gate.find(guest, query.get("id")).transport == WEBSOCKETS:
            raise Refusal(400, "Cannot terminate this connection using the DELETE endpoint.", cause="other_transport")

    # WebSockets.

    async def _serve_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        try:
            if _find_place(scope) != "hub":
                raise Refusal(404, "", cause="path")
            query = _read_query(scope)
            guest = await self._gate.authenticate(_read_credentials(scope, query))
            negotiation = self._gate.admit(guest, query.get("id"), WEBSOCKETS)
        except Refusal as refusal:
            self._core.counters.count_refused(refusal.cause)
            await _deny(scope, send, refusal)
            return
        # No await between the admission and the connection: what was counted is counted at once.
        connection = Connection(self._core, guest.principal, guest.user_id, WebSocketPipe(send))
        task = cast("asyncio.Task[object]", asyncio.current_task())
        self._running.add(task)
        try:
            await read_websocket(connection, receive, send)
            # Before the socket ends: a client that comes back with the same id at once must not find it.
            self._gate.finish(negotiation)
            await close_websocket(connection, send, deadline_s=self._core.limits.close_deadline_s)
        finally:
            self._gate.finish(negotiation)
            try:
                await connection.finish()
            finally:
                self._running.discard(task)


def _find_place(scope: Scope) -> str:
    path = str(scope["path"])
    path = path.removeprefix(MOUNT_PATH).rstrip("/")
    if path == "":
        return "hub"
    if path == "/negotiate":
        return "negotiate"
    raise Refusal(404, "", cause="path")


def _read_query(scope: Scope) -> dict[str, str]:
    """Read the query with names in lower case, as ASP.NET compares them; the first of several values counts."""
    raw = cast(bytes, scope.get("query_string", b""))
    query: dict[str, str] = {}
    try:
        fields = parse_qsl(raw.decode("latin-1"), keep_blank_values=True, max_num_fields=_MOST_QUERY_FIELDS)
    except ValueError:
        raise Refusal(400, "Too many query fields", cause="query") from None
    for name, value in fields:
        query.setdefault(name.lower(), value)
    return query


def _read_credentials(scope: Scope, query: Mapping[str, str]) -> list[str]:
    credentials = [query["access_token"]] if query.get("access_token") else []
    for name, value in cast(Iterable[tuple[bytes, bytes]], scope["headers"]):
        if name.lower() == b"authorization":
            scheme, _, credential = value.decode("latin-1").partition(" ")
            if scheme.lower() == "bearer" and credential.strip():
                credentials.append(credential.strip())
    return credentials[:2]


async def _respond(send: Send, status: int, body: bytes, media_type: str, headers: Iterable[tuple[str, str]]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": _encode(headers, media_type, body)})
    await send({"type": "http.response.body", "body": body})


async def _deny(scope: Scope, send: Send, refusal: Refusal) -> None:
    """Refuse an upgrade with an HTTP answer; a server that cannot do that answers 403."""
    extensions = cast(Mapping[str, object], scope.get("extensions") or {})
    if "websocket.http.response" not in extensions:
        await send({"type": "websocket.close", "code": 1008})
        return
    body = refusal.text.encode()
    headers = _encode(refusal.headers, "text/plain", body)
    await send({"type": "websocket.http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})


def _encode(headers: Iterable[tuple[str, str]], media_type: str, body: bytes) -> list[tuple[bytes, bytes]]:
    given = (("content-type", media_type), ("content-length", str(len(body))), *headers)
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given]
