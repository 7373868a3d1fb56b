"""The Ed25519 keys that sign tokens: made, rotated, published (RFC 7517, RFC 8037), and packed for sealing."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from appliance.security.revocations import LEEWAY, MAX_TOKEN_LIFETIME

ALGORITHM: Final = "EdDSA"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One key pair; it may sign while `retire_after` is `None`, and from that instant nothing it signed counts."""

    kid: str
    private_key: Ed25519PrivateKey
    created_at: datetime
    retire_after: datetime | None = None

    @property
    def public_key(self) -> Ed25519PublicKey:
        return self.private_key.public_key()

    def is_retired(self, now: datetime) -> bool:
        return self.retire_after is not None and now >= self.retire_after

    def __repr__(self) -> str:
        return f"SigningKey(kid={self.kid!r}, created_at={self.created_at}, retire_after={self.retire_after})"


class _PackedKey(msgspec.Struct, forbid_unknown_fields=True):
    kid: str
    private_key: bytes
    created_at: datetime
    retire_after: datetime | None = None


def generate_signing_key(now: datetime) -> SigningKey:
    """Make a new key pair; its `kid` is the key's RFC 7638 thumbprint."""
    private_key = Ed25519PrivateKey.generate()
    return SigningKey(_thumbprint(private_key.public_key()), private_key, now.astimezone(UTC))


def rotate_signing_keys(keys: Sequence[SigningKey], now: datetime) -> tuple[SigningKey, ...]:
    """Give the keys after a rotation at `now`: a new one first, then those whose tokens may still be alive.

    Callers seal and store the outcome as a whole, then hand it to `TokenIssuer.replace_keys`.
    """
    last_alive = now + MAX_TOKEN_LIFETIME + LEEWAY
    kept = [
        key if key.retire_after is not None else replace(key, retire_after=last_alive)
        for key in keys
        if not key.is_retired(now)
    ]
    return (generate_signing_key(now), *kept)


def pack_signing_key(key: SigningKey) -> bytes:
    """Write a key as bytes, private part in the clear: seal them before they are stored."""
    return msgspec.json.encode(
        _PackedKey(key.kid, key.private_key.private_bytes_raw(), key.created_at, key.retire_after)
    )


def unpack_signing_key(packed: bytes) -> SigningKey:
    """Read what `pack_signing_key` wrote. Raises `ValueError` when it is something else."""
    try:
        read = msgspec.json.decode(packed, type=_PackedKey)
        private_key = Ed25519PrivateKey.from_private_bytes(read.private_key)
    except (msgspec.MsgspecError, ValueError):
        # The cause could quote the key material, so it is not chained.
        raise ValueError("This is not a packed signing key.") from None
    return SigningKey(read.kid, private_key, read.created_at, read.retire_after)


def public_key_set(keys: Sequence[SigningKey], now: datetime) -> dict[str, list[dict[str, str]]]:
    """Give the JWKS document (RFC 7517) of every key whose tokens may still be alive."""
    return {
        "keys": [
            {**_public_parameters(key.public_key), "kid": key.kid, "use": "sig", "alg": ALGORITHM}
            for key in keys
            if not key.is_retired(now)
        ]
    }


def _public_parameters(public_key: Ed25519PublicKey) -> dict[str, str]:
    return {"crv": "Ed25519", "kty": "OKP", "x": _base64url(public_key.public_bytes_raw())}


def _thumbprint(public_key: Ed25519PublicKey) -> str:
    # RFC 7638 section 3: the required members in lexicographic order, without white space.
    return _base64url(hashlib.sha256(msgspec.json.encode(_public_parameters(public_key), order="sorted")).digest())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
