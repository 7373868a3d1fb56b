"""A device that was away for long, and one that was revoked, at the real server."""

import uuid

import httpx

from tests.doubles.appliance import RunningAppliance, TestApp, TestUser
from tests.doubles.hub_client import open_hub


def _hub(server: RunningAppliance) -> str:
    return f"ws://127.0.0.1:{server.port}/hubs/notifications"


async def _register(http: httpx.AsyncClient, app: TestApp, user: TestUser, token: str | None = None) -> str:
    body = {"app_id": str(app.id), "platform": "android", "push_token": token or f"t-{uuid.uuid4()}"}
    device_id: str = (await http.post("/push/devices/register", json=body, headers=user.headers)).json()["device_id"]
    return device_id


async def _send(http: httpx.AsyncClient, app: TestApp, user: TestUser, count: int) -> list[str]:
    one = {"user_id": str(user.id), "title": "t", "body": "b"}
    ids: list[str] = []
    for start in range(0, count, 500):
        body = {"notifications": [one] * min(500, count - start)}
        reply = await http.post("/push/send/batch", json=body, headers=app.headers)
        assert reply.status_code == 202, reply.text
        ids += reply.json()["notification_ids"]
    return ids


async def _delivery(http: httpx.AsyncClient, app: TestApp, notification_id: str) -> str:
    timeline = (await http.get(f"/push/notifications/{notification_id}", headers=app.headers)).json()
    (delivery,) = timeline["deliveries"]
    state: str = delivery["state"]
    return state


async def test_after_a_long_absence_everything_comes_in_order_and_nothing_is_confirmed_that_did_not_come(
    server: RunningAppliance, http: httpx.AsyncClient, app: TestApp, user: TestUser
) -> None:
    """Of 1500 missed the newest 1000 came; the next Hello had all 1500 read "confirmed by the device"."""
    device_id = await _register(http, app, user)
    ids = await _send(http, app, user, 1_500)
    async with open_hub(_hub(server), user.token) as client:
        answer = await client.say_hello(device_id, cursor=0)
        assert (answer["missed"], answer["complete"], answer["cursor"]) == (1_500, True, 0)
        told = [(await client.next_notification())["id"] for _ in range(700)]
    assert told == ids[:700]
    async with open_hub(_hub(server), user.token) as client:
        answer = await client.say_hello(device_id, cursor=700)
        assert (answer["missed"], answer["complete"]) == (800, True)
        assert await _delivery(http, app, ids[699]) == "confirmed"
        assert await _delivery(http, app, ids[700]) == "queued"
        told = [(await client.next_notification())["id"] for _ in range(800)]
        assert told == ids[700:]
        (newest,) = await _send(http, app, user, 1)
        assert (await client.next_notification())["id"] == newest


async def test_without_a_cursor_all_that_is_open_comes(
    server: RunningAppliance, http: httpx.AsyncClient, app: TestApp, user: TestUser
) -> None:
    device_id = await _register(http, app, user)
    ids = await _send(http, app, user, 450)
    async with open_hub(_hub(server), user.token) as client:
        answer = await client.say_hello(device_id)
        assert (answer["missed"], answer["complete"]) == (450, True)
        assert [(await client.next_notification())["id"] for _ in ids] == ids


async def test_a_revoked_device_is_refused_until_it_is_registered_again(
    server: RunningAppliance, http: httpx.AsyncClient, app: TestApp, user: TestUser
) -> None:
    """Its Hello had made a new device under the old id, which got what every app of the user sent."""
    token = f"t-{uuid.uuid4()}"
    device_id = await _register(http, app, user, token)
    assert (await http.delete(f"/account/devices/{device_id}", headers=user.headers)).status_code == 204
    async with open_hub(_hub(server), user.token) as client:
        refusal = await client.invoke("Hello", {"deviceId": device_id})
        assert refusal["error"] == "This device was revoked. Register it again."
        assert (await http.get("/account/devices", headers=user.headers)).json()["apps"] == []
        assert await _register(http, app, user, token) == device_id
        assert (await client.say_hello(device_id))["deviceId"] == device_id
