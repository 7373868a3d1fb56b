"""Several real nodes over one PostgreSQL and one Redis, and a phone that says what it saw."""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from appliance.client_hub import HubListener, Live, Lost
from appliance.domain.principal import Role
from tests.doubles.appliance import RunningAppliance, TestApp, TestUser
from tests.doubles.redis import RedisServer


async def until_answered(ask: Callable[[], Awaitable[object]], patience_s: float = 10.0) -> None:
    """Ask again and again until the answer is yes; what is asked about happens in another process."""
    async with asyncio.timeout(patience_s):
        while not await ask():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


class NodeTown:
    """The nodes, one app, one user. Nodes start with `start`; people are made once."""

    app: TestApp
    user: TestUser

    def __init__(self, folder: Path, database_url: str, redis: RedisServer, count: int) -> None:
        environment = {
            "SECRET_KEY": secrets.token_urlsafe(32),
            "DATABASE_URL": database_url,
            "REDIS_URL": redis.url,
            "LOG_FORMAT": "json",
        }
        self.redis = redis
        self.nodes = [RunningAppliance(folder / f"node-{number}", environment) for number in range(count)]

    async def start(self) -> None:
        """Start all nodes, wait until each hears all others, and make the people."""
        for node in self.nodes:
            node.data_dir.mkdir(parents=True, mode=0o700)
            node.start()
        await self.until_joined()
        admin = await self.nodes[0].make_user(role=Role.ADMIN)
        self.app = await self.nodes[0].make_app(admin)
        self.user = await self.nodes[0].make_user(self.app)

    def stop(self) -> None:
        """Stop all nodes that run."""
        for node in self.nodes:
            node.kill()

    async def until_joined(self, *, nodes: int | None = None) -> None:
        """Wait until the nodes that run hear each other."""
        count = len(self.nodes) if nodes is None else nodes
        for node in self.nodes[:count]:
            await until_answered(lambda node=node: self._has_joined(node, count - 1), 30)  # type: ignore[misc]

    async def _has_joined(self, node: RunningAppliance, others: int) -> bool:
        numbers = await read_metrics(node)
        return numbers["carillon_nodes_connected"] == 1 and numbers["carillon_nodes_others"] == others

    async def send(self, node: RunningAppliance, title: str, **more: Any) -> str:
        """Send to the user at a node; gives the notification's id."""
        async with httpx.AsyncClient(base_url=node.base_url, headers=self.app.headers, timeout=20) as client:
            body = {"user_id": str(self.user.id), "title": title, "body": "b", **more}
            reply = await client.post("/push/send", json=body)
        assert reply.status_code == 202, reply.text
        sent: str = reply.json()["notification_id"]
        return sent

    async def timeline(self, node: RunningAppliance, notification_id: str) -> dict[str, Any]:
        async with httpx.AsyncClient(base_url=node.base_url, headers=self.app.headers, timeout=20) as client:
            reply = await client.get(f"/push/notifications/{notification_id}")
        answer: dict[str, Any] = reply.json()
        return answer


class Phone:
    """A device with our own client: what came, in its order, on which connection."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        self.sequences: list[int] = []
        self.states: list[Live | Lost] = []
        self.arrived = asyncio.Event()
        self.lived = asyncio.Event()

    def note_state(self, state: Live | Lost) -> None:
        self.states.append(state)
        if isinstance(state, Live):
            self.lived.set()

    async def has(self, count: int, patience_s: float = 30) -> None:
        """Wait until so many notifications have come."""
        async with asyncio.timeout(patience_s):
            while len(self.titles) < count:
                self.arrived.clear()
                await self.arrived.wait()

    @property
    def doubles(self) -> list[str]:
        return [title for title, times in Counter(self.titles).items() if times > 1]

    @property
    def is_in_order(self) -> bool:
        return self.sequences == sorted(self.sequences)


@asynccontextmanager
async def connected_phone(node: RunningAppliance, user: TestUser, device_id: str) -> AsyncIterator[Phone]:
    """Connect a phone to a node and acknowledge whatever comes."""
    phone = Phone()

    async def token(refused: str | None) -> str:
        return user.token

    async with HubListener(node.base_url, token, device_id=device_id, on_state=phone.note_state) as listener:

        async def read() -> None:
            async for notification in listener:
                phone.titles.append(notification.title)
                assert notification.sequence is not None
                phone.sequences.append(notification.sequence)
                phone.arrived.set()

        reading = asyncio.create_task(read())
        try:
            async with asyncio.timeout(20):
                await phone.lived.wait()
            yield phone
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def read_metrics(node: RunningAppliance) -> dict[str, float]:
    """Give the metrics of a node that have no labels."""
    async with httpx.AsyncClient(base_url=node.base_url, timeout=10) as client:
        text = (await client.get("/metrics")).text
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, value in lines if "{" not in name}
