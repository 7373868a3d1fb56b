"""What the push API does to live connections, and what a send is worth under a race."""

import asyncio
import uuid

import httpx

from tests.doubles.appliance import RunningAppliance, TestApp, TestUser
from tests.doubles.hub_client import HubClient, open_socket


def _hub(server: RunningAppliance) -> str:
    return f"ws://127.0.0.1:{server.port}/hubs/notifications"


async def _register(http: httpx.AsyncClient, app: TestApp, user: TestUser, token: str) -> str:
    body = {"app_id": str(app.id), "platform": "android", "push_token": token}
    reply = await http.post("/push/devices/register", json=body, headers=user.headers)
    device_id: str = reply.json()["device_id"]
    return device_id


async def _until_closed(client: HubClient) -> dict[str, object]:
    records, _ = await client.closing()
    return records[-1]


async def test_a_send_reaches_the_live_connection_of_a_registered_device(
    server: RunningAppliance, http: httpx.AsyncClient, app: TestApp, user: TestUser
) -> None:
    device_id = await _register(http, app, user, f"t-{uuid.uuid4()}")
    async with open_socket(_hub(server), user.token) as client:
        await client.shake_hands()
        assert (await client.say_hello(device_id))["deviceId"] == device_id
        body = {"user_id": str(user.id), "title": "Shift approved", "body": "b", "data": {"route": "/s"}}
        sent = (await http.post("/push/send", json=body, headers=app.headers)).json()["notification_id"]
        notification = await client.next_notification()
        assert (notification["id"], notification["title"], notification["data"]) == (
            sent,
            "Shift approved",
            {"route": "/s"},
        )
        assert (await client.invoke("Acknowledge", sent))["result"] is True
    timeline = (await http.get(f"/push/notifications/{sent}", headers=app.headers)).json()
    (delivery,) = timeline["deliveries"]
    assert (timeline["state"], delivery["state"]) == ("delivered", "confirmed")
    assert delivery["attempts"][-1]["layer"] == "hub"
    reply = await http.delete(f"/push/notifications/{sent}", headers=app.headers)
    assert reply.json() == {"withdrawn": 0, "already_shown": 1}


async def test_unregistering_a_device_ends_its_live_connection(
    server: RunningAppliance, http: httpx.AsyncClient, app: TestApp, user: TestUser
) -> None:
    for path, who in (("/push/devices", app), ("/push/devices", user), ("/account/devices", user)):
        device_id = await _register(http, app, user, f"t-{uuid.uuid4()}")
        async with open_socket(_hub(server), user.token) as client:
            await client.shake_hands()
            await client.say_hello(device_id)
            assert (await http.delete(f"{path}/{device_id}", headers=who.headers)).status_code == 204
            last = await _until_closed(client)
            assert (last["type"], last.get("allowReconnect", False)) == (7, False)


async def test_a_device_that_moves_to_another_user_leaves_the_first_users_connection(
    server: RunningAppliance, http: httpx.AsyncClient, app: TestApp, user: TestUser
) -> None:
    token = f"t-{uuid.uuid4()}"
    device_id = await _register(http, app, user, token)
    other = await server.make_user(app)
    async with open_socket(_hub(server), user.token) as client:
        await client.shake_hands()
        await client.say_hello(device_id)
        assert await _register(http, app, other, token) == device_id
        assert (await _until_closed(client))["type"] == 7


async def test_fifty_concurrent_sends_with_one_key_send_once(
    http: httpx.AsyncClient, app: TestApp, user: TestUser
) -> None:
    body = {"user_id": str(user.id), "title": "t", "body": "b"}
    headers = {**app.headers, "idempotency-key": str(uuid.uuid4())}
    replies = await asyncio.gather(*(http.post("/push/send", json=body, headers=headers) for _ in range(50)))
    assert {reply.status_code for reply in replies} == {202}
    assert len({reply.json()["notification_id"] for reply in replies}) == 1
    assert len((await http.get("/account/notifications", headers=user.headers)).json()["notifications"]) == 1


async def test_of_200_concurrent_sends_at_five_left_exactly_five_get_through(
    server: RunningAppliance, http: httpx.AsyncClient, admin: TestUser
) -> None:
    app = await server.make_app(admin, daily_quota=5)
    user = await server.make_user(app)
    body = {"user_id": str(user.id), "title": "t", "body": "b"}
    replies = await asyncio.gather(*(http.post("/push/send", json=body, headers=app.headers) for _ in range(200)))
    statuses = [reply.status_code for reply in replies]
    assert (statuses.count(202), statuses.count(429)) == (5, 195)
    assert sorted(reply.headers["x-quota-remaining"] for reply in replies if reply.status_code == 202) == list("01234")
    assert len((await http.get("/account/notifications", headers=user.headers)).json()["notifications"]) == 5
