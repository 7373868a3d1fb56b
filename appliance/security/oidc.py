"""Sign-in with an external OpenID Connect issuer: its tokens verified against its published keys.

The algorithm comes from a short list and has to fit the kind of key, never from the token alone. Tokens are read as
OpenID Connect Core 1.0 section 3.1.3.7 and RFC 8725 ask.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeAlias

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from appliance.domain.clock import Clock
from appliance.domain.errors import Unauthorized
from appliance.domain.notification import is_storable_text
from appliance.security.oidc_keys import IssuerKeys, PublishedKey
from appliance.security.outbound import OutboundClient
from appliance.security.revocations import MAX_TOKEN_LIFETIME

# Algorithm -> the key type and curve (RFC 7518 section 6) that it needs.
_KEY_FOR: Final = {
    "RS256": ("RSA", None),
    "PS256": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "EdDSA": ("OKP", "Ed25519"),
}
_LEEWAY_S: Final = 60
_MAX_TOKEN_CHARS: Final = 16_384
_MAX_SUBJECT_CHARS: Final = 255
_MIN_RSA_BITS: Final = 2048
_JWS: Final = jwt.PyJWS(algorithms=list(_KEY_FOR))

_PublicKey: TypeAlias = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey


class ExternalTokenRefused(Unauthorized):
    """The external token does not count; `reason` is for our log."""

    code = "invalid_token"
    title = "The access token is not valid"

    def __init__(self, reason: str) -> None:
        super().__init__("Sign in again with the external service.")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ExternalIdentity:
    """Who the issuer says it is. `email` is there only when the issuer has verified it.

    From `expires_at` on the token does not count: its own end and the leeway, but a day at most.
    """

    sub: str
    email: str | None
    name: str | None
    expires_at: datetime


class _Header(msgspec.Struct):
    alg: str
    kid: str | None = None
    crit: object = None


class _Claims(msgspec.Struct):
    iss: str
    sub: str
    aud: str | list[str]
    exp: float
    nbf: float | None = None
    iat: float | None = None
    email: str | None = None
    email_verified: bool | str | None = None
    name: str | None = None


class OidcVerifier:
    """Verifies the tokens of one issuer for one audience.

    Signatures RS256, PS256, ES256 and EdDSA only; clocks may differ by a minute. Belongs to one event loop.
    """

    def __init__(self, issuer: str, audience: str, client: OutboundClient, clock: Clock) -> None:
        self._issuer = issuer
        self._audience = audience
        self._clock = clock
        self._keys = IssuerKeys(issuer, client, clock)

    async def verify(self, token: str) -> ExternalIdentity:
        """Give the token's bearer. Raises `ExternalTokenRefused`, or `IssuerUnavailable` when no key is at hand."""
        header = _read_header(token)
        candidates = _candidates(await self._keys.current(), header)
        if not candidates:
            candidates = _candidates(await self._keys.after_unknown_key(), header)
        if not candidates:
            raise ExternalTokenRefused("unknown_key")
        return self._checked(_read_claims(token, header, candidates))

    def _checked(self, claims: _Claims) -> ExternalIdentity:
        now = self._clock.now()
        now_s = now.timestamp()
        audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
        if claims.iss != self._issuer:
            raise ExternalTokenRefused("wrong_issuer")
        if self._audience not in audiences:
            raise ExternalTokenRefused("wrong_audience")
        if not now_s < claims.exp + _LEEWAY_S:
            raise ExternalTokenRefused("expired")
        if claims.nbf is not None and not now_s >= claims.nbf - _LEEWAY_S:
            raise ExternalTokenRefused("not_yet_valid")
        if not 0 < len(claims.sub) <= _MAX_SUBJECT_CHARS or not is_storable_text(claims.sub):
            raise ExternalTokenRefused("bad_subject")
        # Some issuers write the flag as a text.
        is_verified = claims.email_verified in (True, "true")
        left_s = min(claims.exp + _LEEWAY_S - now_s, MAX_TOKEN_LIFETIME.total_seconds())
        email = _text(claims.email) if is_verified else None
        return ExternalIdentity(claims.sub, email, _text(claims.name), now + timedelta(seconds=left_s))


def _read_header(token: str) -> _Header:
    if len(token) > _MAX_TOKEN_CHARS or token.count(".") != 2:
        raise ExternalTokenRefused("malformed")
    encoded = token.partition(".")[0]
    try:
        header = msgspec.json.decode(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)), type=_Header)
    except (ValueError, RecursionError):
        raise ExternalTokenRefused("malformed") from None
    if header.alg not in _KEY_FOR or header.crit is not None:
        raise ExternalTokenRefused("algorithm")
    return header


def _candidates(keys: Sequence[PublishedKey], header: _Header) -> list[PublishedKey]:
    fitting = [key for key in keys if _fits(key, header.alg)]
    if header.kid is not None:
        return [key for key in fitting if key.kid == header.kid]
    # Without a key id only a sole key can be meant.
    return fitting if len(fitting) == 1 else []


def _fits(key: PublishedKey, algorithm: str) -> bool:
    key_type, curve = _KEY_FOR[algorithm]
    is_for_signing = key.use in (None, "sig") and key.alg in (None, algorithm)
    return is_for_signing and key.kty == key_type and (curve is None or key.crv == curve)


def _read_claims(token: str, header: _Header, candidates: Sequence[PublishedKey]) -> _Claims:
    for candidate in candidates:
        public_key = _public_key(candidate, header.alg)
        if public_key is None:
            continue
        try:
            payload: bytes = _JWS.decode(token, public_key, algorithms=[header.alg])
            return msgspec.json.decode(payload, type=_Claims)
        except jwt.InvalidSignatureError:
            continue
        except (jwt.InvalidTokenError, ValueError, RecursionError):
            raise ExternalTokenRefused("malformed") from None
    raise ExternalTokenRefused("bad_signature")


def _public_key(published: PublishedKey, algorithm: str) -> _PublicKey | None:
    fields = {name: value for name, value in msgspec.structs.asdict(published).items() if value is not None}
    try:
        public_key = jwt.PyJWK(fields, algorithm).key
    except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError):
        return None
    if isinstance(public_key, RSAPublicKey):
        return public_key if public_key.key_size >= _MIN_RSA_BITS else None
    return public_key if isinstance(public_key, EllipticCurvePublicKey | Ed25519PublicKey) else None


def _text(text: str | None) -> str | None:
    return text[:_MAX_SUBJECT_CHARS] if text and is_storable_text(text) else None
