"""Carillon from Python: `CarillonClient` for blocking code, `AsyncCarillonClient` for asyncio.

    with CarillonClient("https://push.example.org", client_id, client_secret) as carillon:
        carillon.send_push(user_id, "Your shift starts in 30 min", "Open the app to view details.")

Both get and renew their token by themselves and try again what may be tried again; a call is never doubled, since all
its tries share one Idempotency-Key. Rules: `client_call`. Errors: `client_errors`. Needs only httpx and msgspec.
"""

import asyncio
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Final, Self, TypedDict, TypeVar, Unpack
from uuid import UUID

import httpx

from appliance.client_call import (
    MAX_REPLY_BYTES,
    Call,
    Caller,
    Exchange,
    Fault,
    Patience,
    Plan,
    Renew,
    Reply,
    Step,
    Surroundings,
    Wait,
    may_use_proxy,
    user_agent,
)
from appliance.client_calls import (
    InboxEntry,
    PriorityName,
    Push,
    PushOptions,
    Quota,
    Sent,
    SentMany,
    batch_call,
    bulk_call,
    inbox_call,
    read_inbox,
    read_sent,
    read_sent_many,
    send_call,
    timeline_call,
    withdraw_call,
)
from appliance.client_errors import (
    ClientError,
    Conflict,
    InvalidRequest,
    NotAllowed,
    NotFound,
    NotSignedIn,
    OutOfSpace,
    QuotaExceeded,
    Refused,
    ServerTrouble,
    TooMany,
    UnexpectedReply,
    Unreachable,
)
from appliance.client_grants import AppGrant, FixedToken, Grant, UserGrant
from appliance.client_timeline import Attempt, Delivery, Timeline, Withdrawal, read_timeline, read_withdrawal
from appliance.domain.secret import Secret

__all__ = [
    "AsyncCarillonClient",
    "Attempt",
    "CarillonClient",
    "ClientError",
    "Conflict",
    "Delivery",
    "InboxEntry",
    "InvalidRequest",
    "NotAllowed",
    "NotFound",
    "NotSignedIn",
    "OutOfSpace",
    "Patience",
    "PriorityName",
    "Push",
    "PushOptions",
    "Quota",
    "QuotaExceeded",
    "Refused",
    "Sent",
    "SentMany",
    "ServerTrouble",
    "Surroundings",
    "Timeline",
    "TooMany",
    "UnexpectedReply",
    "Unreachable",
    "Withdrawal",
]

T = TypeVar("T")


class _Face:
    """What both faces share: whom they speak to, and as whom."""

    def __init__(
        self,
        base_url: str,
        client_id: str,
        client_secret: str,
        *,
        patience: Patience | None = None,
        surroundings: Surroundings | None = None,
    ) -> None:
        self._set_up(base_url, AppGrant(client_id, Secret(client_secret)), patience, surroundings)

    @classmethod
    def for_user(cls, base_url: str, username: str, password: str, *, patience: Patience | None = None) -> Self:
        """Make a client that acts as a person: an admin may read every notification's timeline."""
        client = cls.__new__(cls)
        client._set_up(base_url, UserGrant(username, Secret(password)), patience, None)
        return client

    @classmethod
    def with_token(cls, base_url: str, token: Callable[[], str], *, patience: Patience | None = None) -> Self:
        """Make a client that uses a token from elsewhere, asked for anew at every call and never renewed here."""
        client = cls.__new__(cls)
        client._set_up(base_url, FixedToken(token), patience, None)
        return client

    def _set_up(
        self, base_url: str, grant: Grant, patience: Patience | None, surroundings: Surroundings | None
    ) -> None:
        self._caller = Caller(base_url, grant, patience, surroundings)


class CarillonClient(_Face):
    """One app's (or person's) access to one server, for blocking code. Share it between threads; `close` it at the end.

    `client_id` and `client_secret` are the app's; `patience` bounds every call (30 s in all, 10 s a try). Every call
    raises a `ClientError` when it fails.
    """

    def _set_up(
        self, base_url: str, grant: Grant, patience: Patience | None, surroundings: Surroundings | None
    ) -> None:
        super()._set_up(base_url, grant, patience, surroundings)
        self._http = httpx.Client(headers=_HEADERS, trust_env=may_use_proxy(base_url))
        self._renewing = threading.Lock()

    def send_push(
        self,
        user_id: str | UUID,
        title: str,
        body: str,
        data: Mapping[str, object] | None = None,
        **options: Unpack[PushOptions],
    ) -> Sent:
        """Send one notification to one user; when this returns, the server has it on disk."""
        return self._run(send_call(user_id, title, body, data, options), read_sent)

    def send_bulk(
        self,
        user_ids: Iterable[str | UUID],
        title: str,
        body: str,
        data: Mapping[str, object] | None = None,
        **options: Unpack[PushOptions],
    ) -> SentMany:
        """Send the same notification to many users: all are accepted or none is. At most 500 unless configured."""
        return self._run(bulk_call(user_ids, title, body, data, options), read_sent_many)

    def send_batch(
        self, notifications: Iterable[Push | Mapping[str, object]], *, idempotency_key: str | None = None
    ) -> SentMany:
        """Send different notifications at once: all are accepted or none is. At most 500 unless configured."""
        return self._run(batch_call(notifications, idempotency_key), read_sent_many)

    def notification(self, notification_id: str | UUID) -> Timeline:
        """Read what became of a notification: its deliveries, and every attempt in plain words."""
        return self._run(timeline_call(notification_id), read_timeline)

    def withdraw(self, notification_id: str | UUID) -> Withdrawal:
        """Take back what has not been shown yet."""
        return self._run(withdraw_call(notification_id), read_withdrawal)

    def inbox(self, limit: int = 50) -> tuple[InboxEntry, ...]:
        """Read the newest notifications of the person this client acts as, newest first; at most 200."""
        return self._run(inbox_call(limit), read_inbox)

    def access_token(self, refused: str | None = None) -> str:
        """Give a bearer token that is good for a while, and is not the `refused` one."""
        return self._drive(self._caller.token(refused))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, call: Call, answer: Callable[[Reply], T]) -> T:
        return self._drive(self._caller.calling(call, answer))

    def _drive(self, plan: Plan[T]) -> T:
        came: Reply | Fault | None = None
        while True:
            try:
                step = plan.send(came)
            except StopIteration as done:
                answer: T = done.value
                return answer
            came = self._perform(step)

    def _perform(self, step: Step) -> Reply | Fault | None:
        match step:
            case Exchange():
                return self._exchange(step)
            case Wait(seconds):
                time.sleep(seconds)
            case Renew():
                if not self._renewing.acquire(timeout=step.timeout_s):
                    raise Unreachable(f"{self._caller.base_url} gave no token in time.")
                try:
                    self._drive(self._caller.renewing(step))
                finally:
                    self._renewing.release()
        return None

    def _exchange(self, step: Exchange) -> Reply | Fault:
        ends_at = time.monotonic() + step.timeout_s
        try:
            with self._http.stream(*_request(self._caller, step), **_options(step)) as response:
                content = bytearray()
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > MAX_REPLY_BYTES:
                        return _TOO_LONG
                    if time.monotonic() > ends_at:
                        return _TOO_LATE
                return Reply(response.status_code, _headers(response), bytes(content))
        except httpx.RequestError as error:
            return _fault(error)


class AsyncCarillonClient(_Face):
    """`CarillonClient` for asyncio: the same calls, each to be awaited. Use it in one event loop."""

    def _set_up(
        self, base_url: str, grant: Grant, patience: Patience | None, surroundings: Surroundings | None
    ) -> None:
        super()._set_up(base_url, grant, patience, surroundings)
        self._http = httpx.AsyncClient(headers=_HEADERS, trust_env=may_use_proxy(base_url))
        self._renewing = asyncio.Lock()

    async def send_push(
        self,
        user_id: str | UUID,
        title: str,
        body: str,
        data: Mapping[str, object] | None = None,
        **options: Unpack[PushOptions],
    ) -> Sent:
        """Send one notification to one user; when this is done, the server has it on disk."""
        return await self._run(send_call(user_id, title, body, data, options), read_sent)

    async def send_bulk(
        self,
        user_ids: Iterable[str | UUID],
        title: str,
        body: str,
        data: Mapping[str, object] | None = None,
        **options: Unpack[PushOptions],
    ) -> SentMany:
        """Send the same notification to many users: all are accepted or none is. At most 500 unless configured."""
        return await self._run(bulk_call(user_ids, title, body, data, options), read_sent_many)

    async def send_batch(
        self, notifications: Iterable[Push | Mapping[str, object]], *, idempotency_key: str | None = None
    ) -> SentMany:
        """Send different notifications at once: all are accepted or none is. At most 500 unless configured."""
        return await self._run(batch_call(notifications, idempotency_key), read_sent_many)

    async def notification(self, notification_id: str | UUID) -> Timeline:
        """Read what became of a notification: its deliveries, and every attempt in plain words."""
        return await self._run(timeline_call(notification_id), read_timeline)

    async def withdraw(self, notification_id: str | UUID) -> Withdrawal:
        """Take back what has not been shown yet."""
        return await self._run(withdraw_call(notification_id), read_withdrawal)

    async def inbox(self, limit: int = 50) -> tuple[InboxEntry, ...]:
        """Read the newest notifications of the person this client acts as, newest first; at most 200."""
        return await self._run(inbox_call(limit), read_inbox)

    async def access_token(self, refused: str | None = None) -> str:
        """Give a bearer token that is good for a while, and is not the `refused` one."""
        return await self._drive(self._caller.token(refused))

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _run(self, call: Call, answer: Callable[[Reply], T]) -> T:
        return await self._drive(self._caller.calling(call, answer))

    async def _drive(self, plan: Plan[T]) -> T:
        came: Reply | Fault | None = None
        while True:
            try:
                step = plan.send(came)
            except StopIteration as done:
                answer: T = done.value
                return answer
            came = await self._perform(step)

    async def _perform(self, step: Step) -> Reply | Fault | None:
        match step:
            case Exchange():
                return await self._exchange(step)
            case Wait(seconds):
                await asyncio.sleep(seconds)
            case Renew():
                try:
                    async with asyncio.timeout(step.timeout_s):
                        await self._renewing.acquire()
                except TimeoutError:
                    raise Unreachable(f"{self._caller.base_url} gave no token in time.") from None
                try:
                    await self._drive(self._caller.renewing(step))
                finally:
                    self._renewing.release()
        return None

    async def _exchange(self, step: Exchange) -> Reply | Fault:
        try:
            async with (
                asyncio.timeout(step.timeout_s),
                self._http.stream(*_request(self._caller, step), **_options(step)) as response,
            ):
                content = bytearray()
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > MAX_REPLY_BYTES:
                        return _TOO_LONG
                return Reply(response.status_code, _headers(response), bytes(content))
        except TimeoutError:
            return _TOO_LATE
        except httpx.RequestError as error:
            return _fault(error)


_HEADERS: Final = {"user-agent": user_agent()}
_TOO_LATE: Final = Fault("the answer did not come in time")
_TOO_LONG: Final = Fault("the answer is too long to be Carillon's", is_final=True)


class _Options(TypedDict):
    headers: dict[str, str]
    content: bytes
    timeout: float


def _request(caller: Caller, step: Exchange) -> tuple[str, str]:
    return step.method, caller.base_url + step.path


def _options(step: Exchange) -> _Options:
    return {"headers": dict(step.headers), "content": step.content, "timeout": step.timeout_s}


def _headers(response: httpx.Response) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def _fault(error: httpx.RequestError) -> Fault:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Fault(f"its certificate does not count ({cause.verify_message})", is_final=True)
        cause = cause.__cause__ or cause.__context__
    return Fault(str(error) or type(error).__name__)
