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
