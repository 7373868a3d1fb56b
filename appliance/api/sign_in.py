"""Signing in with a browser: `/account/session`, `/account/ticket`, `/account/password`.

The session is a cookie that scripts cannot read (`carillon_session`: HttpOnly, SameSite=Lax, Path=/, and Secure under
https). `api.authentication` says which requests count under it.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from litestar import Request, Router, delete, get, post, put

from appliance.api.authentication import (
    SESSION_COOKIE,
    CrossSite,
    address_of,
    is_own_page,
    principal_of,
    raise_refusal,
    session_of,
)
from appliance.api.identity.accounts import WrongPassword
from appliance.api.identity.changes import user_target
from appliance.api.identity.service import Identity
from appliance.api.identity.web_sessions import SESSION_LIFETIME, OpenedSession
from appliance.api.json_body import JsonBody
from appliance.api.operations import Access, Operation, Success, described
from appliance.api.replies import NO_STORE, Headers, Reply, empty_reply, json_reply
from appliance.domain.errors import Forbidden, Unauthorized
from appliance.domain.principal import Principal, Role
from appliance.domain.secret import Secret
from appliance.security.passwords import MAX_PASSWORD_CHARS, MIN_PASSWORD_CHARS
from appliance.storage.users import UserRow, load_user

MAX_BODY_BYTES: Final = 16_384
HUB_PATH: Final = "/hubs/notifications"


class Credentials(msgspec.Struct, forbid_unknown_fields=True):
    """A user name and its password."""

    username: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    password: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_PASSWORD_CHARS)]


class SignedIn(msgspec.Struct):
    """Who is signed in, and until when without another visit (RFC 3339, UTC)."""

    user_id: str
    username: str
    role: Literal["member", "admin"]
    expires_at: str


class Ticket(msgspec.Struct):
    """Opens one connection to the hub: `?access_token=` of the WebSocket address. Counts once."""

    ticket: str
    expires_at: str
    hub: str


class PasswordChange(msgspec.Struct, forbid_unknown_fields=True):
    """The password as it is, and as it shall be: 10 to 1024 characters, not the user name, none of the most common."""

    current_password: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_PASSWORD_CHARS)]
    new_password: Annotated[str, msgspec.Meta(min_length=MIN_PASSWORD_CHARS, max_length=MAX_PASSWORD_CHARS)]


class WrongCurrentPassword(Forbidden):
    """The password that stands for the change is not right."""

    code = "wrong_password"
    title = "That did not match"

    def __init__(self) -> None:
        super().__init__("Give your password as it is now in current_password.")
        self.field = "current_password"


_COOKIE_HEADER: Final = {"Set-Cookie": "The session, for the browser only."}
_SIGN_IN: Final = Operation(
    tag="Account",
    summary="Sign in with a browser",
    success={201: Success("Signed in.", SignedIn, _COOKIE_HEADER)},
    body=Credentials,
    problems=(401, 403, 429),
)
_WHO_AM_I: Final = Operation(
    tag="Account",
    summary="Tell who is signed in",
    success={200: Success("Somebody.", SignedIn)},
    access=(Access.USER,),
)
_SIGN_OUT: Final = Operation(
    tag="Account",
    summary="Sign out",
    success={204: Success("The session is ended, if there was one.", headers=_COOKIE_HEADER)},
    problems=(401, 403),
)
_TICKET: Final = Operation(
    tag="Account",
    summary="Get a connection ticket",
    success={201: Success("The ticket.", Ticket)},
    access=(Access.USER,),
)
_PASSWORD: Final = Operation(
    tag="Account",
    summary="Change the password",
    success={204: Success("Changed; every other sign-in of this user is ended.")},
    access=(Access.USER,),
    body=PasswordChange,
    problems=(429,),
)


def sign_in_router(identity: Identity) -> Router:
    """Give the routes of signing in with a browser."""
    credentials = JsonBody(Credentials, limit_bytes=MAX_BODY_BYTES)
    change = JsonBody(PasswordChange, limit_bytes=MAX_BODY_BYTES)

    @post("/account/session", opt=described(_SIGN_IN))
    async def sign_in(request: Request[Any, Any, Any]) -> Reply:
        """Checks the password and sets the session cookie. After too many failures from one address it answers 429;
        an address that has not failed itself is never locked out by the failures of others.
        """
        refuse_other_sites(identity, request)
        given = await credentials.read(request)
        user = await identity.sign_in(given.username, Secret(given.password), address_of(request))
        opened = await identity.sessions.open(
            user, address=address_of(request), user_agent=request.headers.get("user-agent", "")
        )
        if (previous := session_of(request)) is not None:
            await identity.sessions.end(previous, address=address_of(request))
        return signed_in_reply(identity, request, opened)

    @get("/account/session", opt=described(_WHO_AM_I))
    async def tell_who_is_signed_in(request: Request[Any, Any, Any]) -> Reply:
        """Tells whom the session cookie or the access token speaks for. A session in use lasts 30 days from now."""
        principal = person_of(request)
        user = await _load(identity, principal)
        session = session_of(request)
        expires_at, headers = principal.expires_at, [NO_STORE]
        if session is not None and (prolonged := await identity.sessions.prolong(session)) is not None:
            expires_at = prolonged
            cookie = _cookie_value(request)
            headers.append(_set_cookie(identity, request, cookie, int(SESSION_LIFETIME.total_seconds())))
        return json_reply(_signed_in(user, expires_at), headers=headers)

    @delete("/account/session", status_code=200, opt=described(_SIGN_OUT))
    async def sign_out(request: Request[Any, Any, Any]) -> Reply:
        """Ends the browser's session, and closes its connections. Without a session there is nothing to end."""
        session = session_of(request)
        if session is not None:
            await identity.sessions.end(session, address=address_of(request))
        else:
            raise_refusal(request)
            refuse_other_sites(identity, request)
        return Reply(204, headers=(NO_STORE, _set_cookie(identity, request, "", 0)))

    @post("/account/ticket", opt=described(_TICKET))
    async def issue_ticket(request: Request[Any, Any, Any]) -> Reply:
        """Gives a ticket that opens one connection to the hub within 60 seconds, since a browser cannot send its token
        there in a header. It ends with the sign-in it came from.
        """
        issued = identity.issue_ticket(person_of(request))
        return json_reply(Ticket(issued.ticket.reveal(), _text(issued.expires_at), HUB_PATH), status=201)

    @put("/account/password", status_code=200, opt=described(_PASSWORD))
    async def change_password(request: Request[Any, Any, Any]) -> Reply:
        """Changes one's own password. Everything issued on the old one ends at once, but for the browser that asks."""
        user = await _load(identity, person_of(request))
        given = await change.read(request)
        try:
            proven = await identity.sign_in(user.username, Secret(given.current_password), address_of(request))
            session = session_of(request)
            await identity.accounts.set_password(
                user.id,
                Secret(given.new_password),
                actor=user_target(user.id),
                keep_session=None if session is None else session.id,
                proven=proven,
                field="new_password",
            )
        except WrongPassword:
            raise WrongCurrentPassword from None
        return empty_reply()

    return Router("/", route_handlers=[sign_in, tell_who_is_signed_in, sign_out, issue_ticket, change_password])


def person_of(request: Request[Any, Any, Any]) -> Principal:
    """Give the verified person who asks. Raises as `principal_of` does, and `Forbidden` for an app."""
    principal = principal_of(request)
    if principal.user_id is None:
        raise Forbidden("Use a person's access token; this one belongs to an app.")
    return principal


def refuse_other_sites(identity: Identity, request: Request[Any, Any, Any]) -> None:
    """Refuse a request that a browser made for another site; programs send no Origin. Raises `CrossSite`."""
    headers = request.headers
    asks_as_page = "origin" in headers or headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
    if asks_as_page and not is_own_page(headers, public_url=identity.settings.public_url):
        raise CrossSite


def signed_in_reply(identity: Identity, request: Request[Any, Any, Any], opened: OpenedSession) -> Reply:
    """Answer that a session was opened, with its cookie."""
    session = opened.session
    content = SignedIn(str(session.user_id), session.username, _role(session.role), _text(session.expires_at))
    lifetime_s = int(SESSION_LIFETIME.total_seconds())
    headers: Headers = (NO_STORE, _set_cookie(identity, request, opened.cookie.reveal(), lifetime_s))
    return json_reply(content, status=201, headers=headers)


def _set_cookie(identity: Identity, request: Request[Any, Any, Any], value: str, max_age_s: int) -> tuple[bytes, bytes]:
    is_https = identity.settings.is_https or request.scope["scheme"] == "https"
    parts = [f"{SESSION_COOKIE}={value}", "Path=/", f"Max-Age={max_age_s}", "HttpOnly", "SameSite=Lax"]
    return b"set-cookie", "; ".join([*parts, "Secure"] if is_https else parts).encode("latin-1")


def _cookie_value(request: Request[Any, Any, Any]) -> str:
    return str(request.cookies.get(SESSION_COOKIE, ""))


async def _load(identity: Identity, principal: Principal) -> UserRow:
    user = None if principal.user_id is None else await load_user(identity.database, principal.user_id)
    if user is None or user.is_disabled:
        raise Unauthorized("Sign in again.")
    return user


def _signed_in(user: UserRow, expires_at: datetime) -> SignedIn:
    return SignedIn(str(user.id), user.username, _role(user.role), _text(expires_at))


def _role(role: Role) -> Literal["member", "admin"]:
    return "admin" if role is Role.ADMIN else "member"


def _text(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
