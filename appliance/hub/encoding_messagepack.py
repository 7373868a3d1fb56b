"""The MessagePack hub protocol: each message is one array, with its length before it.

The first element of the array is the type; what the others mean depends on it, so their order is fixed. Strict about
the elements that a server reads. Left alone are headers, which only have to be a map, and whatever follows the last
element that is known. Source: `HubProtocol.md`, MessagePack encoding.
"""

import json
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from appliance.hub.encoding import (
    Ack,
    Close,
    Completion,
    Frame,
    Invocation,
    Irrelevant,
    MalformedRecord,
    Ping,
    Record,
    RecordSplitter,
    RecordTooLarge,
    Sequence,
    read_sequence_id,
)

_ERROR: Final = 1
_VOID: Final = 2
_RESULT: Final = 3

# A length is written in groups of 7 bits, the lowest first; the high bit says that another group follows.
_GROUP_BITS: Final = 7
_GROUP_MASK: Final = 0x7F
_MORE: Final = 0x80
_MOST_GROUPS: Final = 5

_Message = list[object]

_decoder: Final = msgspec.msgpack.Decoder(_Message)
_encoder: Final = msgspec.msgpack.Encoder()


class LengthSplitter:
    """Cuts by the length before each message; one that is too long is refused before any of it has arrived.

    Holds at most `limit_bytes` plus one chunk. Of what waits for its rest only the length is looked at again.
    """

    __slots__ = ("_held", "_limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Give the messages completed by `data`, without their lengths. A length without an end is malformed."""
        self._held += data
        while (span := self._find_span()) is not None:
            start, end = span
            record = bytes(self._held[start:end])
            del self._held[:end]
            yield record

    def _find_span(self) -> tuple[int, int] | None:
        """Tell where the next message starts and ends; None when it is not whole."""
        length = 0
        for group, byte in enumerate(self._held[:_MOST_GROUPS]):
            length |= (byte & _GROUP_MASK) << (group * _GROUP_BITS)
            if length > self._limit_bytes:
                self._held.clear()
                raise RecordTooLarge(f"a message is longer than {self._limit_bytes} bytes")
            if not byte & _MORE:
                start = group + 1
                return (start, start + length) if len(self._held) >= start + length else None
        if len(self._held) >= _MOST_GROUPS:
            self._held.clear()
            raise MalformedRecord("the length of a message has no end")
        return None


def _read_invocation(message: _Message) -> Record:
    match message:
        case [_, dict(), str() | None as invocation_id, str(target), list(arguments), *_]:
            # Some clients write an empty id where they want no answer.
            return Invocation(target, arguments, invocation_id or None)
    raise MalformedRecord("an invocation lacks its target or its arguments")


def _read_stream_invocation(message: _Message) -> Record:
    match message:
        case [_, dict(), str(invocation_id), str(target), list(arguments), *_]:
            return Invocation(target, arguments, invocation_id, is_stream=True)
    raise MalformedRecord("a stream invocation lacks its target, its arguments or its id")


def _read_completion(message: _Message) -> Record:
    match message:
        case [_, dict(), str(invocation_id), int(kind), str(error), *_] if kind == _ERROR:
            return Completion(invocation_id, error)
        case [_, dict(), str(invocation_id), int(kind), *value] if kind == _VOID or (kind == _RESULT and value):
            return Completion(invocation_id, None)
    raise MalformedRecord("a completion lacks its invocation id, or has neither an error, a result nor the lack of one")


def _read_ping(message: _Message) -> Record:
    return Ping()


def _read_close(message: _Message) -> Record:
    match message:
        case [_]:
            return Close()
        case [_, str() | None as error, *_]:
            return Close(error)
    raise MalformedRecord("the error of a close is no text")


def _read_ack(message: _Message) -> Record:
    return Ack(read_sequence_id(message[1] if len(message) > 1 else None))


def _read_sequence(message: _Message) -> Record:
    return Sequence(read_sequence_id(message[1] if len(message) > 1 else None))


_READERS: Final[dict[int, Callable[[_Message], Record]]] = {
    1: _read_invocation,
    3: _read_completion,
    4: _read_stream_invocation,
    6: _read_ping,
    7: _read_close,
    8: _read_ack,
    9: _read_sequence,
}


class MessagePackEncoding:
    """`hub.encoding.HubEncoding` in MessagePack."""

    name: Final = "messagepack"
    transfer_format: Final = "Binary"

    def __init__(self) -> None:
        self._ping = _frame([6])

    @property
    def ping(self) -> Frame:
        return self._ping

    def make_splitter(self, limit_bytes: int) -> RecordSplitter:
        return LengthSplitter(limit_bytes)

    def decode(self, record: bytes) -> Record:
        """Read one message without its length. Nesting beyond the interpreter's depth is malformed, too.

        A declared size beyond the bytes that are there costs nothing: the decoder compares the two first.
        """
        try:
            message = _decoder.decode(record)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedRecord(f"not a message of the MessagePack protocol ({type(error).__name__})") from None
        type_ = message[0] if message else None
        if type(type_) is not int:
            raise MalformedRecord("a message does not begin with its type")
        read = _READERS.get(type_)
        return Irrelevant(type_) if read is None else read(message)

    def encode_invocation(self, target: str, argument: object, invocation_id: str | None = None) -> Frame:
        # The stream ids at the end may be left out by the specification, but there are clients that insist on them.
        return _frame([1, {}, invocation_id, target, [argument], []])

    def encode_result(self, invocation_id: str, result: object) -> Frame:
        return _frame([3, {}, invocation_id, _RESULT, result])

    def encode_error(self, invocation_id: str, error: str) -> Frame:
        return _frame([3, {}, invocation_id, _ERROR, error])

    def encode_close(self, error: str | None, *, allow_reconnect: bool) -> Frame:
        return _frame([7, error, True] if allow_reconnect else [7, error])

    def encode_ack(self, sequence_id: int) -> Frame:
        return _frame([8, sequence_id])

    def encode_sequence(self, sequence_id: int) -> Frame:
        return _frame([9, sequence_id])


def _frame(message: _Message) -> Frame:
    try:
        encoded = _encoder.encode(message)
    except OverflowError:
        encoded = _encoder.encode(_write_large_numbers_as_doubles(message))
    payload = _write_length(len(encoded)) + encoded
    return Frame(payload, len(payload))


def _write_length(length: int) -> bytes:
    groups = bytearray()
    while length > _GROUP_MASK:
        groups.append(length & _GROUP_MASK | _MORE)
        length >>= _GROUP_BITS
    groups.append(length)
    return bytes(groups)


def _write_large_numbers_as_doubles(message: _Message) -> object:
    """Replace the integers that MessagePack cannot hold by what JavaScript makes of them when they come in JSON."""
    return json.loads(msgspec.json.encode(message), parse_int=_fit_number)


def _fit_number(digits: str) -> int | float:
    number = int(digits)
    return number if -(2**63) <= number < 2**64 else float(digits)
