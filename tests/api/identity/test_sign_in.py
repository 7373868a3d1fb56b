"""Signing in with a browser: the cookie, whose requests count, tickets, the password."""

from http.cookies import SimpleCookie
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.doubles.appliance import RunningAppliance, TestApp, TestUser

SESSION = "/account/session"
TICKET = "/account/ticket"


@pytest.fixture
async def browser(http: httpx.AsyncClient, server: RunningAppliance, user: TestUser) -> httpx.AsyncClient:
    """A browser on our own pages, signed in."""
    http.headers["origin"] = server.base_url
    reply = await http.post(SESSION, json={"username": user.username, "password": user.password})
    assert reply.status_code == 201, reply.text
    return http


async def test_signing_in_sets_a_cookie_that_scripts_cannot_read(http: httpx.AsyncClient, user: TestUser):
    reply = await http.post(SESSION, json={"username": user.username, "password": user.password})
    assert reply.status_code == 201
    assert reply.json()["user_id"] == str(user.id)
    cookie = SimpleCookie(reply.headers["set-cookie"])["carillon_session"]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Lax", "/")
    assert cookie["max-age"] == str(30 * 24 * 3600)
    assert not cookie["secure"]
    assert reply.headers["cache-control"] == "no-store"
    assert user.password not in reply.text


async def test_the_cookie_tells_who_is_signed_in_and_signing_out_ends_it(browser: httpx.AsyncClient, user: TestUser):
    assert (await browser.get(SESSION)).json()["username"] == user.username
    cookie = browser.cookies["carillon_session"]
    ended = await browser.delete(SESSION)
    assert ended.status_code == 204
    assert "Max-Age=0" in ended.headers["set-cookie"]
    browser.cookies.set("carillon_session", cookie)
    refused = await browser.get(SESSION)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Bearer")


async def test_signing_in_again_gives_another_session_and_ends_the_one_before(
    browser: httpx.AsyncClient, user: TestUser
):
    before = browser.cookies["carillon_session"]
    await browser.post(SESSION, json={"username": user.username, "password": user.password})
    assert browser.cookies["carillon_session"] != before
    browser.cookies.clear()
    browser.cookies.set("carillon_session", before)
    assert (await browser.get(SESSION)).status_code == 401


async def test_a_session_id_from_outside_is_never_taken_over(http: httpx.AsyncClient, user: TestUser):
    planted = "sid_" + "A" * 43
    reply = await http.post(
        SESSION,
        json={"username": user.username, "password": user.password},
        headers={"cookie": f"carillon_session={planted}", "origin": str(http.base_url).rstrip("/")},
    )
    assert reply.status_code == 201
    assert planted not in reply.headers["set-cookie"]
    http.cookies.clear()
    assert (await http.get(SESSION, headers={"cookie": f"carillon_session={planted}"})).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site", "origin": ""},
        {"sec-fetch-site": "same-site", "origin": ""},
        {"origin": ""},
    ],
)
async def test_the_cookie_does_not_count_for_a_change_asked_by_another_page(
    browser: httpx.AsyncClient, headers: dict[str, str]
):
    del browser.headers["origin"]
    sent = {name: value for name, value in headers.items() if value}
    for method, path in (("POST", TICKET), ("PUT", "/account/password"), ("DELETE", SESSION)):
        reply = await browser.request(method, path, headers=sent)
        assert reply.status_code == 403, (method, path, reply.text)
        assert reply.json()["code"] == "cross_site_request"
    assert (await browser.get(SESSION)).status_code == 200


async def test_the_cookie_counts_nowhere_but_below_account_console_and_wizard(browser: httpx.AsyncClient):
    reply = await browser.post("/push/send", json={})
    assert reply.status_code == 401
    assert (await browser.get("/push/devices/0192f0c1-2b3c-7d4e-8f90-a1b2c3d4e5f6")).status_code == 401


async def test_a_sign_in_asked_by_another_site_is_refused(http: httpx.AsyncClient, user: TestUser):
    reply = await http.post(
        SESSION,
        json={"username": user.username, "password": user.password},
        headers={"origin": "https://evil.example"},
    )
    assert (reply.status_code, reply.json()["code"]) == (403, "cross_site_request")


async def test_a_wrong_password_and_an_unknown_user_are_told_alike(http: httpx.AsyncClient, user: TestUser):
    one = await http.post(SESSION, json={"username": user.username, "password": "not the password"})
    other = await http.post(SESSION, json={"username": "nobody-at-all", "password": "not the password"})
    assert one.status_code == other.status_code == 401
    assert one.json() == other.json()
    assert one.json()["code"] == "wrong_password"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"username": "a"}, "password"),
        ({"username": "", "password": "b"}, "username"),
        ({"username": 5, "password": "b"}, "username"),
        ({"username": "a", "password": "b", "remember": True}, "remember"),
    ],
)
async def test_a_sign_in_that_breaks_a_rule_names_the_field(
    http: httpx.AsyncClient, body: dict[str, object], field: str
):
    reply = await http.post(SESSION, json=body)
    assert (reply.status_code, reply.json()["field"]) == (422, field)


async def test_an_app_is_nobody_to_sign_in(http: httpx.AsyncClient, app: TestApp):
    for method, path in (("GET", SESSION), ("POST", TICKET)):
        assert (await http.request(method, path, headers=app.headers)).status_code == 403


async def test_a_ticket_opens_the_hub_once(browser: httpx.AsyncClient, server: RunningAppliance):
    ticket = (await browser.post(TICKET)).json()
    assert ticket["hub"] == "/hubs/notifications"
    url = f"ws://127.0.0.1:{server.port}{ticket['hub']}?access_token={ticket['ticket']}"
    async with connect(url) as socket:
        await socket.send('{"protocol":"json","version":1}\x1e')
        assert await socket.recv() == "{}\x1e"
    with pytest.raises(InvalidStatus) as refusal:
        async with connect(url):
            pass
    assert refusal.value.response.status_code == 401


async def test_a_ticket_opens_one_connection_over_plain_http_which_takes_many_requests(
    browser: httpx.AsyncClient, server: RunningAppliance
):
    """The official client asks for one ticket when it negotiates and repeats it with every poll and post.

    Behind a proxy without WebSockets its first poll was answered 401, because the ticket had been redeemed.
    """
    ticket = (await browser.post(TICKET)).json()
    bearer = {"authorization": f"Bearer {ticket['ticket']}"}
    browser.cookies.clear()
    negotiated = await browser.post(f"{ticket['hub']}/negotiate?negotiateVersion=1", headers=bearer)
    hub = f"{ticket['hub']}?id={negotiated.json()['connectionToken']}"
    assert (await browser.get(hub, headers=bearer)).status_code == 200
    assert (await browser.post(hub, headers=bearer, content='{"protocol":"json","version":1}\x1e')).status_code == 200
    assert (await browser.get(hub, headers=bearer)).text == "{}\x1e"

    other = (await browser.post(f"{ticket['hub']}/negotiate?negotiateVersion=1", headers=bearer)).status_code
    wrong = (await browser.get(hub, headers={"authorization": "Bearer tk_wrong"})).status_code
    assert (other, wrong) == (401, 401)
    with pytest.raises(InvalidStatus) as refusal:
        async with connect(f"ws://127.0.0.1:{server.port}{hub}&access_token={ticket['ticket']}"):
            pass
    assert refusal.value.response.status_code == 401

    assert (await browser.delete(hub, headers=bearer)).status_code == 202
    assert (await browser.get(hub, headers=bearer)).status_code == 401


async def test_a_ticket_streams_too_when_it_stands_in_the_address(browser: httpx.AsyncClient):
    ticket = (await browser.post(TICKET)).json()
    browser.cookies.clear()
    query = f"access_token={ticket['ticket']}"
    negotiated = await browser.post(f"{ticket['hub']}/negotiate?negotiateVersion=1&{query}")
    hub = f"{ticket['hub']}?id={negotiated.json()['connectionToken']}&{query}"
    async with browser.stream("GET", hub, headers={"accept": "text/event-stream"}) as stream:
        assert stream.headers["content-type"] == "text/event-stream"
        assert (await browser.post(hub, content='{"protocol":"json","version":1}\x1e')).status_code == 200
        received = b""
        async for part in stream.aiter_bytes():
            received += part
            if received.endswith(b"\r\n\r\n"):
                break
        assert received == b":\r\ndata: {}\x1e\r\n\r\n"


async def test_a_ticket_is_no_access_token(browser: httpx.AsyncClient):
    ticket = (await browser.post(TICKET)).json()["ticket"]
    browser.cookies.clear()
    reply = await browser.get(SESSION, headers={"authorization": f"Bearer {ticket}"})
    assert reply.status_code == 401


async def test_signing_out_closes_the_hub_connection_of_that_browser(
    browser: httpx.AsyncClient, server: RunningAppliance
):
    ticket = (await browser.post(TICKET)).json()["ticket"]
    async with connect(f"ws://127.0.0.1:{server.port}/hubs/notifications?access_token={ticket}") as socket:
        await socket.send('{"protocol":"json","version":1}\x1e')
        assert await socket.recv() == "{}\x1e"
        await browser.delete(SESSION)
        closing = await socket.recv()
        assert '"type":7' in str(closing)
        assert "Signed out." in str(closing)
        assert '"allowReconnect":true' not in str(closing)


async def test_changing_the_password_keeps_this_browser_and_ends_the_rest(
    browser: httpx.AsyncClient, server: RunningAppliance, user: TestUser
):
    wrong = {"current_password": "not this one", "new_password": "a brand new password"}
    refused = await browser.put("/account/password", json=wrong)
    assert (refused.status_code, refused.json()["field"]) == (403, "current_password")
    weak = {"current_password": user.password, "new_password": "password123"}
    refused = await browser.put("/account/password", json=weak)
    assert (refused.status_code, refused.json()["field"]) == (422, "new_password")
    good = {"current_password": user.password, "new_password": "a brand new password"}
    assert (await browser.put("/account/password", json=good)).status_code == 204

    assert (await browser.get(SESSION)).status_code == 200
    async with httpx.AsyncClient(base_url=server.base_url) as other:
        assert (await other.get(SESSION, headers=user.headers)).status_code == 401
        old = await other.post(SESSION, json={"username": user.username, "password": user.password})
        assert old.status_code == 401
        new = await other.post(SESSION, json={"username": user.username, "password": "a brand new password"})
        assert new.status_code == 201


async def test_under_a_public_https_address_the_cookie_is_secure_and_its_pages_are_our_own(tmp_path: Path):
    public = "https://push.example.test"
    running = RunningAppliance(tmp_path / "data", environment={"PUBLIC_URL": public})
    running.start()
    try:
        user = await running.make_user()
        async with httpx.AsyncClient(base_url=running.base_url, headers={"origin": public}) as browser:
            reply = await browser.post(SESSION, json={"username": user.username, "password": user.password})
            assert reply.status_code == 201
            cookie = SimpleCookie(reply.headers["set-cookie"])["carillon_session"]
            assert cookie["secure"] is True
            # The test's own client speaks http, so it is told by hand what a browser sends under https.
            sent = {"cookie": f"carillon_session={cookie.value}"}
            assert (await browser.post(TICKET, headers=sent)).status_code == 201
            document = (await browser.get("/.well-known/openid-configuration")).json()
        assert document["issuer"] == public
        assert document["token_endpoint"] == f"{public}/oauth/token"
    finally:
        assert running.stop() == 0
