"""APNs: iPhones, iPads and Macs, straight to Apple, with an authentication key or a client certificate.

Sources: Apple, "Sending notification requests to APNs", "Handling notification responses from APNs", "Establishing a
token-based connection to APNs".
"""

import asyncio
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from appliance.channels.apns_credential import (
    ApnsCertificate,
    ApnsCredential,
    BadApnsCredential,
    ProviderTokens,
    expiry_of,
    make_certificate_tls,
)
from appliance.channels.apns_message import make_request, wire_request
from appliance.channels.contract import ChannelName, Diagnosis, Push
from appliance.channels.fitting import DoesNotFit
from appliance.channels.http2_messages import Answer, Answered, Http2Limits, Http2Request
from appliance.channels.http2_outcome import outcome_without_answer
from appliance.channels.http2_sender import Http2Sender
from appliance.channels.plain_words import shown
from appliance.domain.clock import Clock
from appliance.domain.device import AddressKind
from appliance.domain.outcome import Accepted, Gone, Misconfigured, Outcome, Rejected, Retry, reason_of
from appliance.domain.retry_after import read_retry_after

BASE_URL: Final = "https://api.push.apple.com"
SANDBOX_BASE_URL: Final = "https://api.sandbox.push.apple.com"
SLOTS: Final = 256
VOIP_ENDING: Final = ".voip"
BAD_TOKENS_BORNE: Final = 20
PAUSE_AFTER_TOKEN_TROUBLE: Final = timedelta(minutes=5)
PROBE_S: Final = 10.0
_EXPIRES_SOON: Final = timedelta(days=30)
# A token that no device has: Apple says so if it takes the credential, and complains of the credential otherwise.
_PROBE_PATH: Final = b"/3/device/" + b"0" * 64
_PROBE_BODY: Final = b'{"aps":{}}'


class ApnsChannel:
    """Sends with one key or certificate to one of Apple's two servers (`base_url`)."""

    name = ChannelName.APNS
    address_kinds = frozenset({AddressKind.APNS_TOKEN})
    slots = SLOTS
    has_one_lane = True

    def __init__(
        self,
        credential: ApnsCredential,
        clock: Clock,
        make_tls: Callable[[], ssl.SSLContext],
        *,
        topic: str,
        voip_topic: str | None = None,
        base_url: str = BASE_URL,
        tokens: ProviderTokens | None = None,
        limits: Http2Limits | None = None,
    ) -> None:
        """`topic` is the app's bundle id; calls go to `voip_topic`, else to the topic with `.voip`.

        `make_tls` makes settings that verify as the caller wishes. `tokens` are shared by channels with the same key.
        A credential that cannot be used is told by every push and by the probe. Raises `ValueError` for a base URL
        that is no server's.
        """
        self._clock = clock
        self._topic = topic
        self._voip_topic = voip_topic or topic + VOIP_ENDING
        self._trust = _EnvironmentTrust()
        self._fault: Misconfigured | None = None
        self._tokens: ProviderTokens | None = None
        self._expires_at: datetime | None = None
        tls = make_tls()
        try:
            if isinstance(credential, ApnsCertificate):
                self._expires_at = expiry_of(credential)
                tls = make_certificate_tls(credential, make_tls)
            else:
                self._tokens = tokens or ProviderTokens(credential, clock)
        except BadApnsCredential as bad:
            self._fault = Misconfigured(str(bad), code="bad_credential")
        self._sender = Http2Sender(base_url, tls, limits=limits)
        self._is_loaded = False
        self._loading = asyncio.Lock()

    def lane_of(self, push: Push) -> str:
        """Give the one lane: the credential's weather is the same for all devices."""
        return "apns"

    async def deliver(self, push: Push) -> Outcome:
        """Send one push; one whose provider token was found expired is sent again once with a new one."""
        if self._fault is not None:
            return self._fault
        deadline = asyncio.get_running_loop().time() + push.timeout_s
        await self._load()
        now = self._clock.now()
        try:
            request = make_request(push, now, topic=self._topic, voip_topic=self._voip_topic)
        except DoesNotFit as too_large:
            text = f"It is too large for APNs, even without its data ({too_large})."
            return Rejected(text, code="too_large", was_asked=False)
        answer = await self._send(lambda authorization: wire_request(request, now, authorization), deadline)
        return self._judge(answer, push.registered_at)

    async def probe(self) -> Diagnosis:
        """Ask Apple about a device that there is not: whether it complains of the device or of the credential."""
        if self._fault is not None:
            return Diagnosis(False, reason_of(self._fault))
        answer = await self._send(self._probe_request, asyncio.get_running_loop().time() + PROBE_S)
        if isinstance(answer, Answered) and _read_refusal(answer).reason == "BadDeviceToken":
            return Diagnosis(True, f"Apple accepts the credential for {self._topic}.{self._expiry_note()}")
        return Diagnosis(False, reason_of(self._judge(answer, self._clock.now())))

    async def close(self) -> None:
        """Let what is under way finish, then close the connections."""
        await self._sender.close()

    async def _load(self) -> None:
        """Load the SDK in a thread, once."""
        if not self._is_loaded:
            async with self._loading:
                await asyncio.to_thread(_import_sdk)
                self._is_loaded = True

    async def _send(self, make: Callable[[bytes | None], Http2Request], deadline: float) -> Answer:
        loop = asyncio.get_running_loop()
        tokens = self._tokens
        if tokens is None:
            return await self._sender.send(make(None), deadline - loop.time())
        authorization = tokens.get()
        answer = await self._sender.send(make(authorization), deadline - loop.time())
        if _is_token_expired(answer) and tokens.refuse(authorization):
            answer = await self._sender.send(make(tokens.get()), deadline - loop.time())
        return answer

    def _probe_request(self, authorization: bytes | None) -> Http2Request:
        secret = () if authorization is None else ((b"authorization", authorization),)
        headers = ((b"apns-topic", self._topic.encode()), (b"apns-push-type", b"background"), (b"apns-priority", b"5"))
        return Http2Request(_PROBE_PATH, _PROBE_BODY, headers, secret)

    def _judge(self, answer: Answer, registered_at: datetime) -> Outcome:
        if not isinstance(answer, Answered):
            return outcome_without_answer(answer)
        self._trust.note(answer)
        return outcome_of(
            answer,
            registered_at=registered_at,
            now=self._clock.now(),
            is_environment_sure=self._trust.is_sure,
        )

    def _expiry_note(self) -> str:
        if self._expires_at is None or self._expires_at - self._clock.now() > _EXPIRES_SOON:
            return ""
        return f" The certificate expires on {self._expires_at:%Y-%m-%d}: make a new one before that."


class _EnvironmentTrust:
    """Whether the server is the right one of Apple's two: then it knows some tokens, and not only strange ones.

    A production server answers every token of a test build with `BadDeviceToken`, and the other way round; a wrong
    setting must not cost all devices.
    """

    def __init__(self) -> None:
        self._has_known_one = False
        self._strange_in_row = 0

    @property
    def is_sure(self) -> bool:
        return self._has_known_one and self._strange_in_row <= BAD_TOKENS_BORNE

    def note(self, answer: Answered) -> None:
        if answer.status in (200, 410):
            self._has_known_one = True
            self._strange_in_row = 0
        elif _read_refusal(answer).reason == "BadDeviceToken":
            self._strange_in_row += 1


class _Refusal(msgspec.Struct):
    reason: str = ""
    timestamp: int | None = None


def outcome_of(answer: Answered, *, registered_at: datetime, now: datetime, is_environment_sure: bool) -> Outcome:
    """Give what Apple's answer means; `registered_at` is when the device last gave its token."""
    if answer.status == 200:
        if answer.body:
            return Retry("Something answered in Apple's place, but not as Apple does.", code="unreadable")
        return Accepted(answer.header(b"apns-id"))
    refusal = _read_refusal(answer)
    reason = shown(refusal.reason)
    code = reason or str(answer.status)
    after = read_retry_after(answer.header(b"retry-after"), now, sent_at=answer.header(b"date"))
    match answer.status, reason:
        case 410, _:
            return _gone(refusal, registered_at, code)
        case 400, "BadDeviceToken" if is_environment_sure:
            return Gone("Apple does not know the device's token (BadDeviceToken).", code=code)
        case 429, "TooManyProviderTokenUpdates":
            text = "Apple saw too many new provider tokens: is the same key used by another program?"
            return Retry(text, after=after or PAUSE_AFTER_TOKEN_TROUBLE, code=code, pauses_all=True)
        case 429, _:
            return Retry("Apple asks to send less to this device (429).", after=after, code=code, is_about_device=True)
        case 403, "ExpiredProviderToken":
            text = (
                "Apple finds the provider token expired, and a newer one is not due yet: is this machine's clock right?"
            )
            return Retry(text, after=PAUSE_AFTER_TOKEN_TROUBLE, code=code, pauses_all=True)
        case status, _ if status >= 500 or reason == "IdleTimeout":
            text = f"Apple's service is out of order ({code})."
            return Retry(text, after=after, code=code, pauses_all=after is not None)
        case 413, _:
            return Rejected("Apple finds it too large.", code=code)
    if reason in _FIXES:
        return Misconfigured(f"{_FIXES[reason]} ({reason})", code=code, is_about_device=reason in _ABOUT_DEVICE)
    if answer.status in (401, 403, 404, 405):
        return Misconfigured(f"Apple refused the request ({code}): check the credential and APNS_BASE_URL.", code=code)
    return Rejected(f"Apple refused the push ({code}).", code=code)


_OTHER_ENVIRONMENT: Final = "It belongs to Apple's other server: check APNS_BASE_URL (sandbox or production)."
# Other devices' tokens may well be for the topic; a topic that the credential may not use is refused for every device.
_ABOUT_DEVICE: Final = frozenset({"DeviceTokenNotForTopic"})
_NOT_OUR_TOPIC: Final = "The credential may not send to this app: check APNS_BUNDLE_ID."
_FIXES: Final[dict[str, str]] = {
    "BadDeviceToken": (
        "Apple does not know the device's token. That may be its other server's: check APNS_BASE_URL (sandbox or "
        "production)."
    ),
    "BadTopic": "The topic is not a bundle id: check APNS_BUNDLE_ID.",
    "MissingTopic": "The topic is missing: set APNS_BUNDLE_ID.",
    "TopicDisallowed": _NOT_OUR_TOPIC,
    "DeviceTokenNotForTopic": "The device's token belongs to another app: check APNS_BUNDLE_ID.",
    "BadCertificate": "Apple does not take the certificate: make a new one.",
    "BadCertificateEnvironment": f"The certificate is for the wrong server. {_OTHER_ENVIRONMENT}",
    "InvalidProviderToken": "Apple does not take the key: check APNS_KEY_ID, APNS_TEAM_ID and APNS_AUTH_KEY_P8.",
    "MissingProviderToken": "Apple got no credential: set APNS_AUTH_KEY_P8 or a certificate.",
    "UnrelatedKeyIdInToken": "The key is not for this app: check APNS_KEY_ID.",
    "BadEnvironmentKeyIdInToken": f"The key is for the wrong server. {_OTHER_ENVIRONMENT}",
    "Forbidden": "Apple forbids it: the key was revoked, or the certificate is not for pushes.",
    "BadPath": "The address is not APNs: check APNS_BASE_URL.",
    "MethodNotAllowed": "The address is not APNs: check APNS_BASE_URL.",
}


def _gone(refusal: _Refusal, registered_at: datetime, code: str) -> Outcome:
    if refusal.timestamp is None:
        text = "Apple says that the token is no more, but not since when, so the device is kept."
        return Retry(text, code=code, is_about_device=True)
    try:
        since = datetime.fromtimestamp(refusal.timestamp / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return Retry("Apple's answer about the token cannot be read.", code=code, is_about_device=True)
    if since <= registered_at:
        text = "Apple says that the token was dead before the device gave it once more, so the device is kept."
        return Retry(text, code=code, is_about_device=True)
    return Gone(f"Apple says that the token is no more since {since:%Y-%m-%d %H:%M} UTC ({code}).", code=code)


def _read_refusal(answer: Answered) -> _Refusal:
    try:
        return msgspec.json.decode(answer.body, type=_Refusal)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _Refusal()


def _is_token_expired(answer: Answer) -> bool:
    return (
        isinstance(answer, Answered) and answer.status == 403 and _read_refusal(answer).reason == "ExpiredProviderToken"
    )


def _import_sdk() -> None:
    import aioapns  # noqa: F401 - loaded here, used later
