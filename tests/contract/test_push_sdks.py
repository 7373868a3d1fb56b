"""What the senders rely on in the push SDKs, one test on each, so that an upgrade of an SDK cannot break it unseen.

The stock SDKs are also run against the same doubles: what they send and how they read an answer must agree with ours.
"""

import asyncio
import json
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from appliance.channels.apns import ApnsChannel
from appliance.channels.apns_credential import ApnsKey
from appliance.channels.contract import Presentation
from appliance.channels.fcm import FcmChannel
from appliance.clock import SystemClock
from appliance.domain.device import Platform
from appliance.domain.outcome import Accepted, Gone, Misconfigured, Rejected, Retry
from appliance.domain.secret import Secret
from tests.doubles.apns import device_token, run_apns
from tests.doubles.certificates import Authority
from tests.doubles.fcm import registration_token, run_fcm
from tests.doubles.pushes import make_push

CLOCK = SystemClock()


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@pytest.fixture
async def google():
    """Google without TLS, over HTTP/1.1 for the SDK and HTTP/2 for ours."""
    async with run_fcm(None) as double:
        yield double


# firebase-admin.


async def test_the_credential_gives_project_account_and_signer(google):
    from firebase_admin import credentials  # type: ignore[import-untyped]
    from google.auth import jwt

    account = google.service_account()
    certificate = credentials.Certificate(account)
    assert (certificate.project_id, certificate.service_account_email) == ("carillon-test", account["client_email"])
    assert jwt.encode(certificate.signer, {"iss": "x"}).count(b".") == 2


@pytest.mark.parametrize("changes", [{"type": "authorized_user"}, {"private_key": "x"}, {"client_email": None}])
async def test_the_credential_refuses_what_is_no_service_account(google, changes):
    from firebase_admin import credentials

    account = google.service_account() | changes
    with pytest.raises(ValueError, match=r"."):
        credentials.Certificate({name: value for name, value in account.items() if value is not None})


def test_a_message_writes_itself_as_the_wire_wants_it_and_takes_its_token_afterwards():
    from firebase_admin import messaging

    message = messaging.Message(
        data={"a": "ż"},
        notification=messaging.Notification(title="t", body="b"),
        android=messaging.AndroidConfig(
            priority="high",
            ttl=timedelta(seconds=90),
            collapse_key="k",
            notification=messaging.AndroidNotification(tag="x", channel_id="c"),
        ),
    )
    message.token = "device"
    assert json.loads(str(message)) == {
        "token": "device",
        "data": {"a": "ż"},
        "notification": {"title": "t", "body": "b"},
        "android": {
            "priority": "high",
            "ttl": "90s",
            "collapse_key": "k",
            "notification": {"tag": "x", "channel_id": "c"},
        },
    }


@pytest.mark.parametrize(
    "fields", [{"data": {"a": 1}}, {"data": {1: "a"}}, {"topic": "news"}, {"data": "text"}], ids=str
)
def test_a_message_refuses_what_firebase_would(fields):
    from firebase_admin import messaging

    message = messaging.Message(**fields)
    message.token = "device"
    with pytest.raises(ValueError, match=r"."):
        str(message)


SDK_SAYS = {
    "UNREGISTERED": ("UnregisteredError", Gone),
    "SENDER_ID_MISMATCH": ("SenderIdMismatchError", Misconfigured),
    "QUOTA_EXCEEDED": ("QuotaExceededError", Retry),
    "THIRD_PARTY_AUTH_ERROR": ("ThirdPartyAuthError", Misconfigured),
    "INVALID_TOKEN": ("InvalidArgumentError", Rejected),
    "INVALID_PAYLOAD": ("InvalidArgumentError", Rejected),
    "NOT_FOUND": ("NotFoundError", Misconfigured),
    "PERMISSION_DENIED": ("PermissionDeniedError", Misconfigured),
}


async def test_the_sdk_and_we_read_every_final_error_alike(google, monkeypatch):
    """Weather is left out: the SDK repeats it for seven seconds by itself."""
    import firebase_admin
    from firebase_admin import messaging
    from google.oauth2.credentials import Credentials

    def renew(_request, **_scopes):
        return google.make_bearer(), datetime.now(UTC).replace(tzinfo=None) + timedelta(hours=1)

    class Bearer(firebase_admin.credentials.Base):  # type: ignore[misc]
        def get_credential(self):
            # With a service account the SDK would also call Google's own hosts.
            return Credentials(None, refresh_handler=renew)

    monkeypatch.setattr(messaging._MessagingService, "FCM_URL", google.url + "/v1/projects/{0}/messages:send")
    sdk = firebase_admin.initialize_app(Bearer(), {"projectId": google.project}, name="contract")
    ours = FcmChannel(Secret(json.dumps(google.service_account())), CLOCK, _tls, base_url=google.url)

    def classify(behaviour):
        message = messaging.Message(data={"a": "b"})
        message.token = registration_token(behaviour)
        try:
            return messaging.send(message, app=sdk)
        except firebase_admin.exceptions.FirebaseError as error:
            return type(error).__name__

    try:
        assert await asyncio.to_thread(classify, "") == f"projects/{google.project}/messages/0:0000000000000001%double"
        assert isinstance(await ours.deliver(make_push(registration_token(), CLOCK.now())), Accepted)
        for behaviour, (theirs, kind) in SDK_SAYS.items():
            assert await asyncio.to_thread(classify, behaviour) == theirs
            outcome = await ours.deliver(make_push(registration_token(behaviour), CLOCK.now()))
            assert type(outcome) is kind, behaviour
    finally:
        await ours.close()
        await asyncio.to_thread(firebase_admin.delete_app, sdk)


def _tls():
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


# aioapns.


async def test_the_sdk_and_we_send_apple_the_same_request(authority):
    import aioapns
    from aioapns.connection import APNsTLSClientProtocol

    async with run_apns(authority) as apple:

        def trusting():
            return authority.trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

        key = apple.key
        sdk_tls = trusting()
        sdk_tls.set_alpn_protocols(["h2"])
        sdk = aioapns.APNs(key=key.p8, key_id=key.key_id, team_id=key.team_id, topic="unused", ssl_context=sdk_tls)
        place = {"APNS_SERVER": "localhost", "APNS_PORT": apple.server.port}
        sdk.pool.protocol_class = type("Here", (APNsTLSClientProtocol,), place)
        credential = ApnsKey(Secret(key.p8), key.key_id, key.team_id)
        ours = ApnsChannel(credential, CLOCK, trusting, topic="com.openksef.mobile", base_url=apple.url)
        try:
            for presentation in Presentation:
                push = make_push(device_token(), CLOCK.now(), platform=Platform.IOS, presentation=presentation)
                assert isinstance(await ours.deliver(push), Accepted)
                sent = apple.control.accepted[-1]
                request = aioapns.NotificationRequest(
                    device_token(),
                    sent.payload,
                    notification_id=sent.headers["apns-id"],
                    time_to_live=86_400,
                    priority=int(sent.headers["apns-priority"]),
                    collapse_key=sent.headers["apns-collapse-id"],
                    push_type=aioapns.PushType(sent.headers["apns-push-type"]),
                    apns_topic=sent.headers["apns-topic"],
                )
                result = await sdk.send_notification(request)
                assert result.is_successful, result.description
                theirs = apple.control.accepted[-1]
                assert theirs.payload == sent.payload
                assert _apples(theirs.headers) == _apples(sent.headers)
                difference_s = int(theirs.headers["apns-expiration"]) - int(sent.headers["apns-expiration"])
                assert 0 <= difference_s <= 30
        finally:
            await ours.close()
            sdk.pool.close()


def _apples(headers):
    """Give Apple's headers but the instant that the SDK counts from its own clock."""
    return {name: value for name, value in headers.items() if name.startswith("apns-") and name != "apns-expiration"}


# Both.


def test_the_sdks_are_loaded_only_when_they_are_needed():
    code = (
        "import sys, appliance.channels.registry, appliance.channels.fcm, appliance.channels.apns;"
        "print([name for name in ('firebase_admin', 'google.auth', 'aioapns', 'OpenSSL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
