"""What clients are told about a notification."""

import json
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest

from appliance.domain.notification import Priority
from appliance.hub.encoding import Frame
from appliance.hub.encoding_json import JsonEncoding
from appliance.hub.messages import Dialect, EncodedNotification, format_instant
from tests.doubles.hub_backend import make_envelope

USER = UUID(int=7)
JSON = JsonEncoding()


def read(frame: Frame) -> dict[str, Any]:
    assert isinstance(frame.payload, str)
    message: dict[str, Any] = json.loads(frame.payload[:-1])
    return message


def test_the_plain_dialect_has_one_argument_with_exactly_title_body_and_data() -> None:
    notification = EncodedNotification(make_envelope(USER, 1, title="T", body="B", data={"tenantId": "x"}))
    assert read(notification.frame(Dialect.PLAIN, JSON)) == {
        "type": 1,
        "target": "ReceiveNotification",
        "arguments": [{"title": "T", "body": "B", "data": {"tenantId": "x", "notificationId": str(notification.id)}}],
    }


def test_plain_data_values_are_strings_whatever_was_sent() -> None:
    data = {"s": "text", "n": 5, "f": 1.5, "b": True, "z": None, "o": {"k": [1, "ż"]}, "notificationId": "mine"}
    notification = EncodedNotification(make_envelope(USER, 1, data=data))
    told = read(notification.frame(Dialect.PLAIN, JSON))["arguments"][0]["data"]
    assert told == {
        "s": "text",
        "n": "5",
        "f": "1.5",
        "b": "true",
        "z": "null",
        "o": '{"k":[1,"ż"]}',
        "notificationId": str(notification.id),
    }


def test_the_full_dialect_tells_the_whole_envelope() -> None:
    envelope = make_envelope(
        USER, 3, data={"n": 5, "z": None}, priority=Priority.HIGH, type="invoice", collapse_key="c"
    )
    assert read(EncodedNotification(envelope).frame(Dialect.FULL, JSON)) == {
        "type": 1,
        "target": "Notify",
        "arguments": [
            {
                "id": str(envelope.id),
                "appId": str(envelope.app_id),
                "type": "invoice",
                "title": "Title 3",
                "body": "Body 3",
                "data": {"n": 5, "z": None},
                "priority": "high",
                "sequence": 3,
                "sentAt": "2026-03-01T12:00:00.250Z",
                "expiresAt": "2026-03-02T12:00:00.250Z",
                "collapseKey": "c",
            }
        ],
    }


def test_asking_for_a_result_uses_the_notifications_id_as_invocation_id() -> None:
    notification = EncodedNotification(make_envelope(USER, 1))
    assert read(notification.frame(Dialect.FULL_WITH_RESULT, JSON))["invocationId"] == str(notification.id)


def test_each_dialect_is_encoded_once_and_shared() -> None:
    notification = EncodedNotification(make_envelope(USER, 1))
    for dialect in Dialect:
        assert notification.frame(dialect, JSON) is notification.frame(dialect, JsonEncoding())


@pytest.mark.parametrize(
    ("instant", "wanted"),
    [
        (datetime(2026, 1, 31, 9, 5, 0, 999_999, tzinfo=timezone.utc), "2026-01-31T09:05:00.999Z"),  # noqa: UP017
        (datetime(2026, 1, 31, 0, 5, tzinfo=timezone(timedelta(hours=2))), "2026-01-30T22:05:00.000Z"),
    ],
)
def test_instants_are_utc_with_milliseconds(instant: datetime, wanted: str) -> None:
    assert format_instant(instant) == wanted


def test_what_has_no_place_in_the_users_order_has_no_number_that_could_be_kept_as_a_cursor() -> None:
    # The story: a test push told sequence 0, and a client that kept it asked for its whole history at its next Hello.
    notification = EncodedNotification(make_envelope(USER, 0))
    assert read(notification.frame(Dialect.FULL, JSON))["arguments"][0]["sequence"] is None
