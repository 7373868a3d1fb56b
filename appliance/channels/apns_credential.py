"""What Apple knows a sender by: an authentication key (.p8), which signs provider tokens, or a client certificate."""

import os
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from threading import Lock
from typing import Final
from weakref import WeakValueDictionary

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from appliance.domain.clock import Clock
from appliance.domain.secret import Secret

RENEWED_AFTER: Final = timedelta(minutes=45)
"""Apple takes a token for an hour."""
SOONEST_RENEWAL: Final = timedelta(minutes=20)
"""Apple takes no newer token before that (429 TooManyProviderTokenUpdates)."""


class BadApnsCredential(ValueError):
    """The key or certificate cannot be used; the text says what to do and holds no secret."""


@dataclass(frozen=True, slots=True)
class ApnsKey:
    """An authentication key as Apple's developer site gives it: the .p8 file's text, and two ids of ten characters."""

    p8: Secret
    key_id: str
    team_id: str


@dataclass(frozen=True, slots=True)
class ApnsCertificate:
    """A push certificate (chain allowed) and its private key without a passphrase, both PEM."""

    certificate: str
    private_key: Secret


ApnsCredential = ApnsKey | ApnsCertificate


class ProviderTokens:
    """The provider token of one key. Share it between all channels that use the key: Apple counts what it sees.

    Made anew after 45 minutes, and before that only when Apple says that it is expired, at most every 20 minutes.
    """

    def __init__(self, key: ApnsKey, clock: Clock) -> None:
        """Raises `BadApnsCredential` for a key that is none."""
        self._key = read_key(key)
        self._headers = {"kid": key.key_id}
        self._team_id = key.team_id
        self._clock = clock
        self._token = b""
        self._made_at: datetime | None = None

    def get(self) -> bytes:
        """Give the value of an authorization header."""
        now = self._clock.now()
        # A wall clock that was set back makes the token one from the future, which Apple refuses.
        if self._made_at is None or not timedelta(0) <= now - self._made_at < RENEWED_AFTER:
            self._make(now)
        return self._token

    def refuse(self, token: bytes) -> bool:
        """Take note that Apple finds a token expired; tells whether there is another one to send with."""
        if token != self._token:
            return True
        now = self._clock.now()
        if self._made_at is not None and timedelta(0) <= now - self._made_at < SOONEST_RENEWAL:
            return False
        self._make(now)
        return True

    def _make(self, now: datetime) -> None:
        claims = {"iss": self._team_id, "iat": int(now.timestamp())}
        self._token = b"bearer " + jwt.encode(claims, self._key, algorithm="ES256", headers=self._headers).encode()
        self._made_at = now


class SharedProviderTokens:
    """The provider tokens of all keys in use; whoever uses one keeps it. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._tokens: WeakValueDictionary[tuple[str, str, bytes], ProviderTokens] = WeakValueDictionary()

    def find(self, credential: ApnsCredential, clock: Clock) -> ProviderTokens | None:
        """Give the tokens of a key; None for a certificate, and for a key that is none: its channel tells that."""
        if isinstance(credential, ApnsCertificate):
            return None
        # Under one pair of ids there may be a wrong key, too, which must not be taken for the right one.
        mark = (credential.team_id, credential.key_id, sha256(credential.p8.reveal().encode()).digest())
        with self._lock:
            tokens = self._tokens.get(mark)
            if tokens is None:
                try:
                    tokens = self._tokens[mark] = ProviderTokens(credential, clock)
                except BadApnsCredential:
                    return None
            return tokens


def make_certificate_tls(credential: ApnsCertificate, make_tls: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Make TLS settings that show the certificate. Raises `BadApnsCredential`."""
    pem = credential.certificate.strip() + "\n" + credential.private_key.reveal().strip() + "\n"
    tls = make_tls()
    try:
        _load_chain(tls, pem.encode())
    except (ssl.SSLError, ValueError):
        raise BadApnsCredential(
            "The APNs certificate and its private key do not belong together, or are not PEM without a passphrase."
        ) from None
    return tls


def expiry_of(credential: ApnsCertificate) -> datetime:
    """Tell until when the certificate is good. Raises `BadApnsCredential`."""
    try:
        return x509.load_pem_x509_certificate(credential.certificate.strip().encode()).not_valid_after_utc
    except ValueError:
        raise BadApnsCredential("The APNs certificate is not PEM.") from None


def read_key(
    key: ApnsKey, *, names: tuple[str, str, str] = ("APNS_KEY_ID", "APNS_TEAM_ID", "APNS_AUTH_KEY_P8")
) -> ec.EllipticCurvePrivateKey:
    """Check a key; `names` is what faults call key id, team id and key. Raises `BadApnsCredential`."""
    for name, value in ((names[0], key.key_id), (names[1], key.team_id)):
        if not (value.isascii() and value.isalnum() and len(value) == 10):
            raise BadApnsCredential(f"{name} must be the ten letters and digits that Apple's developer site shows.")
    # As people write it into one line of a file of settings.
    text = key.p8.reveal().replace("\\n", "\n").strip()
    try:
        loaded = load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError, UnicodeEncodeError):
        loaded = None
    if not isinstance(loaded, ec.EllipticCurvePrivateKey) or not isinstance(loaded.curve, ec.SECP256R1):
        raise BadApnsCredential(f"{names[2]} is not an authentication key: paste the whole .p8 file.")
    return loaded


def _load_chain(tls: ssl.SSLContext, pem: bytes) -> None:
    """Load a certificate and key, which `ssl` takes from a file only: one in memory where there is such a thing."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("apns", os.MFD_CLOEXEC)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            tls.load_cert_chain(f"/proc/self/fd/{descriptor}", password=_no_password)
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(pem)
        file.flush()
        tls.load_cert_chain(file.name, password=_no_password)


def _no_password() -> str:
    # Without this, OpenSSL would ask at the terminal.
    raise ValueError("The key has a passphrase.")
