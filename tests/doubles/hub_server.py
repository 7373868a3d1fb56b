"""A hub over real sockets: one of the program's listeners on a free loopback port, and nothing else around it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from uuid import UUID, uuid5

from granian.constants import Interfaces
from granian.server.embed import Server

from appliance.clock import SystemClock
from appliance.hub.asgi_types import Receive, Scope, Send
from appliance.hub.hub import Hub
from appliance.hub.lean_limits import LeanLimits
from appliance.hub.lean_listener import LeanListener
from appliance.hub.limits import HubLimits
from appliance.hub.messages import EncodedNotification
from tests.doubles.hub_backend import MemoryBackend

ALICE = uuid5(UUID(int=0), "first user")
BOB = uuid5(UUID(int=0), "second user")
LISTENERS = ("granian", "lean")
_START_DEADLINE_S = 10.0
_listener = "granian"


@contextmanager
def listening_with(listener: str) -> Iterator[None]:
    """Let hubs that are started meanwhile, and are not told which listener to use, use this one of `LISTENERS`."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


class HubServer:
    """A hub that runs. The bearer `alice` is user `ALICE`, `bob` is `BOB`; the backend outlives a restart."""

    def __init__(
        self,
        limits: HubLimits | None,
        listener: str | None = None,
        lean_limits: LeanLimits | None = None,
        origins: Sequence[str] = (),
    ) -> None:
        self.listener = listener or _listener
        self.lean: LeanListener | None = None
        self._lean_limits = lean_limits
        self.backend = MemoryBackend()
        self.backend.add_user("alice", ALICE)
        self.backend.add_user("bob", BOB)
        self._limits = limits
        self._reserved = _reserve_port()
        self.port: int = self._reserved.getsockname()[1]
        self._origins = tuple(origins)
        self.hub = Hub(self.backend, SystemClock(), limits, origins=self._origins)

    async def start(self) -> None:
        """Serve on the reserved port."""
        if self.listener == "lean":
            self.lean = LeanListener(self.hub.own_port_app, _bind_beside(self.port), limits=self._lean_limits)
            await self.lean.start()
            return
        self._server = Server(
            _with_lifespan(self.hub), "127.0.0.1", self.port, interface=Interfaces.ASGI, log_enabled=False, backlog=4096
        )
        self._serving = asyncio.ensure_future(self._server.serve())
        await self.wait_until_listening()

    async def stop(self) -> None:
        """Stop in the order in which the program does: the hub first, then the server."""
        await self.hub.drain(5.0)
        if self.lean is not None:
            await self.lean.stop()
            return
        self._server.stop()
        await asyncio.wait_for(self._serving, 10.0)

    async def restart(self) -> None:
        """Stop, and start a new hub on the same port."""
        await self.stop()
        self.hub = Hub(self.backend, SystemClock(), self._limits, origins=self._origins)
        await self.start()

    async def wait_until_listening(self) -> None:
        """Wait until the port answers."""
        async with asyncio.timeout(_START_DEADLINE_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.01)
                    continue
                writer.close()
                return

    def release_port(self) -> None:
        self._reserved.close()

    async def until(self, **numbers: int) -> None:
        """Wait until the hub's numbers are these: the server notices a lost client a moment after the client does."""
        await wait_until(lambda: all(getattr(self.hub.stats(), name) == number for name, number in numbers.items()))

    def device(self, name: str = "phone") -> UUID:
        """Give the device that a Hello of the first user with this id stands for."""
        return self.backend.device_of(ALICE, name)

    def send(self, *devices: str, **fields: object) -> EncodedNotification:
        """Commit a notification for the first user and offer it, to these devices and to plain connections."""
        notification = self.backend.add_notification(ALICE, **fields)
        for device in devices:
            self.backend.given.setdefault(self.device(device), set()).add(notification.id)
        self.hub.offer(notification, [self.device(device) for device in devices])
        self.hub.offer_plain(ALICE, notification)
        return notification

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}/hubs/notifications"

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}/hubs/notifications"


@asynccontextmanager
async def run_hub(
    limits: HubLimits | None = None,
    *,
    listener: str | None = None,
    lean_limits: LeanLimits | None = None,
    origins: Sequence[str] = (),
) -> AsyncIterator[HubServer]:
    """Start a hub with two users, and stop it at the end; `listener` is one of `LISTENERS`."""
    server = HubServer(limits, listener, lean_limits, origins)
    try:
        await server.start()
        yield server
        await server.stop()
    finally:
        if server.lean is not None:
            await server.lean.stop()
        server.release_port()


async def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something that another party does in its own time; fails after 10 seconds."""
    async with asyncio.timeout(_START_DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


def _reserve_port() -> socket.socket:
    # The server binds with SO_REUSEPORT, so that it can take over a port that this socket keeps from everybody else.
    return _bind_beside(0)


def _bind_beside(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", port))
    return bound


def _with_lifespan(hub: Hub) -> object:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await hub.app(scope, receive, send)
            return
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})

    return app
