"""The README's way of trying it offline: the services run by hand, the program with the settings that they print."""

import asyncio
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from appliance.domain.principal import Role
from tests.doubles.appliance import RunningAppliance

ROOT = Path(__file__).resolve().parents[2]
WITHIN_S = 30


class Services:
    """`python -m tests.doubles` as another process."""

    def __init__(self, folder, *names):
        self._output = folder / "services.output"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-m", "tests.doubles", *names, "--folder", str(folder / "services")],
                cwd=ROOT,
                stdout=output,
                stderr=output,
            )

    @property
    def output(self):
        return self._output.read_text(encoding="utf-8")

    async def until(self, text):
        async with asyncio.timeout(WITHIN_S):
            while text not in self.output:
                assert self._process.poll() is None, self.output
                await asyncio.sleep(0.05)

    def settings(self):
        lines = [shlex.split(line) for line in self.output.splitlines() if line.startswith("export ")]
        return dict(word.partition("=")[::2] for _, *words in lines for word in words)

    def told(self, label):
        [line] = [line for line in self.output.splitlines() if line.startswith(f"# {label}: ")]
        return line.partition(": ")[2]

    def stop(self):
        self._process.terminate()
        return self._process.wait(10)


@pytest.fixture
async def run_offline(tmp_path):
    running = []

    async def run(*names):
        services = Services(tmp_path, *names)
        running.append(services.stop)
        await services.until("# Stop with Ctrl-C.")
        appliance = RunningAppliance(tmp_path / "data", services.settings())
        await asyncio.to_thread(appliance.start)
        running.append(appliance.stop)
        return services, appliance

    yield run
    for stop in reversed(running):
        assert await asyncio.to_thread(stop) == 0


async def test_a_browser_a_phone_a_mailbox_and_a_webhook_are_reached_without_any_network(run_offline):
    services, appliance = await run_offline("fcm", "apns", "webpush", "smtp", "webhook")
    admin = await appliance.make_user(role=Role.ADMIN)
    app = await appliance.make_app(
        admin, webhook_url=services.told("webhook_url of an app"), notification_email="office@example.org"
    )
    user = await appliance.make_user(app)
    tokens = {"web": services.told("push_token of a browser"), "android": "device-0:APA91b", "ios": "f19e" + "0" * 60}
    async with httpx.AsyncClient(base_url=appliance.base_url, timeout=25) as client:
        for channel in ("fcm", "apns", "web_push", "email"):
            tested = await client.post("/console/api/test-push", json={"channel": channel}, headers=admin.headers)
            assert tested.json()["works"], tested.text
        for platform, token in tokens.items():
            device = {"app_id": str(app.id), "platform": platform, "push_token": token}
            (await client.post("/push/devices/register", json=device, headers=user.headers)).raise_for_status()
        body = {"user_id": str(user.id), "title": "Offline", "body": "Nothing left this machine."}
        sent = (await client.post("/push/send", json=body, headers=app.headers)).json()
        await services.until('# browser got {"id": "' + sent["notification_id"])
        await services.until("to office@example.org: Offline")
        async with asyncio.timeout(WITHIN_S):
            while services.output.count('"status":"delivered"') < 4:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_a_phone_is_reached_through_a_relay_without_any_network(run_offline):
    services, appliance = await run_offline("relay")
    admin = await appliance.make_user(role=Role.ADMIN)
    app = await appliance.make_app(admin)
    user = await appliance.make_user(app)
    async with httpx.AsyncClient(base_url=appliance.base_url, timeout=25) as client:
        device = {"app_id": str(app.id), "platform": "android", "push_token": "device-0:APA91b"}
        told = (await client.post("/push/devices/register", json=device, headers=user.headers)).json()
        tested = await client.post(
            "/console/api/test-push", json={"device_id": told["device_id"]}, headers=admin.headers
        )
        assert tested.json()["works"], tested.text
    await services.until('# relay got {"pushToken": "device-0:APA91b"')
