"""What kind of address a registration gives."""

import base64
import json

import pytest

from appliance.domain.device import AddressKind, Platform, parse_address
from appliance.domain.errors import InvalidField


def _key(length):
    return base64.urlsafe_b64encode(b"\x04" * length).rstrip(b"=").decode()


def _subscription(**changes):
    subscription = {
        "endpoint": "https://push.example.org/send/1",
        "expirationTime": None,
        "keys": {"p256dh": _key(65), "auth": _key(16)},
    }
    return json.dumps({**subscription, **changes})


def test_a_token_is_told_apart_by_its_form_and_platform():
    assert parse_address(Platform.ANDROID, "fcm:APA91b").kind is AddressKind.FCM_TOKEN
    assert parse_address(Platform.IOS, "AB" * 32).kind is AddressKind.APNS_TOKEN
    assert parse_address(Platform.IOS, "fcm:APA91b").kind is AddressKind.FCM_TOKEN
    assert parse_address(Platform.ANDROID, "ab" * 32).kind is AddressKind.FCM_TOKEN
    assert parse_address(Platform.ANDROID, "device-" + "0" * 32).kind is AddressKind.HUB
    assert parse_address(Platform.WEB, _subscription()).kind is AddressKind.WEB_PUSH


def test_the_same_installation_gives_the_same_text_however_it_is_written():
    assert parse_address(Platform.IOS, "AB" * 32) == parse_address(Platform.IOS, " " + "ab" * 32)
    spaced = json.dumps(json.loads(_subscription()), indent=3)
    assert parse_address(Platform.WEB, spaced) == parse_address(Platform.WEB, _subscription())


@pytest.mark.parametrize(
    "subscription",
    [
        "{",
        "{}",
        "{" * 5_000,
        _subscription(endpoint="http://push.example.org/1"),
        _subscription(endpoint="https://user@push.example.org/1"),
        _subscription(endpoint="https://"),
        _subscription(endpoint="https://push.example.org:99999/1"),
        _subscription(keys={"p256dh": _key(64), "auth": _key(16)}),
        _subscription(keys={"p256dh": _key(65), "auth": _key(15)}),
        _subscription(keys={"p256dh": "!!", "auth": _key(16)}),
    ],
)
def test_a_broken_subscription_is_refused_with_its_field(subscription):
    with pytest.raises(InvalidField, match=r"push_token|endpoint|P-256|authentication"):
        parse_address(Platform.WEB, subscription)


@pytest.mark.parametrize("token", ["", "   ", "a b", "zażółć", "x" * 4097])
def test_a_token_that_no_provider_gives_is_refused(token):
    with pytest.raises(InvalidField):
        parse_address(Platform.ANDROID, token)
