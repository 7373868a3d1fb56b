"""FCM: Android phones, and the iPhones and browsers whose app uses Firebase, through FCM HTTP v1.

Sources: firebase.google.com, "FCM error codes", "Throttling and quotas", "REST Resource: projects.messages".
"""

import asyncio
import logging
import ssl
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import msgspec

from appliance.channels.contract import ChannelName, Diagnosis, Push
from appliance.channels.fcm_credential import BadServiceAccount, BearerTokens, ServiceAccount, read_service_account
from appliance.channels.fcm_message import encode_message
from appliance.channels.fitting import DoesNotFit
from appliance.channels.http2_messages import Answer, Answered, Http2Limits, Http2Request
from appliance.channels.http2_outcome import outcome_without_answer
from appliance.channels.http2_sender import Http2Sender
from appliance.channels.plain_words import shown
from appliance.domain.clock import Clock
from appliance.domain.device import AddressKind
from appliance.domain.outcome import Accepted, Gone, Misconfigured, Outcome, Rejected, Retry, reason_of
from appliance.domain.retry_after import read_retry_after
from appliance.domain.secret import Secret

logger = logging.getLogger(__name__)

BASE_URL: Final = "https://fcm.googleapis.com"
SLOTS: Final = 256
LEAST_PAUSE_AFTER_429: Final = timedelta(seconds=60)
PROBE_S: Final = 10.0
_HEADERS: Final = ((b"content-type", b"application/json; charset=utf-8"), (b"accept", b"application/json"))
# Checked by Google as far as the credential goes, and sent to nobody.
_PROBE: Final = b'{"validate_only":true,"message":{"topic":"carillon-probe","data":{"probe":"1"}}}'


class FcmChannel:
    """Sends with one service account. The account is read, and Google first spoken to, with the first push or probe."""

    name = ChannelName.FCM
    address_kinds = frozenset({AddressKind.FCM_TOKEN})
    slots = SLOTS
    has_one_lane = True

    def __init__(
        self,
        credential: Secret,
        clock: Clock,
        make_tls: Callable[[], ssl.SSLContext],
        *,
        base_url: str = BASE_URL,
        android_channel: str | None = None,
        limits: Http2Limits | None = None,
    ) -> None:
        """`credential` is the service account's JSON; `make_tls` makes settings that verify as the caller wishes.

        `android_channel` is the notification channel on Android; without it the app's default is used. Raises
        `ValueError` for a base URL that is no server's.
        """
        self._credential = credential
        self._clock = clock
        self._make_tls = make_tls
        self._base_url = base_url
        self._android_channel = android_channel
        self._sender = Http2Sender(base_url, make_tls(), limits=limits)
        self._reading = asyncio.Lock()
        self._ready: tuple[ServiceAccount, BearerTokens, bytes] | None = None
        self._fault: Misconfigured | None = None

    def lane_of(self, push: Push) -> str:
        """Give the one lane: the project's weather is the same for all of its devices."""
        return "fcm"

    async def deliver(self, push: Push) -> Outcome:
        """Send one push; a push whose access token was refused is sent again once with a new one."""
        deadline = asyncio.get_running_loop().time() + push.timeout_s
        fault = await self._prepare()
        if fault is not None:
            return fault
        try:
            body = encode_message(push, self._clock.now(), android_channel=self._android_channel)
        except DoesNotFit as too_large:
            text = f"It is too large for FCM, even without its data ({too_large})."
            return Rejected(text, code="too_large", was_asked=False)
        except ValueError:
            text = "FCM cannot carry it: a key of its data or its address has a form that it refuses."
            return Rejected(text, was_asked=False)
        return await self._send(body, deadline)

    async def probe(self) -> Diagnosis:
        """Let Google check a message that is sent to nobody: credential, project, API and rights."""
        deadline = asyncio.get_running_loop().time() + PROBE_S
        outcome = await self._prepare() or await self._send(_PROBE, deadline)
        if isinstance(outcome, Accepted) and self._ready is not None:
            return Diagnosis(True, f"Firebase accepts the credential for project {self._ready[0].project_id}.")
        return Diagnosis(False, reason_of(outcome))

    async def close(self) -> None:
        """Let what is under way finish, then close the connections."""
        await self._sender.close()
        if self._ready is not None:
            await self._ready[1].close()

    async def _prepare(self) -> Misconfigured | None:
        """Read the credential, once; the SDK is loaded in a thread, because that takes its time."""
        if self._is_read:
            return self._fault
        async with self._reading:
            if not self._is_read:
                try:
                    account = await asyncio.to_thread(_load, self._credential, self._base_url)
                except BadServiceAccount as bad:
                    self._fault = Misconfigured(str(bad), code="bad_credential")
                else:
                    path = f"/v1/projects/{account.project_id}/messages:send".encode()
                    self._ready = (account, BearerTokens(account, self._clock, self._make_tls()), path)
        return self._fault

    @property
    def _is_read(self) -> bool:
        return self._ready is not None or self._fault is not None

    async def _send(self, body: bytes, deadline: float) -> Outcome:
        if self._ready is None:
            raise RuntimeError("The credential was not read.")
        _, tokens, path = self._ready
        loop = asyncio.get_running_loop()
        for is_last in (False, True):
            bearer = await tokens.get(deadline - loop.time())
            if not isinstance(bearer, bytes):
                return bearer
            request = Http2Request(path, body, _HEADERS, ((b"authorization", bearer),))
            answer = await self._sender.send(request, deadline - loop.time())
            if is_last or not _is_bearer_refused(answer) or not tokens.refuse(bearer):
                break
        if not isinstance(answer, Answered):
            return outcome_without_answer(answer)
        return outcome_of(answer, self._clock.now())


def _load(credential: Secret, base_url: str) -> ServiceAccount:
    from firebase_admin import messaging  # type: ignore[import-untyped]  # noqa: F401 - loaded here, used later

    return read_service_account(credential, base_url=base_url)


class _Violation(msgspec.Struct):
    field: str = ""


class _Detail(msgspec.Struct):
    error_code: str = msgspec.field(name="errorCode", default="")
    field_violations: list[_Violation] = msgspec.field(name="fieldViolations", default_factory=list)


class _Error(msgspec.Struct):
    message: str = ""
    status: str = ""
    details: list[_Detail] = msgspec.field(default_factory=list)


class _Refusal(msgspec.Struct):
    error: _Error


class _Sent(msgspec.Struct):
    name: str


def outcome_of(answer: Answered, now: datetime) -> Outcome:
    """Give what FCM's answer means. Only `UNREGISTERED` says that an address is dead."""
    if answer.status == 200:
        return _read_success(answer)
    error = _read_error(answer)
    code = _code_of(error)
    after = read_retry_after(answer.header(b"retry-after"), now, sent_at=answer.header(b"date"))
    name = code or error.status or str(answer.status)
    match answer.status, code:
        case 404, "UNREGISTERED":
            return Gone("Firebase says that the device's token is no longer registered (UNREGISTERED).", code=name)
        case 429, _:
            pause = max(after or LEAST_PAUSE_AFTER_429, LEAST_PAUSE_AFTER_429)
            return Retry(
                "Firebase asks to send more slowly (429).", after=pause, code=name, pauses_all=after is not None
            )
        case status, _ if status >= 500 or status in (408, 425):
            return Retry(f"Firebase is out of order ({status}).", after=after, code=name, pauses_all=after is not None)
    return _refused_for_good(answer.status, code, error, name)


def _refused_for_good(status: int, code: str, error: _Error, name: str) -> Outcome:
    match status, code:
        case 403, "SENDER_ID_MISMATCH":
            text = "The device registered with another Firebase project than the credential's (SENDER_ID_MISMATCH)."
            return Misconfigured(text, code=name, is_about_device=True)
        case 401, "THIRD_PARTY_AUTH_ERROR":
            text = "Firebase lacks the key for this platform: upload the APNs key or the Web Push key to the project."
            # The devices of other platforms are not concerned.
            return Misconfigured(text, code=name, is_about_device=True)
        case ((401 | 403), _):
            text = "Firebase refused the credential: the Cloud Messaging API is off for the project, or the service "
            return Misconfigured(f"{text}account may not send ({name}).", code=name)
        case 404, _:
            text = "Firebase does not know the project, or FCM_BASE_URL is not FCM's address (404)."
            return Misconfigured(text, code=name)
        case 400, "INVALID_ARGUMENT" if "registration token" in error.message.lower():
            return Rejected("Firebase does not recognise the device's token as one of its own.", code="INVALID_TOKEN")
    fields = ", ".join(
        field for detail in error.details for violation in detail.field_violations if (field := shown(violation.field))
    )
    return Rejected(f"Firebase refused the message ({status}{f', {fields}' if fields else ''}).", code=name)


def _read_success(answer: Answered) -> Outcome:
    try:
        return Accepted(msgspec.json.decode(answer.body, type=_Sent).name)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Retry("Something answered in FCM's place, but not as FCM does.", code="unreadable")


def _read_error(answer: Answered) -> _Error:
    try:
        return msgspec.json.decode(answer.body, type=_Refusal).error
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _Error()


def _code_of(error: _Error) -> str:
    code = next((detail.error_code for detail in error.details if detail.error_code), "")
    return code if code.replace("_", "").isalpha() and len(code) <= 40 else ""


def _is_bearer_refused(answer: Answer) -> bool:
    return isinstance(answer, Answered) and answer.status == 401 and not _code_of(_read_error(answer))
