import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.secret import Secret
from appliance.security.client_secrets import make_app_secret, make_refresh_token, make_ticket, make_webhook_secret
from appliance.security.redaction import MAX_REGISTERED_TEXTS, MAX_TEXT_CHARS, Redactor, is_secret_name, redact

JWT = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJjYW5hcnkifQ.c2lnbmF0dXJlLWNhbmFyeQ"
PEM = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBcanary\nline2canary==\n-----END PRIVATE KEY-----"


@pytest.mark.parametrize(
    "text",
    [
        "GET /hubs/notifications?id=canary&access_token=canary HTTP/1.1",
        "GET /hubs/notifications?ticket=canary#x",
        "https://push.example.test/x?a=1&Access_Token=canary&b=2",
        "grant_type=password&username=u&password=canary&client_secret=canary",
        "Authorization: Bearer canary-token",
        "{'authorization': 'Bearer canary'}",
        "Authorization: Basic Y2FuYXJ5OmNhbmFyeQ== canary",
        "Cookie: sid=canary; other=canary",
        "Bearer%20canary",
        '{"push_token": "canary", "platform": "web"}',
        '{"pushToken":"canary\\"canary"}',
        "{'password': 'canary'}",
        "{'secret': b'canary'}",
        '{"keys": {"p256dh": "canary", "auth": "canary"}}',
        r'{"inner": "{\"client_secret\": \"canary\"}"}',
        "connect failed: postgres://carillon:canary@db.example.test:5432/carillon",
        "connect failed: postgres://carillon:canary/with@canary@db.example.test/carillon",
        "https://canary@hooks.example.test/in",
        "redis://:canary@cache.example.test:6379/0",
        PEM,
        PEM.replace("\n", "\\n"),
        "-----BEGIN EC PRIVATE KEY-----\ncanary without an end",
        "https://updates.push.services.mozilla.com/wpush/v2/canary",
        "https://fcm.googleapis.com/fcm/send/canary:canary",
        "https://db5p.notify.windows.com/w/?token=canary",
        "https://web.push.apple.com/canary",
        "SMTP_PASSWORD=canary RELAY_ADMIN_KEY=x",
        "refresh_token=canary,next=1",
        "api_key='canary canary'",
        "[(b'Set-Cookie', b'canary'), (b'Server', b'x')]",
    ],
)
def test_what_looks_like_a_secret_is_masked(text):
    assert "canary" not in redact(text)
    assert "[redacted]" in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        JWT,
        f"refused {JWT}.",
        make_webhook_secret().reveal(),
        f"secret is {make_app_secret().reveal()}!",
        make_refresh_token().reveal(),
        make_ticket().reveal(),
        "token cA1bC2dE3fG4:APA91bHun4MxP5egoKMwt2KZFBaFUH-1RYqx",
        "POST /3/device/00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0",
    ],
)
def test_bare_tokens_are_masked_wherever_they_stand(text):
    shown = redact(text)

    assert "[redacted]" in shown
    assert not any(part in shown for part in text.replace("/", " ").split() if len(part) > 30)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "notification_accepted",
        "GET /push/notifications/01900000-0000-7000-8000-00000000000a?limit=10 200",
        "https://push.example.test:8480/health",
        "token_id=abc key_id=def id=7",
        "user first@example.test logged in",
        "Traceback (most recent call last): ValueError: the id is wrong",
    ],
)
def test_harmless_texts_stay_as_they_are(text):
    assert redact(text) == text


def test_the_rest_of_a_redacted_text_stays_readable():
    assert redact("GET /h?access_token=abc&v=1 -> 401") == "GET /h?access_token=[redacted]&v=1 -> 401"
    assert redact("postgres://u:p@db:5432/x down") == "postgres://[redacted]@db:5432/x down"


@given(secret=st.text(min_size=4, max_size=60), before=st.text(max_size=20), after=st.text(max_size=20))
def test_a_registered_secret_is_masked_in_any_surroundings(secret, before, after):
    redactor = Redactor()
    redactor.register(Secret(secret))

    masked = redactor.redact(before + secret + after)

    assert secret not in masked or secret in "[redacted]" or secret in before + "[redacted]" + after


@pytest.mark.parametrize(
    "form",
    [
        lambda text: text,
        lambda text: "q=p%40ss+w%C3%B6rd%22%2F%5Cx",
        lambda text: "q=p%40ss%20w%C3%B6rd%22%2F%5Cx",
        lambda text: '{"a":"p@ss w\\u00f6rd\\"/\\\\x"}',
        lambda text: '{"a":"p@ss wörd\\"/\\\\x"}',
        repr,
    ],
)
def test_a_registered_secret_is_masked_in_the_forms_in_which_it_travels(form):
    redactor = Redactor()
    redactor.register(Secret('p@ss wörd"/\\x'))

    assert "rd" not in redactor.redact(form('p@ss wörd"/\\x')).replace("[redacted]", "")


def test_each_line_of_a_registered_key_file_is_masked_alone():
    redactor = Redactor()
    redactor.register(Secret("first-line-of-the-key-file\nsecond-line-of-the-key-file"))

    assert redactor.redact("bad line: second-line-of-the-key-file") == "bad line: [redacted]"


def test_of_two_registered_secrets_the_longer_is_masked_whole():
    redactor = Redactor()
    redactor.register(Secret("canary"))
    redactor.register(Secret("canary-and-more"))

    assert redactor.redact("x canary-and-more x") == "x [redacted] x"


def test_the_register_is_bounded_and_lets_the_oldest_go():
    redactor = Redactor()
    for number in range(3 * MAX_REGISTERED_TEXTS):
        redactor.register(Secret(f"secret-number-{number:06}"))

    assert len(redactor._registered) == MAX_REGISTERED_TEXTS
    assert "secret-number-006143" not in redactor.redact("x secret-number-006143 x")


def test_a_text_beyond_the_limit_is_cut_and_no_half_secret_is_left_at_the_cut():
    redactor = Redactor()
    redactor.register(Secret("canary" * 20))
    text = "x " * (MAX_TEXT_CHARS // 2 - 20) + "canary" * 20

    shown = redactor.redact(text)

    assert "canary" not in shown
    assert len(shown) <= MAX_TEXT_CHARS


@pytest.mark.parametrize(
    "seed",
    [
        "a",
        "://",
        "eyJ",
        "-----BEGIN A-----",
        "password=",
        '"',
        "'token':'",
        "a-",
        "?id=",
        "\\",
        "://a:",
        "bearer ",
        "x:APA91",
    ],
)
def test_no_text_makes_redaction_slow(seed):
    """A pattern that backtracks over its own start would let a log line stop the event loop."""
    text = (seed * MAX_TEXT_CHARS)[:MAX_TEXT_CHARS]
    started = time.process_time()

    redact(text)

    assert time.process_time() - started < 1.0


@given(st.text(max_size=300))
def test_no_text_makes_redaction_raise(text):
    assert isinstance(redact(text), str)


@pytest.mark.parametrize(
    ("name", "is_secret"),
    [
        ("password", True),
        ("push_token", True),
        ("pushToken", True),
        ("Authorization", True),
        ("webhook_secrets", True),
        ("FIREBASE_CREDENTIALS_JSON", True),
        ("APNS_AUTH_KEY_P8", True),
        ("auth", True),
        ("token_id", False),
        ("key_id", False),
        ("author", False),
        ("user_id", False),
        ("status", False),
    ],
)
def test_a_field_is_secret_by_its_last_words(name, is_secret):
    assert is_secret_name(name) is is_secret
