"""An appliance to be killed, with publishers and devices around it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from appliance.domain.principal import Role
from tests.crash.launched import LaunchedAppliance
from tests.crash.people import Book, Device, Publisher
from tests.doubles.appliance import TestApp, TestUser

USERS = 6
PUBLISHERS = 16


class Scene:
    """One app, a few users with two devices each (one of them forgetful), and sixteen publishers."""

    def __init__(self, appliance: LaunchedAppliance, app: TestApp, users: list[TestUser]) -> None:
        self.appliance = appliance
        self.app = app
        self.book = Book()
        self.is_over = asyncio.Event()
        url = f"ws://127.0.0.1:{appliance.port}/hubs/notifications"
        self.devices = [
            Device(f"{kind}-{user.username}", str(user.id), url, user.token, self.book, keeps_cursor=kind == "phone")
            for user in users
            for kind in ("phone", "forgetful")
        ]
        ids = [str(user.id) for user in users]
        self.publishers = [
            Publisher(f"p{number}", appliance.base_url, app.headers, ids, self.book) for number in range(PUBLISHERS)
        ]
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        """Connect all devices, then let the publishers loose."""
        listening = [asyncio.create_task(device.run()) for device in self.devices]
        await until(lambda: all(device.sessions for device in self.devices), 30)
        self._tasks = [asyncio.create_task(publisher.run(self.is_over)) for publisher in self.publishers]
        self._tasks += listening

    async def calm_down(self) -> None:
        """Let the publishers finish what they are at, and wait until every device has shown what was promised."""
        self.is_over.set()
        await asyncio.wait_for(asyncio.gather(*self._tasks[: len(self.publishers)]), 30)
        await until(lambda: not self.missing(), 60, self.missing)

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        faults = [result for result in results if isinstance(result, Exception)]
        if faults:
            raise ExceptionGroup("somebody in the scene failed", faults)

    def missing(self) -> list[str]:
        """Give what was promised with a 202 and has not been shown where it belongs."""
        return [
            f"{title} on {device.name}"
            for title, user_id in self.book.receivers.items()
            for device in self.devices
            if device.user_id == user_id and title not in device.shown
        ]

    def check(self) -> None:
        """Check that everything shown under a promised title has the promised id, and that nobody found a fault."""
        assert self.book.faults == [], self.book.faults[:20]
        wrong = [
            (title, device.name)
            for device in self.devices
            for title, notification_id in device.shown.items()
            if self.book.accepted.get(title, notification_id) != notification_id
        ]
        assert wrong == []
        ids: dict[str, set[str]] = {}
        for device in self.devices:
            for title, notification_id in device.shown.items():
                ids.setdefault(title, set()).add(notification_id)
        assert {title: found for title, found in ids.items() if len(found) > 1} == {}


async def until(condition: Callable[[], object], within_s: float, tell: Callable[[], object] | None = None) -> None:
    """Wait until the condition holds; fail with what `tell` gives when it does not in time."""
    try:
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110 - what is waited for happens in another process
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"It did not happen within {within_s} s: {str(tell() if tell else condition)[:2_000]}")


@pytest.fixture
async def open_scene(tmp_path) -> AsyncIterator[Callable[..., object]]:
    """Start an appliance in the given folder and set a scene around it."""
    async with AsyncExitStack() as stack:

        @asynccontextmanager
        async def opened(folder=tmp_path / "data"):
            appliance = LaunchedAppliance(folder)
            await asyncio.to_thread(appliance.start)
            try:
                admin = await appliance.make_user(role=Role.ADMIN)
                app = await appliance.make_app(admin, daily_quota=1_000_000)
                users = [await appliance.make_user(app) for _ in range(USERS)]
                scene = Scene(appliance, app, users)
                await scene.begin()
                try:
                    yield scene
                finally:
                    await scene.end()
            finally:
                await asyncio.to_thread(appliance.kill)

        yield lambda *args: stack.enter_async_context(opened(*args))


@pytest.fixture
async def scene(open_scene) -> Scene:
    return await open_scene()
