"""The whole program in mode firebase: from POST /push/send to the push services of Google and Apple, and back."""

import asyncio
import json

import httpx
import pytest

from appliance.domain.principal import Role
from tests.doubles.apns import device_token, run_apns
from tests.doubles.appliance import RunningAppliance
from tests.doubles.certificates import Authority
from tests.doubles.fcm import registration_token, run_fcm

WITHIN_S = 30


@pytest.fixture
async def house(tmp_path):
    """The program, Google and Apple, an app and a user who is enrolled in it."""
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
            admin = await running.make_user(role=Role.ADMIN)
            app = await running.make_app(admin)
            user = await running.make_user(app)
            yield running, google, apple, app, user
        finally:
            assert await asyncio.to_thread(running.stop) == 0, running.output


async def settled(client, app, notification_id):
    """Give the deliveries of a notification once none of them is on its way any more."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            told = (await client.get(f"/push/notifications/{notification_id}", headers=app.headers)).json()
            states = {delivery["state"] for delivery in told["deliveries"]}
            if not states & {"queued", "offered", "claimed"}:
                return {delivery["platform"]: delivery for delivery in told["deliveries"]}
            await asyncio.sleep(0.1)


async def test_a_notification_reaches_both_providers_and_a_dead_token_retires_its_device(house):
    running, google, apple, app, user = house
    devices = {
        "android": registration_token(number=7),
        "ios": device_token(number=7),
        "web": registration_token("UNREGISTERED", 8),
    }
    async with httpx.AsyncClient(base_url=running.base_url, timeout=20) as client:
        for platform, token in devices.items():
            device = {"app_id": str(app.id), "platform": platform, "push_token": token}
            (await client.post("/push/devices/register", json=device, headers=user.headers)).raise_for_status()
        body = {"user_id": str(user.id), "title": "Shift approved", "body": "See you at nine.", "data": {"shift": 7}}
        reply = await client.post("/push/send", json=body, headers=app.headers)
        notification_id = reply.json()["notification_id"]
        deliveries = await settled(client, app, notification_id)
        left = (await client.get(f"/push/devices/{app.id}", headers=app.headers)).text
    assert {platform: delivery["state"] for platform, delivery in deliveries.items()} == {
        "android": "sent",
        "ios": "sent",
        "web": "gone",
    }
    (at_google,), (at_apple,) = google.control.accepted, apple.control.accepted
    assert at_google.payload["notification"] == {"title": "Shift approved", "body": "See you at nine."}
    assert at_google.payload["data"]["notificationId"] == notification_id
    assert at_apple.headers["apns-id"] == notification_id
    assert at_apple.payload["data"] == {"shift": 7}
    assert [left.count(f'"{platform}"') for platform in devices] == [1, 1, 0]
    for secret in (apple.key.p8.splitlines()[1], google.service_account()["private_key"][40:80], *devices.values()):
        assert secret not in running.output
