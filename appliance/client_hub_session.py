"""The client's side of the hub's protocol, without any I/O: SignalR's JSON protocol and the Hello dialect.

Theory of operation
-------------------
A session is fed what arrives and the time, and gives events in order. It goes one way only:

    SHAKING  -- "{}" -->  GREETING  -- answer to Hello -->  LIVE  -- Close, silence, nonsense -->  ENDED

Records are JSON objects ended by 0x1E; one frame may hold several and a record may span frames. The client pings every
15 s, and gives a server up that was silent for 30 s (the hub pings at least every 15 s).
Source: dotnet/aspnetcore `HubProtocol.md`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from typing import Final, Literal

import msgspec

SEPARATOR: Final = "\x1e"
HANDSHAKE: Final = '{"protocol":"json","version":1}' + SEPARATOR
PING: Final = '{"type":6}' + SEPARATOR
PING_AFTER_S: Final = 15.0
SERVER_SILENT_AFTER_S: Final = 30.0
OPENING_DEADLINE_S: Final = 15.0
MAX_RECORD_CHARS: Final = 1024 * 1024
_HELLO_ID: Final = "hello"


class HubNotification(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A notification as the hub brings it. `data` is as the sender gave it; `sequence` counts per user.

    It is None for what stands beside the user's notifications, such as a test push.
    """

    id: str
    app_id: str
    type: str
    title: str
    body: str
    data: dict[str, object] = {}
    priority: Literal["low", "normal", "high"] = "normal"
    sequence: int | None
    sent_at: datetime
    expires_at: datetime
    collapse_key: str | None = None


class Greeted(msgspec.Struct, frozen=True, rename="camel"):
    """The hub's answer to Hello: `missed` notifications follow; `complete` is false when older ones are lost."""

    device_id: str
    cursor: int
    complete: bool
    missed: int


@dataclass(frozen=True, slots=True)
class Say:
    """Send this text."""

    text: str


@dataclass(frozen=True, slots=True)
class Arrived:
    """A notification came."""

    notification: HubNotification


@dataclass(frozen=True, slots=True)
class Answered:
    """The hub recorded an acknowledgement durably (or did not know the notification)."""

    notification_id: str
    is_known: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing more will come over this connection; `may_return` says whether coming back makes sense."""

    reason: str
    may_return: bool


Event = Say | Greeted | Arrived | Answered | Ended


class _Stage(Enum):
    SHAKING = auto()
    GREETING = auto()
    LIVE = auto()
    ENDED = auto()


class _Record(msgspec.Struct, rename="camel"):
    type: int = 0
    target: str = ""
    arguments: tuple[msgspec.Raw, ...] = ()
    invocation_id: str | None = None
    error: str | None = None
    result: msgspec.Raw = msgspec.Raw(b"null")
    allow_reconnect: bool = False


_record: Final = msgspec.json.Decoder(_Record)
_notification: Final = msgspec.json.Decoder(HubNotification)
_greeted: Final = msgspec.json.Decoder(Greeted)
_MALFORMED: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class HubSession:
    """One connection's conversation. `now` is monotonic seconds."""

    def __init__(self, *, device_id: str, label: str, cursor: int | None, acknowledges: bool, now: float) -> None:
        self._hello = {
            "deviceId": device_id,
            "cursor": cursor,
            "acknowledges": acknowledges,
            "label": label,
            "platform": "hub",
        }
        self._stage = _Stage.SHAKING
        self._held = ""
        self._opened_at = self._heard_at = self._said_at = now

    def open(self) -> str:
        """Give what is said first."""
        return HANDSHAKE

    def receive(self, data: str | bytes, now: float) -> Iterator[Event]:
        """Take what arrived and give the events in order."""
        if self._stage is _Stage.ENDED:
            return
        self._heard_at = now
        try:
            text = data if isinstance(data, str) else data.decode()
        except UnicodeDecodeError:
            yield self._end("The server sent text that is no UTF-8.")
            return
        *whole, self._held = (self._held + text).split(SEPARATOR)
        for part in whole:
            yield from self._read(part)
            if self._has_ended():
                return
        if len(self._held) > MAX_RECORD_CHARS:
            yield self._end("The server sent a message that is too long.")

    def pass_time(self, now: float) -> Event | None:
        """Say what is due; ask again after each event."""
        if self._stage is _Stage.ENDED:
            return None
        if self._stage is not _Stage.LIVE and now - self._opened_at >= OPENING_DEADLINE_S:
            return self._end("The hub did not answer the greeting in time.")
        if now - self._heard_at >= SERVER_SILENT_AFTER_S:
            return self._end("The server was silent for too long.")
        if self._stage is _Stage.LIVE and now - self._said_at >= PING_AFTER_S:
            self._said_at = now
            return Say(PING)
        return None

    @property
    def next_deadline(self) -> float:
        """The next moment at which `pass_time` may have something to say."""
        if self._stage is not _Stage.LIVE:
            return min(self._opened_at + OPENING_DEADLINE_S, self._heard_at + SERVER_SILENT_AFTER_S)
        return min(self._said_at + PING_AFTER_S, self._heard_at + SERVER_SILENT_AFTER_S)

    def note_busy(self, now: float) -> None:
        """Remember that the owner itself did not read: the server's silence does not count."""
        self._heard_at = now

    def acknowledge(self, notification_id: str, now: float, *, wants_answer: bool) -> str:
        """Give the text that acknowledges; the answer, if wanted, comes as `Answered`."""
        self._said_at = now
        invocation_id = notification_id if wants_answer else None
        return _invocation("Acknowledge", notification_id, invocation_id)

    def _read(self, part: str) -> Iterator[Event]:
        try:
            record = _record.decode(part)
        except _MALFORMED:
            yield self._end("The server sent something that is no hub message.")
            return
        if self._stage is _Stage.SHAKING:
            yield self._shake(record)
            return
        match record.type:
            case 1 if record.target.lower() == "notify":
                yield from self._arrive(record)
            case 3:
                yield from self._complete(record)
            case 7:
                yield self._end(record.error or "The server said goodbye.", may_return=record.allow_reconnect)
            case _:
                # Pings only restart the clock; what this client does not know is not its business.
                return

    def _shake(self, record: _Record) -> Event:
        if record.error is not None:
            return self._end(f"The hub refused the protocol: {record.error}", may_return=False)
        if record.type == 7:
            return self._end("The server said goodbye.", may_return=record.allow_reconnect)
        self._stage = _Stage.GREETING
        return Say(_invocation("Hello", self._hello, _HELLO_ID))

    def _complete(self, record: _Record) -> Iterator[Event]:
        if record.invocation_id == _HELLO_ID and self._stage is _Stage.GREETING:
            yield self._greet(record)
        elif record.invocation_id is not None and self._stage is _Stage.LIVE:
            yield Answered(record.invocation_id, record.error is None and bytes(record.result) == b"true")

    def _greet(self, record: _Record) -> Event:
        if record.error is not None:
            return self._end(f"The hub refused this device: {record.error}", may_return=False)
        try:
            greeted = _greeted.decode(record.result)
        except _MALFORMED:
            return self._end("The hub's answer to Hello is not understood.", may_return=False)
        self._stage = _Stage.LIVE
        return greeted

    def _arrive(self, record: _Record) -> Iterator[Event]:
        try:
            if len(record.arguments) != 1:
                raise msgspec.ValidationError
            yield Arrived(_notification.decode(record.arguments[0]))
        except _MALFORMED:
            yield self._end("The server sent a notification that is not understood.")

    def _has_ended(self) -> bool:
        return self._stage is _Stage.ENDED

    def _end(self, reason: str, *, may_return: bool = True) -> Ended:
        self._stage = _Stage.ENDED
        return Ended(reason, may_return)


def _invocation(target: str, argument: object, invocation_id: str | None) -> str:
    message: dict[str, object] = {"type": 1}
    if invocation_id is not None:
        message["invocationId"] = invocation_id
    message["target"] = target
    message["arguments"] = [argument]
    return msgspec.json.encode(message).decode() + SEPARATOR
