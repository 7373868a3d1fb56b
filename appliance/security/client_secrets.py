"""Random secrets that machines hold: made here, stored only as keyed hashes.

A 256-bit random secret cannot be guessed, so one keyed SHA-256 is enough and the send path pays microseconds. Each kind
has a prefix by which secret scanners and our own redaction know it.
"""

import base64
import binascii
import hmac
import secrets
from dataclasses import dataclass
from enum import Enum
from typing import Final

from appliance.domain.secret import Secret
from appliance.security.sealing import FINGERPRINT_BYTES, Sealer

_SECRET_BYTES: Final = 32
_MAX_SECRET_CHARS: Final = 256
_WEBHOOK_PREFIX: Final = "whsec_"
_NO_HASH: Final = bytes(FINGERPRINT_BYTES)


class SecretKind(Enum):
    """The kinds of random secrets; the value names the hashing key, so equal texts of two kinds never match."""

    APP_SECRET = "app-secret"  # noqa: S105 - names a key, is none  # noqa: S105 - names a key, is none
    REFRESH_TOKEN = "refresh-token"  # noqa: S105  # noqa: S105
    SESSION_ID = "session-id"
    TICKET = "ticket"
    CLAIM_CODE = "claim-code"


@dataclass(frozen=True, slots=True)
class SecretVerdict:
    """Whether a presented secret is right, and whether its hash should be stored anew (SECRET_KEY was rotated)."""

    is_right: bool
    needs_rehash: bool = False


class SecretHasher:
    """Hashes random secrets under SECRET_KEY and compares them in constant time.

    The hash is 32 bytes and changes with SECRET_KEY: search with `hash_candidates`, and after a match on an old key
    store `hash` again.
    """

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def hash(self, secret: Secret, kind: SecretKind) -> bytes:
        """Give the hash to store, under the current SECRET_KEY."""
        return self._sealer.fingerprint(_bounded(secret), purpose=kind.value)

    def hash_candidates(self, secret: Secret, kind: SecretKind) -> tuple[bytes, ...]:
        """Give every hash under which the secret may be stored, the current one first."""
        return self._sealer.fingerprints(_bounded(secret), purpose=kind.value)

    def verify(self, secret: Secret, stored_hash: bytes | None, kind: SecretKind) -> SecretVerdict:
        """Compare with a stored hash; `None` (no such app) takes the same time and is never right."""
        expected = _NO_HASH if stored_hash is None else bytes(stored_hash)
        is_right = needs_rehash = False
        for position, candidate in enumerate(self.hash_candidates(secret, kind)):
            if hmac.compare_digest(candidate, expected):
                is_right, needs_rehash = True, position > 0
        if stored_hash is None:
            return SecretVerdict(is_right=False)
        return SecretVerdict(is_right, needs_rehash)


def make_app_secret() -> Secret:
    """Make an app's client secret: `cs_` and 43 characters of base64url, 256 random bits."""
    return _make("cs_")


def make_refresh_token() -> Secret:
    """Make a refresh token: `rt_` and 43 characters of base64url, 256 random bits."""
    return _make("rt_")


def make_session_id() -> Secret:
    """Make a web session's cookie value: `sid_` and 43 characters of base64url, 256 random bits."""
    return _make("sid_")


def make_ticket() -> Secret:
    """Make a connection ticket: `tk_` and 43 characters of base64url, 256 random bits."""
    return _make("tk_")


def make_webhook_secret() -> Secret:
    """Make a webhook secret in the Standard Webhooks form: `whsec_` and base64 of 32 random bytes."""
    return Secret(_WEBHOOK_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode())


def webhook_signing_key(secret: Secret) -> bytes:
    """Give the bytes that sign Standard Webhooks: the base64 part, decoded.

    Raises `ValueError` when the secret is not of the form `whsec_<base64>`.
    """
    text = secret.reveal()
    if not text.startswith(_WEBHOOK_PREFIX):
        raise ValueError("A webhook secret begins with whsec_.")
    try:
        return base64.b64decode(text.removeprefix(_WEBHOOK_PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError("The part of a webhook secret behind whsec_ is base64.") from error


def _make(prefix: str) -> Secret:
    return Secret(prefix + secrets.token_urlsafe(_SECRET_BYTES))


def _bounded(secret: Secret) -> bytes:
    # What is longer than any secret of ours is hashed as nothing: the cost does not grow with what strangers send.
    text = secret.reveal()
    return text.encode("utf-8", "surrogatepass") if len(text) <= _MAX_SECRET_CHARS else b""
