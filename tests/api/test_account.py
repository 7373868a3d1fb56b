"""What users see of themselves: devices grouped by app, and the inbox."""

import uuid

import httpx
import pytest

from tests.doubles.appliance import RunningAppliance, TestApp, TestUser


async def _register(http: httpx.AsyncClient, app: TestApp, user: TestUser, **more: object) -> str:
    body = {"app_id": str(app.id), "platform": "ios", "push_token": f"t-{uuid.uuid4()}", **more}
    reply = await http.post("/push/devices/register", json=body, headers=user.headers)
    device_id: str = reply.json()["device_id"]
    return device_id


async def _send(http: httpx.AsyncClient, app: TestApp, user: TestUser, title: str) -> str:
    body = {"user_id": str(user.id), "title": title, "body": "b"}
    notification_id: str = (await http.post("/push/send", json=body, headers=app.headers)).json()["notification_id"]
    return notification_id


async def test_devices_are_grouped_by_app_and_can_be_revoked_one_by_one(
    server: RunningAppliance, http: httpx.AsyncClient, admin: TestUser, app: TestApp, user: TestUser
) -> None:
    other_app = await server.make_app(admin)
    first = await _register(http, app, user, label="Phone")
    second = await _register(http, app, user)
    third = await _register(http, other_app, user)
    groups = (await http.get("/account/devices", headers=user.headers)).json()["apps"]
    assert [set(group) for group in groups] == [{"app_id", "name", "devices"}] * 2
    assert {group["app_id"]: [device["device_id"] for device in group["devices"]] for group in groups} == {
        str(app.id): [first, second],
        str(other_app.id): [third],
    }
    device = next(device for group in groups for device in group["devices"] if device["device_id"] == first)
    assert set(device) == {"device_id", "platform", "label", "last_seen_at", "connected"}
    assert (device["platform"], device["label"]) == ("ios", "Phone")
    assert (await http.delete(f"/account/devices/{first}", headers=user.headers)).status_code == 204
    assert (await http.delete(f"/account/devices/{first}", headers=user.headers)).status_code == 404
    groups = (await http.get("/account/devices", headers=user.headers)).json()["apps"]
    assert sorted(device["device_id"] for group in groups for device in group["devices"]) == sorted([second, third])


async def test_the_inbox_gives_the_newest_first_and_after_a_cursor_the_oldest_first(
    http: httpx.AsyncClient, app: TestApp, user: TestUser
) -> None:
    for number in range(1, 6):
        await _send(http, app, user, f"Number {number}")

    async def titles(query: str) -> tuple[list[str], int]:
        page = (await http.get(f"/account/notifications?{query}", headers=user.headers)).json()
        return [entry["title"][7:] for entry in page["notifications"]], page["cursor"]

    assert await titles("limit=2") == (["5", "4"], 5)
    assert await titles("limit=2&before=4") == (["3", "2"], 5)
    assert await titles("cursor=0&limit=3") == (["1", "2", "3"], 3)
    assert await titles("cursor=3&limit=3") == (["4", "5"], 5)
    assert await titles("cursor=5") == ([], 5)


async def test_an_entry_has_the_documented_keys(http: httpx.AsyncClient, app: TestApp, user: TestUser) -> None:
    await _send(http, app, user, "Hello")
    page = (await http.get("/account/notifications", headers=user.headers)).json()
    (entry,) = page["notifications"]
    assert set(entry) == {
        "id", "app_id", "app_name", "type", "title", "body", "data", "priority", "sequence", "sent_at", "expires_at",
        "read_at",
    }  # fmt: skip
    assert (entry["app_id"], entry["data"], entry["read_at"]) == (str(app.id), {}, None)
    assert page["complete"] is True


async def test_a_withdrawn_notification_does_not_hold_the_cursor_back(
    http: httpx.AsyncClient, app: TestApp, user: TestUser
) -> None:
    await _send(http, app, user, "Kept")
    withdrawn = await _send(http, app, user, "Withdrawn")
    await http.delete(f"/push/notifications/{withdrawn}", headers=app.headers)
    page = (await http.get("/account/notifications?cursor=0", headers=user.headers)).json()
    assert ([entry["title"] for entry in page["notifications"]], page["cursor"]) == (["Kept"], 2)


async def test_reading_is_marked_once_and_only_by_its_user(
    server: RunningAppliance, http: httpx.AsyncClient, app: TestApp, user: TestUser
) -> None:
    path = f"/account/notifications/{await _send(http, app, user, 'Hello')}/read"
    stranger = await server.make_user(app)
    assert (await http.post(path, headers=stranger.headers)).status_code == 404
    assert (await http.post(path, headers=app.headers)).status_code == 403
    instants = set()
    for _ in range(2):
        assert (await http.post(path, headers=user.headers)).status_code == 204
        (entry,) = (await http.get("/account/notifications", headers=user.headers)).json()["notifications"]
        instants.add(entry["read_at"])
    assert len(instants) == 1
    assert None not in instants


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "cursor=-1", "cursor=1.5", "before=x", "cursor=9" + "9" * 30]
)
async def test_a_bad_page_of_the_inbox_is_refused_by_name(http: httpx.AsyncClient, user: TestUser, query: str) -> None:
    reply = await http.get(f"/account/notifications?{query}", headers=user.headers)
    assert (reply.status_code, reply.json()["field"]) == (422, query.partition("=")[0])


async def test_apps_and_strangers_have_no_account(http: httpx.AsyncClient, app: TestApp) -> None:
    for path in ("/account/devices", "/account/notifications"):
        assert (await http.get(path, headers=app.headers)).status_code == 403
        assert (await http.get(path)).status_code == 401
