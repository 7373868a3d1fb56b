"""How a handler learns who is asking.

`Authentication` is a plain ASGI layer around the whole application. It verifies the bearer token of the
`Authorization` header, and, below `/account`, `/console` and `/wizard` only, the session cookie; it never refuses by
itself. A handler that needs somebody calls `principal_of(request)`, which raises what stands against the caller.

The cookie and cross-site requests: a request that changes something (any method but GET, HEAD and OPTIONS) counts under
the cookie only when the browser says that it comes from our own pages: its `Origin` names the host it was sent to or
`PUBLIC_URL`; without `Origin`, `Sec-Fetch-Site` must be `same-origin`. Anything else is refused with 403. Bearer tokens
are not sent by browsers on their own and need no such check.
"""

from collections.abc import Mapping
from typing import Any, Final, cast
from urllib.parse import urlsplit

from litestar import Request
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from appliance.api.identity.service import Identity
from appliance.api.identity.web_sessions import principal_of_session
from appliance.domain.errors import CarillonError, Forbidden, Unauthorized
from appliance.domain.principal import Principal
from appliance.domain.secret import Secret
from appliance.storage.sessions import SessionRow

SESSION_COOKIE: Final = "carillon_session"
COOKIE_PATHS: Final = ("/account", "/console", "/wizard")

_PRINCIPAL: Final = "carillon.principal"
_SESSION: Final = "carillon.session"
_REFUSAL: Final = "carillon.refusal"
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_MAX_COOKIE_CHARS: Final = 8192


class InvalidToken(Unauthorized):
    """A bearer token was sent and does not count."""

    code = "invalid_token"
    title = "The access token is not valid"

    def __init__(self) -> None:
        super().__init__("Get a new access token from POST /oauth/token.")


class CrossSite(Forbidden):
    """A browser sent the session cookie along with a request that did not come from our own pages."""

    code = "cross_site_request"
    title = "This request came from another site"

    def __init__(self) -> None:
        super().__init__("Send it from this server's own pages, or with a bearer token instead of the cookie.")


class Authentication:
    """The ASGI layer that finds out who is asking. A repeated bearer token costs a few microseconds and no I/O."""

    def __init__(self, app: ASGIApp, identity: Identity) -> None:
        self._app = app
        self._identity = identity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP:
            notes = cast("dict[str, Any]", scope)
            for name, value in scope["headers"]:
                if name == b"authorization":
                    await self._read_authorization(notes, value)
                    break
            else:
                if scope["path"].startswith(COOKIE_PATHS):
                    await self._read_cookie(notes)
        await self._app(scope, receive, send)

    async def _read_authorization(self, notes: dict[str, Any], header: bytes) -> None:
        scheme, _, credentials = header.partition(b" ")
        if scheme.lower() != b"bearer":
            return
        try:
            principal = await self._identity.verify_bearer(credentials.strip().decode("latin-1"))
        except CarillonError as refusal:
            notes[_REFUSAL] = refusal
            return
        if principal is None:
            notes[_REFUSAL] = InvalidToken()
        else:
            notes[_PRINCIPAL] = principal

    async def _read_cookie(self, notes: dict[str, Any]) -> None:
        cookie = _session_cookie(notes["headers"])
        if cookie is None:
            return
        if notes["method"] not in _SAFE_METHODS and not self._is_own_page(notes):
            notes[_REFUSAL] = CrossSite()
            return
        try:
            session = await self._identity.sessions.find(cookie)
        except CarillonError as refusal:
            notes[_REFUSAL] = refusal
            return
        if session is not None:
            notes[_SESSION] = session
            notes[_PRINCIPAL] = principal_of_session(session)

    def _is_own_page(self, notes: Mapping[str, Any]) -> bool:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in notes["headers"]}
        return is_own_page(headers, public_url=self._identity.settings.public_url)


def is_own_page(headers: Mapping[str, str], *, public_url: str) -> bool:
    """Tell whether a browser says that a request was made by our own pages; see the top of this file."""
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site") == "same-origin"
    try:
        asked_from = urlsplit(origin)
        own = {headers.get("host", "").lower(), urlsplit(public_url).netloc.lower()} - {""}
    except ValueError:
        return False
    return asked_from.scheme in ("http", "https") and asked_from.netloc.lower() in own


def principal_of(request: Request[Any, Any, Any]) -> Principal:
    """Give the verified caller. Raises `Unauthorized`, `InvalidToken` or `CrossSite`."""
    notes = cast("dict[str, Any]", request.scope)
    principal = notes.get(_PRINCIPAL)
    if isinstance(principal, Principal):
        return principal
    raise_refusal(request)
    raise Unauthorized("Send an access token: Authorization: Bearer …, from POST /oauth/token.")


def raise_refusal(request: Request[Any, Any, Any]) -> None:
    """Raise what stands against a credential that was sent; without one there is nothing to raise."""
    refusal = cast("dict[str, Any]", request.scope).get(_REFUSAL)
    if isinstance(refusal, CarillonError):
        raise refusal


def session_of(request: Request[Any, Any, Any]) -> SessionRow | None:
    """Give the web session that the caller was known by, None when it was a bearer token."""
    session = cast("dict[str, Any]", request.scope).get(_SESSION)
    return session if isinstance(session, SessionRow) else None


def address_of(request: Request[Any, Any, Any]) -> str:
    """Give the caller's network address, "local" for a Unix socket."""
    client = request.scope.get("client")
    return str(client[0]) if client and client[0] else "local"


def _session_cookie(headers: list[tuple[bytes, bytes]]) -> Secret | None:
    for name, value in headers:
        if name != b"cookie" or len(value) > _MAX_COOKIE_CHARS:
            continue
        for part in value.decode("latin-1").split(";"):
            key, _, text = part.strip().partition("=")
            if key == SESSION_COOKIE and text:
                return Secret(text)
    return None
