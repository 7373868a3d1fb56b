"""What holds for any bytes and any cuts, found by search."""

import json
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.hub.encoding import HubEncoding, Invocation, MalformedRecord, SeparatorSplitter
from appliance.hub.encoding_json import JsonEncoding
from appliance.hub.encoding_messagepack import LengthSplitter, MessagePackEncoding
from appliance.hub.handshake import AwaitingHandshake
from appliance.hub.protocol import LiveEvent, LiveProtocol, ProtocolTimes, ProtocolViolation

TIMES = ProtocolTimes(message_bytes=200)
JSON = JsonEncoding()
PACK = MessagePackEncoding()

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
messages = st.dictionaries(
    st.sampled_from(["type", "target", "arguments", "invocationId", "error", "result", "headers", "item", "x"]),
    st.integers(0, 10) | st.lists(json_values, max_size=2) | json_values,
    max_size=6,
)
# Arrays that are messages, nearly messages, and none.
arrays = st.lists(
    st.integers(0, 10)
    | st.none()
    | st.text(max_size=5)
    | st.just({})
    | st.lists(json_values, max_size=2)
    | json_values,
    max_size=7,
).map(lambda elements: msgspec.msgpack.encode(elements))
# Random bytes hardly ever get past the first one, so most are the ones that open containers, texts and extensions.
packed_noise = st.lists(
    st.sampled_from(bytes.fromhex("00 01 03 07 80 81 90 91 95 a0 a1 c0 c1 c4 c7 cb cf d3 d4 d6 d9 dc dd de df ff"))
    | st.integers(0, 255),
    max_size=60,
).map(bytes)
either = pytest.mark.parametrize("encoding", [JSON, PACK], ids=["json", "messagepack"])


def prefix(record: bytes) -> bytes:
    """Write the length of a short message before it."""
    length = len(record)
    return (bytes([length]) if length < 128 else bytes([length & 127 | 128, length >> 7])) + record


def read_in_pieces(stream: bytes, cuts: list[int], encoding: HubEncoding = JSON) -> list[LiveEvent]:
    live = LiveProtocol(encoding, TIMES, 0.0)
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [event for start, end in pairwise(edges) for event in live.receive(stream[start:end], 0.0)]


@settings(deadline=None)
@given(st.lists(messages, max_size=5), st.lists(st.integers(0, 2_000), max_size=6))
def test_the_cuts_of_the_stream_change_nothing(sent: list[dict[str, object]], cuts: list[int]) -> None:
    stream = b"".join(json.dumps(message).encode() + b"\x1e" for message in sent)
    assert read_in_pieces(stream, cuts) == read_in_pieces(stream, [])


@settings(deadline=None)
@given(st.lists(arrays, max_size=5), st.lists(st.integers(0, 2_000), max_size=6))
def test_the_cuts_of_a_stream_of_arrays_change_nothing(sent: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(prefix(record) for record in sent)
    whole = read_in_pieces(stream, [], PACK)
    assert read_in_pieces(stream, cuts, PACK) == whole
    assert read_in_pieces(stream, list(range(len(stream))), PACK) == whole


@either
@settings(deadline=None)
@given(st.binary(max_size=600) | packed_noise, st.lists(st.integers(0, 600), max_size=4))
def test_any_bytes_give_events_and_never_an_exception_and_nothing_after_a_violation(
    encoding: HubEncoding, stream: bytes, cuts: list[int]
) -> None:
    events = read_in_pieces(stream, cuts, encoding)
    assert all(not isinstance(event, ProtocolViolation) for event in events[:-1])


@settings(deadline=None, max_examples=300)
@given(packed_noise | arrays)
def test_any_bytes_are_a_message_or_malformed(record: bytes) -> None:
    try:
        PACK.decode(record)
    except MalformedRecord as malformed:
        assert malformed.__cause__ is None


@settings(deadline=None)
@given(st.binary(max_size=600))
def test_any_bytes_are_a_handshake_or_none(stream: bytes) -> None:
    handshake = AwaitingHandshake({"json": JSON}, TIMES, 0.0)
    outcome = handshake.receive(stream, 0.0)
    assert (outcome is None) == (b"\x1e" not in stream and len(stream) <= TIMES.message_bytes)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=50).filter(lambda record: b"\x1e" not in record), max_size=8))
def test_a_splitter_gives_back_what_was_joined(records: list[bytes]) -> None:
    splitter = SeparatorSplitter(200)
    stream = b"".join(record + b"\x1e" for record in records)
    byte_by_byte = [part for byte in stream for part in splitter.feed(bytes([byte]))]
    assert byte_by_byte == list(splitter.feed(stream)) == records


@settings(deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=8))
def test_a_splitter_by_lengths_gives_back_what_was_joined(records: list[bytes]) -> None:
    splitter = LengthSplitter(200)
    stream = b"".join(prefix(record) for record in records)
    byte_by_byte = [part for byte in stream for part in splitter.feed(bytes([byte]))]
    assert byte_by_byte == list(splitter.feed(stream)) == records


@settings(deadline=None)
@given(st.text(max_size=60), json_values, st.none() | st.text(min_size=1, max_size=5))
def test_whatever_is_packed_is_one_record_that_reads_back(target: str, argument: object, id_: str | None) -> None:
    payload = PACK.encode_invocation(target, argument, id_).payload
    assert isinstance(payload, bytes)
    (record,) = PACK.make_splitter(100_000).feed(payload)
    assert msgspec.msgpack.decode(record) == [1, {}, id_, target, [argument], []]
    assert PACK.decode(record) == Invocation(target, [argument], id_)


@settings(deadline=None)
@given(st.text(max_size=60), json_values)
def test_whatever_is_encoded_is_one_record_that_reads_back(target: str, argument: object) -> None:
    payload = JSON.encode_invocation(target, argument).payload
    assert isinstance(payload, str) and payload.index("\x1e") == len(payload) - 1
    assert json.loads(payload[:-1]) == {"type": 1, "target": target, "arguments": [argument]}
