"""Which pages of other origins a browser lets read our answers (CORS), and on which paths.

Only what a bearer token opens is shared: the token is the page's own, a browser never adds it by itself. Where the
session cookie counts, too, answers are shared without credentials: a browser then sends no cookie along, or does not
let the page read what comes. Everything else, our own pages above all, is not shared. WebSockets know no such rule; the
hub looks at nothing but the token there.

Source: WHATWG Fetch, section HTTP CORS protocol.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

ANY_ORIGIN: Final = "*"

_Message = dict[str, Any]
_Send = Callable[[_Message], Awaitable[None]]
_Application = Callable[[Any, Any, Any], Awaitable[None]]
_Headers = list[tuple[bytes, bytes]]

_VARY: Final = (b"vary", b"origin")
# Without this the hub's clients fail: they ask with credentials unless they are told otherwise.
_CREDENTIALS: Final = (b"access-control-allow-credentials", b"true")
_READABLE: Final = (
    b"access-control-expose-headers",
    b"retry-after, www-authenticate, x-quota-limit, x-quota-remaining, x-quota-reset",
)
_ANSWER: Final = (
    (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE"),
    (
        b"access-control-allow-headers",
        b"authorization, content-type, x-requested-with, x-signalr-user-agent, idempotency-key",
    ),
    (b"access-control-max-age", b"7200"),
    (b"vary", b"access-control-request-method, access-control-request-headers"),
)


class CrossOrigin:
    """Answers preflights, and marks the answers of an application as readable for the pages of some origins.

    `origins` are exact ("https://app.example.org"); one that is `*` allows every origin, by naming it. `paths` holds
    the prefixes whose answers are shared, and whether with credentials; "" is every path. A preflight needs no token.
    """

    def __init__(self, app: _Application, origins: Iterable[str], paths: Mapping[str, bool]) -> None:
        self._app = app
        self._origins = frozenset(origin.lower().encode() for origin in origins)
        self._allows_any = ANY_ORIGIN.encode() in self._origins
        self._paths = dict(paths)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        shares_credentials = self._find_rule(scope["path"]) if scope["type"] == "http" else None
        if shares_credentials is None:
            await self._app(scope, receive, send)
            return
        asked = {name: value for name, value in scope["headers"] if name in _ASKED}
        origin = asked.get(b"origin")
        if origin is None or not (self._allows_any or origin.lower() in self._origins):
            await self._app(scope, receive, _adding(send, [_VARY]))
            return
        allowed = [(b"access-control-allow-origin", origin), _VARY]
        if shares_credentials:
            allowed.append(_CREDENTIALS)
        if scope["method"] == "OPTIONS" and b"access-control-request-method" in asked:
            await send({"type": "http.response.start", "status": 204, "headers": [*allowed, *_ANSWER]})
            await send({"type": "http.response.body", "body": b""})
            return
        await self._app(scope, receive, _adding(send, [*allowed, _READABLE]))

    def _find_rule(self, path: str) -> bool | None:
        for prefix, shares_credentials in self._paths.items():
            if not prefix or path == prefix or path.startswith(f"{prefix}/"):
                return shares_credentials
        return None


_ASKED: Final = frozenset({b"origin", b"access-control-request-method"})


def allow_origins(app: _Application, origins: Sequence[str], paths: Mapping[str, bool]) -> _Application:
    """Put `CrossOrigin` around an application, unless there is no origin to be allowed."""
    return CrossOrigin(app, origins, paths) if origins else app


def _adding(send: _Send, headers: _Headers) -> _Send:
    async def marked(message: _Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *headers]}
        await send(message)

    return marked
