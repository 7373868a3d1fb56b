"""The command line beside a running server: what is revoked there is felt here."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.doubles.appliance import RunningAppliance, TestApp, TestUser

ROOT = Path(__file__).resolve().parents[3]
FOLLOW_DEADLINE_S = 5.0


async def carillon(server: RunningAppliance, *words: str, stdin: str = "") -> tuple[int, str, str]:
    command = [sys.executable, "-m", "appliance.cli", "--data", str(server.data_dir), *words]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, input=stdin.encode(), capture_output=True, timeout=30, check=False
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def refused_within_two_seconds(http: httpx.AsyncClient, path: str, headers: dict[str, str]) -> float:
    began = time.monotonic()
    while (await http.get(path, headers=headers)).status_code != 401:
        assert time.monotonic() - began < FOLLOW_DEADLINE_S, "the running server did not follow"
        await asyncio.sleep(0.05)
    return time.monotonic() - began


async def test_a_disabled_user_is_out_of_the_running_server_and_the_hub(
    server: RunningAppliance, http: httpx.AsyncClient, user: TestUser
):
    url = f"ws://127.0.0.1:{server.port}/hubs/notifications"
    async with connect(url, additional_headers=user.headers) as socket:
        await socket.send('{"protocol":"json","version":1}\x1e')
        assert await socket.recv() == "{}\x1e"
        code, _, trouble = await carillon(server, "user", "disable", user.username)
        assert code == 0, trouble
        assert await refused_within_two_seconds(http, "/account/session", user.headers) < 2.5
        async with asyncio.timeout(FOLLOW_DEADLINE_S):
            closing = str(await socket.recv())
        assert '"type":7' in closing and "disabled" in closing
    form = {"grant_type": "password", "username": user.username, "password": user.password}
    assert (await http.post("/oauth/token", data=form)).json()["error"] == "invalid_grant"


async def test_a_rotated_secret_voids_the_apps_tokens_in_the_running_server(
    server: RunningAppliance, http: httpx.AsyncClient, app: TestApp
):
    code, out, trouble = await carillon(server, "app", "rotate-secret", str(app.id), "--json")
    assert code == 0, trouble
    made: dict[str, Any] = json.loads(out)
    await refused_within_two_seconds(http, f"/push/devices/{app.id}", app.headers)
    form = {"grant_type": "client_credentials", "client_id": made["client_id"], "client_secret": app.secret}
    assert (await http.post("/oauth/token", data=form)).status_code == 401
    fresh = await http.post("/oauth/token", data={**form, "client_secret": made["client_secret"]})
    assert fresh.status_code == 200
    headers = {"authorization": f"Bearer {fresh.json()['access_token']}"}
    assert (await http.get(f"/push/devices/{app.id}", headers=headers)).status_code == 200


async def test_a_rotated_secret_closes_the_hub_connections_of_the_apps_users(
    server: RunningAppliance, http: httpx.AsyncClient, app: TestApp, user: TestUser
):
    url = f"ws://127.0.0.1:{server.port}/hubs/notifications"
    form = {"grant_type": "password", "username": user.username, "password": user.password, "client_id": str(app.id)}
    bound = (await http.post("/oauth/token", data=form)).json()["access_token"]
    async with (
        connect(url, additional_headers={"authorization": f"Bearer {bound}"}) as socket,
        connect(url, additional_headers=user.headers) as other,
    ):
        for one in (socket, other):
            await one.send('{"protocol":"json","version":1}\x1e')
            assert await one.recv() == "{}\x1e"
        code, _, trouble = await carillon(server, "app", "rotate-secret", str(app.id))
        assert code == 0, trouble
        async with asyncio.timeout(FOLLOW_DEADLINE_S):
            closing = str(await socket.recv())
        assert '"type":7' in closing and "secret was changed" in closing
        await other.send('{"type":1,"target":"X","invocationId":"1","arguments":[]}\x1e')
        async with asyncio.timeout(FOLLOW_DEADLINE_S):
            assert '"type":3' in str(await other.recv())


async def test_an_app_made_on_the_command_line_sends_once_it_is_enabled_and_keeps_its_keys(
    server: RunningAppliance, http: httpx.AsyncClient, user: TestUser
):
    code, out, trouble = await carillon(server, "app", "add", "Made outside")
    assert code == 0, trouble
    (next_step,) = (line for line in out.splitlines() if "cannot send yet" in line)
    words = next_step.partition("carillon ")[2].split()
    facts = dict(line.split(": ", 1) for line in out.splitlines() if line.startswith("client "))
    client_id, secret = facts["client id"].strip(), facts["client secret"].strip()
    await carillon(server, "user", "enrol", user.username, client_id)
    form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret, "scope": "push:send"}
    headers = {"authorization": f"Bearer {(await http.post('/oauth/token', data=form)).json()['access_token']}"}
    push = {"user_id": str(user.id), "title": "T", "body": "B"}
    assert (await http.post("/push/send", headers=headers, json=push)).status_code == 403
    code, out, trouble = await carillon(server, *words)
    assert code == 0, trouble
    assert "it can send" in out
    assert (await http.post("/push/send", headers=headers, json=push)).status_code == 202
    code, _, trouble = await carillon(server, *words)
    assert code == 0, trouble
    assert (await carillon(server, "app", "disable", client_id))[0] == 0
    code, _, trouble = await carillon(server, *words)
    assert code == 1 and "is disabled" in trouble


async def test_a_user_made_on_the_command_line_signs_in_at_once(server: RunningAppliance, http: httpx.AsyncClient):
    name = "made-outside"
    code, out, trouble = await carillon(server, "user", "add", name, "--password-stdin", stdin="a long password\n")
    assert code == 0, trouble
    assert "a long password" not in out
    reply = await http.post("/account/session", json={"username": name, "password": "a long password"})
    assert reply.status_code == 201
    code, _, _ = await carillon(server, "user", "passwd", name, "--password-stdin", stdin="another password\n")
    assert code == 0
    assert (await http.get("/account/session")).status_code == 401
    reply = await http.post("/account/session", json={"username": name, "password": "another password"})
    assert reply.status_code == 201


@pytest.mark.parametrize(
    ("words", "stdin", "expected"),
    [
        (("user", "add", "weak", "--password-stdin"), "short\n", "10 to 1024"),
        (("user", "disable", "nobody-here"), "", "no user"),
        (("app", "rotate-secret", "no-app-here"), "", "no app"),
        (("user", "add", "no-terminal"), "", "--password-stdin"),
    ],
)
async def test_what_cannot_be_done_is_said_in_one_line_with_the_next_step(
    server: RunningAppliance, words: tuple[str, ...], stdin: str, expected: str
):
    code, _, trouble = await carillon(server, *words, stdin=stdin)
    assert code in (1, 2)
    assert expected in trouble
    assert "Traceback" not in trouble and len(trouble.splitlines()) <= 2


async def test_lists_are_readable_and_show_no_secret(server: RunningAppliance, app: TestApp, user: TestUser):
    _, users, _ = await carillon(server, "user", "list")
    assert user.username in users and str(user.id) in users
    _, apps, _ = await carillon(server, "app", "list", "--json")
    assert str(app.id) in [entry["client_id"] for entry in json.loads(apps)]
    assert app.secret not in apps and user.password not in users
    assert "argon2" not in users
