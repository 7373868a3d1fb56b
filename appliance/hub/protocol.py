"""The server side of SignalR's hub protocol, without any input or output.

Theory of operation
-------------------
A transport carries one byte stream each way. The client speaks first and always in JSON: the *handshake*, which names
a hub protocol. The server answers, and from then on both sides exchange whole messages of that protocol. So a
connection is one of two different things, and they are different types here:

    AwaitingHandshake --HandshakeAccepted--> LiveProtocol
           |                                     |
           +--HandshakeRefused--> (end)          +--CloseReceived | ProtocolViolation | ClientTimedOut--> (end)

`AwaitingHandshake` cannot read a message, `LiveProtocol` cannot read a handshake. Bytes that follow the handshake in
the same chunk belong to `LiveProtocol`, which is handed over holding them.

Both are fed what arrived (`receive`) together with the time, and give back events. They write nothing: the owner
encodes with the agreed `HubEncoding` and calls `LiveProtocol.note_sent`. They own no timer: the owner asks
`next_deadline` and calls `pass_time` when that moment has come.

What each message means to a server that offers no streams and no stateful reconnect:

    type                          event                  effect
    1 Invocation                  InvocationReceived     the owner answers, if an id was given
    4 StreamInvocation            InvocationReceived     the same; `is_stream` tells
    3 Completion                  CompletionReceived     the owner knows which ids it gave out
    6 Ping                        -                      the first one switches the client timeout on
    7 Close                       CloseReceived          end
    2, 5, 8, 9 and unknown types  -                      skipped
    anything else                 ProtocolViolation      end

Every message, skipped or not, restarts the client timeout. Clients that never ping are never timed out, because they
never promised to speak.

After an end event the state is ENDED and further input is ignored: a peer that has failed once is not read again.

Sources: dotnet/aspnetcore `HubProtocol.md`; ASP.NET Core `HubConnectionContext`, for timeouts and texts.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import msgspec

from appliance.hub.encoding import (
    Ack,
    Close,
    Completion,
    Frame,
    HubEncoding,
    Invocation,
    Irrelevant,
    MalformedRecord,
    Ping,
    Record,
    RecordTooLarge,
    SeparatorSplitter,
    Sequence,
)

HANDSHAKE_CANCELED: Final = "Handshake was canceled."
HANDSHAKE_FAILED: Final = "An unexpected error occurred during connection handshake."
NEWEST_VERSION: Final = 2


@dataclass(frozen=True, slots=True)
class ProtocolTimes:
    """The clocks of the protocol, in seconds, and the one size."""

    handshake_timeout_s: float = 15.0
    keep_alive_s: float = 14.5
    """A little less than the 15 s that clients may count on: it has to arrive within them."""
    client_timeout_s: float = 30.0
    message_bytes: int = 32_768


@dataclass(frozen=True, slots=True)
class HandshakeAccepted:
    """Send `answer`; from now on the connection is `live`."""

    answer: Frame
    live: "LiveProtocol"


@dataclass(frozen=True, slots=True)
class HandshakeRefused:
    """Send `answer`, then end the transport."""

    answer: Frame
    reason: str


@dataclass(frozen=True, slots=True)
class InvocationReceived:
    """The client calls `target`; answer it once, unless `invocation_id` is None."""

    target: str
    arguments: tuple[object, ...]
    invocation_id: str | None
    is_stream: bool


@dataclass(frozen=True, slots=True)
class CompletionReceived:
    """The client answered the server's invocation of that id."""

    invocation_id: str
    error: str | None


@dataclass(frozen=True, slots=True)
class CloseReceived:
    """The client says goodbye; answer with a Close of your own and end the transport."""


@dataclass(frozen=True, slots=True)
class ProtocolViolation:
    """The client broke the protocol; `reason` holds none of its data."""

    reason: str


@dataclass(frozen=True, slots=True)
class PingDue:
    """Nothing was sent for the keep-alive interval: send a ping."""


@dataclass(frozen=True, slots=True)
class ClientTimedOut:
    """A client that pings was silent for too long."""


HandshakeEvent = HandshakeAccepted | HandshakeRefused
LiveEvent = InvocationReceived | CompletionReceived | CloseReceived | ProtocolViolation
TimeEvent = PingDue | ClientTimedOut


class _State(Enum):
    OPEN = auto()
    ENDED = auto()


_ENDING_EVENTS: Final = (CloseReceived, ProtocolViolation, ClientTimedOut)


class _Handshake(msgspec.Struct):
    protocol: str
    version: int


_handshake_decoder: Final = msgspec.json.Decoder(_Handshake)


class AwaitingHandshake:
    """A connection whose client has not said yet which protocol it speaks."""

    def __init__(
        self,
        encodings: Mapping[str, HubEncoding],
        times: ProtocolTimes,
        now: float,
        *,
        transfer_formats: Collection[str] = ("Text", "Binary"),
    ) -> None:
        """`transfer_formats` are those that the transport can carry."""
        self._transfer_formats = transfer_formats
        self._encodings = encodings
        self._times = times
        self._splitter = SeparatorSplitter(times.message_bytes)
        self._deadline = now + times.handshake_timeout_s
        self._state = _State.OPEN

    @property
    def next_deadline(self) -> float:
        """The moment (monotonic seconds) at which the handshake is given up."""
        return self._deadline

    def receive(self, data: str | bytes, now: float) -> HandshakeEvent | None:
        """Take what arrived; None means that the handshake is not whole yet."""
        if self._state is _State.ENDED:
            return None
        chunk = data.encode() if isinstance(data, str) else data
        before, separator, after = chunk.partition(b"\x1e")
        try:
            record = next(self._splitter.feed(before + separator), None)
        except RecordTooLarge:
            return self._refuse(HANDSHAKE_CANCELED)
        if record is None:
            return None
        return self._answer(record, after, now)

    def pass_time(self, now: float) -> HandshakeRefused | None:
        """Give up when the deadline has come."""
        if self._state is _State.ENDED or now < self._deadline:
            return None
        return self._refuse(HANDSHAKE_CANCELED)

    def _answer(self, record: bytes, after: bytes, now: float) -> HandshakeEvent:
        try:
            handshake = _handshake_decoder.decode(record)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return self._refuse(HANDSHAKE_FAILED)
        encoding = self._encodings.get(handshake.protocol)
        if encoding is None:
            return self._refuse(f"The protocol '{handshake.protocol}' is not supported.")
        if encoding.transfer_format not in self._transfer_formats:
            return self._refuse(
                f"Cannot use the '{encoding.name}' protocol on the current transport. "
                f"The transport does not support '{encoding.transfer_format}' transfer format."
            )
        if not 0 <= handshake.version <= NEWEST_VERSION:
            return self._refuse(
                f"The server does not support version {handshake.version} of the '{encoding.name}' protocol."
            )
        self._state = _State.ENDED
        answer = Frame("{}\x1e", 3) if encoding.transfer_format == "Text" else Frame(b"{}\x1e", 3)
        return HandshakeAccepted(answer, LiveProtocol(encoding, self._times, now, already_received=after))

    def _refuse(self, error: str) -> HandshakeRefused:
        self._state = _State.ENDED
        encoded = msgspec.json.encode({"error": error}) + b"\x1e"
        return HandshakeRefused(Frame(encoded.decode(), len(encoded)), error)


class LiveProtocol:
    """A connection after its handshake."""

    def __init__(
        self, encoding: HubEncoding, times: ProtocolTimes, now: float, *, already_received: bytes = b""
    ) -> None:
        self.encoding = encoding
        self._times = times
        self._splitter = encoding.make_splitter(times.message_bytes)
        self._already_received = already_received
        self._state = _State.OPEN
        self._last_sent = now
        self._last_received = now
        self._is_watching_client = False

    @property
    def has_ended(self) -> bool:
        """Whether an end event was given; nothing is read any more."""
        return self._state is _State.ENDED

    @property
    def next_deadline(self) -> float:
        """The next moment (monotonic seconds) at which `pass_time` may have something to say."""
        ping_at = self._last_sent + self._times.keep_alive_s
        if not self._is_watching_client:
            return ping_at
        return min(ping_at, self._last_received + self._times.client_timeout_s)

    def receive(self, data: str | bytes, now: float) -> Iterator[LiveEvent]:
        """Take what arrived and give the events in order, lazily: stop iterating and the rest is not read."""
        chunk = data.encode() if isinstance(data, str) else data
        if self._already_received:
            chunk = self._already_received + chunk
            self._already_received = b""
        if self._state is _State.ENDED or not chunk:
            return
        try:
            for raw in self._splitter.feed(chunk):
                self._last_received = now
                event = self._read(self.encoding.decode(raw))
                if event is None:
                    continue
                if isinstance(event, _ENDING_EVENTS):
                    self._state = _State.ENDED
                yield event
                if self._state is _State.ENDED:
                    return
        except MalformedRecord as malformed:
            self._state = _State.ENDED
            yield ProtocolViolation(str(malformed))

    def note_sent(self, now: float) -> None:
        """Remember that something was sent, so that no ping is due for a while."""
        self._last_sent = now

    def note_busy(self, now: float) -> None:
        """Remember that the owner stopped reading by its own choice: the client's silence does not count."""
        self._last_received = now

    def pass_time(self, now: float) -> TimeEvent | None:
        """Say what is due at `now`; a client timeout goes before a ping."""
        if self._state is _State.ENDED:
            return None
        if self._is_watching_client and now - self._last_received >= self._times.client_timeout_s:
            self._state = _State.ENDED
            return ClientTimedOut()
        if now - self._last_sent >= self._times.keep_alive_s:
            return PingDue()
        return None

    def _read(self, record: Record) -> LiveEvent | None:
        match record:
            case Invocation(target, arguments, invocation_id, is_stream):
                return InvocationReceived(target, tuple(arguments), invocation_id, is_stream)
            case Completion(invocation_id, error):
                return CompletionReceived(invocation_id, error)
            case Ping():
                self._is_watching_client = True
                return None
            case Close():
                return CloseReceived()
            case Ack() | Sequence() | Irrelevant():
                return None
