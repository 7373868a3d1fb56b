"""What an e-mail looks like on the wire: headers that nothing can break, text and HTML, one identity over retries."""

import email
import email.policy
import re
import uuid
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.channels.email_message import Sender, compose
from appliance.domain.language import Language
from tests.doubles.hand_clock import HandClock
from tests.doubles.letters import make_digest, make_letter

SENDER = Sender("carillon@example.org", "Carillon")
TO = "anna@example.net"
NOW = HandClock().now()
HEADERS = {
    "From",
    "To",
    "Date",
    "Message-ID",
    "Auto-Submitted",
    "Content-Language",
    "List-Unsubscribe",
    "Subject",
    "MIME-Version",
    "Content-Type",
}
TITLES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=256)


def composed(push, sender=SENDER):
    raw = compose(push, push.letter, sender)
    return raw, email.message_from_bytes(raw, policy=email.policy.default)


def text_of(message, kind="plain"):
    return message.get_body((kind,)).get_content().replace("\r\n", "\n")


def test_it_carries_the_notification_as_text_and_as_html():
    _, message = composed(make_letter(TO, NOW, title="Twoja zmiana", body="Zaczyna się o 8:00.\nŻółć & spółka"))
    assert message["Subject"] == "Twoja zmiana"
    assert message["From"] == "Carillon <carillon@example.org>"
    assert message["To"] == TO
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert "Zaczyna się o 8:00.\nŻółć & spółka" in text_of(message)
    assert "Żółć &amp; spółka" in text_of(message, "html")


def test_the_identity_is_the_notification_s_and_the_same_at_every_try():
    push = make_letter(TO, NOW, number=42)
    first, message = composed(push)
    assert message["Message-ID"] == f"<{uuid.UUID(int=42)}@example.org>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Date"].datetime == NOW
    assert compose(push, push.letter, SENDER) == first


def test_notifications_of_one_collapse_key_are_one_thread_and_others_are_not():
    def thread(number, **options):
        return composed(make_letter(TO, NOW, number=number, **options))[1]["References"]

    assert thread(1, collapse_key="invoice-17") == thread(2, collapse_key="invoice-17")
    assert thread(1, collapse_key="invoice-17") != thread(1, collapse_key="invoice-18")
    assert thread(1) is None


def test_unsubscribing_is_one_click_over_https_and_a_letter_to_the_sender_without_an_address():
    _, message = composed(make_letter(TO, NOW, unsubscribe_url="https://push.example.org/unsubscribe/abc"))
    assert message["List-Unsubscribe"] == "<https://push.example.org/unsubscribe/abc>"
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert "https://push.example.org/unsubscribe/abc" in text_of(message)
    _, message = composed(make_letter(TO, NOW, unsubscribe_url="http://10.0.0.5:8480/unsubscribe/abc"))
    assert (message["List-Unsubscribe-Post"], "10.0.0.5" in message["List-Unsubscribe"]) == (None, True)
    _, message = composed(make_letter(TO, NOW))
    assert message["List-Unsubscribe"] == "<mailto:carillon@example.org?subject=unsubscribe>"


def test_a_long_unsubscribe_address_is_not_broken_up():
    url = "https://push.example.org/unsubscribe/" + "A1-_" * 60
    raw, message = composed(make_letter(TO, NOW, unsubscribe_url=url))
    assert f"List-Unsubscribe: <{url}>\r\n".encode() in raw
    assert url in text_of(message)


@pytest.mark.parametrize(
    "title",
    [
        "Hello\r\nBcc: eve@example.com",
        "Hello\nBcc: eve@example.com\n\n<b>body</b>",
        "Hello\r\n\r\nBcc: eve@example.com",
        "Hello\x0bBcc: eve@example.com",
        "Hello\x85Bcc: eve@example.com",
        "Hello\u2028Bcc: eve@example.com",
    ],
)
def test_no_title_can_add_a_header(title):
    _, message = composed(make_letter(TO, NOW, title=title))
    assert set(message.keys()) == HEADERS
    assert message["Subject"].startswith("Hello")
    assert message["Bcc"] is None


@given(title=TITLES, body=TITLES, app_name=TITLES)
@settings(max_examples=150, deadline=None)
def test_whatever_is_sent_the_message_is_well_formed(title, body, app_name):
    raw, message = composed(make_letter(TO, NOW, title=title, body=body, app_name=app_name))
    assert raw.isascii()
    assert all(len(line) <= 998 for line in raw.split(b"\r\n"))
    assert b"\n" not in raw.replace(b"\r\n", b"")
    assert b"\r" not in raw.replace(b"\r\n", b"")
    assert set(message.keys()) == HEADERS
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert not message.defects
    html = text_of(message, "html")
    assert len(re.findall("<script|<img|<link|<iframe", html)) == 0
    assert html.count("<h1>") == 1


def test_markup_in_a_notification_stays_text():
    _, message = composed(
        make_letter(TO, NOW, title="<script>alert(1)</script>", body='<img src="https://evil.example/x">')
    )
    html = text_of(message, "html")
    assert "<script>" not in html
    assert "<img" not in html
    assert "&lt;img src=&quot;https://evil.example/x&quot;&gt;" in html


def test_the_html_brings_nothing_from_elsewhere_and_knows_dark_screens():
    _, message = composed(make_letter(TO, NOW))
    html = text_of(message, "html")
    assert re.findall(r"(?:src|href|url)\s*[=(]", html) == []
    assert '<meta name="color-scheme" content="light dark">' in html
    assert "prefers-color-scheme:dark" in html


def test_a_title_that_looks_like_an_encoded_word_is_shown_as_it_is():
    title = "=?utf-8?b?SGVsbG8=?="
    raw, message = composed(make_letter(TO, NOW, title=title))
    assert title.encode() not in raw.split(b"\r\n\r\n")[0]
    assert message["Subject"] == title


def test_a_title_cannot_turn_the_words_around_it():
    _, message = composed(make_letter(TO, NOW, title="invoice\u202egpj.exe"))
    assert message["Subject"] == "invoicegpj.exe"


def test_a_very_long_title_is_cut_in_the_subject_and_whole_inside():
    title = "ź" * 256
    _, message = composed(make_letter(TO, NOW, title=title))
    assert (len(message["Subject"]), message["Subject"][-1]) == (200, "…")
    assert title in text_of(message)


def test_the_fixed_words_are_those_of_the_reader():
    _, english = composed(make_letter(TO, NOW, unsubscribe_url="https://a.example/u"))
    _, polish = composed(make_letter(TO, NOW, unsubscribe_url="https://a.example/u", language=Language.POLISH))
    assert "Stop these e-mails" in text_of(english)
    assert "Nie wysyłaj więcej tych wiadomości" in text_of(polish)
    assert (english["Content-Language"], polish["Content-Language"]) == ("en", "pl")
    assert '<html lang="pl">' in text_of(polish, "html")


def test_a_digest_tells_all_in_order_and_how_many_more_there_are():
    push = make_digest(TO, NOW, [f"Shift {number}" for number in range(1, 4)], count=40)
    _, message = composed(push)
    assert message["Subject"] == "40 notifications from Roster"
    assert message["Message-ID"] == f"<{uuid.UUID(int=77)}@example.org>"
    text = text_of(message)
    assert [text.index(f"Shift {number}\n") for number in (1, 2, 3)] == sorted(
        text.index(f"Shift {number}\n") for number in (1, 2, 3)
    )
    assert "… and 37 more." in text
    assert "… and 37 more." in text_of(message, "html")


def test_a_digest_of_several_apps_names_each_by_its_notifications():
    _, message = composed(make_digest(TO, NOW, ["One", "Two"], app_names=("Roster", "Invoices")))
    assert message["Subject"] == "2 notifications"
    assert "Roster and Invoices" in text_of(message)
    _, message = composed(make_digest(TO, NOW, ["One", "Two"], language=Language.POLISH))
    assert message["Subject"] == "Roster – powiadomienia: 2"


def test_a_sender_s_name_is_quoted_or_encoded():
    push = make_letter(TO, NOW + timedelta(seconds=1))
    for name in ('Smith, "The" Baker', "Żółw", ""):
        _, message = composed(push, Sender("carillon@example.org", name))
        [address] = message["From"].addresses
        assert (address.display_name, address.addr_spec) == (name, "carillon@example.org")
