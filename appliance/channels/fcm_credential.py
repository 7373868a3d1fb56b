"""The service account of a Firebase project, and the access tokens that Google gives for it.

The SDK reads and checks the account and holds its key. It does not fetch tokens here: its way blocks the event loop,
asks again for every push that was refused, and calls further Google hosts in a thread of its own.
"""

import asyncio
import ssl
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import msgspec

from appliance.channels.http2_messages import Answered, Http2Request
from appliance.channels.http2_outcome import outcome_without_answer
from appliance.channels.http2_sender import Http2Sender
from appliance.channels.plain_words import shown
from appliance.domain.clock import Clock
from appliance.domain.outcome import Misconfigured, Outcome, Retry
from appliance.domain.secret import Secret

SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"
ASSERTION_LIVES: Final = timedelta(minutes=55)
RENEWED_BEFORE: Final = timedelta(minutes=10)
"""A token is renewed so long before it runs out; what is sent meanwhile uses the old one."""
UNUSABLE_BEFORE: Final = timedelta(minutes=1)
FAILURE_HOLDS: Final = timedelta(seconds=5)
"""So long a failure is the answer to everybody, instead of a request each."""
YOUNG: Final = timedelta(minutes=1)
_FETCH_S: Final = 10.0
_GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_FORM: Final = ((b"content-type", b"application/x-www-form-urlencoded"), (b"accept", b"application/json"))


class BadServiceAccount(ValueError):
    """The credential is not a service account that can be used; the text says what to do and holds no secret."""


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """A checked service account. `signer` is google-auth's, with the private key in it."""

    project_id: str
    email: str
    token_url: str
    signer: Any


def read_service_account(text: Secret, *, base_url: str, named: str = "FIREBASE_CREDENTIALS_JSON") -> ServiceAccount:
    """Read the JSON that Google's console gives. Slow the first time (it loads the SDK): call it in a thread.

    `named` is what faults call it. The token endpoint must be Google's or on the server of `base_url`, since the secret
    assertion goes there. Raises `BadServiceAccount`.
    """
    from firebase_admin import credentials  # type: ignore[import-untyped]

    try:
        told = msgspec.json.decode(text.reveal().encode(), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeEncodeError):
        raise BadServiceAccount(f"{named} is not JSON: paste the whole key file of the service account.") from None
    try:
        certificate = credentials.Certificate(told)
        project_id, token_url = str(certificate.project_id or ""), str(told["token_uri"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadServiceAccount(
            f"{named} is not a service account's key file: make a new key in the Firebase console "
            "under Project settings, Service accounts."
        ) from None
    if not project_id:
        raise BadServiceAccount("The service account's key file names no project (project_id).")
    if not _may_have_token_endpoint(token_url, base_url):
        raise BadServiceAccount("The service account's token_uri is not Google's: use the key file as it came.")
    return ServiceAccount(project_id, str(certificate.service_account_email), token_url, certificate.signer)


class BearerTokens:
    """Gives the access token of one service account; fetches it ahead of time, and once for all that wait.

    Belongs to one event loop. `close` when done.
    """

    def __init__(self, account: ServiceAccount, clock: Clock, tls: ssl.SSLContext) -> None:
        self._account = account
        self._clock = clock
        url = urlsplit(account.token_url)
        self._path = (url.path or "/").encode()
        self._sender = Http2Sender(f"{url.scheme}://{url.netloc}", tls)
        self._lock = asyncio.Lock()
        self._token = b""
        self._given_at: datetime | None = None
        self._expires_at: datetime | None = None
        self._failure: tuple[Outcome, datetime] | None = None

    async def get(self, deadline_s: float) -> bytes | Outcome:
        """Give the value of an authorization header, or the outcome for a push that cannot have one in time."""
        held = self._held()
        if held and (not self._is_due() or self._lock.locked()):
            return held
        try:
            async with asyncio.timeout(deadline_s), self._lock:
                held = self._held()
                if held and not self._is_due():
                    return held
                return await self._renew(min(deadline_s, _FETCH_S))
        except TimeoutError:
            return held or Retry("Google gave no access token in time.", code="token_timeout")

    def refuse(self, bearer: bytes) -> bool:
        """Take note that the service refused a token; tells whether another one may help.

        A token fresh from Google that is refused says that not the token is at fault.
        """
        if bearer != self._token:
            return True
        if self._given_at is None or self._clock.now() - self._given_at < YOUNG:
            return False
        self._token = b""
        return True

    async def close(self) -> None:
        await self._sender.close(0)

    def _held(self) -> bytes:
        if not self._token or self._expires_at is None:
            return b""
        return self._token if self._clock.now() < self._expires_at - UNUSABLE_BEFORE else b""

    def _is_due(self) -> bool:
        return self._expires_at is None or self._clock.now() >= self._expires_at - RENEWED_BEFORE

    async def _renew(self, deadline_s: float) -> bytes | Outcome:
        now = self._clock.now()
        if self._failure is not None and now < self._failure[1]:
            return self._held() or self._failure[0]
        fetched = await self._fetch(now, deadline_s)
        if isinstance(fetched, bytes):
            self._failure = None
            return fetched
        self._failure = (fetched, self._clock.now() + FAILURE_HOLDS)
        return self._held() or fetched

    async def _fetch(self, now: datetime, deadline_s: float) -> bytes | Outcome:
        assertion = await asyncio.to_thread(self._sign, now)
        form = urlencode({"grant_type": _GRANT, "assertion": assertion}).encode()
        answer = await self._sender.send(Http2Request(self._path, form, _FORM), deadline_s)
        if not isinstance(answer, Answered):
            return outcome_without_answer(answer)
        if answer.status != 200:
            return _refusal(answer)
        try:
            grant = msgspec.json.decode(answer.body, type=_Grant)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return Retry("Google's token endpoint answered with something else than a token.", code="token_unreadable")
        self._token = b"Bearer " + grant.access_token.encode()
        self._given_at = self._clock.now()
        self._expires_at = self._given_at + timedelta(seconds=grant.expires_in)
        return self._token

    def _sign(self, now: datetime) -> str:
        from google.auth import jwt

        claims = {
            "iss": self._account.email,
            "scope": SCOPE,
            "aud": self._account.token_url,
            "iat": int(now.timestamp()),
            "exp": int((now + ASSERTION_LIVES).timestamp()),
        }
        signed: bytes = jwt.encode(self._account.signer, claims)  # type: ignore[no-untyped-call]
        return signed.decode("ascii")


class _Grant(msgspec.Struct):
    access_token: str
    expires_in: int


class _GrantError(msgspec.Struct):
    error: str = ""
    error_description: str = ""


def _refusal(answer: Answered) -> Outcome:
    try:
        told = msgspec.json.decode(answer.body, type=_GrantError)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        told = _GrantError()
    said = shown(told.error_description) or shown(told.error)
    text = f"Google's token endpoint answered {answer.status}{f' ({said})' if said else ''}"
    if answer.status in (400, 401, 403):
        return Misconfigured(
            f"{text}: the service account's key was deleted or is another's, or this machine's clock is wrong.",
            code=shown(told.error) or str(answer.status),
        )
    return Retry(f"{text}.", code=f"token_{answer.status}")


def _may_have_token_endpoint(token_url: str, base_url: str) -> bool:
    try:
        token, base = urlsplit(token_url), urlsplit(base_url)
        here, there = (token.scheme, token.hostname, token.port), (base.scheme, base.hostname, base.port)
    except ValueError:
        return False
    if not token.hostname or token.query or token.username is not None:
        return False
    is_google = token.scheme == "https" and token.port in (None, 443) and f".{token.hostname}".endswith(_GOOGLE_ENDINGS)
    return is_google or here == there


_GOOGLE_ENDINGS: Final = (".googleapis.com", ".accounts.google.com")
