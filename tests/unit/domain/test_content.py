"""What a notification may hold."""

import pytest

from appliance.domain.errors import InvalidField, PayloadTooLarge
from appliance.domain.notification import MAX_DATA_BYTES, check_content


def test_the_limits_are_counted_in_characters_for_texts_and_in_bytes_for_data():
    content = check_content(title="🔔" * 256, body="ż" * 4096, data={"k": "a" * (MAX_DATA_BYTES - len('{"k":""}'))})
    assert len(content.data_json.encode()) == MAX_DATA_BYTES
    with pytest.raises(PayloadTooLarge) as refused:
        check_content(title="t", body="b", data={"k": "ż" * 2048})
    assert (refused.value.limit_bytes, refused.value.actual_bytes) == (4096, 4104)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("title", ""),
        ("title", " \n "),
        ("title", "x" * 257),
        ("title", "a\0b"),
        ("title", "\ud800"),
        ("body", ""),
        ("body", "x" * 4097),
        ("body", "\udfff"),
        ("data", {"k": "a\0"}),
        ("data", {"k": "\ud800"}),
        ("type", ""),
        ("type", "x" * 65),
        ("collapse_key", ""),
        ("collapse_key", "ż" * 33),
        ("ttl_s", -1),
        ("ttl_s", 28 * 86_400 + 1),
    ],
)
def test_a_broken_rule_names_its_field(field, value):
    with pytest.raises(InvalidField) as refused:
        check_content(**{"title": "t", "body": "b", "path": "notifications[3].", field: value})
    assert refused.value.field == f"notifications[3].{field.removesuffix('_s')}"
    assert field.removesuffix("_s") in refused.value.detail


@pytest.mark.parametrize("text", [r"\u0000", "a\\u0000b", r"\\u0000", r"\ \u0000"])
def test_data_may_hold_the_letters_that_json_writes_a_nul_with(text: str):
    # The story: the encoded JSON was searched for \\u0000, which a backslash and "u0000", a text about NUL, also makes.
    assert check_content(title="t", body="b", data={text: [text, {"k": text}]}).data == {text: [text, {"k": text}]}


@pytest.mark.parametrize(
    "data", [{"a\0": 1}, {"k": [1, ["\0"]]}, {"k": {"a\0": None}}, {r"\u0000": "\0"}, {"k": [r"\u0000", {"k": "\0"}]}]
)
def test_a_nul_is_found_wherever_in_data_it_is(data: dict[str, object]):
    with pytest.raises(InvalidField) as refused:
        check_content(title="t", body="b", data=data)
    assert refused.value.field == "data"


def test_a_nul_is_found_below_deep_nesting():
    nested: object = "\0"
    for _ in range(500):
        nested = [nested]
    with pytest.raises(InvalidField, match="NUL"):
        check_content(title="t", body="b", data={"k": nested})
