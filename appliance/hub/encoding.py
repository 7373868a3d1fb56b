"""What the hub protocol needs from a way of writing its messages down (JSON today, MessagePack as one more file).

Sources: dotnet/aspnetcore `HubProtocol.md`, sections JSON and MessagePack encoding.
"""

from collections import abc
from dataclasses import dataclass
from typing import Final, Protocol

RECORD_SEPARATOR: Final = b"\x1e"


@dataclass(frozen=True, slots=True)
class Frame:
    """One whole encoded message, shared by every connection that sends it.

    `payload` is text for a text protocol and bytes for a binary one; frames of one protocol may be joined.
    """

    payload: str | bytes
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Invocation:
    """The client calls a hub method; `invocation_id` is None when it wants no answer."""

    target: str
    arguments: abc.Sequence[object]
    invocation_id: str | None
    is_stream: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """The client answers an invocation of ours; `error` is None when it succeeded."""

    invocation_id: str
    error: str | None


@dataclass(frozen=True, slots=True)
class Ping:
    """The client is alive."""


@dataclass(frozen=True, slots=True)
class Close:
    """The client says goodbye."""

    error: str | None = None


@dataclass(frozen=True, slots=True)
class Ack:
    """The client has taken every trackable message up to and including this number."""

    sequence_id: int


@dataclass(frozen=True, slots=True)
class Sequence:
    """The next trackable message that follows on this socket has this number."""

    sequence_id: int


@dataclass(frozen=True, slots=True)
class Irrelevant:
    """A message that a server without streams skips, by its type number."""

    type: int


Record = Invocation | Completion | Ping | Close | Ack | Sequence | Irrelevant

LARGEST_SEQUENCE_ID: Final = 2**63 - 1


class MalformedRecord(Exception):
    """The bytes are no message of this protocol. Its text holds no client data."""


class RecordTooLarge(MalformedRecord):
    """A message is longer than the limit."""


class RecordSplitter(Protocol):
    """Cuts a byte stream into whole messages, whatever the cuts it arrived in."""

    def feed(self, data: bytes) -> abc.Iterator[bytes]:
        """Give the messages completed by `data`, keep the rest. Raises `RecordTooLarge` as soon as one is too long."""
        ...


class HubEncoding(Protocol):
    """One hub protocol of SignalR: how messages are cut, read and written. Stateless and shared."""

    @property
    def name(self) -> str:
        """The name in the client's handshake."""
        ...

    @property
    def transfer_format(self) -> str:
        """`Text` or `Binary`, as negotiate announces it."""
        ...

    @property
    def ping(self) -> Frame: ...

    def make_splitter(self, limit_bytes: int) -> RecordSplitter: ...

    def decode(self, record: bytes) -> Record:
        """Read one message. Raises `MalformedRecord`, and nothing else, on any other bytes."""
        ...

    def encode_invocation(self, target: str, argument: object, invocation_id: str | None = None) -> Frame: ...

    def encode_result(self, invocation_id: str, result: object) -> Frame: ...

    def encode_error(self, invocation_id: str, error: str) -> Frame: ...

    def encode_close(self, error: str | None, *, allow_reconnect: bool) -> Frame: ...

    def encode_ack(self, sequence_id: int) -> Frame: ...

    def encode_sequence(self, sequence_id: int) -> Frame: ...


def read_sequence_id(value: object) -> int:
    """Check what stands where a sequence number belongs. Raises `MalformedRecord`."""
    if type(value) is not int or not 0 <= value <= LARGEST_SEQUENCE_ID:
        raise MalformedRecord("a sequence id is no number that can be counted up to")
    return value


class SeparatorSplitter:
    """Cuts at the record separator 0x1E. Holds at most `limit_bytes` plus one chunk; never scans a byte twice."""

    __slots__ = ("_held", "_limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held = bytearray()

    def feed(self, data: bytes) -> abc.Iterator[bytes]:
        """Give the messages completed by `data`, without their separators."""
        *whole, rest = data.split(RECORD_SEPARATOR)
        for part in whole:
            record = bytes(self._held) + part if self._held else part
            self._held.clear()
            self._check(len(record))
            yield record
        self._held += rest
        self._check(len(self._held))

    def _check(self, size: int) -> None:
        if size > self._limit_bytes:
            self._held.clear()
            raise RecordTooLarge(f"a message is longer than {self._limit_bytes} bytes")
