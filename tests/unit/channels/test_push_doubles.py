"""The push services under test keep the real ones' rules, or what is tested against them proves nothing."""

import asyncio
import json
import ssl
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlencode
from uuid import UUID

import httpx
import jwt
import pytest

from appliance.channels.http2_messages import Ambiguous, Http2Request
from appliance.settings import DeliveryMode, load_settings
from tests.doubles import apns, fcm
from tests.doubles.hand_clock import HandClock

WITHIN_S = 10
TOPIC = "com.openksef.mobile"


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
async def apple(authority, clock):
    async with apns.run_apns(authority, now=clock.now) as double:
        yield double


@pytest.fixture
async def google(authority, clock):
    async with fcm.run_fcm(authority, now=clock.now) as double:
        yield double


def provider_token(double, at, **changes):
    key = double.key
    claims = {"iss": key.team_id, "iat": int(at.timestamp())} | changes.pop("claims", {})
    headers = {"kid": key.key_id} | changes
    return jwt.encode(claims, key.p8, algorithm="ES256", headers=headers)


def push(token="", *, bearer=None, number=1, headers=(), body=b'{"aps":{}}', topic=TOPIC):
    fresh = [(b"apns-id", str(UUID(int=number)).encode()), *headers]
    if bearer:
        fresh.append((b"authorization", b"bearer " + bearer.encode()))
    return Http2Request(
        f"/3/device/{token or apns.device_token()}".encode(), body, [(b"apns-topic", topic.encode())], fresh
    )


def reason_of(answer):
    return answer.status, json.loads(answer.body or b"{}").get("reason")


async def test_apns_takes_a_good_token_and_echoes_the_id(apple, clock, make_sender):
    sender = make_sender(apple.server.port)
    answer = await sender.send(push(bearer=provider_token(apple, clock.now())), WITHIN_S)
    assert (answer.status, answer.header(b"apns-id")) == (200, str(UUID(int=1)))
    assert [taken.id for taken in apple.control.accepted] == [f"{UUID(int=1)}/{apns.device_token()}"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kid": "OTHERKEY01"}, "InvalidProviderToken"),
        ({"claims": {"iss": "OTHERTEAM1"}}, "InvalidProviderToken"),
        ({"claims": {"iat": 0}}, "ExpiredProviderToken"),
    ],
)
async def test_apns_refuses_a_bad_provider_token(apple, clock, make_sender, changes, reason):
    bearer = provider_token(apple, clock.now(), **changes)
    assert reason_of(await make_sender(apple.server.port).send(push(bearer=bearer), WITHIN_S)) == (403, reason)


async def test_apns_refuses_a_push_without_any_credential(apple, make_sender):
    answer = await make_sender(apple.server.port).send(push(), WITHIN_S)
    assert reason_of(answer) == (403, "MissingProviderToken")


async def test_apns_takes_one_new_provider_token_in_twenty_minutes(apple, clock, make_sender):
    sender = make_sender(apple.server.port, connections=1)
    statuses = []
    for minutes in (0, 1, 21):
        clock.pass_s(minutes * 60)
        answer = await sender.send(push(bearer=provider_token(apple, clock.now())), WITHIN_S)
        statuses.append(reason_of(answer))
    assert statuses == [(200, None), (429, "TooManyProviderTokenUpdates"), (200, None)]


async def test_apns_takes_a_client_certificate_for_its_topic_only(apple, authority, make_sender, tmp_path):
    file = tmp_path / "client.pem"
    file.write_text("".join(apple.client_certificate("org.wazo-platform")))
    tls = authority.trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    tls.load_cert_chain(file)
    sender = make_sender(apple.server.port, tls=tls)
    voip = [(b"apns-push-type", b"voip")]
    assert (await sender.send(push(topic="org.wazo-platform"), WITHIN_S)).status == 200
    assert (await sender.send(push(topic="org.wazo-platform.voip", headers=voip), WITHIN_S)).status == 200
    assert reason_of(await sender.send(push(topic=TOPIC), WITHIN_S)) == (400, "TopicDisallowed")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"headers": [(b"apns-priority", b"7")]}, "BadPriority"),
        ({"headers": [(b"apns-push-type", b"background")]}, "BadPriority"),
        ({"headers": [(b"apns-push-type", b"loud")]}, "InvalidPushType"),
        ({"headers": [(b"apns-expiration", b"soon")]}, "BadExpirationDate"),
        ({"headers": [(b"apns-collapse-id", b"x" * 65)]}, "BadCollapseId"),
        ({"headers": [(b"apns-push-type", b"voip")]}, "TopicDisallowed"),
        ({"topic": "com.somebody.else"}, "TopicDisallowed"),
        ({"token": "no-hex"}, "BadDeviceToken"),
        ({"body": b"[]"}, "PayloadEmpty"),
        ({"body": json.dumps({"aps": "x" * 4096}).encode()}, "PayloadTooLarge"),
    ],
)
async def test_apns_checks_what_apple_checks(apple, clock, make_sender, changes, reason):
    bearer = provider_token(apple, clock.now())
    assert reason_of(await make_sender(apple.server.port).send(push(bearer=bearer, **changes), WITHIN_S))[1] == reason


async def test_every_reason_of_apple_can_be_had_by_its_device_token(apple, clock, make_sender):
    sender, bearer = make_sender(apple.server.port, connections=1), provider_token(apple, clock.now())
    for reason, status in apns.REASONS.items():
        answer = await sender.send(push(apns.device_token(reason), bearer=bearer), WITHIN_S)
        assert reason_of(answer) == (status, reason)


async def test_apns_allows_one_stream_until_the_first_good_token_and_again_after_a_bad_one(apple, clock, make_sender):
    sender, bearer = make_sender(apple.server.port, connections=1), provider_token(apple, clock.now())
    apple.server.latency_s = 0.01
    await asyncio.gather(*(sender.send(push(bearer=bearer, number=number), WITHIN_S) for number in range(1, 20)))
    (connection,) = apple.server.connections
    assert connection.peak > 5
    apple.expire_tokens()
    answers = await asyncio.gather(
        *(sender.send(push(bearer=bearer, number=number), WITHIN_S) for number in range(20, 30))
    )
    assert {reason_of(answer) for answer in answers} == {(403, "ExpiredProviderToken")}
    connection.peak = 0
    await asyncio.gather(*(sender.send(push(bearer=bearer, number=number), WITHIN_S) for number in range(30, 35)))
    assert connection.peak == 1


async def test_a_swallowed_answer_counts_as_accepted_and_its_repetition_as_a_duplicate(apple, clock, make_sender):
    sender, bearer = make_sender(apple.server.port, backoff_first_s=0.01), provider_token(apple, clock.now())
    apple.control.script.append("swallow")
    assert isinstance(await sender.send(push(bearer=bearer), WITHIN_S), Ambiguous)
    assert apple.control.duplicates == {}
    assert (await sender.send(push(bearer=bearer), WITHIN_S)).status == 200
    assert apple.control.duplicates == {f"{UUID(int=1)}/{apns.device_token()}": 2}


async def bearer_of(double, sender, at, **claims):
    account = double.service_account()
    assertion = jwt.encode(
        {
            "iss": account["client_email"],
            "aud": account["token_uri"],
            "scope": "https://www.googleapis.com/auth/firebase.messaging",
            "iat": int(at.timestamp()),
            "exp": int(at.timestamp()) + 3600,
        }
        | claims,
        account["private_key"],
        algorithm="RS256",
    )
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion}
    answer = await sender.send(Http2Request(b"/token", urlencode(form).encode()), WITHIN_S)
    return answer.status, json.loads(answer.body)


def message(token="", *, bearer, project="carillon-test", **fields):
    body = json.dumps({"message": {"token": token or fcm.registration_token(), **fields}}).encode()
    return Http2Request(
        f"/v1/projects/{project}/messages:send".encode(), body, (), [(b"authorization", f"Bearer {bearer}".encode())]
    )


@pytest.mark.parametrize(
    "claims", [{"iss": "somebody@else"}, {"aud": "https://oauth2.example/token"}, {"scope": "email"}, {"exp": 2**31}]
)
async def test_google_gives_no_bearer_for_a_bad_assertion(google, clock, make_sender, claims):
    status, told = await bearer_of(google, make_sender(google.server.port), clock.now(), **claims)
    assert (status, told["error"]) == (400, "invalid_grant")


async def test_google_takes_its_own_bearer_until_it_expires(google, clock, make_sender):
    sender = make_sender(google.server.port)
    _, told = await bearer_of(google, sender, clock.now())
    bearer = told["access_token"]
    assert (await sender.send(message(bearer="made-up"), WITHIN_S)).status == 401
    assert (await sender.send(message(bearer=bearer), WITHIN_S)).status == 200
    assert (await sender.send(message(bearer=bearer, project="another"), WITHIN_S)).status == 403
    clock.pass_s(timedelta(hours=1).total_seconds())
    assert (await sender.send(message(bearer=bearer), WITHIN_S)).status == 401


async def test_every_error_of_google_can_be_had_by_its_registration_token(google, clock, make_sender):
    sender = make_sender(google.server.port)
    _, told = await bearer_of(google, sender, clock.now())
    for name, refusal in fcm.REFUSALS.items():
        answer = await sender.send(message(fcm.registration_token(name), bearer=told["access_token"]), WITHIN_S)
        error = json.loads(answer.body)["error"]
        assert (answer.status, error["status"], error["code"]) == (refusal.status, refusal.name, refusal.status)
        assert answer.header(b"retry-after") == refusal.headers.get("retry-after")


@pytest.mark.parametrize(
    "fields",
    [{"data": {"n": 1}}, {"data": {"from": "x"}}, {"android": {"ttl": "60"}}, {"android": {"priority": "urgent"}},
     {"data": {"long": "x" * 4096}}, {"topic": "two targets"}],
)  # fmt: skip
async def test_google_checks_the_message(google, clock, make_sender, fields):
    sender = make_sender(google.server.port)
    _, told = await bearer_of(google, sender, clock.now())
    answer = await sender.send(message(bearer=told["access_token"], **fields), WITHIN_S)
    error = json.loads(answer.body)["error"]
    assert (answer.status, error["details"][0]["@type"]) == (400, fcm.BAD_REQUEST)


async def test_a_service_is_driven_and_read_over_http_1_1_too(google, clock, make_sender, authority):
    trusting = authority.trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    sender = make_sender(google.server.port)
    _, told = await bearer_of(google, sender, clock.now())
    async with httpx.AsyncClient(base_url=google.url, verify=trusting) as client:
        assert (await client.post("/_script", json={"next": ["UNAVAILABLE"], "do": ["forget"]})).status_code == 200
        assert (await client.post("/_script", json={"do": ["no such thing"]})).status_code == 400
        assert (await sender.send(message(bearer=told["access_token"]), WITHIN_S)).status == 503
        assert (await sender.send(message(bearer=told["access_token"]), WITHIN_S)).status == 200
        seen = (await client.get("/_requests")).json()
    assert seen["answers"] == {"503 UNAVAILABLE": 1, "200": 1}
    assert len(seen["accepted"]) == 1


def test_the_services_can_be_run_by_hand_and_print_the_programs_settings(tmp_path):
    command = [sys.executable, "-m", "tests.doubles", "fcm", "apns", "--folder", str(tmp_path)]
    root = Path(__file__).parents[3]
    printed = {}
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if "Ctrl-C" in line:
                    break
                name, _, value = line.removeprefix("export ").strip().partition("=")
                printed[name] = value
        finally:
            process.terminate()
        assert process.wait(20) == 0
    settings = load_settings(tmp_path / "data", printed)
    assert settings.delivery_mode is DeliveryMode.FIREBASE
    assert json.loads(settings.firebase_credentials_json.reveal())["type"] == "service_account"
    assert settings.apns_auth_key_p8.reveal().startswith("-----BEGIN PRIVATE KEY-----")
    assert settings.fcm_base_url != settings.apns_base_url
    assert Path(printed["SSL_CERT_FILE"]).read_text().startswith("-----BEGIN CERTIFICATE-----")
