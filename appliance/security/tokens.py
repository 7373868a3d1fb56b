"""Access tokens: EdDSA-signed JWTs in the profile of RFC 9068, made and verified here.

Exactly one algorithm, one header form and one audience exist, so there is nothing for a forged header to choose. A
token that was verified once is remembered until it runs out; a revocation is noticed at once. `iat` and `exp` are whole
seconds and `exp - iat` is the lifetime; the private claim `iat_us` holds the microseconds after `iat`.
"""

import base64
import math
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final
from uuid import UUID

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from appliance.domain.errors import Unauthorized
from appliance.domain.principal import Principal, PrincipalKind, Role
from appliance.domain.secret import Secret
from appliance.security.revocations import MAX_TOKEN_LIFETIME, Revocations
from appliance.security.signing_keys import ALGORITHM, SigningKey, public_key_set

AUDIENCE: Final = "carillon"
APP_TOKEN_LIFETIME: Final = timedelta(hours=1)
USER_TOKEN_LIFETIME: Final = timedelta(minutes=30)

_TYPE: Final = "at+jwt"
_MAX_TOKEN_CHARS: Final = 4096
# Instants that a datetime can hold, in seconds.
_REPRESENTABLE: Final = msgspec.Meta(ge=0, le=253_370_764_800)
_JWS: Final = jwt.PyJWS(algorithms=[ALGORITHM])


class RefusalReason(StrEnum):
    """Why a token was refused, for our own log and metrics; the bearer is told the same in every case."""

    MALFORMED = "malformed"
    UNKNOWN_KEY = "unknown_key"
    BAD_SIGNATURE = "bad_signature"
    WRONG_ISSUER = "wrong_issuer"
    WRONG_AUDIENCE = "wrong_audience"
    EXPIRED = "expired"
    REVOKED = "revoked"


class TokenRefused(Unauthorized):
    """The token does not count; `reason` is not for the bearer."""

    code = "invalid_token"
    title = "The access token is not valid"

    def __init__(self, reason: RefusalReason) -> None:
        super().__init__("Get a new access token from POST /oauth/token.")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A new access token; `token_id` is its `jti`, `lifetime_s` the `expires_in` of RFC 6749."""

    token: Secret
    token_id: str
    expires_at: datetime
    lifetime_s: int


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    alg: str
    kid: str
    typ: str


class _Claims(msgspec.Struct, omit_defaults=True):
    iss: str
    aud: str
    sub: UUID
    jti: str
    # Whole in what is issued here; tokens of earlier versions carry the fraction in it.
    iat: Annotated[float, _REPRESENTABLE]
    exp: Annotated[int, _REPRESENTABLE]
    # Microseconds after `iat`: what is issued right after a revocation counts, what is issued right before does not.
    iat_us: Annotated[int, msgspec.Meta(ge=0, le=999_999)] = 0
    client_id: UUID | None = None
    role: Role | None = None
    scope: str = ""
    sid: str | None = None


@dataclass(slots=True)
class _Known:
    """A verified token: its principal, and what may still speak against it."""

    principal: Principal
    jti: str
    issued_at: datetime
    counts_until: datetime
    revocations_seen: int = -1


class TokenIssuer:
    """Issues access tokens with the newest key and verifies those of every key that is not retired.

    `issuer` is the `iss` claim, the instance's public URL. A repeated verification of the same token costs about a
    microsecond; `cache_size` tokens are remembered, the least recently used is forgotten first. Belongs to one event
    loop.
    """

    def __init__(
        self,
        keys: Sequence[SigningKey],
        issuer: str,
        *,
        revocations: Revocations | None = None,
        cache_size: int = 4096,
    ) -> None:
        self.revocations = Revocations() if revocations is None else revocations
        self._issuer = issuer
        self._cache: OrderedDict[str, _Known] = OrderedDict()
        self._cache_size = cache_size
        self._keys: dict[str, SigningKey] = {}
        self._public_keys: dict[str, Ed25519PublicKey] = {}
        self.replace_keys(keys)

    def replace_keys(self, keys: Iterable[SigningKey]) -> None:
        """Swap in another set of keys (after a rotation); what was signed with dropped keys is refused at once.

        Raises `ValueError` when none of them may sign.
        """
        by_kid = {key.kid: key for key in keys}
        signing = [key for key in by_kid.values() if key.retire_after is None]
        if not signing:
            raise ValueError("At least one signing key that is not being retired is needed.")
        self._keys = by_kid
        # Derived once: the library makes it anew each time that it is asked for.
        self._public_keys = {kid: key.public_key for kid, key in by_kid.items()}
        self._newest = max(signing, key=lambda key: key.created_at)
        self._cache.clear()

    def issue_app_token(self, app_id: UUID, scopes: Iterable[str], now: datetime) -> IssuedToken:
        """Issue an app's token for an hour; `sub` and `client_id` both name the app."""
        claims = self._claims(app_id, now, APP_TOKEN_LIFETIME)
        claims.client_id = app_id
        claims.scope = " ".join(sorted(scopes))
        return self._sign(claims)

    def issue_user_token(
        self,
        user_id: UUID,
        role: Role,
        now: datetime,
        lifetime: timedelta = USER_TOKEN_LIFETIME,
        *,
        app_id: UUID | None = None,
        session_id: str | None = None,
        scopes: Iterable[str] = (),
    ) -> IssuedToken:
        """Issue a user's token, at most for 24 hours; `session_id` lets the whole session be revoked at once.

        The role is frozen in the token: revoke the user's tokens when it changes. Raises `ValueError` for a lifetime
        beyond the limit.
        """
        claims = self._claims(user_id, now, lifetime)
        claims.client_id = app_id
        claims.role = role
        claims.sid = session_id
        claims.scope = " ".join(sorted(scopes))
        return self._sign(claims)

    def verify(self, token: str, now: datetime) -> Principal:
        """Give the token's bearer. Raises `TokenRefused`.

        The principal's `token_id` is the session's id where there is one, else the `jti`; its `expires_at` is `exp`,
        the very instant from which `verify` refuses. There is no leeway: connections end then, as their clients expect.
        """
        known = self._cache.get(token) or self._verify_anew(token, now)
        if now >= known.counts_until:
            self._cache.pop(token, None)
            raise TokenRefused(RefusalReason.EXPIRED)
        if known.revocations_seen != self.revocations.version:
            if self._is_revoked(known):
                self._cache.pop(token, None)
                raise TokenRefused(RefusalReason.REVOKED)
            known.revocations_seen = self.revocations.version
        self._remember(token, known)
        return known.principal

    def revoke_token(self, token_id: str, at: datetime) -> None:
        """Refuse a token by its `jti`, or a session's tokens by the session's id, from now on."""
        self.revocations.revoke_token(token_id, at)

    def revoke_user(self, user_id: UUID, before: datetime) -> None:
        """Refuse every token of the user issued before the instant."""
        self.revocations.revoke_user(user_id, before)

    def revoke_app(self, app_id: UUID, before: datetime) -> None:
        """Refuse every token issued before the instant to the app, or to users in that app."""
        self.revocations.revoke_app(app_id, before)

    def jwks(self, now: datetime) -> dict[str, list[dict[str, str]]]:
        """Give the public key set for `/.well-known/jwks.json`."""
        return public_key_set(tuple(self._keys.values()), now)

    def _claims(self, subject: UUID, now: datetime, lifetime: timedelta) -> _Claims:
        if not timedelta() < lifetime <= MAX_TOKEN_LIFETIME:
            raise ValueError(f"An access token lives up to {MAX_TOKEN_LIFETIME}, not {lifetime}.")
        issued_s = int(now.replace(microsecond=0).timestamp())
        return _Claims(
            iss=self._issuer,
            aud=AUDIENCE,
            sub=subject,
            jti=secrets.token_urlsafe(16),
            iat=issued_s,
            exp=issued_s + math.ceil(lifetime.total_seconds()),
            iat_us=now.microsecond,
        )

    def _sign(self, claims: _Claims) -> IssuedToken:
        key = self._newest
        headers = {"kid": key.kid, "typ": _TYPE}
        text = _JWS.encode(msgspec.json.encode(claims), key.private_key, algorithm=ALGORITHM, headers=headers)
        return IssuedToken(Secret(text), claims.jti, _instant(claims.exp), claims.exp - int(claims.iat))

    def _verify_anew(self, token: str, now: datetime) -> _Known:
        header = _read_header(token)
        key = self._keys.get(header.kid)
        if key is None or key.is_retired(now):
            raise TokenRefused(RefusalReason.UNKNOWN_KEY)
        claims = _read_claims(token, self._public_keys[key.kid])
        if claims.iss != self._issuer:
            raise TokenRefused(RefusalReason.WRONG_ISSUER)
        if claims.aud != AUDIENCE:
            raise TokenRefused(RefusalReason.WRONG_AUDIENCE)
        expires_at = _instant(claims.exp)
        return _Known(
            principal=_principal(claims, expires_at),
            jti=claims.jti,
            issued_at=_instant(claims.iat) + timedelta(microseconds=claims.iat_us),
            counts_until=expires_at if key.retire_after is None else min(expires_at, key.retire_after),
        )

    def _is_revoked(self, known: _Known) -> bool:
        # A session's token can be revoked by its own id too, which its principal does not carry.
        is_itself = self.revocations.is_token_revoked(known.jti)
        return is_itself or self.revocations.is_bearer_revoked(known.principal, known.issued_at)

    def _remember(self, token: str, known: _Known) -> None:
        self._cache[token] = known
        self._cache.move_to_end(token)
        if len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)


def _read_header(token: str) -> _Header:
    if len(token) > _MAX_TOKEN_CHARS or token.count(".") != 2:
        raise TokenRefused(RefusalReason.MALFORMED)
    encoded = token.partition(".")[0]
    try:
        raw = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
        header = msgspec.json.decode(raw, type=_Header)
    except (ValueError, RecursionError):
        raise TokenRefused(RefusalReason.MALFORMED) from None
    if header.alg != ALGORITHM or header.typ != _TYPE:
        raise TokenRefused(RefusalReason.MALFORMED)
    return header


def _read_claims(token: str, key: Ed25519PublicKey) -> _Claims:
    try:
        payload: bytes = _JWS.decode(token, key, algorithms=[ALGORITHM])
    except jwt.InvalidSignatureError:
        raise TokenRefused(RefusalReason.BAD_SIGNATURE) from None
    except (jwt.InvalidTokenError, ValueError):
        raise TokenRefused(RefusalReason.MALFORMED) from None
    try:
        return msgspec.json.decode(payload, type=_Claims)
    except msgspec.MsgspecError:
        raise TokenRefused(RefusalReason.MALFORMED) from None


def _principal(claims: _Claims, expires_at: datetime) -> Principal:
    is_user = claims.role is not None
    return Principal(
        kind=PrincipalKind.USER if is_user else PrincipalKind.APP,
        user_id=claims.sub if is_user else None,
        app_id=claims.client_id,
        role=claims.role,
        scopes=frozenset(claims.scope.split()),
        expires_at=expires_at,
        token_id=claims.sid or claims.jti,
    )


def _instant(timestamp: float) -> datetime:
    return datetime.fromtimestamp(timestamp, UTC)
