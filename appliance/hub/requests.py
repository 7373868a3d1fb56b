"""What the hub reads of a request, and how it answers one, whatever the transport."""

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import parse_qsl

from appliance.hub.asgi_types import Receive, Scope, Send
from appliance.hub.refusals import Refusal

MOUNT_PATH: Final = "/hubs/notifications"
NO_STORE: Final = ("cache-control", "no-store")
_SLASHES: Final = re.compile("/+")
_MOST_QUERY_FIELDS: Final = 32
_LONGEST_USER_AGENT_CHARS: Final = 256
_EVENT_STREAM: Final = "text/event-stream"
# A client may send a body with a GET, which means nothing; one that sends more than this is not listened to.
_MOST_IGNORED_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class HubRequest:
    """One request below `/hubs/notifications`; a mount may or may not have cut that prefix off its path.

    `credentials` come from the query `access_token` first, then from `Authorization: Bearer`; cookies are not looked
    at, so a foreign page cannot act for its visitor. `query` has its names in lower case, as ASP.NET compares them; the
    first of several values counts. `address` is the client's, empty where the server does not know it.
    """

    method: str
    is_negotiation: bool
    query: Mapping[str, str]
    headers: Mapping[str, str]
    credentials: tuple[str, ...]
    address: str

    @property
    def id(self) -> str | None:
        """The secret of the connection that the request means."""
        return self.query.get("id")

    @property
    def user_agent(self) -> str:
        """What the client says that it is; browsers cannot set the header of that name."""
        given = self.headers.get("x-signalr-user-agent") or self.headers.get("user-agent", "")
        return given[:_LONGEST_USER_AGENT_CHARS]

    @property
    def accepts_events(self) -> bool:
        """Whether the client asks for Server-Sent Events: that is what tells them from a poll."""
        accepted = self.headers.get("accept", "").lower().split(",")
        return any(media_type.partition(";")[0].strip() == _EVENT_STREAM for media_type in accepted)


def read_request(scope: Scope) -> HubRequest:
    """Read what the hub needs to know. Raises `Refusal`: 404 for another path, 400 for too long a query."""
    # What stands before the hub may have joined slashes already; so they count as one wherever it is served.
    path = _SLASHES.sub("/", str(scope["path"]).removeprefix(MOUNT_PATH)).rstrip("/")
    if path not in ("", "/negotiate"):
        raise Refusal(404, "", cause="path")
    query = _read_query(scope)
    headers: dict[str, str] = {}
    credentials = [query["access_token"]] if query.get("access_token") else []
    for raw_name, raw_value in cast(Iterable[tuple[bytes, bytes]], scope["headers"]):
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers.setdefault(name, value)
        if name == "authorization":
            scheme, _, credential = value.partition(" ")
            if scheme.lower() == "bearer" and credential.strip():
                credentials.append(credential.strip())
    client = cast("tuple[str, int] | None", scope.get("client"))
    return HubRequest(
        method=str(scope.get("method", "GET")),
        is_negotiation=path == "/negotiate",
        query=query,
        headers=headers,
        credentials=tuple(credentials[:2]),
        address=client[0] if client else "",
    )


def _read_query(scope: Scope) -> dict[str, str]:
    raw = cast(bytes, scope.get("query_string", b""))
    query: dict[str, str] = {}
    try:
        fields = parse_qsl(raw.decode("latin-1"), keep_blank_values=True, max_num_fields=_MOST_QUERY_FIELDS)
    except ValueError:
        raise Refusal(400, "Too many query fields", cause="query") from None
    for name, value in fields:
        query.setdefault(name.lower(), value)
    return query


async def read_body(request: HubRequest, receive: Receive, *, limit_bytes: int, deadline_s: float) -> bytes:
    """Read a body whole. Raises `Refusal`: 413 over the limit, 408 after the deadline, 400 when the client is gone."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:19]) > limit_bytes:
        raise _too_large(limit_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(deadline_s):
            while True:
                event = await receive()
                if event["type"] != "http.request":
                    raise Refusal(400, "The body ended too early", cause="post_aborted")
                body += cast(bytes, event.get("body", b""))
                if len(body) > limit_bytes:
                    raise _too_large(limit_bytes)
                if not event.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise Refusal(
            408, "The body did not arrive in time", (("connection", "close"),), cause="post_too_slow"
        ) from None


def _too_large(limit_bytes: int) -> Refusal:
    text = f"At most {limit_bytes} bytes at once"
    return Refusal(413, text, (("connection", "close"),), cause="post_too_large")


async def wait_until_gone(receive: Receive) -> None:
    """Return when the client of a request without a body has gone away, or sends what nobody asked for."""
    ignored = 0
    while ignored <= _MOST_IGNORED_BYTES:
        event = await receive()
        if event["type"] == "http.disconnect":
            return
        ignored += len(cast(bytes, event.get("body", b"")))


async def respond(
    send: Send, status: int, body: bytes, media_type: str | None, headers: Iterable[tuple[str, str]] = ()
) -> None:
    """Answer an HTTP request; `media_type` is None for a status that has no content."""
    await send({"type": "http.response.start", "status": status, "headers": _encode(headers, media_type, body)})
    await send({"type": "http.response.body", "body": body})


async def refuse(send: Send, refusal: Refusal) -> None:
    """Refuse an HTTP request."""
    await respond(send, refusal.status, refusal.text.encode(), "text/plain", refusal.headers)


async def deny(scope: Scope, send: Send, refusal: Refusal) -> None:
    """Refuse an upgrade with an HTTP answer; a server that cannot do that answers 403."""
    extensions = cast(Mapping[str, object], scope.get("extensions") or {})
    if "websocket.http.response" not in extensions:
        await send({"type": "websocket.close", "code": 1008})
        return
    body = refusal.text.encode()
    headers = _encode(refusal.headers, "text/plain", body)
    await send({"type": "websocket.http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})


def _encode(headers: Iterable[tuple[str, str]], media_type: str | None, body: bytes) -> list[tuple[bytes, bytes]]:
    content = () if media_type is None else (("content-type", media_type), ("content-length", str(len(body))))
    given = (*content, *headers)
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given]
