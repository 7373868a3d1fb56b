"""What a notification may hold."""

import pytest

from appliance.domain.errors import InvalidField, PayloadTooLarge
from appliance.domain.notification import MAX_DATA_BYTES, MAX_DATA_DEPTH, check_content, read_data


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
    for _ in range(MAX_DATA_DEPTH - 1):
        nested = [nested]
    with pytest.raises(InvalidField, match="NUL"):
        check_content(title="t", body="b", data={"k": nested})


def nest(levels: int, *, lists: bool = False) -> dict[str, object]:
    inner: object = "x"
    for _ in range(levels - 1):
        inner = [inner] if lists else {"a": inner}
    return {"a": inner}


@pytest.mark.parametrize("lists", [True, False])
def test_data_nests_32_levels_and_no_deeper(lists: bool):
    # The story: some 970 levels were accepted, which every encoder with a few more frames below it failed at, for ever.
    deepest = nest(MAX_DATA_DEPTH, lists=lists)
    assert read_data(check_content(title="t", body="b", data=deepest).data_json) == deepest
    for levels in (MAX_DATA_DEPTH + 1, 970, 2_000):
        with pytest.raises(InvalidField) as refused:
            check_content(title="t", body="b", data=nest(levels, lists=lists), path="notifications[0].")
        assert refused.value.field == "notifications[0].data"
        assert "32 levels" in refused.value.detail


@pytest.mark.parametrize(
    "text", ["[1]", "{", '{"a":' + "[" * 900 + "]" * 900 + "}", '{"a":' * 90_000, '{"a":"\\ud800"}']
)
def test_stored_data_that_cannot_be_read_is_told_from_data(text: str):
    assert read_data(text) is None
