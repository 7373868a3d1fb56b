"""JSON on the wire, byte by byte where clients are strict."""

import json

import pytest

from appliance.hub.encoding import Ack, MalformedRecord, Sequence
from appliance.hub.encoding_json import JsonEncoding

JSON = JsonEncoding()


def test_a_ping_is_exactly_its_type() -> None:
    assert JSON.ping.payload == '{"type":6}\x1e'


def test_an_invocation_without_an_id_has_no_key_for_it() -> None:
    frame = JSON.encode_invocation("Target", {"a": None})
    assert frame.payload == '{"type":1,"target":"Target","arguments":[{"a":null}]}\x1e'


def test_an_invocation_with_an_id_carries_it() -> None:
    frame = JSON.encode_invocation("T", 1, "id-1")
    assert frame.payload == '{"type":1,"invocationId":"id-1","target":"T","arguments":[1]}\x1e'


def test_a_completion_has_a_result_or_an_error_never_both() -> None:
    assert JSON.encode_result("1", None).payload == '{"type":3,"invocationId":"1","result":null}\x1e'
    assert JSON.encode_error("1", "no").payload == '{"type":3,"invocationId":"1","error":"no"}\x1e'


@pytest.mark.parametrize(
    ("error", "allow_reconnect", "wanted"),
    [
        (None, False, '{"type":7}'),
        ("bye", False, '{"type":7,"error":"bye"}'),
        ("bye", True, '{"type":7,"error":"bye","allowReconnect":true}'),
        (None, True, '{"type":7,"allowReconnect":true}'),
    ],
)
def test_a_close_leaves_out_what_is_absent(error: str | None, allow_reconnect: bool, wanted: str) -> None:
    assert JSON.encode_close(error, allow_reconnect=allow_reconnect).payload == wanted + "\x1e"


@pytest.mark.parametrize("text", ["\x1e", "a\x1eb\n\r\t\x00", "\u2028\u2029", "Zażółć 🎉", "</script>", '"\\'])
def test_no_text_can_end_a_record_early_and_each_comes_back(text: str) -> None:
    payload = JSON.encode_invocation("T", text).payload
    assert isinstance(payload, str)
    assert payload.count("\x1e") == 1 and payload.endswith("\x1e")
    assert json.loads(payload[:-1])["arguments"] == [text]


def test_the_size_of_a_frame_counts_bytes_not_characters() -> None:
    frame = JSON.encode_error("1", "ż🎉")
    assert isinstance(frame.payload, str)
    assert frame.size_bytes == len(frame.payload.encode())


def test_acks_and_sequences_are_written_and_read() -> None:
    assert JSON.encode_ack(7).payload == '{"type":8,"sequenceId":7}\x1e'
    assert JSON.encode_sequence(8).payload == '{"type":9,"sequenceId":8}\x1e'
    assert JSON.decode(b'{"sequenceId":7,"type":8,"more":[]}') == Ack(7)
    assert JSON.decode(b'{"type":9,"sequenceId":9223372036854775807}') == Sequence(2**63 - 1)


@pytest.mark.parametrize("number", ["null", "true", '"1"', "-1", "1.5", "[]", "9223372036854775808"])
@pytest.mark.parametrize("type_", [8, 9])
def test_a_bad_sequence_id_is_malformed(type_: int, number: str) -> None:
    for record in (f'{{"type":{type_},"sequenceId":{number}}}', f'{{"type":{type_}}}'):
        with pytest.raises(MalformedRecord):
            JSON.decode(record.encode())


def test_a_sequence_id_where_none_belongs_is_not_looked_at() -> None:
    assert JSON.decode(b'{"type":6,"sequenceId":"x"}') == JSON.decode(b'{"type":6}')
