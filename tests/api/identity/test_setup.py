"""The set-up of a new appliance: one code, one owner, and then nothing to find."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from appliance.domain.principal import Role
from appliance.domain.secret import Secret
from tests.doubles.appliance import RunningAppliance
from wizard.claim import setup_link

CLAIM = "/wizard/api/claim"
SESSION = "/account/session"
OWNER = {"username": "owner", "password": "a sentence of mine"}


@pytest.fixture
def new_appliance(tmp_path: Path) -> Iterator[RunningAppliance]:
    """A running appliance that nobody owns yet."""
    running = RunningAppliance(tmp_path / "data")
    running.start()
    yield running
    assert running.stop() == 0, running.output


@pytest.fixture
async def browser(new_appliance: RunningAppliance) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"origin": new_appliance.base_url}
    async with httpx.AsyncClient(base_url=new_appliance.base_url, headers=headers, timeout=20) as client:
        yield client


async def make_code(appliance: RunningAppliance) -> str:
    async with appliance.identity() as identity:
        link = await setup_link(identity, appliance.base_url)
    assert link is not None and link.startswith(f"{appliance.base_url}/setup#code=")
    return link.partition("#code=")[2]


async def test_the_bearer_of_the_code_becomes_the_admin_and_the_way_in_is_gone(
    new_appliance: RunningAppliance, browser: httpx.AsyncClient
):
    code = await make_code(new_appliance)
    page = await browser.get("/setup")
    assert page.status_code == 200 and code not in page.text
    claimed = await browser.post(CLAIM, json={"code": code, **OWNER})
    assert claimed.status_code == 201
    assert claimed.json()["role"] == "admin"
    assert (await browser.get("/account/session")).json()["username"] == "owner"

    gone = await browser.get("/setup")
    assert gone.status_code == 404 and "set up" in gone.text
    again = await browser.post(CLAIM, json={"code": code, **OWNER})
    assert (again.status_code, again.json()["code"]) == (404, "already_set_up")
    async with new_appliance.identity() as identity:
        assert await setup_link(identity, new_appliance.base_url) is None


async def test_of_ten_browsers_with_the_code_one_becomes_the_owner(
    new_appliance: RunningAppliance, browser: httpx.AsyncClient
):
    code = await make_code(new_appliance)
    forms = [{"code": code, "username": f"owner-{number}", "password": OWNER["password"]} for number in range(10)]
    replies = await asyncio.gather(*(browser.post(CLAIM, json=form) for form in forms))
    assert sorted(reply.status_code for reply in replies) == [201] + [404] * 9
    async with new_appliance.identity() as identity:
        assert len(await identity.list_users()) == 1


async def test_a_wrong_code_is_refused_and_a_guesser_is_slowed_down(
    new_appliance: RunningAppliance, browser: httpx.AsyncClient
):
    await make_code(new_appliance)
    statuses = []
    for number in range(12):
        reply = await browser.post(CLAIM, json={"code": f"guess-{number}", **OWNER})
        statuses.append(reply.status_code)
    assert statuses == [403] * 10 + [429] * 2
    assert int(reply.headers["retry-after"]) >= 1
    assert not await is_set_up(new_appliance)


async def test_a_new_code_voids_the_one_before(new_appliance: RunningAppliance, browser: httpx.AsyncClient):
    old, new = await make_code(new_appliance), await make_code(new_appliance)
    refused = await browser.post(CLAIM, json={"code": old, **OWNER})
    assert (refused.status_code, refused.json()["field"]) == (403, "code")
    assert (await browser.post(CLAIM, json={"code": new, **OWNER})).status_code == 201


async def test_a_weak_password_leaves_the_code_for_another_try(
    new_appliance: RunningAppliance, browser: httpx.AsyncClient
):
    code = await make_code(new_appliance)
    weak = await browser.post(CLAIM, json={"code": code, "username": "owner", "password": "password123"})
    assert (weak.status_code, weak.json()["field"]) == (422, "password")
    assert (await browser.post(CLAIM, json={"code": code, **OWNER})).status_code == 201


async def test_another_site_cannot_claim(new_appliance: RunningAppliance, browser: httpx.AsyncClient):
    code = await make_code(new_appliance)
    reply = await browser.post(CLAIM, json={"code": code, **OWNER}, headers={"origin": "https://evil.example"})
    assert (reply.status_code, reply.json()["code"]) == (403, "cross_site_request")
    assert not await is_set_up(new_appliance)


async def test_an_admin_made_on_the_command_line_closes_the_setup_at_once(
    new_appliance: RunningAppliance, browser: httpx.AsyncClient
):
    code = await make_code(new_appliance)
    async with new_appliance.identity() as identity:
        await identity.create_user("root", Secret(OWNER["password"]), role=Role.ADMIN)
    assert (await browser.post(CLAIM, json={"code": code, **OWNER})).status_code == 404
    assert (await browser.get("/setup")).status_code == 404


async def test_strangers_do_not_lock_the_owner_out(new_appliance: RunningAppliance, browser: httpx.AsyncClient):
    code = await make_code(new_appliance)
    assert (await browser.post(CLAIM, json={"code": code, **OWNER})).status_code == 201
    # The owner's own network guesses wrong many times over for other names, then too often for the owner.
    statuses = set()
    for number in range(40):
        wrong = {"username": f"stranger-{number}", "password": "guess"}
        statuses.add((await browser.post("/account/session", json=wrong)).status_code)
    assert statuses == {401, 429}
    signed_in = await browser.post("/account/session", json=OWNER)
    assert signed_in.status_code == 201, signed_in.text


async def test_guessed_codes_from_elsewhere_on_the_lan_do_not_keep_the_owner_out(
    new_appliance: RunningAppliance, browser: httpx.AsyncClient
):
    """14 wrong codes from 127.0.0.7 once made the right one from 127.0.0.1 answer 429."""
    code = await make_code(new_appliance)
    async with neighbour(new_appliance, "127.0.0.7") as stranger:
        statuses = [
            (await stranger.post(CLAIM, json={"code": f"guess-{number}", **OWNER})).status_code for number in range(14)
        ]
    assert statuses == [403] * 10 + [429] * 4
    claimed = await browser.post(CLAIM, json={"code": code, **OWNER})
    assert claimed.status_code == 201, claimed.text


async def test_the_owner_who_mistyped_too_often_is_let_in_with_the_right_code(
    new_appliance: RunningAppliance, browser: httpx.AsyncClient
):
    code = await make_code(new_appliance)
    for number in range(14):
        await browser.post(CLAIM, json={"code": f"guess-{number}", **OWNER})
    assert (await browser.post(CLAIM, json={"code": "one more", **OWNER})).status_code == 429
    assert (await browser.post(CLAIM, json={"code": code, **OWNER})).status_code == 201


async def test_a_stranger_on_the_lan_who_guesses_passwords_harms_only_himself(new_appliance: RunningAppliance):
    """8 wrong passwords for zoe, or 40 for made-up names, from another address of the /24 once kept zoe out."""
    password = "a sentence of zoe's"
    async with new_appliance.identity() as identity:
        await identity.create_user("zoe", Secret(password))
    right = {"username": "zoe", "password": password}
    async with neighbour(new_appliance, "127.0.0.2") as stranger:
        for _ in range(8):
            reply = await stranger.post(SESSION, json={"username": "zoe", "password": "a guess"})
        assert reply.status_code == 429
        assert (await stranger.post(SESSION, json=right)).status_code == 429
    async with neighbour(new_appliance, "127.0.0.3") as stranger:
        for number in range(40):
            reply = await stranger.post(SESSION, json={"username": f"made-up-{number}", "password": "a guess"})
        assert reply.status_code == 429
    for number in range(21, 31):
        # Now zoe's account has failures from many addresses.
        async with neighbour(new_appliance, f"127.0.0.{number}") as stranger:
            for _ in range(3):
                await stranger.post(SESSION, json={"username": "zoe", "password": "a guess"})
    for home in ("127.0.0.1", "127.0.0.4"):
        async with neighbour(new_appliance, home) as zoe:
            signed_in = await zoe.post(SESSION, json=right)
            assert signed_in.status_code == 201, signed_in.text


def neighbour(appliance: RunningAppliance, address: str) -> httpx.AsyncClient:
    """A program on the same /24 that asks from this address."""
    transport = httpx.AsyncHTTPTransport(local_address=address)
    return httpx.AsyncClient(base_url=appliance.base_url, transport=transport, timeout=20)


async def is_set_up(appliance: RunningAppliance) -> bool:
    async with appliance.identity() as identity:
        return await identity.is_set_up()
