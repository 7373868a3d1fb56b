"""MessagePack on the wire, byte by byte, and what is read from clients that are sloppy, newer or hostile."""

import math
from collections.abc import Iterator

import msgspec
import pytest

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
    Sequence,
)
from appliance.hub.encoding_messagepack import LengthSplitter, MessagePackEncoding

PACK: HubEncoding = MessagePackEncoding()


def payload_of(frame: Frame) -> bytes:
    assert isinstance(frame.payload, bytes)
    assert frame.size_bytes == len(frame.payload)
    return frame.payload


def decode(*elements: object) -> Record:
    return PACK.decode(msgspec.msgpack.encode(elements))


def feed(splitter: LengthSplitter, stream: bytes) -> Iterator[bytes]:
    """Give the messages of a stream that arrives byte by byte."""
    return (record for byte in stream for record in splitter.feed(bytes([byte])))


class TestWriting:
    def test_a_ping_is_three_bytes(self) -> None:
        assert payload_of(PACK.ping) == bytes.fromhex("02 91 06")

    def test_an_invocation_has_six_elements_and_says_nil_for_no_id(self) -> None:
        wanted = bytes.fromhex("11 96 01 80 c0 a6 6d 65 74 68 6f 64 91 81 a1 61 c0 90")
        assert payload_of(PACK.encode_invocation("method", {"a": None})) == wanted

    def test_an_invocation_with_an_id_carries_it(self) -> None:
        wanted = bytes.fromhex("0c 96 01 80 a3 78 79 7a a1 54 91 2a 90")
        assert payload_of(PACK.encode_invocation("T", 42, "xyz")) == wanted

    def test_a_completion_has_a_result_even_if_it_is_nil_or_an_error(self) -> None:
        assert payload_of(PACK.encode_result("xyz", 42)) == bytes.fromhex("09 95 03 80 a3 78 79 7a 03 2a")
        assert payload_of(PACK.encode_result("xyz", None)) == bytes.fromhex("09 95 03 80 a3 78 79 7a 03 c0")
        wanted = bytes.fromhex("0e 95 03 80 a3 78 79 7a 01 a5 45 72 72 6f 72")
        assert payload_of(PACK.encode_error("xyz", "Error")) == wanted

    def test_a_close_says_whether_to_come_back_only_if_so(self) -> None:
        assert payload_of(PACK.encode_close("xyz", allow_reconnect=True)) == bytes.fromhex("07 93 07 a3 78 79 7a c3")
        assert payload_of(PACK.encode_close("xyz", allow_reconnect=False)) == bytes.fromhex("06 92 07 a3 78 79 7a")
        assert payload_of(PACK.encode_close(None, allow_reconnect=False)) == bytes.fromhex("03 92 07 c0")

    def test_acks_and_sequences_have_no_headers(self) -> None:
        assert payload_of(PACK.encode_ack(36)) == bytes.fromhex("03 92 08 24")
        assert payload_of(PACK.encode_sequence(300)) == bytes.fromhex("05 92 09 cd 01 2c")

    def test_text_is_never_written_as_bytes(self) -> None:
        text = "ż" * 100
        payload = payload_of(PACK.encode_error("1", text))
        assert payload.endswith(b"\xd9\xc8" + text.encode())

    def test_a_long_message_has_its_length_in_several_bytes(self) -> None:
        payload = payload_of(PACK.encode_error("1", "x" * 5239))
        assert payload[:2] == bytes.fromhex("80 29")
        assert len(payload) == 2 + 5248

    def test_a_number_too_large_for_messagepack_comes_as_javascript_reads_it_from_json(self) -> None:
        data = {"n": 10**30, "m": -(2**63) - 1, "huge": -(10**400), "i": 2**64 - 1, "t": "10", "l": [2**64, 1.5, None]}
        (argument,) = msgspec.msgpack.decode(payload_of(PACK.encode_invocation("T", data))[1:])[4]
        assert argument == {
            "n": 1e30,
            "m": -(2.0**63),
            "huge": -math.inf,
            "i": 2**64 - 1,
            "t": "10",
            "l": [2.0**64, 1.5, None],
        }
        assert [type(value) for value in argument["l"]] == [float, float, type(None)]


class TestReading:
    @pytest.mark.parametrize("more", [(), ([],), (["7"], "from the future")])
    def test_an_invocation_has_five_elements_or_six_or_more(self, more: tuple[object, ...]) -> None:
        assert decode(1, {}, None, "T", [1, "a"], *more) == Invocation("T", [1, "a"], None)
        assert decode(1, {"Authorization": "x"}, "7", "T", [], *more) == Invocation("T", [], "7")
        assert decode(4, {}, "7", "T", [], *more) == Invocation("T", [], "7", is_stream=True)

    def test_an_empty_invocation_id_asks_for_no_answer(self) -> None:
        assert decode(1, {}, "", "T", []) == Invocation("T", [], None)

    def test_every_kind_of_completion(self) -> None:
        assert decode(3, {}, "7", 1, "no") == Completion("7", "no")
        assert decode(3, {}, "7", 2) == Completion("7", None)
        assert decode(3, {}, "7", 3, None) == Completion("7", None)
        assert decode(3, {}, "7", 3, {"a": [1]}, "from the future") == Completion("7", None)

    def test_pings_and_goodbyes(self) -> None:
        assert decode(6) == decode(6, "from the future") == Ping()
        assert decode(7) == decode(7, None) == Close(None)
        assert decode(7, "oops", True, "from the future") == Close("oops")

    @pytest.mark.parametrize("number", ["24", "cc24", "cd0024", "ce00000024", "cf0000000000000024"])
    def test_a_sequence_id_may_be_of_any_width(self, number: str) -> None:
        assert PACK.decode(bytes.fromhex(f"9208{number}")) == Ack(36)
        assert PACK.decode(bytes.fromhex(f"9209{number}")) == Sequence(36)

    @pytest.mark.parametrize("number", ["d024", "d10024", "d200000024", "d30000000000000024"])
    def test_and_of_the_signed_kind(self, number: str) -> None:
        assert PACK.decode(bytes.fromhex(f"9208{number}")) == Ack(36)

    @pytest.mark.parametrize("bad", [(), (None,), (True,), ("1",), (-1,), (1.5,), ([],), (2**63,)])
    @pytest.mark.parametrize("type_", [8, 9])
    def test_a_bad_sequence_id_is_malformed(self, type_: int, bad: tuple[object, ...]) -> None:
        with pytest.raises(MalformedRecord):
            decode(type_, *bad)

    @pytest.mark.parametrize("elements", [(2, {}, "7", 1), (5, {}, "7"), (99,), (0, "x"), (-1,)])
    def test_what_this_server_does_not_know_is_irrelevant(self, elements: tuple[object, ...]) -> None:
        assert decode(*elements) == Irrelevant(elements[0])  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "elements",
        [
            (),
            (None,),
            (True, {}, None, "T", []),
            (1.0, {}, None, "T", []),
            ("1", {}, None, "T", []),
            (1,),
            (1, {}, None, "T"),
            (1, None, None, "T", []),
            (1, [], None, "T", []),
            (1, {}, 7, "T", []),
            (1, {}, None, None, []),
            (1, {}, None, b"T", []),
            (1, {}, None, "T", {}),
            (1, {}, None, "T", "[]"),
            (4, {}, None, "T", []),
            (3, {}, None, 2),
            (3, {}, "7"),
            (3, {}, "7", 1),
            (3, {}, "7", 1, None),
            (3, {}, "7", 3),
            (3, {}, "7", 4, "x"),
            (3, {}, "7", "2"),
            (7, 5),
        ],
    )
    def test_a_message_of_the_wrong_shape_is_malformed(self, elements: tuple[object, ...]) -> None:
        with pytest.raises(MalformedRecord):
            decode(*elements)

    @pytest.mark.parametrize(
        "record",
        [
            b"",
            b"\xc0",
            b"\x81\x01\x02",
            b'{"type":6}',
            b"\x91\x06\x00",
            b"\xc1",
            b"\x96\x01\x80\xc0\xa1\xff\x90\x90",
            b"\x96\x01\x80\xc0\xa3\xed\xa0\x80\x90\x90",
            b"\xdd\xff\xff\xff\xff\x06",
            b"\xdd\x7f\xff\xff\xff\x06",
            b"\x92\x06\xdf\xff\xff\xff\xff",
            b"\x92\x06\xdb\xff\xff\xff\xffabc",
            b"\x92\x06\xc6\x7f\xff\xff\xffabc",
            b"\x92\x06\xc9\x7f\xff\xff\xff\x05abc",
            b"\x92\x06\x81\xdd\x7f\xff\xff\xff\x01",
            b"\x92\x06\xc7\x0c\xff" + b"\xff" * 12,
            b"\x92\x06" + b"\x91" * 5000 + b"\xc0",
            b"\x92\x06" + b"\x81\xa0" * 5000 + b"\xc0",
            b"\x92\x06\x81" + b"\x91" * 5000 + b"\xc0\xc0",
        ],
    )
    def test_what_is_no_message_at_all_is_malformed_and_nothing_worse(self, record: bytes) -> None:
        with pytest.raises(MalformedRecord):
            PACK.decode(record)

    def test_an_extension_among_the_arguments_harms_nobody(self) -> None:
        record = PACK.decode(bytes.fromhex("95 01 80 c0 a1 54 93 d4 05 00 d6 ff 00 00 00 01 c4 01 61"))
        assert isinstance(record, Invocation) and len(record.arguments) == 3

    def test_the_text_of_a_fault_holds_nothing_of_the_client(self) -> None:
        with pytest.raises(MalformedRecord) as caught:
            decode(1, {}, "secret", "secret", {"secret": "secret"})
        assert "secret" not in str(caught.value)


class TestCutting:
    def test_messages_come_out_whatever_the_cuts(self) -> None:
        records = [b"", b"a", b"b" * 127, b"c" * 128, b"d" * 300]
        stream = b"\x00" + b"\x01a" + b"\x7f" + b"b" * 127 + b"\x80\x01" + b"c" * 128 + b"\xac\x02" + b"d" * 300
        assert list(LengthSplitter(300).feed(stream)) == records
        assert list(feed(LengthSplitter(300), stream)) == records

    def test_a_length_at_the_limit_is_taken_and_one_beyond_it_refused_before_anything_arrives(self) -> None:
        assert list(LengthSplitter(32_768).feed(b"\x80\x80\x02" + b"x" * 32_768)) == [b"x" * 32_768]
        with pytest.raises(RecordTooLarge):
            list(LengthSplitter(32_768).feed(b"\x81\x80\x02"))

    @pytest.mark.parametrize("length", [b"\xff\xff\xff", b"\xff\xff\xff\xff\x07", b"\xff\xff\xff\xff\x7f"])
    def test_a_length_is_refused_as_soon_as_it_must_become_too_large(self, length: bytes) -> None:
        with pytest.raises(RecordTooLarge):
            list(feed(LengthSplitter(32_768), length))

    def test_a_length_that_does_not_end_is_malformed(self) -> None:
        assert list(LengthSplitter(100).feed(b"\x80\x80\x80\x80")) == []
        with pytest.raises(MalformedRecord):
            list(LengthSplitter(100).feed(b"\x80\x80\x80\x80\x80"))
        with pytest.raises(MalformedRecord):
            list(feed(LengthSplitter(100), b"\x80\x80\x80\x80\x80"))

    def test_messages_before_a_bad_length_are_still_given(self) -> None:
        splitter = LengthSplitter(10).feed(b"\x01a\x7f")
        assert next(splitter) == b"a"
        with pytest.raises(RecordTooLarge):
            next(splitter)
