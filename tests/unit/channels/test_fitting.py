"""Fitting a notification into what a push service carries."""

import uuid
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.channels.fitting import DoesNotFit, fit
from appliance.domain.notification import Envelope, Priority

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def make_envelope(body: str, data: dict[str, object] | None = None, title: str = "Title") -> Envelope:
    return Envelope(
        uuid.UUID(int=1), uuid.UUID(int=2), uuid.UUID(int=3), title, body, data or {}, "notification",
        Priority.NORMAL, 1, NOW, NOW + timedelta(hours=1),
    )  # fmt: skip


def fitted(envelope: Envelope, most: int = 1_000) -> dict[str, object]:
    def encode(body: str, with_data: bool, is_truncated: bool) -> bytes:
        content: dict[str, object] = {"title": envelope.title, "body": body, "truncated": is_truncated}
        return msgspec.json.encode(content | ({"data": envelope.data} if with_data else {}))

    encoded = fit(envelope, most, encode)
    assert len(encoded) <= most
    return dict(msgspec.json.decode(encoded))


def test_what_fits_goes_whole() -> None:
    assert fitted(make_envelope("Body", {"a": "b"})) == {
        "title": "Title",
        "body": "Body",
        "truncated": False,
        "data": {"a": "b"},
    }


def test_a_long_body_is_cut_to_the_last_byte_that_fits_and_keeps_its_data() -> None:
    content = fitted(make_envelope("x" * 5_000, {"a": "b"}))
    assert content["truncated"] is True
    assert content["data"] == {"a": "b"}
    body = str(content["body"])
    assert body.endswith("x…") and 900 < len(body) < 1_000


def test_data_that_leaves_no_room_for_words_is_left_out() -> None:
    content = fitted(make_envelope("word " * 100, {"blob": "d" * 950}))
    assert "data" not in content
    assert content["truncated"] is True
    assert str(content["body"]).startswith("word word")


def test_the_cut_does_not_tear_a_joined_emoji() -> None:
    family = "👨‍👩‍👧‍👦"
    for most in range(200, 320):
        body = str(fitted(make_envelope(family * 100), most)["body"]).removesuffix("…")
        assert body.replace(family, "") == ""


def test_a_title_that_leaves_no_room_at_all_is_told() -> None:
    with pytest.raises(DoesNotFit):
        fitted(make_envelope("Body", title="t" * 2_000))


@given(st.text(max_size=3_000), st.integers(150, 2_000))
def test_any_text_comes_out_within_the_limit(body: str, most: int) -> None:
    body = body.encode("utf-8", "ignore").decode()
    content = fitted(make_envelope(body or "x"), most)
    assert str(content["body"]).removesuffix("…").strip() in (body or "x")
