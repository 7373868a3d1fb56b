"""E-mail through the whole program: set up by settings, sent over TLS, told in the timeline, ended by its link."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from appliance.domain.principal import Role
from tests.doubles.appliance import RunningAppliance, TestApp, TestUser
from tests.doubles.certificates import Authority
from tests.doubles.smtp_server import PASSWORD, USER, Mail, SmtpDouble, run_smtp

PATIENCE_S = 15
PUBLIC_URL = "https://push.example.org"


@dataclass(frozen=True, slots=True)
class Rooms:
    """The running program beside its mail server, with an app that mails to an office."""

    program: RunningAppliance
    mail: SmtpDouble
    api: httpx.AsyncClient
    app: TestApp
    user: TestUser

    async def send(self, **options: object) -> str:
        body = {"user_id": str(self.user.id), "title": "New invoice", "body": "It is due on Friday.", **options}
        reply = await self.api.post("/push/send", json=body, headers=self.app.headers)
        assert reply.status_code == 202, reply.text
        return str(reply.json()["notification_id"])

    async def story(self, notification_id: str) -> dict[str, Any]:
        reply = await self.api.get(f"/push/notifications/{notification_id}", headers=self.app.headers)
        return dict(reply.json())

    async def until_mail(self, count: int) -> Mail:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.mail.mails) < count:  # noqa: ASYNC110 - the server has no event
                await asyncio.sleep(0.02)
        return self.mail.mails[count - 1]

    async def until_state(self, notification_id: str, state: str) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_S):
            while (told := await self.story(notification_id))["state"] != state:  # noqa: ASYNC110 - nor has the API
                await asyncio.sleep(0.05)
        return told


@pytest.fixture
async def rooms(tmp_path: Path) -> AsyncIterator[Rooms]:
    authority = Authority(tmp_path)
    async with run_smtp(authority.server_tls("localhost"), signs_in=True) as mail:
        program = RunningAppliance(
            tmp_path / "data",
            environment={
                "SMTP_HOST": "localhost",
                "SMTP_PORT": str(mail.port),
                "SMTP_USER": USER,
                "SMTP_PASSWORD": PASSWORD,
                "SMTP_FROM": "Roster <carillon@example.org>",
                "SSL_CERT_FILE": str(authority.write_certificate()),
                "PUBLIC_URL": PUBLIC_URL,
                "LOG_LEVEL": "debug",
            },
        )
        await asyncio.to_thread(program.start)
        try:
            admin = await program.make_user(role=Role.ADMIN)
            app = await program.make_app(admin, notification_email="office@example.net")
            async with httpx.AsyncClient(base_url=program.base_url, timeout=20) as api:
                yield Rooms(program, mail, api, app, await program.make_user(app))
        finally:
            assert await asyncio.to_thread(program.stop) == 0, program.output


async def test_a_notification_is_mailed_over_tls_and_its_timeline_tells_of_it(rooms: Rooms) -> None:
    notification_id = await rooms.send(title="Nowa faktura ✓")
    mail = await rooms.until_mail(1)
    told = await rooms.until_state(notification_id, "delivered")
    assert (mail.is_tls, mail.is_signed_in, mail.recipients) == (True, True, ("office@example.net",))
    assert mail.message["Subject"] == "Nowa faktura ✓"
    assert mail.message["Message-ID"] == f"<{notification_id}@example.org>"
    [delivery] = told["deliveries"]
    assert (delivery["device_id"], delivery["device_label"], delivery["state"]) == (None, "e-mail", "sent")
    assert [attempt["layer"] for attempt in delivery["attempts"]] == ["e-mail"]
    # The appliance's word on who was written to stays within: an app need not learn a person's address.
    assert "office@example.net" not in str(told)


async def test_a_send_may_ask_for_e_mail_or_against_it(rooms: Rooms) -> None:
    against = await rooms.send(email=False)
    assert (await rooms.story(against))["deliveries"] == []
    body = {"user_ids": [str(rooms.user.id)], "title": "t", "body": "b", "email": False}
    bulk = await rooms.api.post("/push/send/bulk", json=body, headers=rooms.app.headers)
    assert (await rooms.story(bulk.json()["notification_ids"][0]))["deliveries"] == []
    batch = {"notifications": [{"user_id": str(rooms.user.id), "title": "t", "body": "b", "email": True}]}
    asked = await rooms.api.post("/push/send/batch", json=batch, headers=rooms.app.headers)
    await rooms.until_state(asked.json()["notification_ids"][0], "delivered")
    reply = await rooms.api.post(
        "/push/send",
        json={"user_id": str(rooms.user.id), "title": "t", "body": "b", "email": "yes"},
        headers=rooms.app.headers,
    )
    assert (reply.status_code, reply.json()["field"]) == (422, "email")


async def test_the_link_of_an_e_mail_ends_them_on_a_post_and_only_then(rooms: Rooms) -> None:
    await rooms.send()
    mail = await rooms.until_mail(1)
    url = str(mail.message["List-Unsubscribe"]).strip("<>")
    assert url.startswith(f"{PUBLIC_URL}/unsubscribe/")
    path = url.removeprefix(PUBLIC_URL)
    for _ in range(2):
        page = await rooms.api.get(path)
        assert page.status_code == 200
        assert page.headers["cache-control"] == "no-store"
        assert re.findall(r'lang="(\w+)"', page.text) == ["en", "en", "pl"]
        assert '<form method="post"' in page.text
    await rooms.send()
    await rooms.until_mail(2)
    for _ in range(2):
        done = await rooms.api.post(path, content="List-Unsubscribe=One-Click")
        assert (done.status_code, "Gotowe" in done.text) == (200, True)
    ended = await rooms.send()
    told = await rooms.until_state(ended, "released")
    assert "switched the app's e-mail off" in str(told["deliveries"])
    assert len(rooms.mail.mails) == 2
    assert 'action="?resume=1"' in done.text
    resumed = await rooms.api.post(f"{path}?resume=1")
    assert (resumed.status_code, "znów są wysyłane" in resumed.text) == (200, True)
    await rooms.send()
    await rooms.until_mail(3)


async def test_a_link_that_is_not_ours_ends_nothing(rooms: Rooms) -> None:
    await rooms.send()
    mail = await rooms.until_mail(1)
    token = str(mail.message["List-Unsubscribe"]).strip("<>").rpartition("/")[2]
    for wrong in ("x", token[:-2], token[:10] + "AAAA" + token[14:], "A" * 2_000, uuid.uuid4().hex, "%00", "ż"):
        for method in ("GET", "POST"):
            reply = await rooms.api.request(method, f"/unsubscribe/{wrong}")
            assert reply.status_code == 404, wrong
            assert "Ten link nie działa" in reply.text
    await rooms.send()
    await rooms.until_mail(2)


async def test_the_password_of_the_mail_server_stands_nowhere(rooms: Rooms) -> None:
    notification_id = await rooms.send()
    await rooms.until_mail(1)
    rooms.mail.password = "changed-at-the-server"
    rooms.mail.drop_connections()
    refused = await rooms.send()
    async with asyncio.timeout(PATIENCE_S):
        while "535" not in str(told := await rooms.story(refused)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    admin = await rooms.program.make_user(role=Role.ADMIN)
    replies = [
        str(told),
        str(await rooms.story(notification_id)),
        (await rooms.api.get(f"/push/config/{rooms.app.id}", headers=admin.headers)).text,
        (await rooms.api.get("/metrics", headers=admin.headers)).text,
        (await rooms.api.get("/health/ready")).text,
    ]
    assert PASSWORD not in "".join(replies)
    assert PASSWORD not in rooms.program.output
    files = [file for file in rooms.program.data_dir.rglob("*") if file.is_file()]
    assert files
    assert not any(PASSWORD.encode() in file.read_bytes() for file in files)
