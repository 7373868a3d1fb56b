"""The relay channel against the wire contract of the relay: signature vectors, fields, statuses."""

import json
import uuid
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from appliance.channels.contract import Push
from appliance.channels.relay import RelayChannel, RelayRefused, register_instance, sign
from appliance.domain.device import Platform
from appliance.domain.notification import Envelope, Priority
from appliance.domain.outcome import Accepted, Gone, Misconfigured, Rejected, Retry
from appliance.domain.secret import Secret
from appliance.security.outbound import OutboundClient, OutboundRules
from tests.doubles.hand_clock import HandClock
from tests.doubles.http_peer import plain_reply, run_http_peer

KEY = Secret("0123456789abcdef" * 4)


@asynccontextmanager
async def run_relay():
    """A peer that records, the channel that speaks to it, and what registration uses."""
    outbound = OutboundClient(OutboundRules(["127.0.0.1"]))
    clock = HandClock()
    async with run_http_peer(plain_reply(b'{"success":true}')) as peer:
        url = f"http://127.0.0.1:{peer.port}/"
        try:
            yield peer, RelayChannel(outbound, clock, url=url, api_key=KEY, instance_id="ab" * 16), outbound
        finally:
            await outbound.close()


def make_push(**content):
    now = HandClock().now()
    fields: dict[str, Any] = {
        "id": uuid.UUID(int=7), "app_id": uuid.UUID(int=1), "user_id": uuid.UUID(int=2), "title": "New invoice",
        "body": "Zażółć — 1,234.50 PLN", "data": {"invoiceId": "17", "amount": 5}, "type": "notification",
        "priority": Priority.HIGH, "sequence": 1, "sent_at": now, "expires_at": now + timedelta(hours=1),
    }  # fmt: skip
    return Push(
        envelope=Envelope(**(fields | content)),
        app_id=uuid.UUID(int=1),
        device_id=uuid.UUID(int=5),
        platform=Platform.ANDROID,
        address=Secret("fcm:token"),
        timeout_s=5.0,
        registered_at=now,
    )


@pytest.mark.parametrize(
    ("key", "timestamp", "body", "signature"),
    [
        (
            "0123456789abcdef" * 4,
            "1767225600",
            '{"pushToken":"tok-1","title":"Hello","body":"World","data":{}}',
            "e801faf19d9cfeaa3748e9392a3598c23488410cbe44bce26c6ed9de236343a4",
        ),
        (
            "legacy-global-key",
            "1700000000",
            '{"pushToken":"device-0f8fad5bd9cb469fa16570867728950e","title":"Test powiadomień",'
            '"body":"Zażółć gęślą jaźń — OK","data":{"type":"test"}}',
            "fb49c25dedc379bffae328aa69809768c7a15622f4193eb300472247a9e4dd89",
        ),
    ],
)
def test_it_signs_as_the_relay_verifies(key, timestamp, body, signature):
    assert sign(Secret(key), timestamp, body.encode()) == signature


async def test_a_push_carries_strings_the_id_and_a_signature_over_its_very_bytes():
    async with run_relay() as (peer, channel, _):
        assert await channel.deliver(make_push()) == Accepted()
        [asked] = peer.asked
    assert (asked.method, asked.path) == ("POST", "/api/push")
    assert asked.headers["x-relay-instance"] == "ab" * 16
    assert asked.headers["x-relay-signature"] == sign(KEY, asked.headers["x-relay-timestamp"], asked.body)
    assert asked.headers["x-relay-timestamp"] == str(int(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()))
    body = json.loads(asked.body)
    assert (body["pushToken"], body["title"], body["body"]) == ("fcm:token", "New invoice", "Zażółć — 1,234.50 PLN")
    assert body["data"] == {"invoiceId": "17", "amount": "5", "notificationId": str(uuid.UUID(int=7))}
    assert (body["id"], body["priority"], body["ttl"]) == (str(uuid.UUID(int=7)), "high", 3_600)


async def test_without_an_instance_id_the_key_is_the_relays_own():
    outbound = OutboundClient(OutboundRules(["127.0.0.1"]))
    async with run_http_peer() as peer:
        url = f"http://127.0.0.1:{peer.port}"
        channel = RelayChannel(outbound, HandClock(), url=url, api_key=KEY, instance_id="")
        await channel.deliver(make_push())
        assert "x-relay-instance" not in peer.asked[0].headers
    await outbound.close()


async def test_a_text_that_no_phone_service_carries_is_shortened():
    async with run_relay() as (peer, channel, _):
        await channel.deliver(make_push(body="x" * 4_096, data={}))
        [asked] = peer.asked
    assert len(asked.body) <= 3_800
    assert json.loads(asked.body)["data"]["truncated"] == "true"


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind", "facts"),
    [
        (200, {}, b"", Accepted, {}),
        (204, {}, b"", Accepted, {}),
        (301, {"Location": "https://elsewhere.example"}, b"", Misconfigured, {"code": "301", "was_asked": True}),
        (308, {"Location": "https://elsewhere.example"}, b"", Misconfigured, {"code": "308"}),
        (400, {}, b'{"error":"pushToken is required"}', Rejected, {}),
        (401, {}, b'{"error":"Unknown instance"}', Misconfigured, {"code": "401"}),
        (403, {}, b'{"error":"Instance disabled"}', Misconfigured, {"code": "403"}),
        (404, {}, b"<html>", Misconfigured, {}),
        (405, {}, b"<html>", Misconfigured, {"code": "405"}),
        (408, {}, b"", Retry, {"is_about_device": False}),
        (410, {}, b'{"error":"Unregistered"}', Gone, {}),
        (413, {}, b"", Rejected, {}),
        (421, {}, b"", Retry, {"is_about_device": False}),
        (425, {}, b"", Retry, {"is_about_device": False}),
        (429, {}, b"", Retry, {"after": None, "pauses_all": True}),
        (429, {"Retry-After": "30"}, b"", Retry, {"after": timedelta(seconds=30)}),
        (500, {}, b"", Retry, {"is_about_device": False}),
        (502, {}, b'{"success":false,"error":"All providers failed"}', Retry, {"is_about_device": True}),
        (502, {}, b"<html>Bad Gateway</html>", Retry, {"is_about_device": False}),
        (503, {"Retry-After": "5"}, b"", Retry, {"after": timedelta(seconds=5), "pauses_all": False}),
    ],
)
async def test_what_each_answer_means(status, headers, body, kind, facts):
    async with run_relay() as (peer, channel, _):
        peer.answer = plain_reply(body, status=status, headers=headers)
        outcome = await channel.deliver(make_push())
    assert isinstance(outcome, kind)
    assert {name: getattr(outcome, name) for name in facts} == facts
    assert KEY.reveal() not in repr(outcome)


@pytest.mark.parametrize("status", [400, 401, 403, 410, 418, 500, 502])
async def test_a_relay_that_repeats_the_token_is_not_quoted(status):
    push = make_push()
    piece = push.address.reveal()[-12:]
    async with run_relay() as (peer, channel, _):
        peer.answer = plain_reply(json.dumps({"error": f"Bad token {piece}"}).encode(), status=status)
        outcome = await channel.deliver(push)
    assert piece not in repr(outcome)
    assert str(status) in repr(outcome)


async def test_a_relay_that_is_not_there_is_weather():
    async with run_relay() as (peer, channel, _):
        port = peer.port
    outbound = OutboundClient(OutboundRules(["127.0.0.1"]))
    channel = RelayChannel(outbound, HandClock(), url=f"http://127.0.0.1:{port}", api_key=KEY, instance_id="x")
    outcome = await channel.deliver(make_push())
    assert isinstance(outcome, Retry) and outcome.code == "not_connected"
    diagnosis = await channel.probe()
    assert not diagnosis.works and "cannot be reached" in diagnosis.detail
    await outbound.close()


@pytest.mark.parametrize(
    ("status", "body", "works", "word"),
    [
        (400, b'{"error":"pushToken is required"}', True, "knows this instance"),
        (401, b'{"error":"Invalid signature"}', False, "PUSH_RELAY_API_KEY"),
        (403, b'{"error":"Instance disabled"}', False, "disabled"),
    ],
)
async def test_a_probe_tells_in_words_whether_the_relay_knows_this_instance(status, body, works, word):
    async with run_relay() as (peer, channel, _):
        peer.answer = plain_reply(body, status=status)
        diagnosis = await channel.probe()
    assert (diagnosis.works, word in diagnosis.detail) == (works, True)


async def test_registering_gives_what_the_relay_gave():
    async with run_relay() as (peer, _, outbound):
        peer.answer = plain_reply(json.dumps({"instanceId": "cd" * 16, "apiKey": "ef" * 32}).encode())
        registered = await register_instance(outbound, f"http://127.0.0.1:{peer.port}/", "https://push.example/")
        assert (registered.instance_id, registered.api_key) == ("cd" * 16, "ef" * 32)
        assert json.loads(peer.asked[0].body) == {"instanceUrl": "https://push.example"}
        assert peer.asked[0].path == "/api/register"


@pytest.mark.parametrize(
    ("status", "body", "word"),
    [
        (429, b"", "an hour"),
        (400, b'{"error":"instanceUrl is required"}', "instanceUrl is required"),
        (200, b"<html>", "not a relay's"),
        (200, b'{"instanceId":"x"}', "not a relay's"),
    ],
)
async def test_a_relay_that_does_not_register_is_told_with_its_reason(status, body, word):
    async with run_relay() as (peer, _, outbound):
        peer.answer = plain_reply(body, status=status)
        with pytest.raises(RelayRefused, match=word):
            await register_instance(outbound, f"http://127.0.0.1:{peer.port}", "https://push.example")
