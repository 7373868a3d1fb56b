"""Reading `Retry-After` from peers whose clocks, and ours, may be wrong."""

from datetime import UTC, datetime, timedelta

import pytest

from appliance.domain.retry_after import LONGEST, read_retry_after

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
AFTER_NOON = "Sun, 01 Mar 2026 12:02:00 GMT"


@pytest.mark.parametrize(
    ("text", "wait"),
    [
        (None, None),
        ("0", timedelta(0)),
        (" 120 ", timedelta(minutes=2)),
        ("9999999999", LONGEST),
        ("-5", None),
        ("1e9", None),
        ("soon", None),
        (AFTER_NOON, timedelta(minutes=2)),
        ("Sun, 01 Mar 2026 11:00:00 GMT", timedelta(0)),
        ("Sun, 01 Mar 99999 11:00:00 GMT", None),
    ],
)
def test_what_each_form_means(text: str | None, wait: timedelta | None) -> None:
    assert read_retry_after(text, NOON) == wait


@pytest.mark.parametrize("now", [datetime(1970, 1, 1, tzinfo=UTC), NOON, datetime(2050, 1, 1, tzinfo=UTC)])
def test_a_date_is_read_by_the_clock_of_whoever_sent_it(now: datetime) -> None:
    assert read_retry_after(AFTER_NOON, now, sent_at="Sun, 01 Mar 2026 12:00:00 GMT") == timedelta(minutes=2)


def test_a_date_without_the_sender_s_clock_is_not_believed_when_ours_may_be_off() -> None:
    """A machine that had started in 1970 read a date of the day as a pause of 28 days."""
    assert read_retry_after(AFTER_NOON, datetime(1970, 1, 1, tzinfo=UTC)) is None
    assert read_retry_after(AFTER_NOON, datetime(1970, 1, 1, tzinfo=UTC), sent_at="today") is None
    assert read_retry_after(AFTER_NOON, NOON - timedelta(days=1)) is None
