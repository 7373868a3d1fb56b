"""The server side of SignalR's hub protocol, without any input or output.

Theory of operation
-------------------
A transport carries one byte stream each way. The client speaks first and always in JSON: the *handshake*, which names
a hub protocol. The server answers, and from then on both sides exchange whole messages of that protocol. So a
connection is one of two different things, and they are different types here:

    AwaitingHandshake --HandshakeAccepted--> LiveProtocol
           |                                     |
           +--HandshakeRefused--> (end)          +--CloseReceived | ProtocolViolation | ClientTimedOut--> (end)

`AwaitingHandshake` (in `hub.handshake`) cannot read a message, `LiveProtocol` cannot read a handshake. Bytes that
follow the handshake in the same chunk belong to `LiveProtocol`, which is handed over holding them.

Both are fed what arrived (`receive`) together with the time, and give back events. They write nothing: the owner
encodes with the agreed `HubEncoding` and calls `LiveProtocol.note_sent`. They own no timer: the owner asks
`next_deadline` and calls `pass_time` when that moment has come.

What each message means to a server that offers no streams:

    type                          event                  effect
    1 Invocation                  InvocationReceived     the owner answers, if an id was given
    4 StreamInvocation            InvocationReceived     the same; `is_stream` tells
    3 Completion                  CompletionReceived     the owner knows which ids it gave out
    6 Ping                        -                      the first one switches the client timeout on
    7 Close                       CloseReceived          end
    8 Ack                         AckReceived            skipped without stateful reconnect
    9 Sequence                    -                      skipped without stateful reconnect
    2, 5 and unknown types        -                      skipped
    anything else                 ProtocolViolation      end

Every message, skipped or not, restarts the client timeout. Clients that never ping are never timed out, because they
never promised to speak.

Stateful reconnect (see `hub.resume`) is agreed when it was granted and the handshake said version 2. `LiveProtocol`
then counts what comes, drops what came before, and asks in time for an Ack; `begin_socket` tells it of another socket,
on which it reads nothing but a goodbye until the client's Sequence. A client that owes one has to be quick about it: it
is timed out whether it pings or not.

After an end event the state is ENDED and further input is ignored: a peer that has failed once is not read again.

Sources: dotnet/aspnetcore `HubProtocol.md`; ASP.NET Core `HubConnectionContext`, for timeouts and texts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from appliance.hub.encoding import (
    Ack,
    Close,
    Completion,
    HubEncoding,
    Invocation,
    Irrelevant,
    MalformedRecord,
    Ping,
    Record,
    Sequence,
)
from appliance.hub.resume import Received

# StreamItem and CancelInvocation: of no use to this server, but they are numbered like the others.
_TRACKABLE_TYPES: Final = (2, 5)
_LONGEST_INVOCATION_ID_CHARS: Final = 256


@dataclass(frozen=True, slots=True)
class ProtocolTimes:
    """The clocks of the protocol, in seconds, and the one size."""

    handshake_timeout_s: float = 15.0
    keep_alive_s: float = 14.5
    """A little less than the 15 s that clients may count on: it has to arrive within them."""
    client_timeout_s: float = 30.0
    acknowledge_after_s: float = 0.9
    """From the first message that is not acknowledged to its Ack; a client may send nothing more until it has one."""
    message_bytes: int = 32_768


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
class AckReceived:
    """The client has taken every numbered message up to this one."""

    sequence_id: int


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
class AckDue:
    """Tell the client that every numbered message of its up to this one was taken."""

    sequence_id: int


@dataclass(frozen=True, slots=True)
class ClientTimedOut:
    """A client that pings was silent for too long."""


LiveEvent = InvocationReceived | CompletionReceived | AckReceived | CloseReceived | ProtocolViolation
TimeEvent = PingDue | AckDue | ClientTimedOut


class _State(Enum):
    OPEN = auto()
    ENDED = auto()


_ENDING_EVENTS: Final = (CloseReceived, ProtocolViolation, ClientTimedOut)


class LiveProtocol:
    """A connection after its handshake."""

    __slots__ = (
        "_acknowledge_at",
        "_already_received",
        "_is_watching_client",
        "_last_received",
        "_last_sent",
        "_received",
        "_splitter",
        "_state",
        "_times",
        "encoding",
    )

    def __init__(
        self,
        encoding: HubEncoding,
        times: ProtocolTimes,
        now: float,
        *,
        already_received: bytes = b"",
        is_stateful: bool = False,
    ) -> None:
        self.encoding = encoding
        self._received = Received() if is_stateful else None
        self._acknowledge_at: float | None = None
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
    def is_stateful(self) -> bool:
        """Whether another socket may carry the connection on."""
        return self._received is not None

    @property
    def last_heard_at(self) -> float:
        """When (monotonic seconds) the client was heard last."""
        return self._last_received

    @property
    def next_deadline(self) -> float:
        """The next moment (monotonic seconds) at which `pass_time` may have something to say."""
        due_at = self._last_sent + self._times.keep_alive_s
        if self._acknowledge_at is not None:
            due_at = min(due_at, self._acknowledge_at)
        if self._is_client_to_speak:
            due_at = min(due_at, self._last_received + self._times.client_timeout_s)
        return due_at

    @property
    def _is_client_to_speak(self) -> bool:
        return self._is_watching_client or (self._received is not None and self._received.is_waiting)

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
                event = self._read(self.encoding.decode(raw), now)
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

    def begin_socket(self, now: float) -> None:
        """Another socket carries the connection on; what the one before brought in part is forgotten."""
        if self._received is not None:
            self._received.begin_socket()
        self._splitter = self.encoding.make_splitter(self._times.message_bytes)
        self._acknowledge_at = None
        self._last_received = now

    def note_sent(self, now: float) -> None:
        """Remember that something was sent, so that no ping is due for a while."""
        self._last_sent = now

    def note_busy(self, now: float) -> None:
        """Remember that the owner stopped reading by its own choice: the client's silence does not count."""
        self._last_received = now

    def pass_time(self, now: float) -> TimeEvent | None:
        """Say what is due at `now`: a client timeout goes before an acknowledgement, that before a ping."""
        if self._state is _State.ENDED:
            return None
        if self._is_client_to_speak and now - self._last_received >= self._times.client_timeout_s:
            self._state = _State.ENDED
            return ClientTimedOut()
        if self._received is not None and self._acknowledge_at is not None and now >= self._acknowledge_at:
            self._acknowledge_at = None
            return AckDue(self._received.latest_id)
        if now - self._last_sent >= self._times.keep_alive_s:
            return PingDue()
        return None

    def _read(self, record: Record, now: float) -> LiveEvent | None:
        received = self._received
        if received is not None:
            if isinstance(record, Sequence):
                return self._begin_at(record, received, now)
            if received.is_waiting and not isinstance(record, Close):
                return None
            if _is_trackable(record) and not self._count(received, now):
                return None
        self._last_received = now
        match record:
            case Invocation(invocation_id=str(invocation_id)) if len(invocation_id) > _LONGEST_INVOCATION_ID_CHARS:
                # Answers must repeat it; official clients count up from 0.
                return ProtocolViolation("an invocation id is too long")
            case Invocation(target, arguments, invocation_id, is_stream):
                return InvocationReceived(target, tuple(arguments), invocation_id, is_stream)
            case Completion(invocation_id, error):
                return CompletionReceived(invocation_id, error)
            case Ping():
                self._is_watching_client = True
                return None
            case Close():
                return CloseReceived()
            case Ack(sequence_id):
                return AckReceived(sequence_id) if received is not None else None
            case Sequence() | Irrelevant():
                return None

    def _begin_at(self, sequence: Sequence, received: Received, now: float) -> ProtocolViolation | None:
        if not received.begin_at(sequence.sequence_id):
            return ProtocolViolation("a sequence id is ahead of what was received")
        self._last_received = now
        # The last Ack may have been lost with the socket before. Not at once: official clients that are acknowledged
        # while they repeat what they sent lose their place in it.
        self._plan_acknowledgement(now)
        return None

    def _count(self, received: Received, now: float) -> bool:
        """Count a trackable message; False for one that came before."""
        self._last_received = now
        self._plan_acknowledgement(now)
        return received.count()

    def _plan_acknowledgement(self, now: float) -> None:
        if self._acknowledge_at is None:
            self._acknowledge_at = now + self._times.acknowledge_after_s


def _is_trackable(record: Record) -> bool:
    return isinstance(record, Invocation | Completion) or (
        isinstance(record, Irrelevant) and record.type in _TRACKABLE_TYPES
    )
