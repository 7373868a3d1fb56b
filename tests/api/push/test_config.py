"""An app's push configuration: who may see and change it, and what enabling makes."""

import asyncio
import base64
import uuid

import httpx
import pytest

from tests.doubles.appliance import RunningAppliance, TestApp, TestUser


async def test_an_app_starts_with_push_off_and_no_keys(
    server: RunningAppliance, http: httpx.AsyncClient, admin: TestUser
) -> None:
    app = await server.make_app()
    reply = await http.get(f"/push/config/{app.id}", headers=admin.headers)
    assert reply.status_code == 200
    assert reply.json() == {
        "enabled": False,
        "webhook_url": None,
        "webhook_secret": None,
        "daily_quota": 10_000,
        "device_count": 0,
        "notifications_today": 0,
        "vapid_public_key": None,
        "open_enrolment": True,
        "notification_email": None,
        "email_policy": "always",
    }


async def test_the_first_enabling_makes_the_keys_and_later_ones_keep_them(
    server: RunningAppliance, http: httpx.AsyncClient, admin: TestUser
) -> None:
    app = await server.make_app()
    body = {"enabled": True, "webhook_url": "https://yourapp.com/hooks/push-receipts", "daily_quota": 500}
    reply = await http.patch(f"/push/config/{app.id}", json=body, headers=admin.headers)
    first = reply.json()
    assert reply.status_code == 200
    assert {name: first[name] for name in body} == body
    prefix, _, secret = first["webhook_secret"].partition("_")
    assert (prefix, len(base64.b64decode(secret, validate=True))) == ("whsec", 32)
    point = base64.urlsafe_b64decode(first["vapid_public_key"] + "=")
    assert (len(point), point[0]) == (65, 4)
    for enabled in (False, True):
        await http.patch(f"/push/config/{app.id}", json={"enabled": enabled}, headers=admin.headers)
    again = (await http.get(f"/push/config/{app.id}", headers=admin.headers)).json()
    assert again == first


async def test_two_admins_who_enable_at_once_get_one_pair_of_keys(
    server: RunningAppliance, http: httpx.AsyncClient, admin: TestUser
) -> None:
    app = await server.make_app()
    call = [http.patch(f"/push/config/{app.id}", json={"enabled": True}, headers=admin.headers) for _ in range(8)]
    replies = await asyncio.gather(*call)
    assert len({(reply.json()["webhook_secret"], reply.json()["vapid_public_key"]) for reply in replies}) == 1


async def test_a_partial_change_leaves_the_rest_as_it_is(
    http: httpx.AsyncClient, admin: TestUser, app: TestApp
) -> None:
    path = f"/push/config/{app.id}"
    await http.patch(path, json={"webhook_url": "http://10.0.0.5:3000/hook", "daily_quota": 7}, headers=admin.headers)
    before = (await http.get(path, headers=admin.headers)).json()
    reply = await http.patch(path, json={"webhook_url": None}, headers=admin.headers)
    assert reply.json() == {**before, "webhook_url": None}
    assert (await http.patch(path, json={}, headers=admin.headers)).json() == reply.json()


async def test_e_mail_is_set_by_address_and_policy(http: httpx.AsyncClient, admin: TestUser, app: TestApp) -> None:
    path = f"/push/config/{app.id}"
    body = {"notification_email": "Office@Example.ORG", "email_policy": "if_unconfirmed"}
    reply = await http.patch(path, json=body, headers=admin.headers)
    told = {"notification_email": "Office@example.org", "email_policy": "if_unconfirmed"}
    assert {name: reply.json()[name] for name in told} == told
    reply = await http.patch(path, json={"notification_email": None, "email_policy": "never"}, headers=admin.headers)
    assert (reply.json()["notification_email"], reply.json()["email_policy"]) == (None, "never")


async def test_device_count_and_todays_notifications_are_counted(
    http: httpx.AsyncClient, admin: TestUser, app: TestApp, user: TestUser
) -> None:
    body = {"app_id": str(app.id), "platform": "android", "push_token": f"token-{uuid.uuid4()}"}
    await http.post("/push/devices/register", json=body, headers=user.headers)
    send = {"user_id": str(user.id), "title": "t", "body": "b"}
    await http.post("/push/send", json=send, headers=app.headers)
    config = (await http.get(f"/push/config/{app.id}", headers=admin.headers)).json()
    assert (config["device_count"], config["notifications_today"]) == (1, 1)


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"colour": "red"}, 400, "colour"),
        ({"enabled": True, "webhook_secret": "whsec_mine"}, 400, "webhook_secret"),
        ({"enabled": "yes"}, 422, "enabled"),
        ({"enabled": None}, 422, "enabled"),
        ({"daily_quota": -1}, 422, "daily_quota"),
        ({"daily_quota": 100_000_001}, 422, "daily_quota"),
        ({"webhook_url": "ftp://example.org/x"}, 422, "webhook_url"),
        ({"webhook_url": "https://user:secret@example.org/x"}, 422, "webhook_url"),
        ({"webhook_url": "https://example.org/x#y"}, 422, "webhook_url"),
        ({"webhook_url": "https://example.org:99999/"}, 422, "webhook_url"),
        ({"webhook_url": "https://exa mple.org/"}, 422, "webhook_url"),
        ({"webhook_url": "https://example.org/" + "x" * 2048}, 422, "webhook_url"),
        ({"notification_email": "office"}, 422, "notification_email"),
        ({"notification_email": "Office <office@example.org>"}, 422, "notification_email"),
        ({"notification_email": "office@example.org\r\nBcc: eve@example.com"}, 422, "notification_email"),
        ({"notification_email": "office@example.org, eve@example.com"}, 422, "notification_email"),
        ({"notification_email": "o" * 65 + "@example.org"}, 422, "notification_email"),
        ({"notification_email": 17}, 422, "notification_email"),
        ({"email_policy": "sometimes"}, 422, "email_policy"),
        ({"email_policy": None}, 422, "email_policy"),
    ],
)
async def test_what_cannot_be_set_is_refused_by_name_and_nothing_changes(
    http: httpx.AsyncClient, admin: TestUser, app: TestApp, body: dict[str, object], status: int, field: str
) -> None:
    path = f"/push/config/{app.id}"
    before = (await http.get(path, headers=admin.headers)).json()
    reply = await http.patch(path, json=body, headers=admin.headers)
    assert (reply.status_code, reply.json()["field"]) == (status, field)
    assert (await http.get(path, headers=admin.headers)).json() == before


async def test_only_an_admin_may_see_or_change_it(http: httpx.AsyncClient, app: TestApp, user: TestUser) -> None:
    path = f"/push/config/{app.id}"
    for headers, status in ((user.headers, 403), (app.headers, 403), ({}, 401)):
        assert (await http.get(path, headers=headers)).status_code == status
        assert (await http.patch(path, json={"enabled": False}, headers=headers)).status_code == status


async def test_an_unknown_app_is_404(http: httpx.AsyncClient, admin: TestUser) -> None:
    for app_id in (uuid.uuid4(), "no-id"):
        assert (await http.get(f"/push/config/{app_id}", headers=admin.headers)).status_code == 404
        reply = await http.patch(f"/push/config/{app_id}", json={"enabled": True}, headers=admin.headers)
        assert (reply.status_code, reply.json()["code"]) == (404, "not_found")
