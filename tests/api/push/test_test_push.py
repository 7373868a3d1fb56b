"""Test push through the whole program: devices over the hub, Google and Apple, channels, and what it leaves behind."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest

from appliance.domain.principal import Role
from appliance.storage.audit import list_latest
from appliance.storage.database import open_database
from tests.doubles.apns import ApnsDouble, device_token, run_apns
from tests.doubles.appliance import RunningAppliance, TestApp, TestUser
from tests.doubles.certificates import Authority
from tests.doubles.fcm import FcmDouble, registration_token, run_fcm
from tests.doubles.hub_client import HubClient, open_hub

CONSOLE = "/console/api/test-push"


class Town:
    """The program in mode firebase, Google and Apple, an admin, an app and a user who is enrolled in it."""

    def __init__(self, running: RunningAppliance, google: FcmDouble, apple: ApnsDouble, http: httpx.AsyncClient):
        self.running, self.google, self.apple, self.http = running, google, apple, http
        self.admin: TestUser
        self.app: TestApp
        self.user: TestUser

    async def register(self, platform: str, token: str) -> str:
        device = {"app_id": str(self.app.id), "platform": platform, "push_token": token}
        reply = await self.http.post("/push/devices/register", json=device, headers=self.user.headers)
        reply.raise_for_status()
        return str(reply.json()["device_id"])

    async def test(self, **what: str) -> dict[str, Any]:
        reply = await self.http.post(CONSOLE, json=what, headers=self.admin.headers)
        assert reply.status_code == 200, reply.text
        told: dict[str, Any] = reply.json()
        return told

    @asynccontextmanager
    async def connected(self, device_id: str, **hello: object) -> AsyncIterator[HubClient]:
        async with open_hub(f"ws://127.0.0.1:{self.running.port}/hubs/notifications", self.user.token) as client:
            await client.say_hello(device_id, **hello)
            yield client


@pytest.fixture
async def town(tmp_path: Any) -> AsyncIterator[Town]:
    authority = Authority(tmp_path)
    async with run_fcm(authority) as google, run_apns(authority) as apple:
        running = RunningAppliance(
            tmp_path / "data",
            {
                "DELIVERY_MODE": "firebase",
                "SSL_CERT_FILE": str(authority.write_certificate()),
                "FIREBASE_CREDENTIALS_JSON": json.dumps(google.service_account()),
                "FCM_BASE_URL": google.url,
                "APNS_AUTH_KEY_P8": apple.key.p8,
                "APNS_KEY_ID": apple.key.key_id,
                "APNS_TEAM_ID": apple.key.team_id,
                "APNS_BASE_URL": apple.url,
                "LOG_LEVEL": "debug",
            },
        )
        await asyncio.to_thread(running.start)
        try:
            async with httpx.AsyncClient(base_url=running.base_url, timeout=25) as http:
                built = Town(running, google, apple, http)
                built.admin = await running.make_user(role=Role.ADMIN)
                built.app = await running.make_app(built.admin)
                built.user = await running.make_user(built.app)
                yield built
        finally:
            assert await asyncio.to_thread(running.stop) == 0, running.output


def findings(told: dict[str, Any]) -> list[tuple[str, str]]:
    return [(step["layer"], step["finding"]) for step in told["steps"]]


async def test_a_phone_that_is_away_is_tested_through_its_provider_and_nothing_is_left_behind(town: Town) -> None:
    android = await town.register("android", registration_token(number=7))
    iphone = await town.register("ios", device_token(number=7))
    for device_id, layer in ((android, "fcm"), (iphone, "apns")):
        told = await town.test(device_id=device_id)
        assert told["works"] is True, told
        assert findings(told) == [("hub", "skipped"), (layer, "accepted")]
    (at_google,), (at_apple,) = town.google.control.accepted, town.apple.control.accepted
    assert at_google.payload["data"]["test"] == "true"  # type: ignore[index]
    assert at_apple.headers["apns-id"] == told["notification_id"]
    inbox = (await town.http.get("/account/notifications", headers=town.user.headers)).json()
    assert inbox["notifications"] == []
    config = (await town.http.get(f"/push/config/{town.app.id}", headers=town.admin.headers)).json()
    assert config["notifications_today"] == 0
    async with open_database(town.running.data_dir, None) as database:
        assert [entry.target for entry in await list_latest(database, "push_tested", limit=5)] == [
            f"device:{iphone}",
            f"device:{android}",
        ]
        assert await database.read("SELECT id FROM delivery") == []
    for secret in (registration_token(number=7), device_token(number=7)):
        assert secret not in town.running.output


async def test_a_connected_device_says_how_fast_it_answered_and_rings_only_once(town: Town) -> None:
    device_id = await town.register("android", registration_token(number=8))
    async with town.connected(device_id) as phone:
        asked = asyncio.create_task(town.test(device_id=device_id))
        seen = await phone.next_notification()
        assert (seen["type"], seen["sequence"], seen["data"]) == ("test", None, {"test": "true"})
        assert (await phone.invoke("Acknowledge", seen["id"]))["result"] is True
        told = await asked
        assert told["works"] is True
        assert told["notification_id"] == seen["id"]
        assert findings(told) == [("hub", "confirmed"), ("fcm", "works")]
        assert told["summary"].startswith("This device is connected now and acknowledged in ")
        assert told["steps"][1]["detail"].startswith("Firebase accepts the credential for project ")
        assert town.google.control.accepted == []
        # The user's own order goes on untouched.
        body = {"user_id": str(town.user.id), "title": "T", "body": "B"}
        (await town.http.post("/push/send", json=body, headers=town.app.headers)).raise_for_status()
        assert (await phone.next_notification())["sequence"] == 1


async def test_a_connection_that_ends_before_the_answer_leaves_it_to_the_provider(town: Town) -> None:
    device_id = await town.register("android", registration_token(number=9))
    async with town.connected(device_id) as phone:
        asked = asyncio.create_task(town.test(device_id=device_id))
        await phone.next_notification()
    told = await asked
    assert findings(told) == [("hub", "failed"), ("fcm", "accepted")]
    assert told["steps"][0]["code"] == "connection_lost"
    assert told["works"] is True


async def test_a_client_that_never_acknowledges_is_told_as_that(town: Town) -> None:
    device_id = await town.register("android", registration_token(number=10))
    async with town.connected(device_id, acknowledges=False) as phone:
        told = await town.test(device_id=device_id)
        seen = await phone.next_notification()
    assert findings(told) == [("hub", "unknown"), ("fcm", "accepted")]
    assert town.google.control.accepted[0].payload["data"]["notificationId"] == seen["id"]  # type: ignore[index]


async def test_what_a_provider_refuses_is_said_in_plain_words_and_retires_nobody(town: Town) -> None:
    said = {}
    for name in ("SENDER_ID_MISMATCH", "UNREGISTERED", "PERMISSION_DENIED", "UNAVAILABLE"):
        device_id = await town.register("android", registration_token(name, 11))
        told = await town.test(device_id=device_id)
        assert (told["works"], findings(told)) == (False, [("hub", "skipped"), ("fcm", "failed")])
        assert told["steps"][1]["next_step"], name
        said[name] = told["summary"]
        assert (await town.test(device_id=device_id))["summary"] == said[name]
    assert "another Firebase project" in said["SENDER_ID_MISMATCH"]
    assert "no longer registered" in said["UNREGISTERED"]
    assert said["PERMISSION_DENIED"].startswith("Firebase refused the credential: ")
    listed = (await town.http.get(f"/push/devices/{town.app.id}", headers=town.admin.headers)).json()
    assert listed["total"] == 4


async def test_channels_are_asked_without_sending_anything(town: Town) -> None:
    assert findings(await town.test(channel="fcm")) == [("fcm", "works")]
    assert findings(await town.test(channel="apns")) == [("apns", "works")]
    assert town.google.control.accepted == []
    town.apple.control.script.append("InvalidProviderToken")
    told = await town.test(channel="apns")
    assert findings(told) == [("apns", "failed")]
    assert "check APNS_KEY_ID" in told["summary"]
    missing = await town.test(channel="email")
    assert (missing["works"], findings(missing)) == (False, [("email", "skipped")])
    assert missing["steps"][0]["next_step"] == "Set SMTP_HOST and SMTP_FROM."


async def test_users_test_their_own_devices_five_times_an_hour(
    server: RunningAppliance, http: httpx.AsyncClient, app: TestApp, user: TestUser, admin: TestUser
) -> None:
    device = {"app_id": str(app.id), "platform": "android", "push_token": f"token-{uuid4().hex}"}
    device_id = (await http.post("/push/devices/register", json=device, headers=user.headers)).json()["device_id"]
    path = f"/account/devices/{device_id}/test"
    stranger = await http.post(path, headers=admin.headers)
    assert stranger.status_code == 404
    for _ in range(5):
        reply = await http.post(path, headers=user.headers)
        assert reply.status_code == 200, reply.text
    told = reply.json()
    # The shared program runs in local mode: there is no way out but the hub.
    assert (told["works"], findings(told), told["notification_id"]) == (
        False,
        [("hub", "skipped"), ("device", "skipped")],
        None,
    )
    assert told["summary"] == (
        "Nothing is configured for this kind of address. Choose how remote pushes leave: DELIVERY_MODE firebase "
        "(your own credentials) or relay."
    )
    refused = await http.post(path, headers=user.headers)
    assert refused.status_code == 429
    assert 3_000 < int(refused.headers["retry-after"]) <= 3_600


async def test_what_would_get_nothing_is_told_why(
    server: RunningAppliance, http: httpx.AsyncClient, app: TestApp, user: TestUser, admin: TestUser
) -> None:
    device = {"app_id": str(app.id), "platform": "android", "push_token": f"token-{uuid4().hex}"}
    device_id = (await http.post("/push/devices/register", json=device, headers=user.headers)).json()["device_id"]
    (await http.patch(f"/push/config/{app.id}", json={"enabled": False}, headers=admin.headers)).raise_for_status()
    told = (await http.post(CONSOLE, json={"device_id": device_id}, headers=admin.headers)).json()
    assert told["summary"] == "Push is off for the device's app."
    (await http.patch(f"/push/config/{app.id}", json={"enabled": True}, headers=admin.headers)).raise_for_status()
    (await http.delete(f"/account/devices/{device_id}", headers=user.headers)).raise_for_status()
    told = (await http.post(CONSOLE, json={"device_id": device_id}, headers=admin.headers)).json()
    assert told["summary"] == "The device is retired and gets nothing: Unregistered by its user."


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"device_id": str(uuid4()), "channel": "fcm"}, 422),
        ({"channel": "pigeon"}, 422),
        ({"device_id": str(uuid4())}, 404),
    ],
)
async def test_what_names_nothing_or_two_things_is_refused(
    http: httpx.AsyncClient, admin: TestUser, body: dict[str, str], status: int
) -> None:
    reply = await http.post(CONSOLE, json=body, headers=admin.headers)
    assert reply.status_code == status


async def test_only_admins_may_test_what_is_not_theirs(http: httpx.AsyncClient, user: TestUser, app: TestApp) -> None:
    for headers in (user.headers, app.headers):
        assert (await http.post(CONSOLE, json={"channel": "fcm"}, headers=headers)).status_code == 403
