"""Credentials of an app's own: checked when given, never shown again, and used at once by the running program."""

import asyncio
import uuid

import httpx
import pytest

from appliance.domain.principal import Role
from tests.doubles.apns import device_token, make_provider_key, run_apns
from tests.doubles.appliance import RunningAppliance
from tests.doubles.certificates import Authority
from tests.doubles.fcm import registration_token, run_fcm

WITHIN_S = 30
TOPIC = "com.openksef.mobile"


@pytest.fixture
async def house(tmp_path):
    """The program in mode firebase without any credential of the instance's, with Google and Apple."""
    authority = Authority(tmp_path)
    async with run_fcm(authority) as google, run_apns(authority) as apple:
        running = RunningAppliance(
            tmp_path / "data",
            {
                "DELIVERY_MODE": "firebase",
                "SSL_CERT_FILE": str(authority.write_certificate()),
                "FCM_BASE_URL": google.url,
                "APNS_SANDBOX_BASE_URL": apple.url,
                "LOG_LEVEL": "debug",
            },
        )
        await asyncio.to_thread(running.start)
        try:
            async with httpx.AsyncClient(base_url=running.base_url, timeout=20) as client:
                yield running, client, google, apple, await running.make_user(role=Role.ADMIN)
        finally:
            assert await asyncio.to_thread(running.stop) == 0, running.output


async def register(client, app, user, platform, token):
    body = {"app_id": str(app.id), "platform": platform, "push_token": token}
    (await client.post("/push/devices/register", json=body, headers=user.headers)).raise_for_status()


async def send(client, app, user):
    """Send one and give its deliveries once none of them is on its way any more."""
    body = {"user_id": str(user.id), "title": "Title", "body": "Body"}
    sent = (await client.post("/push/send", json=body, headers=app.headers)).raise_for_status()
    async with asyncio.timeout(WITHIN_S):
        while True:
            path = f"/push/notifications/{sent.json()['notification_id']}"
            told = (await client.get(path, headers=app.headers)).json()
            if not {one["state"] for one in told["deliveries"]} & {"queued", "offered", "claimed"}:
                return told["deliveries"]
            await asyncio.sleep(0.1)


def auth_key(key):
    return {"p8": key.p8, "key_id": key.key_id, "team_id": key.team_id}


async def test_a_credential_counts_at_once_reaches_only_its_app_and_is_never_shown(house):
    running, client, google, apple, admin = house
    apps = [await running.make_app(admin) for _ in range(2)]
    user = await running.make_user(*apps)
    for app, number in zip(apps, (1, 2), strict=True):
        await register(client, app, user, "android", registration_token(number=number))
        await register(client, app, user, "ios", device_token(number=number))
    path = f"/push/config/{apps[0].id}/credentials"
    account = google.service_account()
    fcm = await client.put(f"{path}/fcm", json={"service_account": account}, headers=admin.headers)
    body = {"topic": TOPIC, "environment": "sandbox", "auth_key": auth_key(apple.key)}
    apns = await client.put(f"{path}/apns", json=body, headers=admin.headers)
    assert (fcm.status_code, apns.status_code) == (200, 200), (fcm.text, apns.text)
    assert fcm.json()["project_id"] == account["project_id"]
    assert (apns.json()["key_id"], apns.json()["team_id"]) == (apple.key.key_id, apple.key.team_id)
    for kind, reply in (("fcm", fcm), ("apns", apns)):
        assert (await client.get(f"{path}/{kind}", headers=admin.headers)).json() == reply.json()
        assert len(reply.json()["fingerprint"]) == 64
    assert {one["state"] for one in await send(client, apps[0], user)} == {"sent"}
    assert [taken.target for taken in google.control.accepted] == [registration_token(number=1)]
    assert [taken.target for taken in apple.control.accepted] == [device_token(number=1)]
    left = f"/push/config/{apps[1].id}/credentials/fcm"
    assert (await client.get(left, headers=admin.headers)).status_code == 404
    for secret in (apple.key.p8.splitlines()[1], account["private_key"][40:80]):
        assert secret not in running.output + fcm.text + apns.text
    stored = b"".join(file.read_bytes() for file in running.data_dir.rglob("*") if file.is_file())
    assert apple.key.p8.splitlines()[1].encode() not in stored
    for _ in range(2):
        deleted = await client.delete(f"{path}/fcm", headers=admin.headers)
    assert deleted.status_code == 404
    assert (await client.get(f"{path}/fcm", headers=admin.headers)).status_code == 404


async def test_a_certificate_is_shown_by_subject_and_expiry_and_pushes(house):
    running, client, _, apple, admin = house
    app = await running.make_app(admin)
    user = await running.make_user(app)
    await register(client, app, user, "ios", device_token(number=3))
    certificate, private_key = apple.client_certificate(TOPIC)
    body = {
        "topic": TOPIC,
        "environment": "sandbox",
        "certificate": {"certificate": certificate, "private_key": private_key},
    }
    reply = await client.put(f"/push/config/{app.id}/credentials/apns", json=body, headers=admin.headers)
    assert reply.status_code == 200, reply.text
    assert TOPIC in reply.json()["certificate_subject"]
    assert reply.json()["certificate_expires_at"] > reply.json()["changed_at"]
    assert [one["state"] for one in await send(client, app, user)] == ["sent"]


async def test_what_cannot_be_used_is_refused_in_plain_words_and_not_kept(house):
    running, client, google, apple, admin = house
    app = await running.make_app(admin)
    path = f"/push/config/{app.id}/credentials"
    key, (certificate, _) = auth_key(apple.key), apple.client_certificate(TOPIC)
    elsewhere = google.service_account(token_uri="https://collector.example.com/token")
    strange = {"certificate": certificate, "private_key": make_provider_key().p8}
    refused = [
        ("fcm", {"service_account": {"type": "service_account"}}, "service_account"),
        ("fcm", {"service_account": elsewhere}, "service_account"),
        ("fcm", {"service_account": google.service_account(project_id="a b/c")}, "service_account"),
        ("fcm", {"service_account": google.service_account(private_key="none")}, "service_account"),
        ("apns", {"topic": TOPIC}, "auth_key"),
        ("apns", {"topic": "two words", "auth_key": key}, "topic"),
        ("apns", {"topic": TOPIC, "auth_key": key | {"p8": "no key"}}, "auth_key"),
        ("apns", {"topic": TOPIC, "auth_key": key | {"key_id": "short"}}, "auth_key"),
        ("apns", {"topic": TOPIC, "certificate": strange}, "certificate"),
    ]
    for kind, body, field in refused:
        reply = await client.put(f"{path}/{kind}", json=body, headers=admin.headers)
        assert reply.status_code == 422, (body, reply.text)
        assert field in reply.text
        for secret in (apple.key.p8.splitlines()[1], google.service_account()["private_key"][40:80]):
            assert secret not in reply.text
    for kind in ("fcm", "apns"):
        assert (await client.get(f"{path}/{kind}", headers=admin.headers)).status_code == 404


async def test_only_admins_see_or_change_credentials(house):
    running, client, google, _, admin = house
    app = await running.make_app(admin)
    user = await running.make_user(app)
    path = f"/push/config/{app.id}/credentials/fcm"
    body = {"service_account": google.service_account()}
    for headers in (app.headers, user.headers):
        assert (await client.put(path, json=body, headers=headers)).status_code == 403
        assert (await client.get(path, headers=headers)).status_code == 403
        assert (await client.delete(path, headers=headers)).status_code == 403
    nowhere = f"/push/config/{uuid.uuid4()}/credentials/fcm"
    assert (await client.put(nowhere, json=body, headers=admin.headers)).status_code == 404
