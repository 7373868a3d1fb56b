"""Idle connections of a crowded address are shut down, others are left alone; requests under way are bounded."""

import asyncio
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import pytest

from appliance.hub.requests import MOUNT_PATH
from appliance.ops.connection_guard import (
    ConnectionGuard,
    OpenConnection,
    choose_excess,
    count_open_files,
    fair_share,
    notice_lost_peers,
)

CROWD, NEIGHBOUR = "127.0.0.2", "127.0.0.3"
PATIENCE_S = 10.0


def idle_of(address: str, ports: range) -> list[OpenConnection]:
    return [OpenConnection(port, (address, port)) for port in ports]


class TestTheChoice:
    def test_an_address_keeps_as_many_as_it_may_have_and_the_newest_of_them(self) -> None:
        idle = idle_of("192.0.2.1", range(1, 61)) + idle_of("192.0.2.2", range(1, 6))
        before = {("192.0.2.1", port) for port in range(21, 61)}
        excess = choose_excess(idle, before, most=10_000, most_of_site=40)
        assert {one.peer for one in excess} <= before
        assert len(excess) == 20

    def test_nobody_loses_anything_while_all_are_within_their_bound(self) -> None:
        assert choose_excess(idle_of("192.0.2.1", range(1, 61)), (), most=10_000, most_of_site=60) == []

    def test_a_network_of_ipv6_counts_as_one_address(self) -> None:
        idle = [OpenConnection(number, (f"2001:db8::{number:x}", 1)) for number in range(1, 61)]
        assert len(choose_excess(idle, (), most=10_000, most_of_site=50)) == 10

    def test_when_the_room_runs_short_the_largest_give_way(self) -> None:
        idle = idle_of("192.0.2.1", range(1, 901)) + idle_of("192.0.2.2", range(1, 101))
        excess = choose_excess(idle, (), most=1_000, most_of_site=2_000)
        assert {one.peer[0] for one in excess} == {"192.0.2.1"}
        assert len(excess) == 500

    @pytest.mark.parametrize(
        ("counts", "room", "share"),
        [
            ([], 100, 100),
            ([10, 20], 100, 100),
            ([10, 500], 100, 90),
            ([500, 500], 100, 50),
            ([40, 50, 60], 120, 40),
            ([1_000] * 100, 100, 32),
        ],
    )
    def test_a_fair_share_fits_into_the_room(self, counts: list[int], room: int, share: int) -> None:
        assert fair_share({str(number): count for number, count in enumerate(counts)}, room) == share


class Door:
    """A server that accepts and says nothing, as the HTTP server does before a request."""

    def __init__(self, guard: ConnectionGuard, port: int) -> None:
        self.guard = guard
        self.port = port
        self.clients: list[tuple[str, asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def come(self, address: str, count: int) -> None:
        for _ in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(address, 0))
            self.clients.append((address, reader, writer))

    def peers(self, address: str) -> list[tuple[str, int]]:
        return [writer.get_extra_info("sockname") for of, _, writer in self.clients if of == address]

    async def count_shut(self, address: str, expected: int) -> int:
        """Wait until so many are shut, then give how many really are."""
        readers = [reader for of, reader, _ in self.clients if of == address]
        async with asyncio.timeout(PATIENCE_S):
            while sum(reader.at_eof() for reader in readers) < expected:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        return sum(reader.at_eof() for reader in readers)


async def never(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.Event().wait()


@asynccontextmanager
async def a_door(is_for_both: bool = False, **bounds: Any) -> AsyncIterator[Door]:
    accepted: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)
        await reader.read()
        writer.close()

    listening = socket.create_server(("127.0.0.1", 0))
    if is_for_both:
        listening.close()
        listening = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    server = await asyncio.start_server(accept, sock=listening)
    port = server.sockets[0].getsockname()[1]
    door = Door(ConnectionGuard(never, port, **{"most": 10_000, "most_of_site": 32} | bounds), port)
    try:
        yield door
    finally:
        for _, _, writer in door.clients:
            writer.close()
        server.close()
        async with asyncio.timeout(PATIENCE_S):
            for _, _, writer in door.clients:
                await writer.wait_closed()
            while not all(writer.is_closing() for writer in accepted):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@contextmanager
def no_files_left() -> Iterator[None]:
    """Take every file that this process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(taken[0]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for file in taken:
            os.close(file)


class TestTheDoor:
    async def test_the_crowd_is_shut_down_to_its_bound_and_the_neighbour_stays(self) -> None:
        async with a_door() as door:
            await door.come(CROWD, 50)
            await door.come(NEIGHBOUR, 10)
            assert await door.guard.look() == 18
            assert await door.count_shut(CROWD, 18) == 18
            assert await door.count_shut(NEIGHBOUR, 0) == 0
            assert door.guard.closed == 18

    async def test_a_connection_with_a_request_under_way_is_left_alone(self) -> None:
        async with a_door() as door:
            await door.come(CROWD, 40)
            # As the server tells it: the port is a text.
            peers = [(address, str(port)) for address, port in door.peers(CROWD)]
            busy = [{"type": "websocket", "path": MOUNT_PATH, "client": peer} for peer in peers]
            tasks = [asyncio.ensure_future(door.guard(scope, None, None)) for scope in busy]
            await asyncio.sleep(0)
            assert await door.guard.look() == 0
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert await door.guard.look() == 8

    async def test_it_works_when_no_file_is_left_to_open(self) -> None:
        """Looking at a directory takes a file: just where all were taken, the guard failed at every look."""
        async with a_door() as door:
            await door.come(CROWD, 40)
            with no_files_left():
                assert await door.guard.look() == 8
                assert count_open_files() > 80

    async def test_on_a_socket_for_both_versions_an_address_is_the_same_however_it_is_told(self) -> None:
        async with a_door(is_for_both=True, trusted_proxies=("127.0.0.3",)) as door:
            await door.come(CROWD, 40)
            await door.come(NEIGHBOUR, 40)
            for prefix in ("", "::ffff:"):
                busy = [
                    {"type": "websocket", "path": MOUNT_PATH, "client": (prefix + a, p)} for a, p in door.peers(CROWD)
                ]
                tasks = [asyncio.ensure_future(door.guard(scope, None, None)) for scope in busy]
                await asyncio.sleep(0)
                assert await door.guard.look() == 0
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            assert await door.guard.look() == 8
            assert await door.count_shut(NEIGHBOUR, 0) == 0

    async def test_a_trusted_proxy_may_hold_any_number(self) -> None:
        async with a_door(trusted_proxies=("127.0.0.2/32",)) as door:
            await door.come(CROWD, 40)
            await door.come(NEIGHBOUR, 40)
            assert await door.guard.look() == 8
            assert await door.count_shut(CROWD, 0) == 0

    async def test_the_full_address_is_told_in_the_log_once_a_minute(self, caplog: pytest.LogCaptureFixture) -> None:
        async with a_door() as door:
            await door.come(CROWD, 40)
            await door.guard.look()
            await door.come(CROWD, 40)
            await door.guard.look()
        assert [record.message for record in caplog.records].count("http_address_full") == 1


class TestRequestsUnderWay:
    async def begin(self, guard: ConnectionGuard, address: str, path: str = "/oauth/token") -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            answers.append(message)

        self.ports += 1
        scope = {"type": "http", "path": path, "client": (address, str(self.ports))}
        self.tasks.append(asyncio.ensure_future(guard(scope, None, send)))
        await asyncio.sleep(0)
        return answers

    @pytest.fixture(autouse=True)
    async def requests(self) -> AsyncIterator[None]:
        self.ports = 0
        self.tasks: list[asyncio.Future[None]] = []
        yield
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def test_one_too_many_of_an_address_is_answered_503_until_another_ends(self) -> None:
        guard = ConnectionGuard(never, 1, most=1_000, most_of_site=2)
        for _ in range(2):
            assert await self.begin(guard, CROWD) == []
        start, body = await self.begin(guard, CROWD)
        headers = dict(start["headers"])
        assert (start["status"], headers[b"content-type"]) == (503, b"application/problem+json")
        assert 1 <= int(headers[b"retry-after"]) <= 10 and headers[b"connection"] == b"close"
        assert b'"code":"unavailable"' in body["body"]
        assert await self.begin(guard, NEIGHBOUR) == []
        self.tasks[0].cancel()
        await asyncio.sleep(0)
        assert await self.begin(guard, CROWD) == []

    async def test_the_hub_and_trusted_proxies_are_not_counted(self) -> None:
        guard = ConnectionGuard(never, 1, most=1_000, most_of_site=1, trusted_proxies=(NEIGHBOUR,))
        for _ in range(3):
            assert await self.begin(guard, CROWD, f"{MOUNT_PATH}/negotiate") == []
            assert await self.begin(guard, NEIGHBOUR) == []


class TestLostPeers:
    def test_connections_accepted_from_then_on_are_dropped_when_their_other_end_is_gone(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as foreign:
            assert notice_lost_peers(listener.getsockname()[1]) == 1
            for server, is_asked in ((listener, 1), (foreign, 0)):
                with socket.create_connection(server.getsockname()), server.accept()[0] as accepted:
                    assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == is_asked
            with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
