"""Replies as the two ASGI messages they are: the send path has no time for more."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from litestar.types import Receive, Scope, Send

JSON: Final = b"application/json"
NO_STORE: Final = (b"cache-control", b"no-store")

_encode: Final = msgspec.json.Encoder().encode

Headers = Sequence[tuple[bytes, bytes]]


class Reply:
    """A finished reply. Litestar sends it as it is."""

    __slots__ = ("_body", "_start")

    def __init__(self, status: int, body: bytes = b"", *, media_type: bytes = JSON, headers: Headers = ()) -> None:
        lines = [*headers]
        if body:
            lines.append((b"content-type", media_type))
        if status not in (204, 304):
            lines.append((b"content-length", b"%d" % len(body)))
        self._start: Any = {"type": "http.response.start", "status": status, "headers": lines}
        self._body: Any = {"type": "http.response.body", "body": body, "more_body": False}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(self._start)
        await send(self._body)


def json_reply(content: object, *, status: int = 200, headers: Headers = (NO_STORE,)) -> Reply:
    """Give `content` (a struct or plain JSON values) as JSON; by default nobody may keep a copy."""
    return Reply(status, _encode(content), headers=headers)


def empty_reply() -> Reply:
    """Give 204: done, and there is nothing to say."""
    return Reply(204)


def text_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Give headers as ASGI has them."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
