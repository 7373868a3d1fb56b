"""What became of a notification, and taking it back."""

import uuid
from datetime import UTC, datetime, timedelta

import httpx

from tests.doubles.appliance import RunningAppliance, TestApp, TestUser


async def _send(http: httpx.AsyncClient, app: TestApp, user: TestUser, **more: object) -> str:
    body = {"user_id": str(user.id), "title": "Shift approved", "body": "b", **more}
    reply = await http.post("/push/send", json=body, headers=app.headers)
    assert reply.status_code == 202, reply.text
    notification_id: str = reply.json()["notification_id"]
    return notification_id


async def _register(http: httpx.AsyncClient, app: TestApp, user: TestUser) -> str:
    body = {"app_id": str(app.id), "platform": "android", "push_token": f"t-{uuid.uuid4()}", "label": "Pixel"}
    reply = await http.post("/push/devices/register", json=body, headers=user.headers)
    device_id: str = reply.json()["device_id"]
    return device_id


async def test_the_timeline_tells_every_delivery_in_words(
    http: httpx.AsyncClient, app: TestApp, user: TestUser
) -> None:
    device_id = await _register(http, app, user)
    notification_id = await _send(http, app, user, type="shift", ttl=600)
    timeline = (await http.get(f"/push/notifications/{notification_id}", headers=app.headers)).json()
    assert timeline["notification_id"] == notification_id
    assert (timeline["app_id"], timeline["user_id"]) == (str(app.id), str(user.id))
    assert (timeline["title"], timeline["type"], timeline["priority"]) == ("Shift approved", "shift", "normal")
    (delivery,) = timeline["deliveries"]
    assert (delivery["device_id"], delivery["device_label"]) == (device_id, "Pixel")
    assert (delivery["platform"], delivery["state"]) == ("android", "queued")
    assert delivery["explanation"]
    ends_at = datetime.fromisoformat(timeline["expires_at"]) - datetime.fromisoformat(timeline["accepted_at"])
    assert ends_at == timedelta(seconds=600)


async def test_an_app_sees_its_own_notifications_and_an_admin_all(
    server: RunningAppliance, http: httpx.AsyncClient, admin: TestUser, app: TestApp, user: TestUser
) -> None:
    foreign = await server.make_app(admin)
    path = f"/push/notifications/{await _send(http, app, user)}"
    for headers, status in (
        (app.headers, 200),
        (admin.headers, 200),
        (foreign.headers, 404),
        (user.headers, 403),
        ({}, 401),
    ):
        assert (await http.get(path, headers=headers)).status_code == status
    assert (await http.get(f"/push/notifications/{uuid.uuid4()}", headers=admin.headers)).status_code == 404


async def test_withdrawing_stops_what_was_not_shown_and_empties_the_inbox(
    server: RunningAppliance, http: httpx.AsyncClient, admin: TestUser, app: TestApp, user: TestUser
) -> None:
    await _register(http, app, user)
    path = f"/push/notifications/{await _send(http, app, user)}"
    foreign = await server.make_app(admin)
    for headers, status in ((foreign.headers, 404), (user.headers, 403), (admin.headers, 403), ({}, 401)):
        assert (await http.delete(path, headers=headers)).status_code == status
    for _ in range(2):
        reply = await http.delete(path, headers=app.headers)
        assert (reply.status_code, reply.json()) == (200, {"withdrawn": 1, "already_shown": 0})
    timeline = (await http.get(path, headers=app.headers)).json()
    assert (timeline["state"], timeline["deliveries"][0]["state"]) == ("withdrawn", "withdrawn")
    assert (await http.get("/account/notifications", headers=user.headers)).json()["notifications"] == []


async def test_a_scheduled_send_waits_and_can_be_withdrawn(
    http: httpx.AsyncClient, app: TestApp, user: TestUser
) -> None:
    send_at = datetime.now(UTC) + timedelta(days=1)
    notification_id = await _send(http, app, user, send_at=send_at.isoformat())
    path = f"/push/notifications/{notification_id}"
    timeline = (await http.get(path, headers=app.headers)).json()
    assert (timeline["state"], timeline["sequence"]) == ("scheduled", None)
    assert datetime.fromisoformat(timeline["send_at"]) == send_at
    assert (await http.get("/account/notifications", headers=user.headers)).json()["notifications"] == []
    assert (await http.delete(path, headers=app.headers)).status_code == 200
    assert (await http.get(path, headers=app.headers)).json()["state"] == "withdrawn"


async def test_a_send_at_in_the_past_is_sent_at_once(http: httpx.AsyncClient, app: TestApp, user: TestUser) -> None:
    for send_at in ("0000-01-01T00:00:00Z", "2020-02-29t12:00:00.5+01:00"):
        await _send(http, app, user, send_at=send_at)
    inbox = (await http.get("/account/notifications", headers=user.headers)).json()
    assert [entry["sequence"] for entry in inbox["notifications"]] == [2, 1]
