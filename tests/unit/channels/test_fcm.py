"""FCM against a double that keeps Google's rules: content, credential, every documented error."""

import asyncio
import json
import ssl
import threading
from datetime import timedelta

import pytest

from appliance.channels.contract import Presentation
from appliance.channels.fcm import FcmChannel, outcome_of
from appliance.channels.fcm_credential import BadServiceAccount, read_service_account
from appliance.channels.http2_messages import Answered, Http2Limits
from appliance.domain.device import Platform
from appliance.domain.notification import Priority
from appliance.domain.outcome import Accepted, Gone, Misconfigured, Rejected, Retry, reason_of
from appliance.domain.secret import Secret
from tests.doubles.fcm import FCM_ERROR, registration_token, run_fcm
from tests.doubles.hand_clock import HandClock
from tests.doubles.pushes import APP, make_push

PROJECT = "carillon-test"


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
async def google(authority, clock):
    async with run_fcm(authority, now=clock.now, project=PROJECT) as double:
        yield double


@pytest.fixture
async def make_channel(google, clock, trusting):
    channels = []

    def make(account=None, **options):
        credential = Secret(json.dumps(account or google.service_account()))
        limits = Http2Limits(backoff_first_s=0.01)
        channel = FcmChannel(credential, clock, trusting, **({"base_url": google.url, "limits": limits} | options))
        channels.append(channel)
        return channel

    yield make
    for channel in channels:
        await channel.close()


@pytest.fixture
def channel(make_channel):
    return make_channel()


async def sent(google, channel, clock, **content):
    """Give the message that a push becomes."""
    outcome = await channel.deliver(make_push(registration_token(), clock.now(), **content))
    assert isinstance(outcome, Accepted), outcome
    return google.control.accepted[-1].payload


# What is sent.


async def test_an_alert_carries_text_data_and_what_makes_it_one_event(google, channel, clock):
    message = await sent(google, channel, clock, data={"invoice": "17", "net": {"pln": 5}})
    assert message == {
        "token": registration_token(),
        "notification": {"title": "Invoice", "body": "It has come."},
        "data": {
            "invoice": "17",
            "net": '{"pln":5}',
            "type": "invoice",
            "notificationId": "00000000-0000-0000-0000-000000000001",
            "appId": str(APP),
            "sequence": "4",
        },
        "android": {
            "priority": "normal",
            "ttl": "86400s",
            "notification": {"tag": "00000000-0000-0000-0000-000000000001"},
        },
    }


async def test_the_provider_names_what_it_accepted(google, channel, clock):
    outcome = await channel.deliver(make_push(registration_token(), clock.now()))
    assert outcome == Accepted(f"projects/{PROJECT}/messages/0:0000000000000001%double")


async def test_a_type_in_the_apps_data_is_kept_and_reserved_keys_are_renamed(google, channel, clock):
    message = await sent(google, channel, clock, data={"type": "test", "from": "x", "google.c": "y", "gcm": "z"})
    data = message["data"]
    assert data["type"] == "test"
    assert {"app_from": "x", "app_google.c": "y", "app_gcm": "z"}.items() <= data.items()


@pytest.mark.parametrize(
    ("options", "priority"),
    [
        ({"priority": Priority.LOW}, "normal"),
        ({"priority": Priority.HIGH}, "high"),
        ({"presentation": Presentation.CALL}, "high"),
    ],
)
async def test_what_may_not_wait_has_high_priority_on_android(google, channel, clock, options, priority):
    assert (await sent(google, channel, clock, **options))["android"]["priority"] == priority


@pytest.mark.parametrize("presentation", [Presentation.DATA, Presentation.CALL])
async def test_data_and_calls_have_no_notification_but_the_text_in_their_data(google, channel, clock, presentation):
    message = await sent(google, channel, clock, presentation=presentation)
    assert "notification" not in message
    assert "notification" not in message["android"]
    assert (message["data"]["title"], message["data"]["body"]) == ("Invoice", "It has come.")


async def test_a_collapse_key_replaces_on_the_phone_and_on_the_way(google, channel, clock):
    android = (await sent(google, channel, clock, collapse_key="inbox"))["android"]
    assert (android["collapse_key"], android["notification"]["tag"]) == ("inbox", "inbox")


async def test_the_ttl_is_what_is_left_of_it(google, channel, clock):
    push = make_push(registration_token(), clock.now(), ttl=timedelta(hours=2))
    clock.pass_s(3_600.5)
    await channel.deliver(push)
    assert google.control.accepted[-1].payload["android"]["ttl"] == "3599s"


async def test_an_android_channel_of_ones_own_is_named(google, make_channel, clock):
    message = await sent(google, make_channel(android_channel="invoices"), clock)
    assert message["android"]["notification"]["channel_id"] == "invoices"


async def test_an_iphone_gets_apples_headers_and_nothing_of_androids(google, channel, clock):
    message = await sent(google, channel, clock, platform=Platform.IOS, priority=Priority.HIGH)
    assert "android" not in message
    assert message["apns"]["headers"] == {
        "apns-priority": "10",
        "apns-expiration": str(int(clock.now().timestamp()) + 86_400),
        "apns-collapse-id": "00000000-0000-0000-0000-000000000001",
        "apns-push-type": "alert",
    }
    assert message["apns"]["payload"] == {"aps": {"sound": "default"}}


async def test_data_for_an_iphone_is_a_background_push(google, channel, clock):
    apple = (await sent(google, channel, clock, platform=Platform.IOS, presentation=Presentation.DATA))["apns"]
    assert (apple["headers"]["apns-push-type"], apple["headers"]["apns-priority"]) == ("background", "5")
    assert apple["payload"] == {"aps": {"content-available": 1}}


async def test_a_browser_gets_ttl_urgency_and_a_topic(google, channel, clock):
    message = await sent(google, channel, clock, platform=Platform.WEB)
    headers = message["webpush"]["headers"]
    assert (headers["TTL"], headers["Urgency"], len(headers["Topic"])) == ("86400", "normal", 32)


async def test_what_is_too_long_is_shortened_and_says_so(google, channel, clock):
    message = await sent(google, channel, clock, body="ż" * 4_096)
    assert message["data"]["truncated"] == "true"
    assert message["notification"]["body"].endswith("ż…")
    assert len(json.dumps([message["notification"], message["data"]], ensure_ascii=False).encode()) <= 4_096


async def test_text_and_data_of_any_language_and_shape_arrive_as_they_were(google, channel, clock):
    title, data = 'Ünïcode "quotes" \\ 🔔', {"nested": [1, {"a": None}], "empty": "", "ключ": "значение"}
    message = await sent(google, channel, clock, title=title, data=data)
    assert message["notification"]["title"] == title
    assert json.loads(message["data"]["nested"]) == [1, {"a": None}]
    assert message["data"]["ключ"] == "значение"


# What is answered.


@pytest.mark.parametrize(
    ("behaviour", "outcome"),
    [
        ("INVALID_TOKEN", Rejected(
            "Firebase does not recognise the device's token as one of its own.", code="INVALID_TOKEN")),
        ("INVALID_PAYLOAD", Rejected(
            "Firebase refused the message (400, message.data).", code="INVALID_ARGUMENT")),
        ("UNREGISTERED", Gone(
            "Firebase says that the device's token is no longer registered (UNREGISTERED).", code="UNREGISTERED")),
        ("NOT_FOUND", Misconfigured(
            "Firebase does not know the project, or FCM_BASE_URL is not FCM's address (404).", code="NOT_FOUND")),
        ("SENDER_ID_MISMATCH", Misconfigured(
            "The device registered with another Firebase project than the credential's (SENDER_ID_MISMATCH).",
            code="SENDER_ID_MISMATCH", is_about_device=True)),
        ("PERMISSION_DENIED", Misconfigured(
            "Firebase refused the credential: the Cloud Messaging API is off for the project, or the service account "
            "may not send (PERMISSION_DENIED).", code="PERMISSION_DENIED")),
        ("THIRD_PARTY_AUTH_ERROR", Misconfigured(
            "Firebase lacks the key for this platform: upload the APNs key or the Web Push key to the project.",
            code="THIRD_PARTY_AUTH_ERROR", is_about_device=True)),
        ("UNAUTHENTICATED", Misconfigured(
            "Firebase refused the credential: the Cloud Messaging API is off for the project, or the service account "
            "may not send (UNAUTHENTICATED).", code="UNAUTHENTICATED")),
        ("QUOTA_EXCEEDED", Retry(
            "Firebase asks to send more slowly (429).", timedelta(seconds=60), code="QUOTA_EXCEEDED")),
        ("QUOTA_LATER", Retry(
            "Firebase asks to send more slowly (429).", timedelta(seconds=120), code="QUOTA_EXCEEDED",
            pauses_all=True)),
        ("INTERNAL", Retry("Firebase is out of order (500).", code="INTERNAL")),
        ("UNAVAILABLE", Retry("Firebase is out of order (503).", code="UNAVAILABLE")),
        ("UNAVAILABLE_LATER", Retry(
            "Firebase is out of order (503).", timedelta(seconds=120), code="UNAVAILABLE", pauses_all=True)),
        ("html", Retry("Firebase is out of order (502).", code="502")),
        ("empty", Retry("Firebase is out of order (500).", code="500")),
        ("garbage", Retry("Something answered in FCM's place, but not as FCM does.", code="unreadable")),
        ("huge", Retry("Something answered in FCM's place, but not as FCM does.", code="unreadable")),
        ("refuse", Retry("The server refused the request for now.", code="refused")),
        ("reset", Retry(
            "The server broke the request off (INTERNAL_ERROR). It may have been taken; it is repeated under the same "
            "id.", code="connection_broken")),
        ("swallow", Retry(
            "The connection broke. It may have been taken; it is repeated under the same id.",
            code="connection_broken")),
    ],
)  # fmt: skip
async def test_every_answer_of_firebase_has_its_outcome(channel, clock, behaviour, outcome):
    assert await channel.deliver(make_push(registration_token(behaviour), clock.now())) == outcome


@pytest.mark.parametrize("behaviour", ["slow", "drip", "goaway"])
async def test_a_slow_or_leaving_service_is_no_failure(channel, clock, behaviour):
    assert isinstance(await channel.deliver(make_push(registration_token(behaviour), clock.now())), Accepted)


async def test_a_silent_service_costs_the_pushs_own_time_and_is_asked_once(google, channel, clock, leap):
    sending = asyncio.create_task(channel.deliver(make_push(registration_token("silent"), clock.now())))
    async with asyncio.timeout(60):
        while not google.control.accepted:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)
    leap(10)
    outcome = await sending
    assert (outcome.code, len(google.control.accepted)) == ("timed_out", 1)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(302, Rejected), (408, Retry), (413, Rejected), (425, Retry), (451, Rejected), (504, Retry), (599, Retry)],
)
def test_undocumented_answers_have_an_outcome_too(clock, status, kind):
    assert isinstance(outcome_of(Answered(status, (), b"<html>"), clock.now()), kind)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"error":null}', b'{"error":{"details":[7]}}', b"\xff", b'{"error":"x"}']
)
def test_a_404_without_the_word_unregistered_costs_no_device(clock, body):
    assert isinstance(outcome_of(Answered(404, (), body), clock.now()), Misconfigured)


def test_what_the_provider_says_is_never_shown_as_it_is(clock):
    body = {"error": {"status": "X", "details": [{"@type": FCM_ERROR, "errorCode": "<script>"}]}}
    outcome = outcome_of(Answered(400, (), json.dumps(body).encode()), clock.now())
    assert "<" not in reason_of(outcome) + outcome.code


def test_retry_after_may_be_a_date(clock):
    headers = [(b"retry-after", b"Sun, 01 Mar 2026 12:10:00 GMT")]
    outcome = outcome_of(Answered(503, headers, b""), clock.now())
    assert isinstance(outcome, Retry)
    assert outcome.after == timedelta(minutes=10)


# The credential.


async def test_many_pushes_at_once_share_one_access_token(google, channel, clock):
    await asyncio.gather(*(channel.deliver(make_push(registration_token(number=n), clock.now())) for n in range(200)))
    assert (google.token_requests, len(google.control.accepted)) == (1, 200)


async def test_the_token_is_renewed_ahead_of_its_end_and_the_old_one_serves_meanwhile(google, channel, clock):
    await sent(google, channel, clock)
    clock.pass_s(48 * 60)
    await sent(google, channel, clock)
    assert google.token_requests == 1
    clock.pass_s(3 * 60)
    google.token_latency_s = 0.1
    async with asyncio.timeout(60):
        await asyncio.gather(*(sent(google, channel, clock) for _ in range(20)))
    assert google.token_requests == 2


async def test_an_outage_of_the_token_endpoint_is_not_felt_while_the_old_token_is_good(google, channel, clock):
    await sent(google, channel, clock)
    clock.pass_s(51 * 60)
    google.token_answer = "unavailable"
    await sent(google, channel, clock)
    await sent(google, channel, clock)
    assert google.token_requests == 2


async def test_a_refused_token_is_renewed_once_and_the_push_sent(google, channel, clock):
    await sent(google, channel, clock)
    clock.pass_s(120)
    google.expire_bearers()
    await asyncio.gather(*(sent(google, channel, clock) for _ in range(50)))
    assert google.token_requests == 2


async def test_a_hundred_refused_pushes_cost_no_hundred_token_requests(google, channel, clock):
    """The SDK asked for two new tokens for each of them."""
    pushes = [make_push(registration_token("UNAUTHENTICATED", n), clock.now()) for n in range(100)]
    outcomes = await asyncio.gather(*(channel.deliver(push) for push in pushes))
    assert {type(outcome) for outcome in outcomes} == {Misconfigured}
    assert google.token_requests == 1


async def test_a_failing_token_endpoint_is_asked_once_for_all_that_wait(google, channel, clock):
    google.token_answer = "unavailable"
    pushes = [make_push(registration_token(number=n), clock.now()) for n in range(100)]
    outcomes = await asyncio.gather(*(channel.deliver(push) for push in pushes))
    assert set(outcomes) == {Retry("Google's token endpoint answered 503.", code="token_503")}
    assert google.token_requests == 1
    clock.pass_s(6)
    google.token_answer = ""
    await sent(google, channel, clock)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("invalid_grant", Misconfigured(
            "Google's token endpoint answered 400 (Invalid JWT Signature.): the service account's key was deleted or "
            "is another's, or this machine's clock is wrong.", code="invalid_grant")),
        ("garbage", Retry(
            "Google's token endpoint answered with something else than a token.", code="token_unreadable")),
    ],
)  # fmt: skip
async def test_what_the_token_endpoint_says_is_told(google, channel, clock, answer, outcome):
    google.token_answer = answer
    assert await channel.deliver(make_push(registration_token(), clock.now())) == outcome


async def test_a_silent_token_endpoint_keeps_a_push_no_longer_than_its_own_time(google, channel, clock, leap):
    google.token_answer = "silent"
    sending = asyncio.create_task(channel.deliver(make_push(registration_token(), clock.now())))
    async with asyncio.timeout(60):
        while not google.token_requests:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)
    leap(10)
    assert isinstance(await sending, Retry)


async def test_the_event_loop_runs_on_while_a_slow_token_is_fetched(google, channel, clock):
    """The SDK fetched it inside the loop: everything else stood still for two seconds."""
    google.token_latency_s = 0.3
    pending = asyncio.create_task(channel.deliver(make_push(registration_token(), clock.now())))
    turns = 0
    while not pending.done():
        await asyncio.sleep(0.01)
        turns += bool(google.token_requests)
    assert isinstance(await pending, Accepted)
    # Had the loop stood still meanwhile, it would have had no turn between the question and the answer.
    assert turns > 2


async def test_sending_starts_no_thread_that_calls_other_hosts(google, channel, clock):
    before = {thread.name for thread in threading.enumerate()}
    await sent(google, channel, clock)
    started = {thread.name for thread in threading.enumerate()} - before
    assert all(name.startswith(("asyncio_", "ThreadPoolExecutor", "provider-name")) for name in started)


@pytest.mark.parametrize(
    ("account", "words"),
    [
        ("not json", "is not JSON"),
        ("[]", "is not JSON"),
        ("{}", "is not a service account's key file"),
        ('{"type":"authorized_user"}', "is not a service account's key file"),
    ],
)
async def test_a_credential_that_is_none_is_told(make_channel, clock, trusting, google, account, words):
    channel = FcmChannel(Secret(account), clock, trusting, base_url=google.url)
    outcome = await channel.deliver(make_push(registration_token(), clock.now()))
    assert isinstance(outcome, Misconfigured)
    assert words in outcome.reason
    assert (await channel.probe()).works is False
    await channel.close()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"private_key": "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n"}, "key file"),
        ({"project_id": ""}, "names no project"),
        ({"token_uri": "https://tokens.example/token"}, "token_uri is not Google's"),
        ({"token_uri": "http://169.254.169.254/token"}, "token_uri is not Google's"),
        ({"token_uri": "https://oauth2.googleapis.com.example/token"}, "token_uri is not Google's"),
        ({"token_uri": "https://x@oauth2.googleapis.com/token"}, "token_uri is not Google's"),
    ],
)
async def test_a_service_account_with_a_fault_is_told_without_its_secret(google, changes, words):
    text = Secret(json.dumps(google.service_account(**changes)))
    with pytest.raises(BadServiceAccount) as bad:
        read_service_account(text, base_url=google.url)
    assert words in str(bad.value)
    assert "MIIE" not in str(bad.value)


@pytest.mark.parametrize("host", ["oauth2.googleapis.com", "accounts.google.com"])
async def test_googles_own_token_endpoints_are_taken(google, host):
    text = Secret(json.dumps(google.service_account(token_uri=f"https://{host}/o/oauth2/token")))
    assert read_service_account(text, base_url="https://fcm.googleapis.com").project_id == PROJECT


# The probe, and the network.


async def test_the_probe_lets_google_check_and_sends_nothing(google, channel):
    diagnosis = await channel.probe()
    assert (diagnosis.works, diagnosis.detail) == (True, f"Firebase accepts the credential for project {PROJECT}.")
    assert google.control.accepted == []


async def test_the_probe_tells_of_a_project_that_does_not_match(google, make_channel):
    channel = make_channel(google.service_account(project_id="another"))
    diagnosis = await channel.probe()
    assert not diagnosis.works
    assert "Firebase refused the credential" in diagnosis.detail


async def test_an_unknown_authority_is_a_matter_for_an_admin(google, clock):
    strange = FcmChannel(
        Secret(json.dumps(google.service_account())),
        clock,
        lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        base_url=google.url,
        limits=Http2Limits(backoff_first_s=0.01),
    )
    outcome = await strange.deliver(make_push(registration_token(), clock.now()))
    assert isinstance(outcome, Misconfigured)
    assert "certificate" in outcome.reason
    await strange.close()


async def test_a_swallowed_answer_is_repeated_with_what_replaces_the_first_copy(google, channel, clock):
    push = make_push(registration_token(), clock.now())
    google.control.script.append("swallow")
    assert isinstance(await channel.deliver(push), Retry)
    assert isinstance(await channel.deliver(push), Accepted)
    first, second = (taken.payload for taken in google.control.accepted)
    assert first["android"]["notification"]["tag"] == second["android"]["notification"]["tag"]
    assert google.control.duplicates


async def test_twenty_five_messages_that_met_503_do_not_stop_the_channel(google, channel, clock):
    """After 25 of them the SDK's client hung for good."""
    pushes = [make_push(registration_token("UNAVAILABLE", n), clock.now()) for n in range(60)]
    outcomes = await asyncio.gather(*(channel.deliver(push) for push in pushes))
    assert {type(outcome) for outcome in outcomes} == {Retry}
    # One request each: when to try again is the engine's to say.
    assert google.control.answers["503 UNAVAILABLE"] == 60
    await sent(google, channel, clock)


async def test_one_bad_push_in_a_batch_spoils_no_other(google, channel, clock):
    """The SDK turned a whole batch into one unknown error when one of its requests failed unexpectedly."""
    behaviours = ["", "reset", "INVALID_TOKEN", "garbage", "", "UNREGISTERED", ""]
    pushes = [make_push(registration_token(one, n), clock.now()) for n, one in enumerate(behaviours)]
    outcomes = await asyncio.gather(*(channel.deliver(push) for push in pushes))
    assert [type(outcome) for outcome in outcomes] == [Accepted, Retry, Rejected, Retry, Accepted, Gone, Accepted]
