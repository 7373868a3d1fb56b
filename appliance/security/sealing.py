"""Secrets at rest: AES-256-GCM under keys derived from SECRET_KEY.

A sealed blob is `version (1 byte) | key id (4 bytes) | nonce (12 bytes) | ciphertext and tag`. Each purpose has its own
key (HKDF-SHA256, RFC 5869) and is bound as associated data too, so a blob moved to another column does not open.

Rotation: give the new SECRET_KEY as `current` and the old ones as `previous`. Old blobs open, new ones are written
under the new key, and `needs_resealing` names the ones still to be rewritten. Once none is left the old key can go.
"""

import hashlib
import hmac
import os
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from appliance.domain.secret import Secret

MIN_SECRET_KEY_CHARS: Final = 32
FINGERPRINT_BYTES: Final = 32

_VERSION: Final = 1
_KEY_ID_BYTES: Final = 4
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_HEADER_BYTES: Final = 1 + _KEY_ID_BYTES
_KEY_BYTES: Final = 32


class SealError(Exception):
    """A sealed blob cannot be opened."""


class UnknownSealKey(SealError):
    """The blob was sealed under a SECRET_KEY that is not at hand; `key_id` (hex) names it."""

    def __init__(self, key_id: str) -> None:
        super().__init__(
            f"This was sealed under key {key_id}, which is neither the current SECRET_KEY nor a previous one. "
            "Put the SECRET_KEY back with which the data was written."
        )
        self.key_id = key_id


class SealedDataAltered(SealError):
    """The blob was altered, cut short, or sealed for another purpose."""

    def __init__(self) -> None:
        super().__init__(
            "The sealed data was altered, cut short or sealed for another purpose. Restore it from a backup."
        )


class Sealer:
    """Seals and opens small values under SECRET_KEY, and fingerprints them.

    Safe to share between threads. Nonces are random, so one purpose should stay below 2^32 seals per SECRET_KEY (NIST
    SP 800-38D section 8.3). Raises `ValueError` for a SECRET_KEY shorter than 32 characters.
    """

    def __init__(self, current: Secret, previous: Sequence[Secret] = ()) -> None:
        self._keys = [_RootKey(secret) for secret in (current, *previous)]

    @property
    def key_id(self) -> str:
        """The hex id of the current key, as it stands in the blobs; not secret."""
        return self._keys[0].id.hex()

    def seal(self, plaintext: bytes, *, purpose: str) -> bytes:
        """Seal bytes for one purpose; the same purpose opens them again."""
        key = self._keys[0]
        header = bytes([_VERSION]) + key.id
        nonce = os.urandom(_NONCE_BYTES)
        return header + nonce + key.cipher(purpose).encrypt(nonce, plaintext, _bound(header, purpose))

    def unseal(self, blob: bytes, *, purpose: str) -> bytes:
        """Open what `seal` made. Raises `UnknownSealKey` or `SealedDataAltered`."""
        if len(blob) < _HEADER_BYTES + _NONCE_BYTES + _TAG_BYTES or blob[0] != _VERSION:
            raise SealedDataAltered
        header = bytes(blob[:_HEADER_BYTES])
        nonce = bytes(blob[_HEADER_BYTES : _HEADER_BYTES + _NONCE_BYTES])
        sealed = bytes(blob[_HEADER_BYTES + _NONCE_BYTES :])
        matching = [key for key in self._keys if key.id == header[1:]]
        if not matching:
            raise UnknownSealKey(header[1:].hex())
        for key in matching:
            try:
                return key.cipher(purpose).decrypt(nonce, sealed, _bound(header, purpose))
            except InvalidTag:
                continue
        raise SealedDataAltered

    def seal_text(self, text: str, *, purpose: str) -> bytes:
        """Seal a text as UTF-8."""
        return self.seal(text.encode(), purpose=purpose)

    def unseal_text(self, blob: bytes, *, purpose: str) -> str:
        """Open what `seal_text` made. Raises as `unseal` does."""
        return self.unseal(blob, purpose=purpose).decode()

    def seal_secret(self, secret: Secret, *, purpose: str) -> bytes:
        """Seal a secret's text."""
        return self.seal_text(secret.reveal(), purpose=purpose)

    def unseal_secret(self, blob: bytes, *, purpose: str) -> Secret:
        """Open what `seal_secret` made, still wrapped. Raises as `unseal` does."""
        return Secret(self.unseal_text(blob, purpose=purpose))

    def needs_resealing(self, blob: bytes) -> bool:
        """Tell whether the blob is not under the current key, so that it should be opened and sealed again."""
        return bytes(blob[:_HEADER_BYTES]) != bytes([_VERSION]) + self._keys[0].id

    def fingerprint(self, value: bytes, *, purpose: str) -> bytes:
        """Give the keyed digest (HMAC-SHA256, 32 bytes) by which an equal value is found without opening blobs.

        It hangs on the current SECRET_KEY and so changes when that is rotated: look up with `fingerprints`, and store
        the new one while resealing. Values of different purposes never share a fingerprint.
        """
        return self._keys[0].fingerprint(value, purpose)

    def fingerprints(self, value: bytes, *, purpose: str) -> tuple[bytes, ...]:
        """Give the fingerprint under the current key and, after it, under each previous one."""
        return tuple(key.fingerprint(value, purpose) for key in self._keys)


class _RootKey:
    """One SECRET_KEY with the purpose keys derived from it so far; purposes are few and named in code."""

    __slots__ = ("_ciphers", "_fingerprint_keys", "_material", "id")

    def __init__(self, secret: Secret) -> None:
        text = secret.reveal()
        if len(text) < MIN_SECRET_KEY_CHARS:
            raise ValueError(f"SECRET_KEY needs at least {MIN_SECRET_KEY_CHARS} random characters; it has {len(text)}.")
        self._material = text.encode()
        self._ciphers: dict[str, AESGCM] = {}
        self._fingerprint_keys: dict[str, bytes] = {}
        self.id = _derive(self._material, "key-id", _KEY_ID_BYTES)

    def cipher(self, purpose: str) -> AESGCM:
        cipher = self._ciphers.get(purpose)
        if cipher is None:
            cipher = self._ciphers[purpose] = AESGCM(_derive(self._material, f"seal:{purpose}", _KEY_BYTES))
        return cipher

    def fingerprint(self, value: bytes, purpose: str) -> bytes:
        key = self._fingerprint_keys.get(purpose)
        if key is None:
            key = self._fingerprint_keys[purpose] = _derive(self._material, f"fingerprint:{purpose}", _KEY_BYTES)
        return hmac.digest(key, value, hashlib.sha256)


def _derive(material: bytes, label: str, length: int) -> bytes:
    return HKDF(SHA256(), length, salt=None, info=f"carillon/v1/{label}".encode()).derive(material)


def _bound(header: bytes, purpose: str) -> bytes:
    return header + purpose.encode()
