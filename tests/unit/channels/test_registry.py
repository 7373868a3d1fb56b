"""Which channels the settings make."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.channels.contract import ChannelName
from appliance.channels.registry import ChannelParts, build_channels
from appliance.clock import SystemClock
from appliance.domain.secret import Secret
from appliance.settings import DeliveryMode, Settings, SettingsError, load_settings
from tests.doubles.apns import make_provider_key

KEY = make_provider_key()
EVERYTHING = {
    "FIREBASE_CREDENTIALS_JSON": json.dumps({"type": "service_account"}),
    "APNS_AUTH_KEY_P8": KEY.p8.replace("\n", "\\n"),
    "APNS_KEY_ID": KEY.key_id,
    "APNS_TEAM_ID": KEY.team_id,
    "PUSH_RELAY_API_KEY": "relay-key",
}


class Nothing:
    """The parts that other channels need; none of them is used here."""

    async def request(self, method, url, *, headers, body, deadline_s):
        raise AssertionError("Nothing may be sent.")

    async def vapid_key_of(self, app_id):
        raise AssertionError("Nothing may be read.")


def names_of(settings: Settings):
    channels = build_channels(ChannelParts(settings, SystemClock(), Nothing(), Nothing()))
    return [channel.name for channel in channels.channels]


def settings_of(tmp_path: Path, mode: DeliveryMode, **environ: str) -> Settings:
    return replace(load_settings(tmp_path, environ), delivery_mode=mode)


def test_nothing_leaves_in_local_mode_whatever_is_configured(tmp_path):
    assert names_of(settings_of(tmp_path, DeliveryMode.LOCAL, **EVERYTHING)) == []


def test_mode_firebase_has_the_providers_that_have_a_credential(tmp_path):
    web = ChannelName.WEB_PUSH
    assert names_of(settings_of(tmp_path, DeliveryMode.FIREBASE)) == [web]
    found = names_of(settings_of(tmp_path, DeliveryMode.FIREBASE, **EVERYTHING))
    assert found == [ChannelName.FCM, ChannelName.APNS, web]


def test_mode_relay_speaks_to_no_provider_itself(tmp_path):
    found = names_of(settings_of(tmp_path, DeliveryMode.RELAY, **EVERYTHING))
    assert found == [ChannelName.RELAY, ChannelName.WEB_PUSH]


def test_a_certificate_makes_a_channel_as_well_as_a_key(tmp_path):
    environ = {"APNS_CERTIFICATE": "PEM", "APNS_CERTIFICATE_KEY": "PEM"}
    assert ChannelName.APNS in names_of(settings_of(tmp_path, DeliveryMode.FIREBASE, **environ))


@pytest.mark.parametrize(
    "environ",
    [
        {"FCM_BASE_URL": "fcm.googleapis.com"},
        {"FCM_BASE_URL": "http://fcm.googleapis.com"},
        {"APNS_BASE_URL": "https://api.push.apple.com/3"},
        {"APNS_BASE_URL": "https://user@api.push.apple.com"},
        {"APNS_BASE_URL": "https://api.push.apple.com:0"},
        {"APNS_CERTIFICATE": "PEM"},
        {"APNS_CERTIFICATE_KEY": "PEM"},
        {"APNS_CERTIFICATE": "PEM", "APNS_CERTIFICATE_KEY": "PEM", "APNS_AUTH_KEY_P8": "PEM"},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused_by_name(tmp_path, environ):
    with pytest.raises(SettingsError, match=next(iter(environ))):
        load_settings(tmp_path, environ)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9701", "http://localhost:9701", "https://[::1]:9701/"])
def test_a_provider_on_this_very_machine_may_be_without_tls(tmp_path, url):
    assert load_settings(tmp_path, {"APNS_BASE_URL": url}).apns_base_url == url


def test_no_credential_is_shown_with_the_settings(tmp_path):
    settings = settings_of(tmp_path, DeliveryMode.FIREBASE, **EVERYTHING)
    assert isinstance(settings.firebase_credentials_json, Secret)
    assert KEY.p8.splitlines()[1] not in repr(settings)
