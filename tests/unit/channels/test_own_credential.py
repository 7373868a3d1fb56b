"""Credentials of an app's own: what their checks refuse, and which server and topic their channels use."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from appliance.channels.apns_credential import ApnsCertificate, ApnsKey, SharedProviderTokens
from appliance.channels.own_credential import (
    ApnsDocument,
    FcmDocument,
    OwnParts,
    check_apns,
    check_fcm,
    encode_document,
    make_own_channel,
)
from appliance.clock import SystemClock
from appliance.domain.device import AddressKind
from appliance.domain.errors import InvalidField
from appliance.domain.outcome import Accepted
from appliance.domain.secret import Secret
from appliance.settings import load_settings
from tests.doubles.apns import device_token, make_provider_key, run_apns
from tests.doubles.certificates import Authority
from tests.doubles.pushes import make_push

TOPIC = "com.openksef.mobile"


@pytest.fixture
async def apple(tmp_path, monkeypatch):
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.write_certificate()))
    async with run_apns(authority) as double:
        yield double


def key_of(provider_key):
    return ApnsKey(Secret(provider_key.p8), provider_key.key_id, provider_key.team_id)


@pytest.mark.parametrize(("environment", "works"), [("sandbox", True), ("production", False)])
async def test_the_environment_decides_which_of_apples_servers_is_asked(tmp_path, apple, environment, works):
    # Nothing listens on the port of the other one.
    urls = {"APNS_SANDBOX_BASE_URL": apple.url, "APNS_BASE_URL": "https://localhost:1"}
    parts = OwnParts(load_settings(tmp_path, urls), SystemClock(), SharedProviderTokens())
    document = encode_document(ApnsDocument(key_of(apple.key), TOPIC, environment))
    channel = make_own_channel(AddressKind.APNS_TOKEN, document, parts)
    try:
        outcome = await channel.deliver(make_push(device_token(), datetime.now(UTC), timeout_s=10.0 if works else 0.5))
        assert isinstance(outcome, Accepted) is works
        assert len(apple.control.accepted) == works
    finally:
        await channel.close()


async def test_a_certificate_that_has_expired_is_refused_with_its_day(apple):
    document = ApnsDocument(ApnsCertificate(*_certificate(apple)), TOPIC, "production")
    assert check_apns(document, datetime.now(UTC)).certificate_subject is not None
    with pytest.raises(InvalidField, match="expired on") as refused:
        check_apns(document, datetime.now(UTC) + timedelta(days=2))
    assert refused.value.field == "certificate"


async def test_a_key_and_its_certificate_are_known_by_the_hash_of_the_public_key(apple):
    now = datetime.now(UTC)
    key = ApnsDocument(key_of(apple.key), TOPIC, "production")
    other = replace(key, credential=key_of(make_provider_key()))
    assert check_apns(key, now).fingerprint == check_apns(replace(key, topic="com.example.other"), now).fingerprint
    assert check_apns(key, now).fingerprint != check_apns(other, now).fingerprint


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '"text"', json.dumps({"type": "authorized_user"})])
def test_what_is_no_service_account_is_refused_without_naming_a_setting(tmp_path, text):
    with pytest.raises(InvalidField) as refused:
        check_fcm(FcmDocument(Secret(text)), load_settings(tmp_path, {}))
    assert refused.value.field == "service_account"
    assert "FIREBASE_CREDENTIALS_JSON" not in str(refused.value)


def test_nothing_secret_is_shown_by_a_documents_repr():
    key = make_provider_key()
    shown = repr(ApnsDocument(key_of(key), TOPIC, "production")) + repr(FcmDocument(Secret("the key file")))
    assert key.p8.splitlines()[1] not in shown
    assert "the key file" not in shown


def _certificate(apple):
    certificate, private_key = apple.client_certificate(TOPIC)
    return certificate, Secret(private_key)
