"""One machine that opens hundreds of connections, against the real program.

The story: the HTTP server counts connections in all only, so whoever opened 4 096 of them and said nothing, or half a
request, kept every phone and every backend out.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.doubles.appliance import RunningAppliance
from tests.doubles.hub_client import open_hub

CROWD, NEIGHBOUR = "127.0.0.2", "127.0.0.3"
BOUND = 40
PATIENCE_S = 20.0

SILENT = b""
HALF_A_HEAD = b"POST /push/send HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
ANSWERED = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[RunningAppliance]:
    running = RunningAppliance(tmp_path / "data", {"HTTP_MAX_CONNECTIONS_PER_ADDRESS": str(BOUND)})
    running.start()
    yield running
    running.stop()


class Crowd(asyncio.Protocol):
    closed = 0

    def __init__(self, says: bytes, lost: list[None]) -> None:
        self._says = says
        self._lost = lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        if self._says:
            transport.write(self._says)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost.append(None)


@asynccontextmanager
async def a_crowd(port: int, says: bytes, count: int) -> AsyncIterator[list[None]]:
    """Open so many connections from one address; gives the list that grows as the server closes them."""
    lost: list[None] = []
    loop = asyncio.get_running_loop()
    transports = []
    try:
        for _ in range(count):
            transport, _ = await loop.create_connection(
                lambda: Crowd(says, lost), "127.0.0.1", port, local_addr=(CROWD, 0)
            )
            transports.append(transport)
        yield lost
    finally:
        for transport in transports:
            transport.abort()


@pytest.mark.slow
@pytest.mark.parametrize("says", [SILENT, HALF_A_HEAD, ANSWERED], ids=["silent", "half a head", "idle after a request"])
async def test_the_crowd_is_closed_down_to_its_bound_and_the_neighbour_is_served(
    appliance: RunningAppliance, says: bytes
) -> None:
    async with a_crowd(appliance.port, says, 10 * BOUND) as lost:
        transport = httpx.AsyncHTTPTransport(local_address=NEIGHBOUR)
        async with httpx.AsyncClient(base_url=appliance.base_url, transport=transport, timeout=5) as neighbour:
            until = time.monotonic() + PATIENCE_S
            while len(lost) < 9 * BOUND:
                assert time.monotonic() < until, len(lost)
                assert (await neighbour.get("/health")).status_code == 200
                await asyncio.sleep(0.05)
            # What is left is within the bound, and goes when it has brought no request in time.
            assert len(lost) == 9 * BOUND
    assert appliance.output.count("http_address_full") == 1


@pytest.mark.slow
async def test_live_hub_connections_of_the_crowded_address_are_left_alone(appliance: RunningAppliance) -> None:
    # The story: the server tells the port of a client as text and the system as a number, so every live connection of
    # a crowded address counted as idle and was shut down with the others.
    user = await appliance.make_user()
    async with AsyncExitStack() as opened:
        url = f"ws://127.0.0.1:{appliance.port}/hubs/notifications"
        phones = [
            await opened.enter_async_context(open_hub(url, user.token, local_addr=(CROWD, 0)))
            for _ in range(BOUND + 10)
        ]
        lost = await opened.enter_async_context(a_crowd(appliance.port, SILENT, 5 * BOUND))
        async with asyncio.timeout(PATIENCE_S):
            while len(lost) < 4 * BOUND:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        for phone in phones:
            assert (await phone.invoke("X"))["error"]
        assert len(lost) == 4 * BOUND
