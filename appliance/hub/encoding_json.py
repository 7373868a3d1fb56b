"""The JSON hub protocol: one compact object a message, ended by 0x1E.

Strict where clients break: what is absent is left out, never null, and no key beyond the specified ones is written.
Lenient in reading: any order of keys, unknown keys, `headers`, nulls. Source: `HubProtocol.md`, JSON encoding.
"""

from collections.abc import Callable
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
    SeparatorSplitter,
    Sequence,
    read_sequence_id,
)


class _Wire(msgspec.Struct):
    """Every key of every message that a server reads."""

    type: int
    target: str | None = None
    arguments: list[object] | None = None
    invocation_id: str | None = msgspec.field(name="invocationId", default=None)
    error: str | None = None
    result: object = msgspec.UNSET
    sequence_id: object = msgspec.field(name="sequenceId", default=None)


def _read_invocation(wire: _Wire) -> Record:
    if wire.target is None or wire.arguments is None:
        raise MalformedRecord("an invocation lacks its target or its arguments")
    return Invocation(wire.target, wire.arguments, wire.invocation_id)


def _read_stream_invocation(wire: _Wire) -> Record:
    if wire.target is None or wire.arguments is None or wire.invocation_id is None:
        raise MalformedRecord("a stream invocation lacks its target, its arguments or its id")
    return Invocation(wire.target, wire.arguments, wire.invocation_id, is_stream=True)


def _read_completion(wire: _Wire) -> Record:
    if wire.invocation_id is None:
        raise MalformedRecord("a completion lacks its invocation id")
    if wire.error is not None and wire.result is not msgspec.UNSET:
        raise MalformedRecord("a completion has both an error and a result")
    return Completion(wire.invocation_id, wire.error)


def _read_ping(wire: _Wire) -> Record:
    return Ping()


def _read_close(wire: _Wire) -> Record:
    return Close(wire.error)


def _read_ack(wire: _Wire) -> Record:
    return Ack(read_sequence_id(wire.sequence_id))


def _read_sequence(wire: _Wire) -> Record:
    return Sequence(read_sequence_id(wire.sequence_id))


_READERS: Final[dict[int, Callable[[_Wire], Record]]] = {
    1: _read_invocation,
    3: _read_completion,
    4: _read_stream_invocation,
    6: _read_ping,
    7: _read_close,
    8: _read_ack,
    9: _read_sequence,
}
_decoder: Final = msgspec.json.Decoder(_Wire)
_encoder: Final = msgspec.json.Encoder()


class JsonEncoding:
    """`hub.encoding.HubEncoding` in JSON."""

    name: Final = "json"
    transfer_format: Final = "Text"

    def __init__(self) -> None:
        self._ping = _frame({"type": 6})

    @property
    def ping(self) -> Frame:
        return self._ping

    def make_splitter(self, limit_bytes: int) -> RecordSplitter:
        return SeparatorSplitter(limit_bytes)

    def decode(self, record: bytes) -> Record:
        """Read one message without its separator. Nesting beyond the interpreter's depth is malformed, too."""
        try:
            wire = _decoder.decode(record)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedRecord(f"not a message of the JSON protocol ({type(error).__name__})") from None
        read = _READERS.get(wire.type)
        return Irrelevant(wire.type) if read is None else read(wire)

    def encode_invocation(self, target: str, argument: object, invocation_id: str | None = None) -> Frame:
        message: dict[str, object] = {"type": 1}
        if invocation_id is not None:
            message["invocationId"] = invocation_id
        message["target"] = target
        message["arguments"] = [argument]
        return _frame(message)

    def encode_result(self, invocation_id: str, result: object) -> Frame:
        return _frame({"type": 3, "invocationId": invocation_id, "result": result})

    def encode_error(self, invocation_id: str, error: str) -> Frame:
        return _frame({"type": 3, "invocationId": invocation_id, "error": error})

    def encode_close(self, error: str | None, *, allow_reconnect: bool) -> Frame:
        message: dict[str, object] = {"type": 7}
        if error is not None:
            message["error"] = error
        if allow_reconnect:
            message["allowReconnect"] = True
        return _frame(message)

    def encode_ack(self, sequence_id: int) -> Frame:
        return _frame({"type": 8, "sequenceId": sequence_id})

    def encode_sequence(self, sequence_id: int) -> Frame:
        return _frame({"type": 9, "sequenceId": sequence_id})


def _frame(message: dict[str, object]) -> Frame:
    encoded = _encoder.encode(message) + b"\x1e"
    return Frame(encoded.decode(), len(encoded))
