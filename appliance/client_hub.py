"""Receiving notifications live: `HubListener` keeps one device connected to the hub, for ever.

    async with HubListener("https://push.example.org", token, device_id="kitchen-display") as listener:
        async for notification in listener:
            show(notification)

A notification counts as received when the loop asks for the next one: then it is acknowledged and the cursor moves, so
that what was being handled during a crash comes again. Across reconnects nothing comes twice. Needs `websockets`.
"""

import asyncio
import contextlib
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NoReturn, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from appliance.client_call import check_base_url, may_use_proxy, retry_after_s, user_agent
from appliance.client_cursor import CursorStore, MemoryCursor
from appliance.client_errors import ClientError, Refused, ServerTrouble, TooMany, Unreachable
from appliance.client_hub_session import (
    MAX_RECORD_CHARS,
    Answered,
    Arrived,
    Ended,
    Greeted,
    HubNotification,
    HubSession,
    Say,
)

__all__ = ["HubListener", "HubNotification", "HubRefused", "Live", "Lost", "TokenProvider"]

PATH: Final = "/hubs/notifications"
RECONNECT_DELAYS_S: Final = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
STEADY_AFTER_S: Final = 60.0
"""A connection that lived so long starts the delays anew when it is lost."""
MAX_WAITING: Final = 256
"""Notifications received and not yet taken; beyond it the socket is not read, and the hub cuts slow readers."""
MAX_REMEMBERED_IDS: Final = 4096
OPEN_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 2.0
ACKNOWLEDGE_TIMEOUT_S: Final = 5.0
LONGEST_WISH_S: Final = 60.0

TokenProvider = Callable[[str | None], Awaitable[str]]
"""Gives a bearer token; its argument is the token that was just refused, or None."""


class HubRefused(ClientError):
    """The hub will not have this device: coming back would not help."""


@dataclass(frozen=True, slots=True)
class Live:
    """The device is connected; `missed` notifications follow, and `is_complete` tells whether that is all of them."""

    missed: int
    is_complete: bool


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection is gone or could not be made; the next try is in `retry_in_s`."""

    reason: str
    retry_in_s: float


State = Live | Lost


class _ConnectionLost(Exception):
    def __init__(self, reason: str, *, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait_s = wait_s


class _Connect(connect):
    """Follows no redirect: it would carry the token to another server."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class HubListener:
    """One device's live connection, made again whenever it is lost (after 0, 1, 2, 5, 10, then every 30 s, jittered).

    `token` is asked for a bearer at each connect, and once more with the refused token after a 401. `device_id` is any
    stable name of this installation, 1 to 128 characters: a second listener with the same one ends the first. With
    `acknowledges` false the hub is told that no answers come. `on_state` hears of every gain and loss. Raises
    `HubRefused` out of the loop when coming back would not help, and what `token` raises of its own.
    """

    def __init__(
        self,
        base_url: str,
        token: TokenProvider,
        *,
        device_id: str,
        label: str | None = None,
        cursor: CursorStore | None = None,
        acknowledges: bool = True,
        on_state: Callable[[State], None] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._http_url = check_base_url(base_url)
        self._token = token
        self._device_id = device_id
        self._label = label or device_id
        self._cursor = cursor or MemoryCursor()
        self._acknowledges = acknowledges
        self._on_state = on_state or (lambda state: None)
        self._jitter = jitter
        self._arrived: asyncio.Queue[HubNotification | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(MAX_WAITING)
        self._is_handled: OrderedDict[str, bool] = OrderedDict()
        self._in_hand: HubNotification | None = None
        self._answers: dict[str, asyncio.Future[bool]] = {}
        self._socket: ClientConnection | None = None
        self._session: HubSession | None = None
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self._run(), name="carillon-hub-listener")
        return self

    async def __aexit__(self, *_: object) -> None:
        running = self._running
        self._running = None
        if running is None:
            return
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await running

    def __aiter__(self) -> AsyncIterator[HubNotification]:
        return self

    async def __anext__(self) -> HubNotification:
        """Acknowledge the notification given before, and give the next."""
        if self._running is None:
            raise RuntimeError("Use the listener in 'async with'.")
        if self._in_hand is not None:
            await self._confirm(self._in_hand, wants_answer=False)
            self._in_hand = None
        notification = await self._arrived.get()
        if notification is None:
            # A further call must end, too, and not wait for ever.
            self._arrived.put_nowait(None)
            await self._running
            raise StopAsyncIteration
        self._room.release()
        self._in_hand = notification
        return notification

    async def acknowledge(self, notification: HubNotification) -> bool:
        """Acknowledge now and wait, at most 5 s, until the hub has recorded it; tells whether it has.

        Only needed where the loop is left: asking for the next notification acknowledges by itself.
        """
        if self._in_hand is not None and self._in_hand.id == notification.id:
            self._in_hand = None
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._answers[notification.id] = answer
        try:
            await self._confirm(notification, wants_answer=True)
            async with asyncio.timeout(ACKNOWLEDGE_TIMEOUT_S):
                return await answer
        except TimeoutError:
            return False
        finally:
            del self._answers[notification.id]

    async def _confirm(self, notification: HubNotification, *, wants_answer: bool) -> None:
        self._remember(notification.id, is_handled=True)
        if self._acknowledges:
            if notification.sequence is not None:
                self._cursor.save(max(notification.sequence, self._cursor.load() or 0))
            await self._send_acknowledgement(notification.id, wants_answer=wants_answer)

    async def _send_acknowledgement(self, notification_id: str, *, wants_answer: bool) -> None:
        socket, session = self._socket, self._session
        if socket is None or session is None:
            # Not connected: the cursor in the next Hello says the same.
            return
        text = session.acknowledge(notification_id, time.monotonic(), wants_answer=wants_answer)
        with contextlib.suppress(ConnectionClosed):
            await socket.send(text)

    def _remember(self, notification_id: str, *, is_handled: bool) -> None:
        self._is_handled[notification_id] = is_handled
        if len(self._is_handled) > MAX_REMEMBERED_IDS:
            self._is_handled.popitem(last=False)

    async def _run(self) -> None:
        failures = 0
        try:
            while True:
                began_at = time.monotonic()
                try:
                    await self._connect_and_listen()
                except _ConnectionLost as lost:
                    if time.monotonic() - began_at >= STEADY_AFTER_S:
                        failures = 0
                    delay_s = max(lost.wait_s, self._delay_s(failures))
                    failures += 1
                    self._on_state(Lost(lost.reason, delay_s))
                    await asyncio.sleep(delay_s)
        finally:
            self._arrived.put_nowait(None)

    def _delay_s(self, failures: int) -> float:
        most_s = RECONNECT_DELAYS_S[min(failures, len(RECONNECT_DELAYS_S) - 1)]
        return most_s * (0.5 + self._jitter() / 2)

    async def _connect_and_listen(self) -> None:
        socket = await self._connect()
        session = HubSession(
            device_id=self._device_id,
            label=self._label,
            cursor=self._cursor.load() if self._acknowledges else None,
            acknowledges=self._acknowledges,
            now=time.monotonic(),
        )
        self._socket, self._session = socket, session
        try:
            await socket.send(session.open())
            while True:
                await self._converse(socket, session)
        except ConnectionClosed as closed:
            raise _ConnectionLost(f"The connection was lost ({closed}).") from None
        finally:
            self._socket = self._session = None
            await socket.close()

    async def _converse(self, socket: ClientConnection, session: HubSession) -> None:
        """Take the next data, or do what is due."""
        try:
            async with asyncio.timeout(max(0.0, session.next_deadline - time.monotonic())):
                data = await socket.recv()
        except TimeoutError:
            await self._pass_time(socket, session)
            return
        for event in session.receive(data, time.monotonic()):
            match event:
                case Say(text):
                    await socket.send(text)
                case Greeted():
                    self._greet(event)
                case Arrived(notification):
                    await self._take(notification, socket, session)
                case Answered(notification_id, is_known):
                    answer = self._answers.get(notification_id)
                    if answer is not None and not answer.done():
                        answer.set_result(is_known)
                case Ended():
                    _raise_end(event)

    async def _pass_time(self, socket: ClientConnection, session: HubSession) -> None:
        while (due := session.pass_time(time.monotonic())) is not None:
            if isinstance(due, Ended):
                _raise_end(due)
            if isinstance(due, Say):
                await socket.send(due.text)

    def _greet(self, greeted: Greeted) -> None:
        if self._acknowledges and greeted.cursor < (self._cursor.load() or 0):
            # The server's data is older than this device's: it counts anew, and so must the cursor.
            self._cursor.save(greeted.cursor)
        self._on_state(Live(greeted.missed, greeted.complete))

    async def _take(self, notification: HubNotification, socket: ClientConnection, session: HubSession) -> None:
        is_handled = self._is_handled.get(notification.id)
        if is_handled:
            await self._send_acknowledgement(notification.id, wants_answer=False)
        if is_handled is not None:
            return
        self._remember(notification.id, is_handled=False)
        while True:
            try:
                async with asyncio.timeout(max(0.0, session.next_deadline - time.monotonic())):
                    await self._room.acquire()
                break
            except TimeoutError:
                session.note_busy(time.monotonic())
                await self._pass_time(socket, session)
        self._arrived.put_nowait(notification)

    async def _connect(self) -> ClientConnection:
        token = await self._ask_for_token(None)
        try:
            return await self._open(token)
        except InvalidStatus as refused:
            if refused.response.status_code != 401:
                raise _lost_by(refused) from None
        renewed = await self._ask_for_token(token)
        if renewed == token:
            raise HubRefused("The hub refuses the token: it has run out or was revoked. Get a new one.")
        try:
            return await self._open(renewed)
        except InvalidStatus as refused:
            raise _lost_by(refused) from None

    async def _ask_for_token(self, refused: str | None) -> str:
        try:
            return await self._token(refused)
        except (Unreachable, ServerTrouble, TooMany) as trouble:
            wait_s = trouble.retry_after_s if isinstance(trouble, Refused) else None
            raise _ConnectionLost(str(trouble), wait_s=min(wait_s or 0.0, LONGEST_WISH_S)) from None

    async def _open(self, token: str) -> ClientConnection:
        try:
            return await _Connect(
                "ws" + self._http_url.removeprefix("http") + PATH,
                additional_headers={"Authorization": f"Bearer {token}"},
                user_agent_header=user_agent(),
                proxy=True if may_use_proxy(self._http_url) else None,
                compression=None,
                open_timeout=OPEN_TIMEOUT_S,
                close_timeout=CLOSE_TIMEOUT_S,
                ping_interval=None,
                max_size=MAX_RECORD_CHARS,
            )
        except InvalidStatus:
            raise
        except (OSError, TimeoutError, WebSocketException) as error:
            raise _ConnectionLost(f"{self._http_url} does not answer: {str(error) or type(error).__name__}") from None


def _raise_end(ended: Ended) -> NoReturn:
    if ended.may_return:
        raise _ConnectionLost(ended.reason)
    raise HubRefused(ended.reason)


def _lost_by(refused: InvalidStatus) -> Exception:
    status = refused.response.status_code
    if status in (401, 403):
        return HubRefused(f"The hub refuses this user ({status}).")
    wish_s = retry_after_s(refused.response.headers.get("Retry-After"), datetime.now(UTC)) or 0.0
    return _ConnectionLost(f"The server has no hub to offer now ({status}).", wait_s=min(wish_s, LONGEST_WISH_S))
