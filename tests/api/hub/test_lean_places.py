"""How many HTTP connections the lean listener bears that are not the hub's, and how each of them ends."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from appliance.hub.lean_limits import LeanLimits
from tests.doubles.hub_client import open_hub
from tests.doubles.hub_server import HubServer, run_hub, wait_until
from tests.doubles.raw_websocket import RawSocket, open_raw

GET = "GET /hubs/notifications HTTP/1.1\r\nhost: localhost"
ALICE = "authorization: Bearer alice"
NEGOTIATE = "POST /hubs/notifications/negotiate?negotiateVersion=1 HTTP/1.1\r\nhost: localhost"


@pytest.fixture
def listener() -> str:
    return "lean"


@asynccontextmanager
async def a_crowd(server: HubServer, count: int) -> AsyncIterator[list[RawSocket]]:
    async with AsyncExitStack() as opened:
        yield [await opened.enter_async_context(open_raw(server.port)) for _ in range(count)]


@pytest.mark.parametrize(
    ("first", "stray"),
    [
        (GET, b""),
        (GET, b"\r\n"),
        (f"{NEGOTIATE}\r\ncontent-length: 100000", b"x"),
        (f"{NEGOTIATE}\r\ntransfer-encoding: chunked", b"5\r\nab"),
    ],
    ids=["nothing", "an empty line", "some of a body", "some of a chunk"],
)
async def test_an_answered_connection_ends_in_time_whatever_drips_in_after_the_answer(first: str, stray: bytes) -> None:
    """One stray byte took the timer of the pause away, and the connection stayed for ever, at no cap's expense."""
    limits = LeanLimits(idle_s=1, head_deadline_s=0.5, linger_s=0.2)
    async with run_hub(listener="lean", lean_limits=limits) as server, open_raw(server.port) as raw:
        assert (await raw.ask(first))[0] == 401
        await raw.send(stray)
        assert await raw.answer() == (0, "")
        assert server.lean is not None
        places = server.lean._shared.places
        await wait_until(lambda: places.taken == 0 and not places.taken_at)


async def test_idle_connections_count_until_they_end_and_the_one_that_waited_longest_gives_way() -> None:
    limits = LeanLimits(http_connections_per_address=3, idle_s=60)
    async with run_hub(listener="lean", lean_limits=limits) as server, a_crowd(server, 3) as crowd:
        for one in crowd:
            assert (await one.ask(GET))[0] == 401
        async with open_raw(server.port) as newcomer:
            assert (await newcomer.ask(GET))[0] == 401
            assert await crowd[0].answer() == (0, "")
            for one in (*crowd[1:], newcomer):
                assert (await one.ask(GET))[0] == 401


@pytest.mark.parametrize("limits", [LeanLimits(http_connections=3), LeanLimits(http_connections_per_address=3)])
async def test_half_sent_heads_do_not_keep_whole_requests_out(
    limits: LeanLimits, caplog: pytest.LogCaptureFixture
) -> None:
    """A thousand half heads of an office's one bad machine reset every other connection of that office."""
    caplog.set_level(logging.WARNING)
    async with run_hub(listener="lean", lean_limits=limits) as server, a_crowd(server, 3) as crowd:
        for one in crowd:
            await one.send(GET.encode())
        for number in range(3):
            async with open_raw(server.port) as good:
                assert (await good.ask(GET))[0] == 401
            assert (await crowd[number].answer()) == (0, "") if number == 0 else True
        async with open_hub(server.ws) as good:
            assert (await good.invoke("X"))["error"]
    assert [record.message for record in caplog.records].count("hub_address_full") == 1


async def test_where_every_connection_has_a_request_under_way_one_more_is_answered_503() -> None:
    limits = LeanLimits(http_connections_per_address=2)
    async with run_hub(listener="lean", lean_limits=limits) as server, a_crowd(server, 2) as crowd:
        gate = server.backend.authenticate_gate = asyncio.Event()
        for one in crowd:
            await one.send(f"{NEGOTIATE}\r\n{ALICE}\r\n\r\n".encode())
        lean = server.lean
        assert lean is not None
        await wait_until(lambda: len(lean._shared.state.tasks) == 2)
        async with open_raw(server.port) as beyond:
            status, head = await beyond.ask(NEGOTIATE)
            assert status == 503 and "retry-after: " in head and "connection: close" in head
        gate.set()
        for one in crowd:
            assert (await one.answer())[0] == 200


async def test_what_belongs_to_the_hub_takes_no_place() -> None:
    limits = LeanLimits(http_connections_per_address=1, http_connections=1)
    async with run_hub(listener="lean", lean_limits=limits) as server, AsyncExitStack() as opened:
        clients = [await opened.enter_async_context(open_hub(server.ws)) for _ in range(3)]
        async with open_raw(server.port) as asking:
            assert (await asking.ask(f"{NEGOTIATE}\r\n{ALICE}"))[0] == 200
            body = await asking.reader.readuntil(b"}]}")
        token = json.loads(body)["connectionToken"]
        stream = await opened.enter_async_context(open_raw(server.port))
        path = f"GET /hubs/notifications?id={token} HTTP/1.1\r\nhost: localhost"
        assert (await stream.ask(f"{path}\r\naccept: text/event-stream\r\n{ALICE}"))[0] == 200
        for client in clients:
            assert (await client.invoke("X"))["error"]
        assert server.lean is not None and server.lean._shared.places.taken == 0
