"""OAuth 2.0 over HTTP: `/oauth/token` (RFC 6749), `/oauth/revoke` (RFC 7009), discovery (RFC 8414) and the key set.

Refusals have RFC 6749's own form (section 5.2), since every OAuth library reads that one and no other.
"""

import base64
import binascii
import re
from typing import Annotated, Any, Final, Literal
from urllib.parse import parse_qsl, unquote_plus

import msgspec
from litestar import Request, Router, get, post

from appliance.api.authentication import address_of
from appliance.api.identity.accounts import WrongPassword
from appliance.api.identity.grants import Grant, GrantError, GrantRefused, Grants
from appliance.api.identity.service import Identity
from appliance.api.json_body import read_bytes
from appliance.api.operations import Operation, Success, described
from appliance.api.problems import UnsupportedMediaType
from appliance.api.replies import NO_STORE, Headers, Reply, json_reply
from appliance.domain.errors import TooMany
from appliance.domain.principal import SCOPE_PUSH_SEND
from appliance.domain.secret import Secret
from appliance.storage.apps import AppRow

FORM: Final = "application/x-www-form-urlencoded"
MAX_FORM_BYTES: Final = 16_384

_MAX_FIELDS: Final = 20
_HOST: Final = re.compile(r"[A-Za-z0-9.\-]+(:\d{1,5})?|\[[0-9A-Fa-f:]+\](:\d{1,5})?")
_CHALLENGE: Final = (b"www-authenticate", b'Basic realm="carillon", charset="UTF-8"')


class TokenForm(msgspec.Struct, omit_defaults=True):
    """What a token is asked for with; unknown fields are ignored (RFC 6749 section 3.2)."""

    grant_type: Literal["client_credentials", "password", "refresh_token"]
    client_id: Annotated[str, msgspec.Meta(description="The app. Instead of both client fields: HTTP Basic.")] = ""
    client_secret: Annotated[str, msgspec.Meta(description="For client_credentials.")] = ""
    username: Annotated[str, msgspec.Meta(description="For password.")] = ""
    password: Annotated[str, msgspec.Meta(description="For password.")] = ""
    refresh_token: Annotated[str, msgspec.Meta(description="For refresh_token; each is used once.")] = ""
    scope: Annotated[str, msgspec.Meta(description="For client_credentials: push:send, which is the default.")] = ""


class TokenReply(msgspec.Struct, omit_defaults=True):
    """A new access token (RFC 6749 section 5.1); people get a refresh token and their user id, too."""

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: Annotated[int, msgspec.Meta(description="Seconds.")]
    scope: str = ""
    refresh_token: str = ""
    user_id: str = ""


class RevocationForm(msgspec.Struct, omit_defaults=True):
    """What is taken back. An unknown token is no error (RFC 7009 section 2.2)."""

    token: Annotated[str, msgspec.Meta(min_length=1)]
    token_type_hint: str = ""
    client_id: str = ""
    client_secret: str = ""


_KNOWN_FIELDS: Final = frozenset(TokenForm.__struct_fields__) | frozenset(RevocationForm.__struct_fields__)


class OAuthRefusal(msgspec.Struct):
    """Why not (RFC 6749 section 5.2)."""

    error: GrantError
    error_description: str


class AuthorizationServer(msgspec.Struct):
    """What this server can do (RFC 8414)."""

    issuer: str
    token_endpoint: str
    revocation_endpoint: str
    jwks_uri: str
    grant_types_supported: list[str]
    token_endpoint_auth_methods_supported: list[str]
    revocation_endpoint_auth_methods_supported: list[str]
    scopes_supported: list[str]
    response_types_supported: list[str]
    subject_types_supported: list[str]
    id_token_signing_alg_values_supported: list[str]


class PublicKey(msgspec.Struct):
    """An Ed25519 key (RFC 8037)."""

    kty: str
    crv: str
    x: str
    kid: str
    use: str
    alg: str


class KeySet(msgspec.Struct):
    """The keys that verify access tokens (RFC 7517)."""

    keys: list[PublicKey]


_REFUSALS: Final = {
    400: Success("Not granted; `error` is one of RFC 6749 section 5.2.", OAuthRefusal),
    401: Success("The client id or secret is not right.", OAuthRefusal, {"WWW-Authenticate": "Basic."}),
    429: Success("Too many failed log-ins.", OAuthRefusal, {"Retry-After": "Seconds until the next try."}),
}

_TOKEN: Final = Operation(
    tag="OAuth",
    summary="Get an access token",
    success={200: Success("The token.", TokenReply)},
    body=TokenForm,
    body_media_type=FORM,
    refusals=_REFUSALS,
)
_REVOKE: Final = Operation(
    tag="OAuth",
    summary="Take a token back",
    success={200: Success("It does not count any more, if it ever did.")},
    body=RevocationForm,
    body_media_type=FORM,
    refusals={400: _REFUSALS[400], 401: _REFUSALS[401]},
)
_DISCOVERY: Final = Operation(
    tag="OAuth",
    summary="Discover the endpoints",
    success={200: Success("The endpoints and what they take.", AuthorizationServer)},
)
_KEYS: Final = Operation(tag="OAuth", summary="Get the public keys", success={200: Success("The key set.", KeySet)})


def oauth_router(identity: Identity) -> Router:
    """Give the routes of OAuth."""

    @post("/oauth/token", status_code=200, opt=described(_TOKEN))
    async def grant_token(request: Request[Any, Any, Any]) -> Reply:
        """`client_credentials` gives an app a token for an hour. `password` gives a person a token and a refresh token;
        `client_id`, if given, binds both to that app. `refresh_token` exchanges a refresh token for a fresh pair: each
        is used once, and when one comes a second time everything of its sign-in is revoked. A repeat within 10 seconds
        is answered with another fresh pair as long as none that came of it was used, since the first reply may have
        been lost.
        """
        try:
            form = await _read_form(request)
            grant = await _grant(identity.grants, form, request)
        except GrantRefused as refusal:
            return _refuse(refusal.error, refusal.description)
        except WrongPassword as refusal:
            return _refuse(GrantError.INVALID_GRANT, refusal.detail)
        except TooMany as refusal:
            retry_after = (b"retry-after", b"%d" % refusal.retry_after_s)
            return _refuse(GrantError.TEMPORARILY_UNAVAILABLE, refusal.detail, status=429, headers=(retry_after,))
        return json_reply(_reply(grant), headers=(NO_STORE, (b"pragma", b"no-cache")))

    @post("/oauth/revoke", status_code=200, opt=described(_REVOKE))
    async def revoke_token(request: Request[Any, Any, Any]) -> Reply:
        """Takes a refresh token back, with every access token of its sign-in, or an access token. A client that says
        who it is takes back only what was issued to it.
        """
        try:
            form = await _read_form(request)
            token = form.get("token", "")
            if not token:
                raise GrantRefused(GrantError.INVALID_REQUEST, "Name the token to revoke in the field token.")
            client = await _client(identity.grants, form, request)
            await identity.grants.revoke(Secret(token), client=client, address=address_of(request))
        except GrantRefused as refusal:
            return _refuse(refusal.error, refusal.description)
        return Reply(200, headers=(NO_STORE,))

    @get("/.well-known/openid-configuration", opt=described(_DISCOVERY))
    async def discover(request: Request[Any, Any, Any]) -> Reply:
        """Tells where tokens are given and taken back and where the keys are, under the address it was asked at."""
        return json_reply(_discovery(identity, _base_url(identity, request)))

    @get("/.well-known/jwks.json", opt=described(_KEYS))
    async def list_keys() -> Reply:
        """Gives the Ed25519 keys of every access token that may still be alive."""
        return json_reply(identity.public_keys(), headers=((b"cache-control", b"public, max-age=300"),))

    return Router("/", route_handlers=[grant_token, revoke_token, discover, list_keys])


async def _grant(grants: Grants, form: dict[str, str], request: Request[Any, Any, Any]) -> Grant:
    kind = form.get("grant_type", "")
    if kind == "client_credentials":
        client_id, client_secret = _client_credentials(form, request)
        if client_secret is None:
            raise GrantRefused(GrantError.INVALID_CLIENT, "Send client_id and client_secret, or HTTP Basic.")
        return await grants.for_app(client_id, client_secret, form.get("scope"))
    if kind == "password":
        username, password = form.get("username"), form.get("password")
        if not username or not password:
            raise GrantRefused(GrantError.INVALID_REQUEST, "Send username and password.")
        if form.get("scope"):
            raise GrantRefused(GrantError.INVALID_SCOPE, "People's tokens have no scopes; leave scope out.")
        client = await _client(grants, form, request)
        app_id = None if client is None else client.id
        return await grants.for_password(username, Secret(password), app_id=app_id, address=address_of(request))
    if kind == "refresh_token":
        token = form.get("refresh_token")
        if not token:
            raise GrantRefused(GrantError.INVALID_REQUEST, "Send the refresh token in the field refresh_token.")
        client = await _client(grants, form, request)
        return await grants.for_refresh_token(Secret(token), client=client, address=address_of(request))
    if not kind:
        raise GrantRefused(GrantError.INVALID_REQUEST, "Send grant_type.")
    raise GrantRefused(
        GrantError.UNSUPPORTED_GRANT_TYPE, "Use grant_type client_credentials, password or refresh_token."
    )


async def _client(grants: Grants, form: dict[str, str], request: Request[Any, Any, Any]) -> AppRow | None:
    client_id, client_secret = _client_credentials(form, request)
    if client_secret is not None:
        return await grants.authenticate_client(client_id, client_secret)
    return await grants.find_public_client(client_id) if client_id else None


def _client_credentials(form: dict[str, str], request: Request[Any, Any, Any]) -> tuple[str, Secret | None]:
    header = request.headers.get("authorization", "")
    scheme, _, credentials = header.partition(" ")
    if scheme.lower() != "basic":
        secret = form.get("client_secret")
        return form.get("client_id", ""), Secret(secret) if secret else None
    if form.get("client_secret"):
        raise GrantRefused(GrantError.INVALID_REQUEST, "Authenticate once: HTTP Basic or client_secret, not both.")
    try:
        text = base64.b64decode(credentials.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        raise GrantRefused(GrantError.INVALID_CLIENT, "The Basic credentials are not readable.") from None
    client_id, _, client_secret = text.partition(":")
    # Both halves are form-encoded before they are joined (RFC 6749 section 2.3.1).
    client_id = unquote_plus(client_id)
    if form.get("client_id", client_id) != client_id:
        raise GrantRefused(GrantError.INVALID_REQUEST, "client_id and HTTP Basic name different apps.")
    return client_id, Secret(unquote_plus(client_secret))


async def _read_form(request: Request[Any, Any, Any]) -> dict[str, str]:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != FORM:
        raise UnsupportedMediaType(FORM)
    body = await read_bytes(request, MAX_FORM_BYTES)
    try:
        pairs = parse_qsl(body.decode(), encoding="utf-8", errors="strict", max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise GrantRefused(GrantError.INVALID_REQUEST, f"Send up to {_MAX_FIELDS} fields as {FORM}.") from None
    # What is not known is passed over, however often it comes (RFC 6749 section 3.2).
    known = [(name, value) for name, value in pairs if name in _KNOWN_FIELDS]
    form = dict(known)
    if len(form) != len(known):
        raise GrantRefused(GrantError.INVALID_REQUEST, "Send each field once.")
    return form


def _reply(grant: Grant) -> TokenReply:
    return TokenReply(
        access_token=grant.access_token.reveal(),
        token_type="Bearer",  # noqa: S106 - the type, no token
        expires_in=grant.expires_in_s,
        scope=grant.scope,
        refresh_token=grant.refresh_token.reveal() if grant.refresh_token is not None else "",
        user_id=str(grant.user_id) if grant.user_id is not None else "",
    )


def _refuse(error: GrantError, description: str, *, status: int = 400, headers: Headers = ()) -> Reply:
    if error is GrantError.INVALID_CLIENT:
        status, headers = 401, (_CHALLENGE,)
    return json_reply(OAuthRefusal(error, description), status=status, headers=(NO_STORE, *headers))


def _base_url(identity: Identity, request: Request[Any, Any, Any]) -> str:
    if identity.settings.public_url:
        return identity.settings.public_url.rstrip("/")
    host = request.headers.get("host", "")
    # The host is the caller's own word: only what can be a host goes back into the reply.
    return (
        f"{request.scope['scheme']}://{host}" if _HOST.fullmatch(host) else f"http://localhost:{identity.settings.port}"
    )


def _discovery(identity: Identity, base_url: str) -> AuthorizationServer:
    authentication = ["client_secret_basic", "client_secret_post", "none"]
    return AuthorizationServer(
        issuer=identity.issuer_name,
        token_endpoint=f"{base_url}/oauth/token",
        revocation_endpoint=f"{base_url}/oauth/revoke",
        jwks_uri=f"{base_url}/.well-known/jwks.json",
        grant_types_supported=["client_credentials", "password", "refresh_token"],
        token_endpoint_auth_methods_supported=authentication,
        revocation_endpoint_auth_methods_supported=authentication,
        scopes_supported=[SCOPE_PUSH_SEND],
        response_types_supported=[],
        subject_types_supported=["public"],
        id_token_signing_alg_values_supported=["EdDSA"],
    )
