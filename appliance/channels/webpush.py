"""Web Push: browsers and UnifiedPush, straight to the push service that the subscription names; no account is needed.

Sources: RFC 8030 (protocol), RFC 8291 (encryption), RFC 8292 (VAPID); the error bodies of Mozilla's, Apple's and
Google's push services.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit
from uuid import UUID

import msgspec

from appliance.channels.contract import ChannelName, Diagnosis, Push
from appliance.channels.fitting import DoesNotFit, fit
from appliance.channels.plain_words import without_pieces_of
from appliance.domain.clock import Clock
from appliance.domain.device import AddressKind
from appliance.domain.notification import Envelope, Priority
from appliance.domain.outcome import Accepted, Gone, Misconfigured, Outcome, Rejected, Retry
from appliance.domain.retry_after import read_retry_after
from appliance.security.outbound import OutboundFailed, OutboundRefused, Poster, Reply
from appliance.security.sealing import SealError

if TYPE_CHECKING:
    from py_vapid import Vapid02

MOST_PLAIN_BYTES: Final = 3_993
"""One record of RFC 8188 within the 4 096 bytes that push services take (RFC 8030, section 7.2)."""
MOST_PLAIN_BYTES_MOZILLA: Final = 2_600
"""Firefox on Android takes less, and its subscriptions look like any other of Mozilla's."""
TOKEN_LIVES: Final = timedelta(hours=12)
TOKEN_RENEWED_BEFORE: Final = timedelta(hours=1)
MOST_TOKENS: Final = 1_024
MOST_KEYS: Final = 256
SLOTS: Final = 32
_MOZILLA: Final = ".mozilla.com"
_URGENCIES: Final = {Priority.LOW: "low", Priority.NORMAL: "normal", Priority.HIGH: "high"}
_TOPIC_CHARS: Final = 32
_SUBJECT: Final = re.compile(r"mailto:[^\s<>@]+@[^\s<>@]+\.[^\s<>@]+|https://[^\s/]+\.[^\s/]+(/\S*)?")
_WEATHER: Final = frozenset({407, 408, 421, 425})
"""A proxy in between, a slow network, another server's connection, too early: none is about the push itself."""
_REASONS: Final = re.compile(r"[A-Za-z0-9 _.,:'-]{1,120}")

_NO_SUBJECT: Final = (
    "Push services want to know whom to write to: set VAPID_SUBJECT to mailto:you@your.domain, or PUBLIC_URL to this "
    "server's https address."
)
_NO_KEY: Final = "The app has no VAPID key pair: enable push for it once more."
_UNOPENED_KEY: Final = "The app's VAPID key cannot be opened: SECRET_KEY is not the one it was sealed with."


@dataclass(frozen=True, slots=True)
class VapidKey:
    """An app's key pair: the private key as PKCS #8 in DER."""

    private_key: bytes
    public_key: str


class VapidKeys(Protocol):
    """Where an app's key pair comes from."""

    async def vapid_key_of(self, app_id: UUID) -> VapidKey | None:
        """Give the pair, None for an app that has none. Raises `SealError` when it cannot be opened."""
        ...


class _Keys(msgspec.Struct):
    p256dh: str
    auth: str


class Subscription(msgspec.Struct):
    """A browser's subscription as it is stored: checked when it was registered."""

    endpoint: str
    keys: _Keys


_read_subscription: Final = msgspec.json.Decoder(Subscription).decode


class WebPushChannel:
    """Sends to any push service that the outbound rules permit; inside the house only to what the operator allows."""

    name = ChannelName.WEB_PUSH
    address_kinds = frozenset({AddressKind.WEB_PUSH})
    slots = SLOTS
    has_one_lane = False

    def __init__(self, poster: Poster, keys: VapidKeys, clock: Clock, *, subject: str) -> None:
        self._poster = poster
        self._keys = keys
        self._clock = clock
        self._subject = subject
        self._signers: dict[UUID, Vapid02] = {}
        self._tokens: dict[tuple[UUID, str], tuple[str, datetime]] = {}

    def lane_of(self, push: Push) -> str:
        """Give the push service: what it answers about its own state holds for all who subscribed there."""
        return _audience_of(_read_subscription(push.address.reveal()).endpoint)

    async def deliver(self, push: Push) -> Outcome:
        """Encrypt for the browser, sign for the app, and hand it to the push service."""
        if not is_subject(self._subject):
            return Misconfigured(_NO_SUBJECT, code="vapid_subject", was_asked=False)
        subscription = _read_subscription(push.address.reveal())
        try:
            authorization = await self._authorize(push.app_id, _audience_of(subscription.endpoint))
        except SealError:
            return Misconfigured(_UNOPENED_KEY, code="sealed", is_about_device=True, was_asked=False)
        if authorization is None:
            return Misconfigured(_NO_KEY, code="vapid_key", is_about_device=True, was_asked=False)
        try:
            body = encrypt(subscription, _payload(push.envelope, subscription.endpoint))
        except DoesNotFit as too_large:
            text = f"It is too large for Web Push, even without its data ({too_large})."
            return Rejected(text, code="too_large", was_asked=False)
        except ValueError:
            return Gone("The subscription's keys are not usable.", code="bad_keys", was_asked=False)
        try:
            reply = await self._poster.request(
                "POST",
                subscription.endpoint,
                headers=self._headers(push.envelope, authorization),
                body=body,
                deadline_s=push.timeout_s,
            )
        except OutboundRefused as refused:
            return Misconfigured(str(refused), code="outbound_refused", is_about_device=True, was_asked=False)
        except OutboundFailed as failed:
            # The service may have taken it: the topic makes a repetition replace the first one.
            return Retry(str(failed), code=failed.reason.value)
        keys = subscription.keys
        return outcome_of(reply, self._clock.now(), secrets=(subscription.endpoint, keys.p256dh, keys.auth))

    async def probe(self) -> Diagnosis:
        """Say whether what the operator must give is there: no push service can be asked without a subscription."""
        if not is_subject(self._subject):
            return Diagnosis(False, _NO_SUBJECT)
        return Diagnosis(True, f"Ready: push services are told to write to {self._subject}.")

    async def close(self) -> None:
        """Nothing to do: the connections are the outbound client's."""

    def _headers(self, envelope: Envelope, authorization: str) -> dict[str, str]:
        left = envelope.expires_at - self._clock.now()
        return {
            "authorization": authorization,
            "content-encoding": "aes128gcm",
            "content-type": "application/octet-stream",
            "ttl": str(max(0, int(left.total_seconds()))),
            "urgency": _URGENCIES[envelope.priority],
            "topic": _topic_of(envelope),
        }

    async def _authorize(self, app_id: UUID, audience: str) -> str | None:
        """Give the app's signature for one push service, made at most once in eleven hours."""
        now = self._clock.now()
        known = self._tokens.get((app_id, audience))
        if known is not None and now < known[1] - TOKEN_RENEWED_BEFORE:
            return known[0]
        signer = await self._signer_of(app_id)
        if signer is None:
            return None
        expires_at = now + TOKEN_LIVES
        claims = {"aud": audience, "exp": int(expires_at.timestamp()), "sub": self._subject}
        authorization = str(signer.sign(claims)["Authorization"])
        if len(self._tokens) >= MOST_TOKENS:
            del self._tokens[next(iter(self._tokens))]
        self._tokens[app_id, audience] = (authorization, expires_at)
        return authorization

    async def _signer_of(self, app_id: UUID) -> "Vapid02 | None":
        signer = self._signers.get(app_id)
        if signer is None:
            key = await self._keys.vapid_key_of(app_id)
            if key is None:
                return None
            # Here, because the library is heavy and most instances start without it.
            from py_vapid import Vapid02

            if len(self._signers) >= MOST_KEYS:
                del self._signers[next(iter(self._signers))]
            signer = self._signers[app_id] = Vapid02.from_der(base64.urlsafe_b64encode(key.private_key))
        return signer


def is_subject(text: str) -> bool:
    """Tell whether all push services take this as the sender's contact: an e-mail address or an https URL."""
    return _SUBJECT.fullmatch(text) is not None and "localhost" not in text


def encrypt(subscription: Subscription, plain: bytes) -> bytes:
    """Encrypt for the browser in one record (RFC 8291). Raises `ValueError` for keys that are none."""
    from pywebpush import WebPusher, WebPushException

    info = {
        "endpoint": subscription.endpoint,
        "keys": {"p256dh": subscription.keys.p256dh, "auth": subscription.keys.auth},
    }
    try:
        return bytes(WebPusher(info).encode(plain, "aes128gcm")["body"])
    except (WebPushException, ValueError, IndexError) as error:
        raise ValueError("The subscription's keys are not usable.") from error


def outcome_of(reply: Reply, now: datetime, *, secrets: Sequence[str] = ()) -> Outcome:
    """Give what a push service's answer means. What it says is not shown where it repeats a piece of `secrets`.

    Source: RFC 8030, and the services' own error lists.
    """
    status, said = reply.status, _said(reply, secrets)
    code = str(status)
    retry_after = read_retry_after(reply.headers.get("retry-after"), now, sent_at=reply.headers.get("date"))
    if 200 <= status < 300:
        return Accepted()
    if status in (404, 410):
        return Gone(f"The push service answered {status}: the subscription is no more{said}.", code=code)
    if status == 413:
        return Rejected(f"The push service finds it too large{said}.", code=code)
    if status in (401, 403) or (status == 400 and "Vapid" in said):
        return Misconfigured(
            f"The push service answered {status}{said}: the subscription was made with another VAPID key, or "
            "VAPID_SUBJECT is not one that it takes.",
            code=code,
            # Nothing is said about the subscriptions of other apps and devices, which share the lane.
            is_about_device=True,
        )
    if status == 405:
        text = f"The push service answered 405{said}: what this subscription names takes no pushes."
        return Misconfigured(text, code=code, is_about_device=True)
    if status == 429 or status == 503:
        text = f"The push service answered {status}{said}."
        return Retry(text, after=retry_after, code=code, pauses_all=retry_after is not None)
    # A redirect is not followed, since it may lead anywhere, and not believed: a login page in between sends one, too.
    if status >= 500 or 300 <= status < 400 or status in _WEATHER:
        return Retry(f"The push service answered {status}{said}.", after=retry_after, code=code)
    return Rejected(f"The push service answered {status}{said}.", code=code)


class _ServiceError(msgspec.Struct):
    reason: str = ""
    message: str = ""
    errno: int = 0


def _said(reply: Reply, secrets: Sequence[str]) -> str:
    """Give the service's own short reason, where it gives one that is fit to be shown."""
    try:
        error = msgspec.json.decode(reply.body, type=_ServiceError)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    text = error.reason or error.message
    if not _REASONS.fullmatch(text) or not without_pieces_of(secrets, text):
        return ""
    return f" ({text})"


def _audience_of(endpoint: str) -> str:
    url = urlsplit(endpoint)
    return f"{url.scheme}://{url.netloc.lower()}"


def _payload(envelope: Envelope, endpoint: str) -> bytes:
    is_mozilla = (urlsplit(endpoint).hostname or "").endswith(_MOZILLA)

    def encode(body: str, with_data: bool, is_truncated: bool) -> bytes:
        payload: dict[str, object] = {
            "id": envelope.id,
            "appId": envelope.app_id,
            "type": envelope.type,
            "title": envelope.title,
            "body": body,
            "sequence": envelope.sequence,
            "collapseKey": envelope.collapse_key,
        }
        if with_data:
            payload["data"] = envelope.data
        if is_truncated:
            payload["truncated"] = True
        return msgspec.json.encode(payload)

    return fit(envelope, MOST_PLAIN_BYTES_MOZILLA if is_mozilla else MOST_PLAIN_BYTES, encode)


def _topic_of(envelope: Envelope) -> str:
    """Give what makes a newer push replace one that still waits: the collapse key's, else the notification's own."""
    if envelope.collapse_key is None:
        return base64.urlsafe_b64encode(envelope.id.bytes).decode().rstrip("=")
    key = hashlib.sha256(f"{envelope.app_id}|{envelope.collapse_key}".encode()).digest()
    return base64.urlsafe_b64encode(key).decode()[:_TOPIC_CHARS]
