"""The real program on one of its hub listeners, with as many users as are wanted, and a token for each of them."""

import asyncio
import contextlib
import json
import random
import secrets
import shutil
import socket
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Final

from appliance.api.identity.service import Identity
from appliance.domain.principal import Role
from appliance.settings import Settings, SettingsError, load_settings
from tests.bench.process import on_cores
from tests.doubles.appliance import RunningAppliance, TestApp

GRANIAN: Final = "granian"
LEAN: Final = "lean"
_ENROL_AT_ONCE: Final = 64
_MANY: Final = "1000000"


def list_listeners(folder: Path) -> tuple[str, ...]:
    """Give the listeners that the program can be told to use."""
    if "hub_listener" not in {field.name for field in fields(Settings)}:
        return (GRANIAN,)
    try:
        load_settings(folder / "nowhere", {"HUB_LISTENER": LEAN})
    except SettingsError:
        return (GRANIAN,)
    return (GRANIAN, LEAN)


class House:
    """One program over a data folder of its own; `hub_port` is where clients go, `port` where apps do."""

    def __init__(self, folder: Path, listener: str, cores: frozenset[int]) -> None:
        self._cores = cores
        environment = {
            "HUB_MAX_CONNECTIONS": _MANY,
            "HUB_MAX_CONNECTIONS_PER_USER": _MANY,
            "HUB_MAX_CONNECTIONS_PER_ADDRESS": _MANY,
        }
        self._own_port = 0
        if listener != GRANIAN:
            self._own_port = find_free_port()
            environment |= {"HUB_LISTENER": listener, "HUB_PORT": str(self._own_port)}
        self.appliance = RunningAppliance(folder, environment, port=find_free_port())

    @property
    def port(self) -> int:
        return self.appliance.port

    @property
    def hub_port(self) -> int:
        return self._own_port or self.appliance.port

    @property
    def pid(self) -> int:
        return self.appliance.pid

    def start(self) -> None:
        with on_cores(self._cores):
            self.appliance.start()

    def kill(self) -> None:
        self.appliance.kill()

    def stop(self) -> None:
        self.appliance.stop()


class People:
    """One app and its users, made once; every house gets a copy of their data folder.

    `file` holds the app's token, and each user's id and token, as the clients' processes read them.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._folder = folder
        self._seed = folder / "seed"
        self._houses = 0
        self.file = folder / "people.json"
        asyncio.run(self._make(count))
        self.app_token, self.user_ids = self._read()

    def move_into(self, listener: str, cores: frozenset[int]) -> House:
        """Start the program on a fresh copy."""
        self._houses += 1
        place = self._folder / f"house-{self._houses}"
        shutil.copytree(self._seed, place)
        house = House(place, listener, cores)
        house.start()
        return house

    async def _make(self, count: int) -> None:
        appliance = RunningAppliance(self._seed)
        await asyncio.to_thread(appliance.start)
        try:
            admin = await appliance.make_user(role=Role.ADMIN)
            app = await appliance.make_app(admin, daily_quota=100_000_000)
        finally:
            await asyncio.to_thread(appliance.stop)
        async with appliance.identity() as identity:
            numbers = iter(range(count))
            users: list[dict[str, str]] = []

            async def work() -> None:
                for _ in numbers:
                    users.append(await _add_user(identity, app))

            await asyncio.gather(*(work() for _ in range(_ENROL_AT_ONCE)))
        self.file.write_text(json.dumps({"app_token": app.token, "users": users}), encoding="utf-8")

    def _read(self) -> tuple[str, list[str]]:
        kept = json.loads(self.file.read_text(encoding="utf-8"))
        return kept["app_token"], [user["id"] for user in kept["users"]]


async def _add_user(identity: Identity, app: TestApp) -> dict[str, str]:
    # Without a password: nobody signs in by one here, and its hash would be most of the work.
    user = await identity.create_user(f"user-{secrets.token_hex(8)}", None, role=Role.MEMBER)
    await identity.enrol_user(user.id, app.id)
    issued = await identity.issue_user_token(user.id, timedelta(days=1))
    return {"id": str(user.id), "token": issued.token.reveal()}


def find_free_port() -> int:
    """Give a port for a program that must have the same one after a restart.

    Below those that the system gives to outgoing connections: while the program is down, none of these may take it.
    """
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("of a hundred ports none was free")
