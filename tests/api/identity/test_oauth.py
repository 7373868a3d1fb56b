"""OAuth over HTTP: the forms, the replies and the refusals of RFC 6749 and RFC 7009."""

import asyncio
import base64
from typing import Any
from urllib.parse import quote_plus
from uuid import uuid4

import httpx
import jwt
import pytest

from tests.doubles.appliance import RunningAppliance, TestApp, TestUser

TOKEN = "/oauth/token"


def basic(app_id: object, secret: str) -> dict[str, str]:
    pair = f"{quote_plus(str(app_id))}:{quote_plus(secret)}"
    return {"authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


async def sign_in(http: httpx.AsyncClient, user: TestUser, **more: str) -> dict[str, Any]:
    form = {"grant_type": "password", "username": user.username, "password": user.password, **more}
    reply = await http.post(TOKEN, data=form)
    assert reply.status_code == 200, reply.text
    content: dict[str, Any] = reply.json()
    return content


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def test_an_app_gets_a_token_with_its_secret_in_the_form(http: httpx.AsyncClient, app: TestApp):
    form = {"grant_type": "client_credentials", "client_id": str(app.id), "client_secret": app.secret}
    reply = await http.post(TOKEN, data={**form, "scope": "push:send"})
    assert reply.status_code == 200
    content = reply.json()
    assert sorted(content) == ["access_token", "expires_in", "scope", "token_type"]
    assert (content["token_type"], content["expires_in"], content["scope"]) == ("Bearer", 3600, "push:send")
    assert reply.headers["cache-control"] == "no-store"


async def test_an_app_gets_a_token_with_http_basic(http: httpx.AsyncClient, app: TestApp):
    reply = await http.post(TOKEN, data={"grant_type": "client_credentials"}, headers=basic(app.id, app.secret))
    assert reply.status_code == 200
    claims = jwt.decode(reply.json()["access_token"], options={"verify_signature": False})
    assert claims["sub"] == claims["client_id"] == str(app.id)


@pytest.mark.parametrize("wrong", ["secret", "id", "missing"])
async def test_a_client_that_is_not_known_gets_401_with_a_challenge(http: httpx.AsyncClient, app: TestApp, wrong: str):
    headers = {
        "secret": basic(app.id, "cs_wrong"),
        "id": basic(uuid4(), app.secret),
        "missing": {},
    }[wrong]
    reply = await http.post(TOKEN, data={"grant_type": "client_credentials"}, headers=headers)
    assert (reply.status_code, reply.json()["error"]) == (401, "invalid_client")
    assert reply.headers["www-authenticate"].startswith("Basic ")
    assert reply.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ("", "invalid_request"),
        ("grant_type=", "invalid_request"),
        ("grant_type=implicit", "unsupported_grant_type"),
        ("grant_type=password&username=a", "invalid_request"),
        ("grant_type=password&username=a&password=", "invalid_request"),
        ("grant_type=password&username=a&password=b&scope=push:send", "invalid_scope"),
        ("grant_type=refresh_token", "invalid_request"),
        ("grant_type=refresh_token&refresh_token=rt_nothing", "invalid_grant"),
        ("grant_type=refresh_token&refresh_token=a&refresh_token=b", "invalid_request"),
        ("grant_type=password&username=%ff&password=x", "invalid_request"),
        ("&".join(f"field{number}=x" for number in range(30)), "invalid_request"),
    ],
)
async def test_a_form_that_breaks_a_rule_is_told_which(http: httpx.AsyncClient, form: str, error: str):
    reply = await http.post(TOKEN, content=form, headers={"content-type": "application/x-www-form-urlencoded"})
    assert (reply.status_code, reply.json()["error"]) == (400, error)
    assert sorted(reply.json()) == ["error", "error_description"]


async def test_a_name_with_nul_is_no_user_and_no_fault(http: httpx.AsyncClient):
    reply = await http.post(TOKEN, data={"grant_type": "password", "username": "a\0b", "password": "x\0y"})
    assert (reply.status_code, reply.json()["error"]) == (400, "invalid_grant")


async def test_a_scope_that_does_not_exist_is_invalid(http: httpx.AsyncClient, app: TestApp):
    form = {"grant_type": "client_credentials", "scope": "push:send everything"}
    reply = await http.post(TOKEN, data=form, headers=basic(app.id, app.secret))
    assert (reply.status_code, reply.json()["error"]) == (400, "invalid_scope")


async def test_a_client_that_authenticates_twice_is_refused(http: httpx.AsyncClient, app: TestApp):
    form = {"grant_type": "client_credentials", "client_secret": app.secret}
    reply = await http.post(TOKEN, data=form, headers=basic(app.id, app.secret))
    assert (reply.status_code, reply.json()["error"]) == (400, "invalid_request")


async def test_a_json_body_is_415(http: httpx.AsyncClient):
    reply = await http.post(TOKEN, json={"grant_type": "password"})
    assert reply.status_code == 415
    assert reply.headers["content-type"] == "application/problem+json"


async def test_a_huge_form_is_413(http: httpx.AsyncClient):
    reply = await http.post(TOKEN, data={"grant_type": "x" * 20_000})
    assert reply.status_code == 413


async def test_a_person_gets_a_pair_and_a_wrong_password_is_invalid_grant(http: httpx.AsyncClient, user: TestUser):
    content = await sign_in(http, user)
    assert content["user_id"] == str(user.id)
    assert content["expires_in"] == 1800
    who = await http.get("/account/session", headers=bearer(content["access_token"]))
    assert who.json()["username"] == user.username
    form = {"grant_type": "password", "username": user.username, "password": "something else"}
    reply = await http.post(TOKEN, data=form)
    assert (reply.status_code, reply.json()["error"]) == (400, "invalid_grant")


async def test_a_person_may_sign_in_for_an_app(http: httpx.AsyncClient, user: TestUser, app: TestApp):
    content = await sign_in(http, user, client_id=str(app.id))
    claims = jwt.decode(content["access_token"], options={"verify_signature": False})
    assert (claims["sub"], claims["client_id"]) == (str(user.id), str(app.id))
    form = {"grant_type": "password", "username": user.username, "password": user.password, "client_id": str(uuid4())}
    assert (await http.post(TOKEN, data=form)).json()["error"] == "invalid_client"


async def test_a_refresh_token_gives_a_fresh_pair_and_the_old_chain_ends_when_it_comes_again(
    http: httpx.AsyncClient, user: TestUser
):
    first = await sign_in(http, user)

    async def refresh(pair: dict[str, Any]) -> httpx.Response:
        return await http.post(TOKEN, data={"grant_type": "refresh_token", "refresh_token": pair["refresh_token"]})

    second = (await refresh(first)).json()
    third = (await refresh(second)).json()
    reused = await refresh(first)
    assert (reused.status_code, reused.json()["error"]) == (400, "invalid_grant")
    assert (await refresh(third)).status_code == 400
    refused = await http.get("/account/session", headers=bearer(third["access_token"]))
    assert refused.status_code == 401
    assert 'error="invalid_token"' in refused.headers["www-authenticate"]


async def test_of_fifty_concurrent_uses_of_one_refresh_token_few_get_a_pair(http: httpx.AsyncClient, user: TestUser):
    pair = await sign_in(http, user)
    form = {"grant_type": "refresh_token", "refresh_token": pair["refresh_token"]}
    replies = await asyncio.gather(*(http.post(TOKEN, data=form) for _ in range(50)))
    granted = [reply for reply in replies if reply.status_code == 200]
    assert 1 <= len(granted) <= 3
    assert {reply.json()["error"] for reply in replies if reply.status_code != 200} == {"invalid_grant"}


async def test_revoking_ends_a_sign_in_and_an_unknown_token_is_no_error(http: httpx.AsyncClient, user: TestUser):
    pair = await sign_in(http, user)
    revoked = await http.post("/oauth/revoke", data={"token": pair["refresh_token"], "token_type_hint": "nonsense"})
    assert (revoked.status_code, revoked.content) == (200, b"")
    assert (await http.get("/account/session", headers=bearer(pair["access_token"]))).status_code == 401
    assert (await http.post("/oauth/revoke", data={"token": "nothing"})).status_code == 200
    missing = await http.post("/oauth/revoke", data={"token_type_hint": "access_token"})
    assert (missing.status_code, missing.json()["error"]) == (400, "invalid_request")


async def test_the_discovered_keys_verify_a_token(http: httpx.AsyncClient, server: RunningAppliance, user: TestUser):
    document = (await http.get("/.well-known/openid-configuration")).json()
    assert document["token_endpoint"] == f"{server.base_url}/oauth/token"
    keys = jwt.PyJWKSet.from_dict((await http.get(document["jwks_uri"])).json())
    token = (await sign_in(http, user))["access_token"]
    key = keys[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key, algorithms=["EdDSA"], audience="carillon", issuer=document["issuer"])
    assert claims["sub"] == str(user.id)


async def test_a_host_that_is_no_host_does_not_come_back(http: httpx.AsyncClient):
    reply = await http.get("/.well-known/openid-configuration", headers={"host": 'x"></script>'})
    assert "script" not in reply.text


async def test_only_post_gives_tokens(http: httpx.AsyncClient):
    reply = await http.get(TOKEN)
    assert reply.status_code == 405
    assert "POST" in reply.headers["allow"]
