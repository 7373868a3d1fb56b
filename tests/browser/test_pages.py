"""The set-up page and the home page in a real browser."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from appliance.domain.secret import Secret
from tests.doubles.appliance import RunningAppliance
from tests.doubles.chromium import BrowserPage, find_chromium, run_chromium
from wizard.claim import setup_link

pytestmark = pytest.mark.browser

LIVE = "document.getElementById('state')?.dataset.state === 'live'"
PASSWORD = "a sentence of mine"


@pytest.fixture
def new_appliance(tmp_path: Path) -> Iterator[RunningAppliance]:
    running = RunningAppliance(tmp_path / "data")
    running.start()
    yield running
    assert running.stop() == 0, running.output


@pytest.fixture
async def page(new_appliance: RunningAppliance) -> AsyncIterator[BrowserPage]:
    program = find_chromium()
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("Chromium is not installed, and CI must run these tests.")
        pytest.skip("Chromium is not installed; tests/run installs it as root.")
    async with run_chromium(program) as opened:
        yield opened
        assert opened.troubles == []
        elsewhere = [url for url in opened.asked if not url.startswith((new_appliance.base_url, "data:"))]
        assert elsewhere == []


async def set_up(appliance: RunningAppliance, page: BrowserPage) -> None:
    async with appliance.identity() as identity:
        link = await setup_link(identity, appliance.base_url)
    assert link is not None
    await page.open(link)
    await page.until("!location.hash")
    await page.fill(username="owner", password=PASSWORD, repeated=PASSWORD)
    await page.click("#submit")
    await page.until(LIVE)


async def test_the_setup_link_makes_the_admin_who_is_then_signed_in_and_live(
    new_appliance: RunningAppliance, page: BrowserPage
):
    async with new_appliance.identity() as identity:
        link = await setup_link(identity, new_appliance.base_url)
    assert link is not None
    await page.open(link)
    await page.until("!location.hash")
    assert await page.value("document.getElementById('code-field').hidden") is True
    # Reloading half-way keeps the code; faults are told at their fields, in the language of the page.
    await page.value("window.isBeforeReload = true")
    await page.command("Page.reload")
    await page.until("!window.isBeforeReload && document.getElementById('code')?.value")
    await page.click("#submit")
    await page.until("document.getElementById('username-fault').textContent")
    await page.fill(username="owner", password="password123", repeated="password124")
    await page.click("#submit")
    assert await page.text("#repeated-fault") == "The two passwords differ."
    await page.value(
        "(() => { const chooser = document.getElementById('language');"
        " chooser.value = 'pl'; chooser.dispatchEvent(new Event('change')); })()"
    )
    assert await page.text("#repeated-fault") == "Hasła się różnią."
    assert await page.value("document.documentElement.lang") == "pl"
    await page.fill(repeated="password123")
    await page.click("#submit")
    await page.until("document.getElementById('password-fault').textContent")
    await page.fill(password=PASSWORD, repeated=PASSWORD)
    await page.click("#submit")
    await page.until(f"location.pathname === '/' && {LIVE}")
    assert await page.text("#who") == "owner"
    assert await page.text("#inbox h1") == "Skrzynka"


async def test_a_notification_appears_live_as_text_and_survives_a_restart_of_the_server(
    new_appliance: RunningAppliance, page: BrowserPage
):
    await set_up(new_appliance, page)
    async with new_appliance.identity() as identity:
        owner = await identity.find_user("owner")
        assert owner is not None
        made = await identity.create_app("Home Assistant")
        await identity.enrol_user(owner.id, made.app.id)
        app_token = await identity.grants.for_app(str(made.app.id), made.client_secret, None)
        owner_token = await identity.grants.for_password("owner", Secret(PASSWORD), app_id=None, address="127.0.0.1")
    sender = {"authorization": f"Bearer {app_token.access_token.reveal()}"}
    admin = {"authorization": f"Bearer {owner_token.access_token.reveal()}"}
    async with httpx.AsyncClient(base_url=new_appliance.base_url) as client:
        await client.patch(f"/push/config/{made.app.id}", json={"enabled": True}, headers=admin)
        hostile = "<img src=x onerror=\"document.title='run'\">"
        sent = await client.post(
            "/push/send", json={"user_id": str(owner.id), "title": hostile, "body": hostile}, headers=sender
        )
        assert sent.status_code == 202
        await page.until("document.querySelectorAll('#notifications li').length === 1")
        assert await page.text(".note .title") == hostile
        assert await page.value("document.title") == "Carillon"
        await page.until("document.querySelector('.note .app').textContent === 'Home Assistant'")
        path = f"/push/notifications/{sent.json()['notification_id']}"
        async with asyncio.timeout(10):
            while (await client.get(path, headers=sender)).json()["state"] != "delivered":  # noqa: ASYNC110
                await asyncio.sleep(0.05)

        await page.click(".note button")
        await page.until("!document.querySelector('.note.unread')")

        new_appliance.stop()
        await page.until("document.getElementById('state').dataset.state === 'offline'")
        new_appliance.start()
        await page.until(LIVE)
        await client.post("/push/send", json={"user_id": str(owner.id), "title": "Back", "body": "b"}, headers=sender)
        await page.until("document.querySelectorAll('#notifications li').length === 2")


async def test_signing_out_and_in_again(new_appliance: RunningAppliance, page: BrowserPage):
    await set_up(new_appliance, page)
    await page.click("#sign-out")
    await page.until("!document.getElementById('sign-in').hidden")
    await page.fill(username="owner", password="wrong")
    await page.click("#submit")
    await page.until("document.getElementById('alert').textContent")
    assert await page.text("#alert") == "The user name or the password is not right."
    await page.fill(password=PASSWORD)
    await page.click("#submit")
    await page.until(LIVE)
    await page.open(f"{new_appliance.base_url}/setup")
    assert await page.text("h1") == "This server is set up"
