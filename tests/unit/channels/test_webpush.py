"""Web Push against a push service that verifies and decrypts."""

import asyncio
import base64
import uuid
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from appliance.channels.contract import Push
from appliance.channels.webpush import VapidKey, WebPushChannel, is_subject, outcome_of
from appliance.clock import SystemClock
from appliance.domain.device import AddressKind, Platform, parse_address
from appliance.domain.notification import Envelope, Priority
from appliance.domain.outcome import Accepted, Gone, Misconfigured, Rejected, Retry
from appliance.domain.secret import Secret
from appliance.security.outbound import OutboundClient, OutboundRules, Reply, make_tls_context
from tests.doubles.certificates import Authority
from tests.doubles.push_service import run_push_service

APP = uuid.UUID(int=9)
NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Keys:
    """One app's key pair, and how often it was asked for."""

    def __init__(self):
        key = ec.generate_private_key(ec.SECP256R1())
        point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self.pair = VapidKey(
            key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
            base64.urlsafe_b64encode(point).decode().rstrip("="),
        )
        self.asked = 0

    async def vapid_key_of(self, app_id):
        self.asked += 1
        return self.pair if app_id == APP else None


@asynccontextmanager
async def open_channel(authority, *, subject="mailto:admin@push.example", allow=("localhost",)):
    outbound = OutboundClient(OutboundRules(allow), tls=authority.trust(make_tls_context()))
    try:
        yield WebPushChannel(outbound, Keys(), SystemClock(), subject=subject)
    finally:
        await outbound.close()


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@pytest.fixture
async def service(authority):
    async with run_push_service(authority.server_tls("localhost")) as running:
        yield running


def make_push(subscription, *, app_id=APP, **content):
    now = datetime.now(UTC)
    envelope = Envelope(
        id=uuid.uuid4(), app_id=app_id, user_id=uuid.UUID(int=3), title="Title", body="Body", data={"invoice": "17"},
        type="notification", priority=Priority.HIGH, sequence=4, sent_at=now, expires_at=now + timedelta(hours=1),
    )  # fmt: skip
    address = parse_address(Platform.WEB, subscription)
    assert address.kind is AddressKind.WEB_PUSH
    return Push(
        envelope=replace(envelope, **content),
        app_id=app_id,
        device_id=uuid.UUID(int=5),
        platform=Platform.WEB,
        address=Secret(address.text),
        timeout_s=5.0,
        registered_at=now,
    )


async def test_the_browser_gets_what_was_sent_and_nobody_else_could_read_it(authority, service):
    browser, subscription = service.subscribe()
    push = make_push(subscription)
    async with open_channel(authority) as channel:
        assert await channel.deliver(push) == Accepted()
    assert browser.received == [
        {
            "id": str(push.envelope.id),
            "appId": str(APP),
            "type": "notification",
            "title": "Title",
            "body": "Body",
            "sequence": 4,
            "collapseKey": None,
            "data": {"invoice": "17"},
        }
    ]
    [headers] = browser.headers
    assert headers["urgency"] == "high"
    assert 3_590 <= int(headers["ttl"]) <= 3_600
    topic = base64.urlsafe_b64decode(headers["topic"] + "==")
    assert uuid.UUID(bytes=topic) == push.envelope.id


async def test_the_signature_is_made_once_for_a_push_service_and_lives_less_than_a_day(authority, service):
    subscriptions = [service.subscribe()[1] for _ in range(5)]
    async with open_channel(authority) as channel:
        for subscription in subscriptions:
            assert isinstance(await channel.deliver(make_push(subscription)), Accepted)
        assert channel._keys.asked == 1
    [token] = service.tokens
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["aud"] == service.origin
    assert claims["sub"] == "mailto:admin@push.example"
    assert claims["exp"] - datetime.now(UTC).timestamp() <= 24 * 3600


async def test_a_collapse_key_makes_newer_ones_replace_older_ones(authority, service):
    browser, subscription = service.subscribe()
    async with open_channel(authority) as channel:
        for key in ("door", "door", "mail"):
            await channel.deliver(make_push(subscription, collapse_key=key))
    topics = [headers["topic"] for headers in browser.headers]
    assert topics[0] == topics[1] != topics[2]
    assert all(len(topic) == 32 for topic in topics)


async def test_a_long_text_is_shortened_and_says_so(authority, service):
    browser, subscription = service.subscribe()
    async with open_channel(authority) as channel:
        assert await channel.deliver(make_push(subscription, body="żółć " * 800)) == Accepted()
    [received] = browser.received
    assert received["truncated"] is True
    assert received["body"].endswith("…") and len(received["body"]) > 1_500
    assert received["data"] == {"invoice": "17"}


async def test_a_subscription_that_is_gone_is_gone(authority, service):
    browser, subscription = service.subscribe()
    browser.is_gone = True
    async with open_channel(authority) as channel:
        outcome = await channel.deliver(make_push(subscription))
        assert isinstance(outcome, Gone) and "410" in outcome.evidence
        del service.browsers[browser.path]
        outcome = await channel.deliver(make_push(subscription))
        assert isinstance(outcome, Gone) and "404" in outcome.evidence


async def test_an_app_without_keys_and_a_server_without_a_contact_are_told_the_fix(authority, service):
    _, subscription = service.subscribe()
    async with open_channel(authority) as channel:
        outcome = await channel.deliver(make_push(subscription, app_id=uuid.UUID(int=10)))
        assert isinstance(outcome, Misconfigured) and "enable push" in outcome.reason
    for subject in ("", "http://192.168.1.5:8480", "mailto:a@localhost", "mailto: x@y.z"):
        async with open_channel(authority, subject=subject) as channel:
            outcome = await channel.deliver(make_push(subscription))
            assert isinstance(outcome, Misconfigured) and "VAPID_SUBJECT" in outcome.reason
            assert not (await channel.probe()).works
    assert service.peer.asked == []


async def test_a_push_service_inside_the_house_is_not_contacted_unless_the_operator_allows_it(authority, service):
    _, subscription = service.subscribe()
    async with open_channel(authority, allow=()) as channel:
        outcome = await channel.deliver(make_push(subscription))
    assert isinstance(outcome, Misconfigured) and "OUTBOUND_ALLOW" in outcome.reason
    assert service.peer.connections == 0


async def test_a_push_service_that_does_not_answer_is_weather(authority, service):
    _, subscription = service.subscribe()

    async def hang(asked, writer):
        await asyncio.Event().wait()

    service.peer.answer = hang
    async with open_channel(authority) as channel:
        outcome = await channel.deliver(replace(make_push(subscription), timeout_s=0.2))
    assert isinstance(outcome, Retry) and outcome.code == "timed_out"


async def test_keys_that_are_no_point_on_the_curve_cost_nobody_an_exception(authority, service):
    _, subscription = service.subscribe()
    key = base64.urlsafe_b64encode(b"\x04" + b"\x01" * 64).decode().rstrip("=")
    start = subscription.index('"p256dh": "') + len('"p256dh": "')
    broken = subscription[:start] + key + subscription[start + 87 :]
    async with open_channel(authority) as channel:
        outcome = await channel.deliver(make_push(broken))
    assert isinstance(outcome, Gone)


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind", "facts"),
    [
        (200, {}, b"", Accepted, {}),
        (201, {}, b"", Accepted, {}),
        (204, {}, b"", Accepted, {}),
        (301, {"location": "https://elsewhere.example"}, b"", Retry, {"code": "301", "is_about_device": False}),
        (307, {"location": "https://elsewhere.example"}, b"", Retry, {"code": "307"}),
        (400, {}, b'{"errno":110}', Rejected, {}),
        (400, {}, b'{"reason":"VapidPkHashMismatch"}', Misconfigured, {"is_about_device": True}),
        (401, {}, b'{"errno":109,"message":"Unauthorized"}', Misconfigured, {"is_about_device": True}),
        (403, {}, b'{"reason":"BadJwtToken"}', Misconfigured, {"is_about_device": True}),
        (404, {}, b"", Gone, {}),
        (405, {}, b"", Misconfigured, {"is_about_device": True}),
        (407, {}, b"", Retry, {"is_about_device": False}),
        (408, {}, b"", Retry, {"pauses_all": False}),
        (410, {}, b'{"errno":103}', Gone, {}),
        (413, {}, b'{"errno":104}', Rejected, {}),
        (418, {}, b"", Rejected, {"was_asked": True}),
        (421, {}, b"", Retry, {"is_about_device": False}),
        (425, {}, b"", Retry, {"is_about_device": False}),
        (429, {"retry-after": "120"}, b"", Retry, {"after": timedelta(seconds=120), "pauses_all": True}),
        (429, {}, b"", Retry, {"after": None, "pauses_all": False}),
        (500, {}, b"<html>", Retry, {}),
        (502, {}, b"<html>Bad Gateway</html>", Retry, {}),
        (
            503,
            {"retry-after": "Sun, 01 Mar 2026 00:02:00 GMT"},
            b"",
            Retry,
            {"after": timedelta(seconds=120), "pauses_all": True},
        ),
        (503, {"retry-after": "soon"}, b"", Retry, {"after": None}),
    ],
)
def test_what_each_answer_means(status, headers, body, kind, facts):
    outcome = outcome_of(Reply(status, headers, body), NOW)
    assert isinstance(outcome, kind)
    assert {name: getattr(outcome, name) for name in facts} == facts


@pytest.mark.parametrize("status", [301, 400, 401, 404, 405, 410, 413, 418, 429, 500, 503])
def test_a_service_that_repeats_the_subscription_is_not_quoted(status):
    secret = "https://push.example/wpush/v2/canary-0123456789abcdef"
    body = b'{"message":"No subscription for wpush,v2: CANARY-0123456789"}'
    outcome = outcome_of(Reply(status, {}, body), NOW, secrets=(secret, "p" * 87, "a" * 22))
    assert "canary" not in repr(outcome).lower()
    assert str(status) in repr(outcome)


@pytest.mark.parametrize(
    ("text", "is_good"),
    [
        ("mailto:admin@push.example", True),
        ("https://push.example.org", True),
        ("https://push.example.org/contact", True),
        ("http://push.example.org", False),
        ("mailto:<a@b.c>", False),
        ("mailto:a@localhost", False),
        ("https://localhost.localdomain", False),
        ("admin@push.example", False),
    ],
)
def test_which_contacts_all_push_services_take(text, is_good):
    assert is_subject(text) is is_good
