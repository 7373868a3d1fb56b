"""Registering, listing and unregistering devices over HTTP."""

import json
import secrets
import sqlite3
import uuid

import httpx
import pytest

from tests.doubles.appliance import RunningAppliance, TestApp, TestUser

SUBSCRIPTION = {
    "endpoint": "https://updates.push.services.example.org/wpush/v2/abc",
    "expirationTime": None,
    "keys": {"p256dh": "B" + "A" * 86, "auth": "A" * 22},
}


def _token() -> str:
    return f"fcm-{secrets.token_hex(20)}"


def _device(app: TestApp, push_token: object, platform: str = "android", **more: object) -> dict[str, object]:
    return {"app_id": str(app.id), "platform": platform, "push_token": push_token, **more}


async def _register(http: httpx.AsyncClient, user: TestUser, body: dict[str, object]) -> httpx.Response:
    return await http.post("/push/devices/register", json=body, headers=user.headers)


async def test_a_new_token_is_201_and_a_known_one_200_with_the_same_id(
    http: httpx.AsyncClient, app: TestApp, user: TestUser
) -> None:
    token = _token()
    first = await _register(http, user, _device(app, token))
    again = await _register(http, user, _device(app, token))
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json() == {"device_id": str(uuid.UUID(first.json()["device_id"]))}


@pytest.mark.parametrize(
    ("platform", "push_token"),
    [
        ("ios", "ab" * 32),
        ("web", SUBSCRIPTION),
        ("web", json.dumps({**SUBSCRIPTION, "endpoint": "https://push.example.org/x"})),
    ],
)
async def test_apns_tokens_and_push_subscriptions_are_taken_too(
    http: httpx.AsyncClient, app: TestApp, user: TestUser, platform: str, push_token: object
) -> None:
    reply = await _register(http, user, _device(app, push_token, platform))
    assert reply.status_code in (200, 201)
    listed = (await http.get(f"/push/devices/{app.id}", headers=app.headers)).json()
    assert [device["platform"] for device in listed["devices"]] == [platform]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"push_token": ""}, "push_token"),
        ({"push_token": "two words"}, "push_token"),
        ({"push_token": "x" * 4097}, "push_token"),
        ({"push_token": 7}, "push_token"),
        ({"push_token": {"endpoint": "https://push.example.org/x"}}, "push_token"),
        ({"push_token": {**SUBSCRIPTION, "endpoint": "http://push.example.org/x"}}, "push_token.endpoint"),
        ({"push_token": {**SUBSCRIPTION, "keys": {"p256dh": "AAAA", "auth": "A" * 22}}}, "push_token.keys.p256dh"),
        ({"platform": "windows"}, "platform"),
        ({"app_id": "mine"}, "app_id"),
        ({"label": "x" * 101}, "label"),
        ({"locale": "not a locale"}, "locale"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_what_is_no_device_is_refused_by_name(
    http: httpx.AsyncClient, app: TestApp, user: TestUser, changes: dict[str, object], field: str
) -> None:
    reply = await _register(http, user, {**_device(app, _token()), **changes})
    assert (reply.status_code, reply.json()["field"]) == (422, field)


async def test_registering_is_403_while_push_is_off(
    server: RunningAppliance, http: httpx.AsyncClient, user: TestUser
) -> None:
    app = await server.make_app()
    reply = await _register(http, user, _device(app, _token()))
    assert (reply.status_code, reply.json()["code"]) == (403, "push_disabled")


async def test_registering_with_an_unknown_app_is_404(http: httpx.AsyncClient, app: TestApp, user: TestUser) -> None:
    reply = await _register(http, user, {**_device(app, _token()), "app_id": str(uuid.uuid4())})
    assert reply.status_code == 404


async def test_registering_enrols_the_user_unless_the_app_is_closed(
    server: RunningAppliance, http: httpx.AsyncClient, admin: TestUser
) -> None:
    send = {"title": "t", "body": "b"}
    for is_open, status, sent in ((True, 201, 202), (False, 403, 403)):
        app = await server.make_app(admin, open_enrolment=is_open)
        stranger = await server.make_user()
        reply = await _register(http, stranger, _device(app, _token()))
        assert reply.status_code == status
        reply = await http.post("/push/send", json={"user_id": str(stranger.id), **send}, headers=app.headers)
        assert reply.status_code == sent


async def test_a_token_moves_to_the_user_who_registers_it_last_and_old_mail_stays_behind(
    server: RunningAppliance, http: httpx.AsyncClient, app: TestApp, user: TestUser
) -> None:
    token = _token()
    device_id = (await _register(http, user, _device(app, token, label="Anna's phone"))).json()["device_id"]
    send = {"user_id": str(user.id), "title": "for the first user", "body": "b"}
    sent = (await http.post("/push/send", json=send, headers=app.headers)).json()
    other = await server.make_user(app)
    reply = await _register(http, other, _device(app, token))
    assert (reply.status_code, reply.json()["device_id"]) == (200, device_id)
    timeline = (await http.get(f"/push/notifications/{sent['notification_id']}", headers=app.headers)).json()
    assert [delivery["state"] for delivery in timeline["deliveries"]] == ["suppressed"]
    assert (await http.get("/account/devices", headers=user.headers)).json() == {"apps": []}
    (group,) = (await http.get("/account/devices", headers=other.headers)).json()["apps"]
    assert [(device["device_id"], device["label"]) for device in group["devices"]] == [(device_id, "")]


async def test_the_eleventh_registration_within_an_hour_is_429(
    server: RunningAppliance, http: httpx.AsyncClient, app: TestApp, user: TestUser
) -> None:
    token = _token()
    statuses = [(await _register(http, user, _device(app, token))).status_code for _ in range(10)]
    assert statuses == [201] + [200] * 9
    reply = await _register(http, user, _device(app, _token()))
    assert (reply.status_code, reply.json()["code"]) == (429, "too_many_requests")
    assert 3500 < int(reply.headers["retry-after"]) <= 3601
    other = await server.make_user()
    assert (await _register(http, other, _device(app, _token()))).status_code == 201


async def test_a_refused_registration_does_not_count(
    server: RunningAppliance, http: httpx.AsyncClient, app: TestApp, user: TestUser
) -> None:
    off = await server.make_app()
    for _ in range(12):
        assert (await _register(http, user, _device(off, _token()))).status_code == 403
    assert (await _register(http, user, _device(app, _token()))).status_code == 201


async def test_tokens_are_not_in_the_database_files_in_the_clear(
    server: RunningAppliance, http: httpx.AsyncClient, app: TestApp, user: TestUser
) -> None:
    token = _token()
    await _register(http, user, _device(app, token))
    for path in server.data_dir.glob("carillon.sqlite*"):
        assert token.encode() not in path.read_bytes()
    assert token not in server.output


async def test_the_list_has_the_documented_keys_and_pages_through_all(
    server: RunningAppliance, http: httpx.AsyncClient, admin: TestUser, app: TestApp, user: TestUser
) -> None:
    ids = [(await _register(http, user, _device(app, _token()))).json()["device_id"] for _ in range(5)]
    whole = (await http.get(f"/push/devices/{app.id}", headers=admin.headers)).json()
    assert (whole["total"], whole["next_cursor"]) == (5, None)
    assert set(whole["devices"][0]) == {"device_id", "user_id", "platform", "last_seen_at", "connected"}
    assert whole["devices"][0]["user_id"] == str(user.id)
    assert whole["devices"][0]["last_seen_at"].endswith("Z")
    seen: list[str] = []
    query: dict[str, str] = {"limit": "2"}
    for _ in range(3):
        page = (await http.get(f"/push/devices/{app.id}", params=query, headers=app.headers)).json()
        assert page["total"] == 5
        seen += [device["device_id"] for device in page["devices"]]
        query["cursor"] = page["next_cursor"]
    assert seen == ids
    assert page["next_cursor"] is None


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "limit=-1", "cursor=abc", "limit="])
async def test_a_bad_page_is_refused_by_name(http: httpx.AsyncClient, app: TestApp, query: str) -> None:
    reply = await http.get(f"/push/devices/{app.id}?{query}", headers=app.headers)
    assert (reply.status_code, reply.json()["field"]) == (422, query.partition("=")[0])


async def test_a_member_or_a_foreign_app_may_not_list(
    server: RunningAppliance, http: httpx.AsyncClient, admin: TestUser, app: TestApp, user: TestUser
) -> None:
    foreign = await server.make_app(admin)
    for headers in (user.headers, foreign.headers):
        assert (await http.get(f"/push/devices/{app.id}", headers=headers)).status_code == 403
    assert (await http.get(f"/push/devices/{uuid.uuid4()}", headers=admin.headers)).status_code == 404


async def test_its_user_and_its_app_may_unregister_a_device_and_it_can_come_back(
    http: httpx.AsyncClient, app: TestApp, user: TestUser
) -> None:
    token = _token()
    device_id = (await _register(http, user, _device(app, token))).json()["device_id"]
    for headers in (user.headers, app.headers):
        assert (await http.delete(f"/push/devices/{device_id}", headers=headers)).status_code == 204
        assert (await http.delete(f"/push/devices/{device_id}", headers=headers)).status_code == 404
        assert (await http.get(f"/push/devices/{app.id}", headers=app.headers)).json()["total"] == 0
        back = await _register(http, user, _device(app, token))
        assert (back.status_code, back.json()["device_id"]) == (200, device_id)


async def test_anothers_device_is_404(
    server: RunningAppliance, http: httpx.AsyncClient, admin: TestUser, app: TestApp, user: TestUser
) -> None:
    device_id = (await _register(http, user, _device(app, _token()))).json()["device_id"]
    stranger, foreign = await server.make_user(app), await server.make_app(admin)
    for who in (stranger, foreign, admin):
        reply = await http.delete(f"/push/devices/{device_id}", headers=who.headers)
        assert (reply.status_code, reply.json()["code"]) == (404, "not_found")
    assert (await http.delete(f"/account/devices/{device_id}", headers=stranger.headers)).status_code == 404
    assert (await http.delete(f"/push/devices/{device_id}")).status_code == 401


async def test_an_app_may_not_register_devices_and_a_user_needs_a_token(http: httpx.AsyncClient, app: TestApp) -> None:
    body = _device(app, _token())
    assert (await http.post("/push/devices/register", json=body, headers=app.headers)).status_code == 403
    assert (await http.post("/push/devices/register", json=body)).status_code == 401


async def test_ten_registrations_an_hour_are_counted_in_the_database(
    server: RunningAppliance, http: httpx.AsyncClient, app: TestApp, user: TestUser
) -> None:
    await _register(http, user, _device(app, _token()))
    connection = sqlite3.connect(server.data_dir / "carillon.sqlite")
    try:
        (count,) = connection.execute('SELECT COUNT(*) FROM registration WHERE "user" = ?', (str(user.id),)).fetchone()
    finally:
        connection.close()
    assert count == 1
