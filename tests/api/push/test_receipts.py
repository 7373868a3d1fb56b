"""Receipts through the whole program: a webhook is told, its dead letters are listed and sent again, secrets rotate."""

import asyncio
import hashlib
import hmac
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from appliance.domain.principal import Role
from tests.doubles.appliance import RunningAppliance, TestUser
from tests.doubles.http_peer import HttpPeer, plain_reply, run_http_peer

PATIENCE_S = 15


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory):
    folder: Path = tmp_path_factory.mktemp("receipts") / "data"
    running = RunningAppliance(folder, environment={"OUTBOUND_ALLOW": "127.0.0.1"})
    running.start()
    yield running
    assert running.stop() == 0, running.output


@pytest.fixture
async def api(house: RunningAppliance) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=house.base_url, timeout=20) as client:
        yield client


@pytest.fixture
async def chief(house: RunningAppliance) -> TestUser:
    return await house.make_user(role=Role.ADMIN)


@pytest.fixture
async def hook() -> AsyncIterator[HttpPeer]:
    async with run_http_peer() as peer:
        yield peer


async def until_asked(hook: HttpPeer, count: int = 1) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while len(hook.asked) < count:  # noqa: ASYNC110 - the peer has no event
            await asyncio.sleep(0.05)


async def test_a_live_only_notification_that_nobody_took_is_told_as_failed_and_verifies(
    house: RunningAppliance, api: httpx.AsyncClient, chief: TestUser, hook: HttpPeer
) -> None:
    app = await house.make_app(chief, webhook_url=f"http://127.0.0.1:{hook.port}/hooks/push-receipts")
    user = await house.make_user(app)
    body = {"app_id": str(app.id), "platform": "android", "push_token": f"device-{uuid.uuid4().hex}"}
    device = await api.post("/push/devices/register", json=body, headers=user.headers)
    sent = await api.post(
        "/push/send",
        json={"user_id": str(user.id), "title": "Ring", "body": "Now or never", "ttl": 0},
        headers=app.headers,
    )
    await until_asked(hook)
    told = json.loads(hook.asked[0].body)
    assert told["notification_id"] == sent.json()["notification_id"]
    assert (told["device_id"], told["status"]) == (device.json()["device_id"], "failed")
    config = (await api.get(f"/push/config/{app.id}", headers=chief.headers)).json()
    wanted = hmac.new(config["webhook_secret"].encode(), hook.asked[0].body, hashlib.sha256).hexdigest()
    assert hook.asked[0].headers["x-keymaster-signature"] == f"sha256={wanted}"
    page = (await api.get(f"/push/receipts/{app.id}", headers=app.headers)).json()
    assert [receipt["status"] for receipt in page["receipts"]] == ["failed"]
    assert page["next_cursor"] is None


async def test_a_webhook_that_is_gone_leaves_a_dead_letter_that_can_be_sent_again(
    house: RunningAppliance, api: httpx.AsyncClient, chief: TestUser, hook: HttpPeer
) -> None:
    hook.answer = plain_reply(status=410)
    app = await house.make_app(chief, webhook_url=f"http://127.0.0.1:{hook.port}/")
    user = await house.make_user(app)
    body = {"app_id": str(app.id), "platform": "android", "push_token": f"device-{uuid.uuid4().hex}"}
    await api.post("/push/devices/register", json=body, headers=user.headers)
    send = {"user_id": str(user.id), "title": "Ring", "body": "Now or never", "ttl": 0}
    await api.post("/push/send", json=send, headers=app.headers)
    await until_asked(hook)
    async with asyncio.timeout(PATIENCE_S):
        while not (  # noqa: ASYNC110 - the state is asked over HTTP
            dead := (await api.get(f"/push/receipts/{app.id}", params={"state": "dead"}, headers=chief.headers)).json()[
                "receipts"
            ]
        ):
            await asyncio.sleep(0.05)
    assert "410" in dead[0]["answer"]
    hook.answer = plain_reply()
    replay = await api.post(
        f"/push/receipts/{app.id}/replay", json={"receipt_ids": [dead[0]["receipt_id"]]}, headers=chief.headers
    )
    assert replay.json() == {"replayed": 1}
    await until_asked(hook, 2)
    assert hook.asked[0].body == hook.asked[1].body


async def test_rotating_gives_a_new_secret_and_is_for_admins(
    house: RunningAppliance, api: httpx.AsyncClient, chief: TestUser
) -> None:
    app = await house.make_app(chief)
    before = (await api.get(f"/push/config/{app.id}", headers=chief.headers)).json()["webhook_secret"]
    refused = await api.post(f"/push/config/{app.id}/webhook-secret", headers=app.headers)
    assert refused.status_code == 403
    rotated = await api.post(f"/push/config/{app.id}/webhook-secret", headers=chief.headers)
    assert rotated.status_code == 200
    after = (await api.get(f"/push/config/{app.id}", headers=chief.headers)).json()["webhook_secret"]
    assert before != after == rotated.json()["webhook_secret"]
    never_enabled = await house.make_app()
    conflict = await api.post(f"/push/config/{never_enabled.id}/webhook-secret", headers=chief.headers)
    assert conflict.status_code == 409


async def test_receipts_are_for_admins_and_the_app_itself(
    house: RunningAppliance, api: httpx.AsyncClient, chief: TestUser
) -> None:
    app, other = await house.make_app(chief), await house.make_app(chief)
    user = await house.make_user(app)
    for call in (
        lambda headers: api.get(f"/push/receipts/{app.id}", headers=headers),
        lambda headers: api.post(f"/push/receipts/{app.id}/replay", json={}, headers=headers),
    ):
        assert [(await call(one.headers)).status_code for one in (chief, app, other, user)] == [200, 200, 403, 403]
    unknown = await api.get(f"/push/receipts/{uuid.uuid4()}", headers=chief.headers)
    assert unknown.status_code == 404
    wrong = await api.get(f"/push/receipts/{app.id}", params={"state": "lost"}, headers=chief.headers)
    assert wrong.status_code == 422
