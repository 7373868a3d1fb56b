"""How one call to Carillon's API goes, without any I/O.

Theory of operation
-------------------
A call is a generator, a *plan*. It yields steps and is sent what came of each:

    Exchange    send this request and give the `Reply`, or the `Fault` that prevented one
    Wait        let this many seconds pass
    Renew       nobody else is to renew the token meanwhile: run the plan `Caller.renewing`

and returns the decoded answer or raises one of `client_errors`. The faces in `client.py` drive the plans, one with
blocking I/O and one with asyncio; all rules (tokens, retries, deadlines, what an answer means) are here, once.

Rules
-----
1. All tries of a call carry the same body and the same Idempotency-Key, so a try whose answer was lost is not doubled.
2. Tried again: connection faults, 429, 502, 503, 504, 507, and 409 on a repeated try (its first try is still running).
   The wait is the server's Retry-After if there is one, else full jitter (0.25 s doubling, at most 8 s).
3. A wait that would pass the call's deadline is not begun: the last error is raised at once.
4. A 401 renews the token once; the second one is raised.
"""

import ipaddress
import random
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, NoReturn, TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec

from appliance import __version__
from appliance.client_errors import ClientError, NotSignedIn, UnexpectedReply, Unreachable, refusal_of
from appliance.client_grants import Grant, TokenReply

T = TypeVar("T")

_RETRIED: Final = frozenset({429, 502, 503, 504, 507})
_STILL_RUNNING: Final = 409
_JSON: Final = "application/json"
_FORM: Final = "application/x-www-form-urlencoded"
MAX_REPLY_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Exchange:
    """Send a request; `timeout_s` bounds all of it."""

    method: str
    path: str
    headers: Mapping[str, str]
    content: bytes
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Let time pass."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Renew:
    """Get a token other than `refused`, one caller at a time; `timeout_s` bounds the wait for one's turn."""

    refused: str | None
    deadline: float
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True, slots=True)
class Fault:
    """No answer. `is_final` says that trying again cannot help (a certificate that does not count)."""

    reason: str
    is_final: bool = False


Step = Exchange | Wait | Renew
Plan = Generator[Step, Reply | Fault | None, T]


@dataclass(frozen=True, slots=True)
class Call:
    """What to ask the server."""

    method: str
    path: str
    body: object | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a call may take in all, how long a single try, and how tries are spaced; all in seconds."""

    deadline_s: float = 30.0
    attempt_s: float = 10.0
    backoff_first_s: float = 0.25
    backoff_most_s: float = 8.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The clocks and the randomness, injectable: monotonic seconds, wall time, a number from 0 to 1."""

    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    jitter: Callable[[], float] = random.random


class Caller:
    """Plans calls to one server with one identity."""

    def __init__(
        self,
        base_url: str,
        grant: Grant,
        patience: Patience | None = None,
        surroundings: Surroundings | None = None,
    ) -> None:
        self.base_url = check_base_url(base_url)
        self._grant = grant
        self._patience = patience or Patience()
        self._around = surroundings or Surroundings()

    def calling(self, call: Call, answer: Callable[[Reply], T]) -> Plan[T]:
        """Plan an authorised call; `answer` reads the 2xx reply."""
        deadline = self._around.monotonic() + self._patience.deadline_s
        content = b"" if call.body is None else msgspec.json.encode(call.body)
        refused: str | None = None
        while True:
            token = yield from self._fresh_token(refused, deadline)
            headers = {"accept": _JSON, "authorization": f"Bearer {token}"}
            if content:
                headers["content-type"] = _JSON
            if call.idempotency_key is not None:
                headers["idempotency-key"] = call.idempotency_key
            try:
                reply = yield from self._trying(call.method, call.path, headers, content, deadline)
            except NotSignedIn:
                if refused is not None or not self._grant.can_renew:
                    raise
                refused = token
                continue
            return _read(reply, answer)

    def token(self, refused: str | None = None) -> Plan[str]:
        """Plan how to have a token that is good for a while, and is not `refused`."""
        return (yield from self._fresh_token(refused, self._around.monotonic() + self._patience.deadline_s))

    def renewing(self, step: Renew) -> Plan[None]:
        """Plan the renewal that a `Renew` step asks for; nothing happens if somebody else has just done it."""
        if self._grant.token(self._around.monotonic(), refused=step.refused) is not None:
            return
        while True:
            form = self._grant.form()
            try:
                reply = yield from self._trying(
                    "POST",
                    "/oauth/token",
                    {"accept": _JSON, "content-type": _FORM},
                    urlencode(form).encode(),
                    step.deadline,
                )
            except NotSignedIn:
                # A refresh token may have run out where the password still counts.
                if not self._grant.fall_back():
                    raise
                continue
            answered = _read(reply, lambda got: msgspec.json.decode(got.content, type=TokenReply))
            self._grant.keep(answered, self._around.monotonic())
            return

    def _fresh_token(self, refused: str | None, deadline: float) -> Plan[str]:
        token = self._grant.token(self._around.monotonic(), refused=refused)
        if token is None:
            yield Renew(refused, deadline, max(0.0, deadline - self._around.monotonic()))
            token = self._grant.token(self._around.monotonic(), refused=refused)
        if token is None:
            raise UnexpectedReply("The server's token had run out when it came: compare the clocks.")
        return token

    def _trying(
        self, method: str, path: str, headers: Mapping[str, str], content: bytes, deadline: float
    ) -> Plan[Reply]:
        tries = 0
        while True:
            left = deadline - self._around.monotonic()
            got = yield Exchange(method, path, headers, content, max(0.05, min(left, self._patience.attempt_s)))
            tries += 1
            error, wished_s = self._judge(got, tries)
            if error is None:
                if not isinstance(got, Reply):
                    raise TypeError("an Exchange was not answered with a Reply or a Fault")
                return got
            wait_s = self._wait_s(tries, wished_s)
            if self._around.monotonic() + wait_s >= deadline:
                raise error
            yield Wait(wait_s)

    def _judge(self, got: Reply | Fault | None, tries: int) -> tuple[ClientError | None, float | None]:
        """Give (None, None) for a good answer, (error, wished wait) to try again; raise what no try can mend."""
        if isinstance(got, Fault):
            error = Unreachable(f"{self.base_url} does not answer: {got.reason}")
            if got.is_final:
                raise error
            return error, None
        if got is None:
            raise TypeError("an Exchange was not answered with a Reply or a Fault")
        if 200 <= got.status < 300:
            return None, None
        wished_s = retry_after_s(got.headers.get("retry-after"), self._around.now())
        refusal = refusal_of(got.status, got.content, wished_s)
        if got.status in _RETRIED or (got.status == _STILL_RUNNING and tries > 1):
            return refusal, wished_s
        raise refusal

    def _wait_s(self, tries: int, wished_s: float | None) -> float:
        ceiling = min(self._patience.backoff_most_s, self._patience.backoff_first_s * 2.0 ** min(tries - 1, 30))
        jittered = self._around.jitter() * ceiling
        # A wish is a floor: the jitter on top keeps a crowd that was told the same second from coming at once.
        return jittered if wished_s is None else wished_s + jittered


def check_base_url(base_url: str) -> str:
    """Give the server's address in the form that paths are added to. Raises `ValueError` with the fix."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{base_url!r} is no server address: write it as https://push.example.org.")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("Give the server's address without user name, query or fragment.")
    return base_url.rstrip("/")


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Read a Retry-After in either form (RFC 9110, section 10.2.3); None when there is none that makes sense."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text) if len(text) < 10 else None
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, (at - now).total_seconds())


def may_use_proxy(base_url: str) -> bool:
    """Tell whether a proxy of the environment counts: never for this machine's own addresses."""
    host = urlsplit(base_url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def user_agent() -> str:
    return f"carillon-client/{__version__}"


def _read(reply: Reply, answer: Callable[[Reply], T]) -> T:
    try:
        return answer(reply)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        _raise_unexpected(reply, error)


def _raise_unexpected(reply: Reply, error: Exception) -> NoReturn:
    raise UnexpectedReply(f"The server's answer ({reply.status}) is not understood: {error}") from error
