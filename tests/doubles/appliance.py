"""The real program as another process, with a data folder of its own, and people and apps to use it with."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import httpx

from appliance.api.identity.service import Identity, open_identity
from appliance.cli.instance import find_running
from appliance.clock import SystemClock
from appliance.domain.principal import Role
from appliance.domain.secret import Secret
from appliance.security.passwords import Argon2Cost, PasswordHasher
from appliance.settings import load_settings
from appliance.storage.database import open_database

START_DEADLINE_S = 30.0
STOP_DEADLINE_S = 25.0
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class TestApp:
    """An app with a token that may send."""

    __test__ = False

    id: UUID
    secret: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}


@dataclass(frozen=True, slots=True)
class TestUser:
    """A user with a token for a day."""

    __test__ = False

    id: UUID
    username: str
    password: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}


@dataclass(slots=True)
class RunningAppliance:
    """`carillon serve` over one data folder. `start` and `stop` (or `kill`) may be repeated; the data stays."""

    data_dir: Path
    environment: dict[str, str] = field(default_factory=dict)
    port: int = 0
    _process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        """What the program has printed so far."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers; the port of an earlier start is kept."""
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                [*self._command, "serve", "--host", "127.0.0.1", "--port", str(self.port)],
                cwd=_ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + START_DEADLINE_S
        while not self._answers():
            assert self._process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)

    def stop(self) -> int:
        """Ask it to stop, as a service manager does, and give its exit status."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it without warning."""
        self._end(signal.SIGKILL)

    @asynccontextmanager
    async def identity(self) -> AsyncIterator[Identity]:
        """Open accounts and apps beside the running program, as its command line does."""
        settings = load_settings(self.data_dir, self._environment)
        # Cheap hashes: what is tested here is not how long a password takes.
        passwords = PasswordHasher(Argon2Cost(memory_kib=8, passes=1, lanes=1))
        async with (
            open_database(settings.data_dir, settings.database_url or None) as database,
            open_identity(database, settings, SystemClock(), passwords=passwords, is_server=False) as identity,
        ):
            yield identity
        passwords.close()

    async def make_user(self, *apps: TestApp, role: Role = Role.MEMBER) -> TestUser:
        """Make a user who is enrolled in these apps."""
        password = secrets.token_urlsafe(16)
        async with self.identity() as identity:
            user = await identity.create_user(f"user-{secrets.token_hex(6)}", Secret(password), role=role)
            for app in apps:
                await identity.enrol_user(user.id, app.id)
            issued = await identity.issue_user_token(user.id, timedelta(days=1))
        return TestUser(user.id, user.username, password, issued.token.reveal())

    async def make_app(self, admin: TestUser | None = None, *, push: bool = True, **config: object) -> TestApp:
        """Make an app; push is on unless told otherwise, `config` goes to its push configuration."""
        async with self.identity() as identity:
            made = await identity.create_app(f"App {secrets.token_hex(4)}")
            granted = await identity.grants.for_app(str(made.app.id), made.client_secret, "push:send")
        app = TestApp(made.app.id, made.client_secret.reveal(), granted.access_token.reveal())
        if admin is not None and (push or config):
            async with httpx.AsyncClient(base_url=self.base_url, headers=admin.headers, timeout=10) as client:
                body = {"enabled": push, **config}
                (await client.patch(f"/push/config/{app.id}", json=body)).raise_for_status()
        return app

    @property
    def _command(self) -> list[str]:
        return [sys.executable, "-m", "appliance.cli", "--data", str(self.data_dir)]

    @property
    def _output(self) -> Path:
        return self.data_dir.with_suffix(".output")

    @property
    def _environment(self) -> dict[str, str]:
        # Nothing of the developer's own settings reaches the program under test.
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        return {**kept, **self.environment}

    def _answers(self) -> bool:
        running = find_running(self.data_dir)
        if running is None:
            return False
        self.port = running.port
        try:
            return httpx.get(f"{self.base_url}/health", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return process.wait(STOP_DEADLINE_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
