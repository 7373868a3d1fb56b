"""The layer that finds out who is asking, without a server."""

from typing import Any

import pytest

from appliance.api.authentication import Authentication, is_own_page
from appliance.api.identity.service import Identity
from appliance.domain.principal import Principal
from tests.unit.identity.conftest import PASSWORD

OWN = "push.example.test"


@pytest.mark.parametrize(
    ("headers", "is_own"),
    [
        ({"origin": f"https://{OWN}", "host": OWN}, True),
        ({"origin": f"http://{OWN}:8480", "host": f"{OWN}:8480"}, True),
        ({"origin": f"https://{OWN.upper()}", "host": OWN}, True),
        ({"origin": "https://public.example.test", "host": "10.0.0.5:8480"}, True),
        ({"origin": f"https://{OWN}.evil.example", "host": OWN}, False),
        ({"origin": f"https://evil.example/{OWN}", "host": OWN}, False),
        ({"origin": f"https://{OWN}@evil.example", "host": OWN}, False),
        ({"origin": f"http://{OWN}:81", "host": f"{OWN}:8480"}, False),
        ({"origin": "null", "host": OWN}, False),
        ({"origin": "", "host": OWN}, False),
        ({"origin": "", "host": ""}, False),
        ({"origin": "http://[", "host": OWN}, False),
        ({"origin": f"file://{OWN}", "host": OWN}, False),
        ({"origin": "null", "sec-fetch-site": "same-origin", "host": OWN}, False),
        ({"sec-fetch-site": "same-origin", "host": OWN}, True),
        ({"sec-fetch-site": "same-site", "host": OWN}, False),
        ({"sec-fetch-site": "none", "host": OWN}, False),
        ({"host": OWN}, False),
    ],
)
def test_a_page_is_our_own_only_when_the_browser_says_so(headers: dict[str, str], is_own: bool):
    assert is_own_page(headers, public_url="https://public.example.test") is is_own


async def seen(identity: Identity, headers: list[tuple[bytes, bytes]], path: str = "/account/session") -> Any:
    found: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.update(scope)

    scope: Any = {"type": "http", "method": "GET", "path": path, "headers": headers}
    await Authentication(app, identity)(scope, None, None)  # type: ignore[arg-type]
    return found.get("carillon.principal") or found.get("carillon.refusal")


async def test_a_bearer_token_counts_everywhere_and_a_cookie_below_account_only(identity: Identity):
    user = await identity.create_user("anna", PASSWORD)
    opened = await identity.sessions.open(user, address="192.0.2.7", user_agent="")
    grant = await identity.grants.for_password("anna", PASSWORD, app_id=None, address="192.0.2.7")
    bearer = [(b"authorization", b"bearer " + grant.access_token.reveal().encode())]
    cookie = [(b"cookie", b"theme=dark; carillon_session=" + opened.cookie.reveal().encode())]
    for path in ("/account/session", "/push/send"):
        assert (await seen(identity, bearer, path)).user_id == user.id
    assert (await seen(identity, cookie)).user_id == user.id
    assert (await seen(identity, cookie, "/console/api/users")).user_id == user.id
    assert await seen(identity, cookie, "/push/send") is None
    assert await seen(identity, cookie, "/") is None


@pytest.mark.parametrize(
    "header",
    [b"Bearer", b"Bearer ", b"Bearer x", b"Bearer a.b.c", b"Bearer \xff\xfe.\xff.\xff", b"Bearer " + b"x" * 9000],
)
async def test_what_is_no_token_is_refused_and_never_a_fault(identity: Identity, header: bytes):
    refusal = await seen(identity, [(b"authorization", header)])
    assert refusal.code == "invalid_token"


async def test_a_bad_bearer_token_is_not_made_good_by_a_cookie(identity: Identity):
    user = await identity.create_user("anna", PASSWORD)
    opened = await identity.sessions.open(user, address="192.0.2.7", user_agent="")
    cookie = (b"cookie", b"carillon_session=" + opened.cookie.reveal().encode())
    found = await seen(identity, [(b"authorization", b"Bearer nonsense"), cookie])
    assert not isinstance(found, Principal)
