"""Addresses that can be written to, and when it is asked again whether a device has it."""

from datetime import UTC, datetime, timedelta

import pytest

from appliance.domain.errors import InvalidField
from appliance.domain.language import Language, language_of
from appliance.domain.mailbox import CONFIRM_GRACE, check_email, is_mailable, next_look_at

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "address",
    ["a@b", "anna.nowak+push@example.org", "o'neil@xn--bcher-kva.example", "x" * 64 + "@example.org", "a@127.example"],
)
def test_plain_addresses_are_taken(address):
    assert is_mailable(address)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "anna",
        "@example.org",
        "anna@",
        "anna@@example.org",
        "anna@example..org",
        ".anna@example.org",
        "anna.@example.org",
        "anna@-example.org",
        "anna@example.org.",
        "anna nowak@example.org",
        "anna@example.org\r\nBcc: eve@example.com",
        "anna@example.org\n",
        "anna@example.org,eve@example.com",
        "<anna@example.org>",
        '"anna"@example.org',
        "anna@[127.0.0.1]",
        "żółw@example.org",
        "anna@żółw.example",
        "x" * 65 + "@example.org",
        "a@" + ".".join(["b" * 60] * 5),
        "anna@" + "b" * 64 + ".org",
    ],
)
def test_what_a_mail_server_might_take_apart_is_refused(address):
    assert not is_mailable(address)
    with pytest.raises(InvalidField) as refused:
        check_email(address, field="notification_email")
    assert refused.value.field == "notification_email"


def test_addresses_that_differ_in_the_domain_s_case_are_one_mailbox():
    assert check_email("Anna@Example.ORG", field="e") == "Anna@example.org"


def test_it_is_looked_at_ever_more_rarely_and_for_the_last_time_when_the_grace_has_passed():
    at, looks = NOW, []
    while at < NOW + CONFIRM_GRACE:
        at = next_look_at(NOW, at)
        looks.append((at - NOW).total_seconds())
    assert looks == [15, 30, 60, 120, 240, 300]


def test_a_look_is_always_later_than_now_within_the_grace():
    for seconds in range(300):
        assert next_look_at(NOW, NOW + timedelta(seconds=seconds)) > NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("locale", "language"),
    [
        ("pl", Language.POLISH),
        ("pl-PL", Language.POLISH),
        ("PL_pl", Language.POLISH),
        ("en-GB", Language.ENGLISH),
        ("plt", Language.ENGLISH),
        ("", Language.ENGLISH),
        (None, Language.ENGLISH),
    ],
)
def test_the_language_is_that_of_the_locale_or_english(locale, language):
    assert language_of(locale) is language
