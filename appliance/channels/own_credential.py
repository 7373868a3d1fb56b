"""Credentials that an app has of its own: what is stored of them, how they are checked, the channels they make.

What is stored is a document (sealed by whoever stores it) and its facts, which anybody may see who may see the app.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from appliance.channels.apns import ApnsChannel
from appliance.channels.apns_credential import (
    ApnsCertificate,
    ApnsKey,
    BadApnsCredential,
    SharedProviderTokens,
    expiry_of,
    make_certificate_tls,
    read_key,
)
from appliance.channels.contract import Channel
from appliance.channels.fcm import FcmChannel
from appliance.channels.fcm_credential import BadServiceAccount, read_service_account
from appliance.domain.clock import Clock
from appliance.domain.device import AddressKind
from appliance.domain.errors import InvalidField
from appliance.domain.secret import Secret
from appliance.security.outbound import make_tls_context
from appliance.settings import Settings

Environment = Literal["production", "sandbox"]
KINDS: Final = (AddressKind.FCM_TOKEN, AddressKind.APNS_TOKEN)
"""The kinds of address for which an app can have a credential of its own."""
MOST_SUBJECT_CHARS: Final = 300
_PROJECT: Final = re.compile(r"[A-Za-z0-9.:_-]{1,100}")
_KEY_FIELDS: Final = ("auth_key.key_id", "auth_key.team_id", "auth_key.p8")


@dataclass(frozen=True, slots=True)
class FcmDocument:
    """A Firebase project's service account: the key file's text."""

    service_account: Secret


@dataclass(frozen=True, slots=True)
class ApnsDocument:
    """A key or certificate for Apple's server of one environment, and the app there that it speaks for."""

    credential: ApnsKey | ApnsCertificate
    topic: str
    environment: Environment
    voip_topic: str | None = None


Document = FcmDocument | ApnsDocument


class FcmFacts(msgspec.Struct, frozen=True):
    """What may be shown of a service account; `fingerprint` is the SHA-256 of its public key (DER), in hex."""

    project_id: str
    client_email: str
    private_key_id: str
    fingerprint: str


class ApnsFacts(msgspec.Struct, frozen=True):
    """What may be shown of a key (its two ids) or a certificate (subject and expiry)."""

    topic: str
    voip_topic: str | None
    environment: Environment
    fingerprint: str
    key_id: str | None = None
    team_id: str | None = None
    certificate_subject: str | None = None
    certificate_expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class OwnParts:
    """What an app's own channels are made of."""

    settings: Settings
    clock: Clock
    provider_tokens: SharedProviderTokens


def check_fcm(document: FcmDocument, settings: Settings) -> FcmFacts:
    """Read a service account and tell its facts. Slow: call it in a thread. Raises `InvalidField`."""
    try:
        account = read_service_account(
            document.service_account, base_url=settings.fcm_base_url, named="The service account"
        )
    except BadServiceAccount as bad:
        raise InvalidField("service_account", str(bad)) from None
    if _PROJECT.fullmatch(account.project_id) is None:
        raise InvalidField("service_account", "The service account's project_id is none of Firebase's.")
    told: dict[str, Any] = msgspec.json.decode(document.service_account.reveal())
    try:
        public_key = load_pem_private_key(str(told["private_key"]).encode(), password=None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InvalidField("service_account", "The service account's private_key cannot be read.") from None
    return FcmFacts(
        project_id=account.project_id,
        client_email=account.email,
        private_key_id=str(told.get("private_key_id") or ""),
        fingerprint=_fingerprint(public_key),
    )


def check_apns(document: ApnsDocument, now: datetime) -> ApnsFacts:
    """Read a key or certificate and tell its facts. Slow: call it in a thread. Raises `InvalidField`."""
    credential = document.credential
    if isinstance(credential, ApnsKey):
        try:
            key = read_key(credential, names=_KEY_FIELDS)
        except BadApnsCredential as bad:
            raise InvalidField("auth_key", str(bad)) from None
        return _facts(document, _fingerprint(key.public_key()), key_id=credential.key_id, team_id=credential.team_id)
    try:
        expires_at = expiry_of(credential)
        make_certificate_tls(credential, make_tls_context)
    except BadApnsCredential as bad:
        raise InvalidField("certificate", str(bad)) from None
    if expires_at <= now:
        raise InvalidField("certificate", f"The certificate expired on {expires_at:%Y-%m-%d}: make a new one at Apple.")
    certificate = x509.load_pem_x509_certificate(credential.certificate.strip().encode())
    return _facts(
        document,
        _fingerprint(certificate.public_key()),
        certificate_subject=certificate.subject.rfc4514_string()[:MOST_SUBJECT_CHARS],
        certificate_expires_at=expires_at,
    )


def encode_document(document: Document) -> bytes:
    """Give the bytes to seal."""
    match document:
        case FcmDocument(service_account):
            return msgspec.json.encode(_Stored(service_account=service_account.reveal()))
        case ApnsDocument(ApnsKey(p8, key_id, team_id)):
            stored = _Stored(p8=p8.reveal(), key_id=key_id, team_id=team_id)
        case ApnsDocument(ApnsCertificate(certificate, private_key)):
            stored = _Stored(certificate=certificate, private_key=private_key.reveal())
    return msgspec.json.encode(
        msgspec.structs.replace(
            stored, topic=document.topic, environment=document.environment, voip_topic=document.voip_topic
        )
    )


def make_own_channel(kind: AddressKind, document: bytes, parts: OwnParts) -> Channel:
    """Make the channel of a stored document. Slow: call it in a thread. Raises `ValueError` for none of ours."""
    return _MAKERS[kind](msgspec.json.decode(document, type=_Stored), parts)


class _Stored(msgspec.Struct, frozen=True, omit_defaults=True):
    service_account: str = ""
    p8: str = ""
    key_id: str = ""
    team_id: str = ""
    certificate: str = ""
    private_key: str = ""
    topic: str = ""
    voip_topic: str | None = None
    environment: Environment = "production"


def _make_fcm(stored: _Stored, parts: OwnParts) -> Channel:
    return FcmChannel(
        Secret(stored.service_account),
        parts.clock,
        make_tls_context,
        base_url=parts.settings.fcm_base_url,
        android_channel=parts.settings.fcm_android_channel or None,
    )


def _make_apns(stored: _Stored, parts: OwnParts) -> Channel:
    settings = parts.settings
    credential: ApnsKey | ApnsCertificate
    if stored.certificate:
        credential = ApnsCertificate(stored.certificate, Secret(stored.private_key))
    else:
        credential = ApnsKey(Secret(stored.p8), stored.key_id, stored.team_id)
    return ApnsChannel(
        credential,
        parts.clock,
        make_tls_context,
        topic=stored.topic,
        voip_topic=stored.voip_topic,
        base_url=settings.apns_base_url if stored.environment == "production" else settings.apns_sandbox_base_url,
        tokens=parts.provider_tokens.find(credential, parts.clock),
    )


_MAKERS: Final[dict[AddressKind, Callable[[_Stored, OwnParts], Channel]]] = {
    AddressKind.FCM_TOKEN: _make_fcm,
    AddressKind.APNS_TOKEN: _make_apns,
}


def _facts(document: ApnsDocument, fingerprint: str, **more: Any) -> ApnsFacts:
    return ApnsFacts(document.topic, document.voip_topic, document.environment, fingerprint, **more)


def _fingerprint(public_key: Any) -> str:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return digest.finalize().hex()
