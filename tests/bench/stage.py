"""One server with nothing above it, as a process: the hub alone on a listener, or the bare `websockets` library.

What is sent is the same bytes in each, encoded by the same code; the hub decides who gets them, the bare library is
simply told.
"""

import asyncio
import gc
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Final, Protocol
from uuid import UUID

from websockets.asyncio.server import Server, ServerConnection, broadcast, serve

from appliance.hub.encoding_json import JsonEncoding
from appliance.hub.limits import HubLimits
from appliance.hub.messages import Dialect, EncodedNotification
from tests.bench.process import Orders, serve_orders
from tests.doubles.hub_backend import make_envelope
from tests.doubles.hub_server import ALICE, HubServer

BARE: Final = "websockets"
BODY: Final = "B" * 220
FILLER: Final = "好" * 4_096
FILLERS: Final = 20
_MANY: Final = 1_000_000
_TURN: Final = 64
# As the program does: the defaults scan thousands of connections far too often.
_COLLECT_AFTER: Final = (50_000, 20, 50)
_ENCODING: Final = JsonEncoding()


class Stage(Protocol):
    """A server that can send."""

    async def open(self, count: int) -> int:
        """Listen for so many clients, and give the port."""
        ...

    def offer_all(self, notification: EncodedNotification) -> None:
        """Send to every client."""
        ...

    def offer_one(self, number: int, notification: EncodedNotification) -> None:
        """Send to one of them."""
        ...

    def count_cut(self) -> int:
        """Tell how many clients were cut because they did not read."""
        ...

    async def close(self) -> None: ...


class HubStage:
    """The hub over its backend in memory; every client has said Hello."""

    def __init__(self, listener: str) -> None:
        bounds: dict[str, Any] = {one.name: _MANY for one in fields(HubLimits) if one.name.startswith("connections")}
        chosen: dict[str, Any] = {} if listener == "granian" else {"listener": listener}
        self._server = HubServer(HubLimits(**bounds), **chosen)
        self._devices: list[UUID] = []

    async def open(self, count: int) -> int:
        await self._server.start()
        self._devices = [self._server.device(f"bench-{number}") for number in range(count)]
        return self._server.port

    def offer_all(self, notification: EncodedNotification) -> None:
        self._server.hub.offer(notification, self._devices)

    def offer_one(self, number: int, notification: EncodedNotification) -> None:
        self._server.hub.offer(notification, [self._devices[number]])

    def count_cut(self) -> int:
        return self._server.hub.stats().ended.get("slow_reader", 0)

    async def close(self) -> None:
        await self._server.stop()
        self._server.release_port()


class BareStage:
    """The `websockets` library with no protocol on top, written to by its own `broadcast`."""

    def __init__(self) -> None:
        self._sockets: list[ServerConnection] = []
        self._server: Server

    async def open(self, count: int) -> int:
        async def hold(socket: ServerConnection) -> None:
            self._sockets.append(socket)
            await socket.wait_closed()

        # Pings as often as the hub's own, and no compression, which the hub does not offer either.
        self._server = await serve(hold, "127.0.0.1", 0, compression=None, ping_interval=15, backlog=4096)
        port: int = next(iter(self._server.sockets)).getsockname()[1]
        return port

    def offer_all(self, notification: EncodedNotification) -> None:
        broadcast(self._sockets, notification.frame(Dialect.FULL, _ENCODING).payload)

    def offer_one(self, number: int, notification: EncodedNotification) -> None:
        broadcast((self._sockets[number],), notification.frame(Dialect.FULL, _ENCODING).payload)

    def count_cut(self) -> int:
        return 0

    async def close(self) -> None:
        self._server.close()
        await self._server.wait_closed()


class Conductor:
    """Takes the orders for one stage; every turn brings each client the message with the next number."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._count = 0
        self._number = 0
        self._sequence = 0
        self._cpu_from = 0.0

    @property
    def orders(self) -> Orders:
        return {
            "open": self.open,
            "settle": self.settle,
            "fan_out": self.fan_out,
            "unicast": self.unicast,
            "cpu": self.cpu,
            "count_cut": self.count_cut,
            "close": self.close,
        }

    async def open(self, count: int) -> dict[str, Any]:
        self._count = count
        return {"port": await self._stage.open(count)}

    async def settle(self) -> dict[str, Any]:
        """Everybody is there."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_COLLECT_AFTER)
        return {}

    async def fan_out(self, *, is_filler: bool = False) -> dict[str, Any]:
        """Send one message to all; tells when (monotonic seconds) that began."""
        self._number += 1
        message = self._make_message(FILLER if is_filler else BODY)
        begun = self._begin()
        self._stage.offer_all(message)
        return {"begun": begun}

    async def unicast(self) -> dict[str, Any]:
        """Send to each client a message of its own, and give way now and then."""
        self._number += 1
        messages = [self._make_message(BODY) for _ in range(self._count)]
        begun = self._begin()
        for number, message in enumerate(messages):
            self._stage.offer_one(number, message)
            if number % _TURN == _TURN - 1:
                await asyncio.sleep(0)
        return {"begun": begun}

    async def cpu(self) -> dict[str, Any]:
        """Tell the processor seconds of all threads since the turn began."""
        return {"cpu_s": time.process_time() - self._cpu_from}

    async def count_cut(self) -> dict[str, Any]:
        return {"cut": self._stage.count_cut()}

    async def close(self) -> dict[str, Any]:
        await self._stage.close()
        return {}

    def _begin(self) -> float:
        self._cpu_from = time.process_time()
        return time.monotonic()

    def _make_message(self, body: str) -> EncodedNotification:
        self._sequence += 1
        return EncodedNotification(make_envelope(ALICE, self._sequence, title=str(self._number), body=body))


def make_orders(name: str) -> Callable[[], Orders]:
    """Give the maker of the orders of the stage with this name: a listener, or `websockets`."""
    return lambda: Conductor(BareStage() if name == BARE else HubStage(name)).orders


if __name__ == "__main__":
    serve_orders(make_orders(sys.argv[1]))
