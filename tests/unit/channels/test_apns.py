"""APNs against a double that keeps Apple's rules: content, both kinds of credential, every documented reason."""

import asyncio
import json
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from appliance.channels.apns import ApnsChannel, outcome_of
from appliance.channels.apns_credential import (
    ApnsCertificate,
    ApnsKey,
    BadApnsCredential,
    ProviderTokens,
    expiry_of,
    make_certificate_tls,
)
from appliance.channels.contract import Presentation
from appliance.channels.http2_messages import Answered, Http2Limits
from appliance.domain.device import Platform
from appliance.domain.notification import Priority
from appliance.domain.outcome import Accepted, Gone, Misconfigured, Rejected, Retry, reason_of
from appliance.domain.secret import Secret
from tests.doubles import apns
from tests.doubles.apns import device_token, make_provider_key, run_apns
from tests.doubles.hand_clock import HandClock
from tests.doubles.pushes import APP, make_push

TOPIC = "com.openksef.mobile"
ID = "00000000-0000-0000-0000-000000000001"
LIMITS = Http2Limits(backoff_first_s=0.01)


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
async def apple(authority, clock):
    async with run_apns(authority, now=clock.now, topics=(TOPIC,)) as double:
        yield double


def key_of(apple):
    return ApnsKey(Secret(apple.key.p8), apple.key.key_id, apple.key.team_id)


@pytest.fixture
async def make_channel(apple, clock, trusting):
    channels = []

    def make(credential=None, **options):
        settings = {"topic": TOPIC, "base_url": apple.url, "limits": LIMITS} | options
        channel = ApnsChannel(credential or key_of(apple), clock, trusting, **settings)
        channels.append(channel)
        return channel

    yield make
    for channel in channels:
        await channel.close()


@pytest.fixture
def channel(make_channel):
    return make_channel()


def push_to(token, clock, **content):
    return make_push(token, clock.now(), platform=Platform.IOS, **content)


async def sent(apple, channel, clock, **content):
    """Give headers and payload of what a push becomes."""
    outcome = await channel.deliver(push_to(device_token(), clock, **content))
    assert isinstance(outcome, Accepted), outcome
    taken = apple.control.accepted[-1]
    return taken.headers, taken.payload


# What is sent.


async def test_an_alert_carries_text_data_and_what_makes_it_one_event(apple, channel, clock):
    headers, payload = await sent(apple, channel, clock)
    assert {name: value for name, value in headers.items() if name.startswith("apns-")} == {
        "apns-topic": TOPIC,
        "apns-push-type": "alert",
        "apns-priority": "5",
        "apns-id": ID,
        "apns-expiration": str(int(clock.now().timestamp()) + 86_400),
        "apns-collapse-id": ID,
    }
    assert payload == {
        "aps": {"alert": {"title": "Invoice", "body": "It has come."}, "sound": "default"},
        "notificationId": ID,
        "appId": str(APP),
        "type": "invoice",
        "sequence": 4,
        "data": {"invoice": "17"},
    }


async def test_apple_names_what_it_accepted_by_our_id(channel, clock):
    assert await channel.deliver(push_to(device_token(), clock)) == Accepted(ID)


@pytest.mark.parametrize(("priority", "header"), [(Priority.LOW, "1"), (Priority.NORMAL, "5"), (Priority.HIGH, "10")])
async def test_an_alerts_priority_is_apples(apple, channel, clock, priority, header):
    assert (await sent(apple, channel, clock, priority=priority))[0]["apns-priority"] == header


async def test_data_is_a_background_push_with_the_text_inside(apple, channel, clock):
    headers, payload = await sent(apple, channel, clock, presentation=Presentation.DATA, priority=Priority.HIGH)
    assert (headers["apns-push-type"], headers["apns-priority"]) == ("background", "5")
    assert payload["aps"] == {"content-available": 1}
    assert (payload["title"], payload["body"]) == ("Invoice", "It has come.")


async def test_a_call_rings_through_voip(apple, channel, clock):
    headers, payload = await sent(apple, channel, clock, presentation=Presentation.CALL, ttl=timedelta(seconds=30))
    assert (headers["apns-topic"], headers["apns-push-type"]) == (f"{TOPIC}.voip", "voip")
    assert headers["apns-priority"] == "10"
    assert headers["apns-expiration"] == str(int(clock.now().timestamp()) + 30)
    assert "alert" not in payload["aps"]


async def test_a_voip_topic_of_ones_own_is_used(make_channel, clock):
    channel = make_channel(voip_topic="org.other.voip")
    outcome = await channel.deliver(push_to(device_token(), clock, presentation=Presentation.CALL))
    assert outcome.code == "TopicDisallowed"


async def test_a_ttl_of_nothing_means_now_or_never(apple, channel, clock):
    assert (await sent(apple, channel, clock, ttl=timedelta(0)))[0]["apns-expiration"] == "0"


async def test_the_ids_are_the_same_when_a_push_is_repeated(apple, channel, clock):
    push = push_to(device_token(), clock, collapse_key="inbox")
    apple.control.script.append("swallow")
    assert isinstance(await channel.deliver(push), Retry)
    clock.pass_s(90)
    assert isinstance(await channel.deliver(push), Accepted)
    first, second = (taken.headers for taken in apple.control.accepted)
    for name in ("apns-id", "apns-collapse-id", "apns-expiration"):
        assert first[name] == second[name]
    assert apple.control.duplicates == {f"{ID}/{device_token()}": 2}


@pytest.mark.parametrize(
    ("presentation", "most"), [(Presentation.ALERT, 4_096), (Presentation.DATA, 4_096), (Presentation.CALL, 5_120)]
)
async def test_what_is_too_long_is_shortened_and_says_so(apple, channel, clock, presentation, most):
    _, payload = await sent(apple, channel, clock, body="ż" * 4_096, presentation=presentation)
    assert payload["truncated"] is True
    assert len(json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()) <= most


# What is answered.

RETRY_5_MIN = timedelta(minutes=5)
EXPECTED: dict[str, tuple[type, dict[str, object]]] = {
    "BadCollapseId": (Rejected, {}),
    "BadDeviceToken": (Gone, {}),
    "BadExpirationDate": (Rejected, {}),
    "BadMessageId": (Rejected, {}),
    "BadPriority": (Rejected, {}),
    "BadTopic": (Misconfigured, {}),
    "DeviceTokenNotForTopic": (Misconfigured, {"is_about_device": True}),
    "DuplicateHeaders": (Rejected, {}),
    "IdleTimeout": (Retry, {"is_about_device": False, "pauses_all": False}),
    "InvalidPushType": (Rejected, {}),
    "MissingDeviceToken": (Rejected, {}),
    "MissingTopic": (Misconfigured, {}),
    "PayloadEmpty": (Rejected, {}),
    "TopicDisallowed": (Misconfigured, {"is_about_device": False}),
    "BadCertificate": (Misconfigured, {}),
    "BadCertificateEnvironment": (Misconfigured, {}),
    "ExpiredProviderToken": (Retry, {"after": RETRY_5_MIN, "pauses_all": True}),
    "Forbidden": (Misconfigured, {}),
    "InvalidProviderToken": (Misconfigured, {"is_about_device": False}),
    "MissingProviderToken": (Misconfigured, {}),
    "UnrelatedKeyIdInToken": (Misconfigured, {}),
    "BadEnvironmentKeyIdInToken": (Misconfigured, {}),
    "BadPath": (Misconfigured, {}),
    "MethodNotAllowed": (Misconfigured, {}),
    "ExpiredToken": (Gone, {}),
    "Unregistered": (Gone, {}),
    "PayloadTooLarge": (Rejected, {}),
    "TooManyProviderTokenUpdates": (Retry, {"after": RETRY_5_MIN, "pauses_all": True}),
    "TooManyRequests": (Retry, {"is_about_device": True, "pauses_all": False}),
    "InternalServerError": (Retry, {"is_about_device": False}),
    "ServiceUnavailable": (Retry, {"is_about_device": False}),
    "Shutdown": (Retry, {"is_about_device": False}),
}


def test_every_documented_reason_is_in_the_table():
    assert EXPECTED.keys() == apns.REASONS.keys()


@pytest.mark.parametrize("reason", apns.REASONS)
async def test_every_reason_of_apple_has_its_outcome(channel, clock, reason):
    await channel.deliver(push_to(device_token(), clock))
    outcome = await channel.deliver(push_to(device_token(reason), clock, number=2))
    kind, fields = EXPECTED[reason]
    assert (type(outcome), outcome.code) == (kind, reason)
    assert {name: getattr(outcome, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("behaviour", "outcome"),
    [
        ("html", Retry("Apple's service is out of order (502).", code="502")),
        ("empty", Retry("Apple's service is out of order (500).", code="500")),
        ("garbage", Retry("Something answered in Apple's place, but not as Apple does.", code="unreadable")),
        ("huge", Retry("Something answered in Apple's place, but not as Apple does.", code="unreadable")),
        ("refuse", Retry("The server refused the request for now.", code="refused")),
        ("reset", Retry(
            "The server broke the request off (INTERNAL_ERROR). It may have been taken; it is repeated under the same "
            "id.", code="connection_broken")),
        ("drop", Retry(
            "The connection broke. It may have been taken; it is repeated under the same id.",
            code="connection_broken")),
        ("slow", Accepted(ID)),
        ("drip", Accepted(ID)),
        ("goaway", Accepted(ID)),
    ],
)  # fmt: skip
async def test_every_fault_of_the_way_has_its_outcome(channel, clock, behaviour, outcome):
    assert await channel.deliver(push_to(device_token(behaviour), clock)) == outcome


async def test_retry_after_is_honoured_and_holds_for_all(clock):
    answer = Answered(503, [(b"retry-after", b"90")], b'{"reason":"ServiceUnavailable"}')
    outcome = outcome_of(answer, registered_at=clock.now(), now=clock.now(), is_environment_sure=True)
    assert isinstance(outcome, Retry)
    assert (outcome.after, outcome.pauses_all) == (timedelta(seconds=90), True)


@pytest.mark.parametrize(
    ("timestamp", "kind"),
    [
        (lambda now: (now + timedelta(seconds=1)).timestamp() * 1000, Gone),
        (lambda now: now.timestamp() * 1000, Retry),
        (lambda now: (now - timedelta(days=1)).timestamp() * 1000, Retry),
        (lambda now: None, Retry),
        (lambda now: 10**30, Retry),
        (lambda now: -(10**18), Retry),
    ],
)
def test_a_dead_token_counts_only_when_it_died_after_the_device_gave_it(clock, timestamp, kind):
    told = timestamp(clock.now())
    body = json.dumps({"reason": "Unregistered"} | ({} if told is None else {"timestamp": int(told)})).encode()
    outcome = outcome_of(Answered(410, (), body), registered_at=clock.now(), now=clock.now(), is_environment_sure=True)
    assert type(outcome) is kind
    assert getattr(outcome, "is_about_device", True)


async def test_no_device_is_lost_to_the_wrong_one_of_apples_servers(apple, channel, clock):
    """Production and sandbox do not know each other's tokens, and both say `BadDeviceToken`."""
    for number in range(30):
        outcome = await channel.deliver(push_to(device_token("BadDeviceToken", number), clock, number=number))
        assert isinstance(outcome, Misconfigured)
        assert "sandbox or production" in outcome.reason
    await sent(apple, channel, clock)
    outcome = await channel.deliver(push_to(device_token("BadDeviceToken"), clock))
    assert isinstance(outcome, Gone)


async def test_many_strange_tokens_in_a_row_bring_the_doubt_back(apple, channel, clock):
    await sent(apple, channel, clock)
    outcomes = []
    for number in range(25):
        push = push_to(device_token("BadDeviceToken", number), clock, number=number)
        outcomes.append(type(await channel.deliver(push)))
    assert outcomes == [Gone] * 20 + [Misconfigured] * 5


@pytest.mark.parametrize("status", [301, 400, 401, 402, 403, 404, 405, 418, 451, 499])
def test_undocumented_answers_cost_no_device_and_are_not_repeated_blindly(clock, status):
    outcome = outcome_of(
        Answered(status, (), b"<html>"), registered_at=clock.now(), now=clock.now(), is_environment_sure=True
    )
    assert isinstance(outcome, Rejected | Misconfigured)
    assert "<" not in reason_of(outcome)


# Keys.


async def test_one_provider_token_serves_every_connection_for_45_minutes(apple, make_channel, clock):
    """The SDK made one for each connection, and Apple refuses the second within twenty minutes."""
    channel = make_channel(limits=Http2Limits(streams=5, connections=4))
    for minutes in (0, 30, 14):
        clock.pass_s(minutes * 60)
        pushes = [push_to(device_token(number=n), clock, number=n) for n in range(60)]
        await asyncio.gather(*(channel.deliver(push) for push in pushes))
    assert len(apple.provider_tokens) == 1
    clock.pass_s(60)
    await sent(apple, channel, clock)
    assert len(apple.provider_tokens) == 2
    assert {answer for answer in apple.control.answers if answer != "200"} == set()


async def test_an_expired_token_is_renewed_once_and_the_push_sent(apple, channel, clock):
    await sent(apple, channel, clock)
    clock.pass_s(21 * 60)
    apple.expire_tokens()
    clock.pass_s(1)
    pushes = [push_to(device_token(number=n), clock, number=n) for n in range(50)]
    outcomes = await asyncio.gather(*(channel.deliver(push) for push in pushes))
    assert {type(outcome) for outcome in outcomes} == {Accepted}
    assert len(apple.provider_tokens) == 2


async def test_a_token_expired_too_soon_waits_instead_of_being_renewed(apple, channel, clock):
    await sent(apple, channel, clock)
    clock.pass_s(60)
    apple.expire_tokens()
    outcome = await channel.deliver(push_to(device_token(), clock))
    assert (type(outcome), outcome.code) == (Retry, "ExpiredProviderToken")
    assert len(apple.provider_tokens) == 1


async def test_channels_with_the_same_key_share_its_token(apple, make_channel, clock):
    tokens = ProviderTokens(key_of(apple), clock)
    for channel in (make_channel(tokens=tokens), make_channel(tokens=tokens)):
        await sent(apple, channel, clock)
    assert len(apple.provider_tokens) == 1


def test_a_clock_that_was_set_back_makes_a_new_token(clock):
    tokens = ProviderTokens(ApnsKey(Secret(make_provider_key().p8), "KEY0000001", "TEAM000001"), clock)
    first = tokens.get()
    clock.pass_s(-3_600)
    assert tokens.get() != first


def _pem(key, encryption=None):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()).decode()


@pytest.mark.parametrize(
    ("p8", "key_id", "team_id", "words"),
    [
        ("", "KEY0000001", "TEAM000001", "APNS_AUTH_KEY_P8"),
        (
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
            "KEY0000001",
            "TEAM000001",
            "APNS_AUTH_KEY_P8",
        ),
        (_pem(ec.generate_private_key(ec.SECP384R1())), "KEY0000001", "TEAM000001", "APNS_AUTH_KEY_P8"),
        (_pem(rsa.generate_private_key(65_537, 2_048)), "KEY0000001", "TEAM000001", "APNS_AUTH_KEY_P8"),
        (
            _pem(ec.generate_private_key(ec.SECP256R1()), BestAvailableEncryption(b"x")),
            "KEY0000001",
            "TEAM000001",
            "APNS_AUTH_KEY_P8",
        ),
        (make_provider_key().p8, "KEY", "TEAM000001", "APNS_KEY_ID"),
        (make_provider_key().p8, "KEY0000001", "", "APNS_TEAM_ID"),
    ],
)
async def test_a_key_that_cannot_be_used_is_told_by_push_and_probe(make_channel, clock, p8, key_id, team_id, words):
    channel = make_channel(ApnsKey(Secret(p8), key_id, team_id))
    outcome = await channel.deliver(push_to(device_token(), clock))
    assert isinstance(outcome, Misconfigured)
    assert words in outcome.reason
    assert words in (await channel.probe()).detail


# Certificates.


def certificate_for(apple, topic=TOPIC):
    certificate, key = apple.client_certificate(topic)
    return ApnsCertificate(certificate, Secret(key))


async def test_a_certificate_sends_alerts_and_calls_without_any_token(apple, make_channel, clock):
    channel = make_channel(certificate_for(apple))
    headers, _ = await sent(apple, channel, clock)
    assert "authorization" not in headers
    headers, _ = await sent(apple, channel, clock, presentation=Presentation.CALL)
    assert headers["apns-topic"] == f"{TOPIC}.voip"
    assert apple.provider_tokens == []


async def test_a_certificate_for_another_app_is_told(apple, make_channel, clock):
    channel = make_channel(certificate_for(apple, "org.wazo-platform"))
    outcome = await channel.deliver(push_to(device_token(), clock))
    assert (type(outcome), outcome.code) == (Misconfigured, "TopicDisallowed")


async def test_a_certificate_with_anothers_key_is_told(apple, make_channel, clock):
    mixed = ApnsCertificate(certificate_for(apple).certificate, certificate_for(apple).private_key)
    channel = make_channel(mixed)
    outcome = await channel.deliver(push_to(device_token(), clock))
    assert isinstance(outcome, Misconfigured)
    assert "do not belong together" in outcome.reason


@pytest.mark.parametrize("fault", ["no pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"])
def test_a_certificate_that_is_none_is_refused(fault):
    with pytest.raises(BadApnsCredential):
        expiry_of(ApnsCertificate(fault, Secret("")))


def test_a_key_with_a_passphrase_is_refused_without_asking_at_the_terminal(apple, trusting):
    certificate = certificate_for(apple).certificate
    locked = Secret(_pem(ec.generate_private_key(ec.SECP256R1()), BestAvailableEncryption(b"x")))
    with pytest.raises(BadApnsCredential):
        make_certificate_tls(ApnsCertificate(certificate, locked), trusting)


# The probe, and the network.


@pytest.mark.parametrize("kind", ["key", "certificate"])
async def test_the_probe_tells_a_good_credential_by_the_device_that_there_is_not(apple, make_channel, kind):
    channel = make_channel(None if kind == "key" else certificate_for(apple))
    diagnosis = await channel.probe()
    assert (diagnosis.works, diagnosis.detail.startswith(f"Apple accepts the credential for {TOPIC}.")) == (True, True)
    assert apple.control.accepted == []


async def test_the_probe_warns_of_a_certificate_that_expires_soon(apple, make_channel, clock):
    clock.wall = datetime.now(UTC)
    apple.control.script.append("BadDeviceToken")
    assert "The certificate expires on 20" in (await make_channel(certificate_for(apple)).probe()).detail


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"topic": "com.somebody.else"}, "check APNS_BUNDLE_ID. (TopicDisallowed)"),
        ({"credential": "other key"}, "check APNS_KEY_ID, APNS_TEAM_ID and APNS_AUTH_KEY_P8. (InvalidProviderToken)"),
        ({"base_url": "https://localhost:1"}, "refuses connections"),
    ],
)
async def test_the_probe_says_what_is_wrong_and_where_to_mend_it(make_channel, changes, words):
    if "credential" in changes:
        other = make_provider_key()
        changes = {"credential": ApnsKey(Secret(other.p8), other.key_id, other.team_id)}
    diagnosis = await make_channel(**changes).probe()
    assert not diagnosis.works
    assert words in diagnosis.detail


async def test_an_unknown_authority_is_a_matter_for_an_admin(apple, clock):
    channel = ApnsChannel(
        key_of(apple),
        clock,
        lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        topic=TOPIC,
        base_url=apple.url,
        limits=LIMITS,
    )
    outcome = await channel.deliver(push_to(device_token(), clock))
    assert isinstance(outcome, Misconfigured)
    assert "certificate" in outcome.reason
    await channel.close()


async def test_token_trouble_with_two_hundred_under_way_loses_and_doubles_nothing(apple, channel, clock):
    """Apple goes back to one stream then and refuses the others."""
    await sent(apple, channel, clock)
    clock.pass_s(25 * 60)
    apple.expire_tokens()
    clock.pass_s(1)
    apple.server.latency_s = 0.005
    pushes = [push_to(device_token(number=n), clock, number=n) for n in range(200)]
    outcomes = await asyncio.gather(*(channel.deliver(push) for push in pushes))
    assert {type(outcome) for outcome in outcomes} == {Accepted}
    assert (len(apple.control.accepted), apple.control.duplicates) == (201, {})
