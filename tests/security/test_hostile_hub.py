"""Clients that mean harm, with good credentials, against the real program on each of its listeners.

While each of them does its worst, a bystander is sent notifications. What must hold is always the same: the bystander
gets all of them, once and in order; the program's memory stays within a bound; nothing unexpected is in its log.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from appliance.cli.instance import find_running
from appliance.domain.principal import Role
from tests.doubles.appliance import RunningAppliance, TestApp, TestUser
from tests.doubles.hub_client import HubClient, open_hub
from tests.doubles.raw_websocket import RawSocket, make_frame, open_raw

CROWD, NEIGHBOUR = "127.0.0.2", "127.0.0.3"
CAP = 200
FEWEST_SENDS = 20
# Generous: the default listener takes 150 KiB for each connection, and gives part of it back only later.
MOST_GROWTH_MIB = 200
PATIENCE_S = 30.0
PATH = "/hubs/notifications"

pytestmark = pytest.mark.slow


@dataclass(slots=True)
class House:
    """The program, an app that sends, the one who attacks and the one who must not notice."""

    appliance: RunningAppliance
    listener: str
    admin: TestUser
    app: TestApp
    mallory: TestUser
    bystander: TestUser
    seen: list[str] = field(default_factory=list)

    @property
    def hub_port(self) -> int:
        running = find_running(self.appliance.data_dir)
        assert running is not None
        return running.hub_port or running.port

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.hub_port}{PATH}"

    @property
    def resident_mib(self) -> float:
        status = Path(f"/proc/{self.appliance.pid}/status").read_text(encoding="utf-8")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    @asynccontextmanager
    async def attack(self, **options: Any) -> AsyncIterator[HubClient]:
        """Open a hub connection of the attacker."""
        async with open_hub(self.ws, self.mallory.token, local_addr=(CROWD, 0), max_size=None, **options) as client:
            yield client

    async def count_ended(self, http: httpx.AsyncClient, reason: str) -> int:
        """Count the connections that have ended for this reason so far."""
        figures = (await http.get("/console/api/hub", headers=self.admin.headers)).json()
        count: int = figures["ended"].get(reason, 0)
        return count

    async def send(self, http: httpx.AsyncClient, user: TestUser, title: str) -> str:
        body = {"user_id": str(user.id), "title": title, "body": "b"}
        reply = await http.post("/push/send", json=body, headers=self.app.headers)
        assert reply.status_code == 202, reply.text
        notification_id: str = reply.json()["notification_id"]
        return notification_id


@pytest.fixture(scope="module", params=["granian", "lean"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAppliance]:
    environment = {
        "HUB_LISTENER": request.param,
        "HUB_PORT": "0",
        "HUB_MAX_CONNECTIONS_PER_ADDRESS": str(CAP),
    }
    appliance = RunningAppliance(tmp_path_factory.mktemp("hostile") / "data", environment)
    appliance.start()
    yield appliance
    assert appliance.stop() == 0


@pytest.fixture
async def house(running: RunningAppliance) -> House:
    admin = await running.make_user(role=Role.ADMIN)
    app = await running.make_app(admin)
    mallory, bystander = await running.make_user(app), await running.make_user(app)
    return House(running, running.environment["HUB_LISTENER"], admin, app, mallory, bystander)


@asynccontextmanager
async def nobody_notices(house: House) -> AsyncIterator[httpx.AsyncClient]:
    """Send to a bystander all the time, at least 20 times, and check at the end that it got everything in order."""
    before_mib = house.resident_mib
    is_over = asyncio.Event()
    transport = httpx.AsyncHTTPTransport(local_address=NEIGHBOUR)
    async with (
        httpx.AsyncClient(base_url=house.appliance.base_url, transport=transport, timeout=PATIENCE_S) as http,
        open_hub(house.ws, house.bystander.token, local_addr=(NEIGHBOUR, 0)) as bystander,
    ):
        await bystander.say_hello("phone")

        async def publish() -> list[str]:
            sent: list[str] = []
            while not is_over.is_set() or len(sent) < FEWEST_SENDS:
                sent.append(await house.send(http, house.bystander, f"{len(sent)}"))
                house.seen.append(sent[-1])
                await asyncio.sleep(0.02)
            return sent

        publishing = asyncio.create_task(publish())
        try:
            yield http
        finally:
            is_over.set()
            sent = await publishing
        told = [(await bystander.next_notification())["id"] for _ in sent]
        assert told == sent
        assert (await bystander.invoke("Acknowledge", told[-1]))["result"] is True
    assert house.resident_mib - before_mib < MOST_GROWTH_MIB
    for fault in ("Traceback", "hub_connection_failed", "request_failed", "ERROR"):
        assert fault not in house.appliance.output


async def read_until_closed(client: HubClient) -> list[dict[str, Any]]:
    """Give what comes until the server closes."""
    left: list[dict[str, Any]] = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            left.append(await client.next(PATIENCE_S))
    return left


def call(target: str, *arguments: object, call_id: object) -> str:
    return json.dumps({"type": 1, "target": target, "arguments": arguments, "invocationId": str(call_id)}) + "\x1e"


async def test_frames_of_20_mib_end_their_connections(house: House) -> None:
    frame = make_frame(b"x" * (20 * 1024 * 1024))
    async with nobody_notices(house):
        for _ in range(3):
            async with open_raw(house.hub_port) as client:
                await client.shake_hands(house.mallory.token)
                sending = asyncio.create_task(push(client, frame))
                told, _ = await client.closing()
                await sending
            assert len(told) <= 2


async def push(client: RawSocket, data: bytes) -> None:
    # The server does not wait for all of it.
    with contextlib.suppress(OSError):
        await client.send(data)


async def test_10000_frames_of_one_byte_are_read_as_the_messages_that_they_are(house: House) -> None:
    async with nobody_notices(house), house.attack() as client:
        stream = '{"type":6}\x1e' * 910
        assert len(stream) >= 10_000
        for character in stream:
            await client.socket.send(character)
        assert (await client.invoke("X"))["error"] == "Unknown hub method 'X'"


async def test_a_flood_of_calls_whose_answers_are_not_read_is_cut(house: House) -> None:
    async with nobody_notices(house) as http:
        before = await house.count_ended(http, "slow_reader")
        async with house.attack(max_queue=1) as client:
            client.socket.transport.pause_reading()
            flooding = asyncio.create_task(flood(client, call("Nothing" * 15, call_id=1) * 100))
            try:
                async with asyncio.timeout(PATIENCE_S):
                    # The answers fill the buffers of both sockets, then the outbox.
                    while await house.count_ended(http, "slow_reader") == before:  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
            finally:
                flooding.cancel()
                await asyncio.wait({flooding})
                client.socket.transport.abort()


async def flood(client: HubClient, frame: str) -> None:
    with contextlib.suppress(ConnectionClosed):
        while True:
            await client.socket.send(frame)


async def test_a_flood_of_calls_is_answered_each_once(house: House) -> None:
    async with nobody_notices(house), house.attack() as client:
        calls = [call("X", call_id=number) for number in range(10_000)]
        asking = asyncio.create_task(ask(client, ["".join(calls[at : at + 100]) for at in range(0, len(calls), 100)]))
        answered = [(await client.next(PATIENCE_S))["invocationId"] for _ in calls]
        await asking
        assert answered == [str(number) for number in range(10_000)]


async def ask(client: HubClient, frames: list[str]) -> None:
    for frame in frames:
        await client.socket.send(frame)


async def test_a_flood_of_hellos_makes_one_session_only(house: House) -> None:
    async with nobody_notices(house), house.attack() as client:
        await client.say_hello("first")
        greetings = [call("Hello", {"deviceId": f"device {number}"}, call_id=number) for number in range(2_000)]
        asking = asyncio.create_task(ask(client, greetings))
        errors = {(await client.next(PATIENCE_S))["error"] for _ in greetings}
        await asking
        assert errors == {"This connection has said Hello already."}


async def test_a_flood_of_new_devices_is_refused_at_a_bound(house: House) -> None:
    async with nobody_notices(house):
        refusals = []
        for number in range(120):
            async with house.attack() as client:
                answer = await client.invoke("Hello", {"deviceId": f"made up {number}"})
                refusals.append(answer.get("error"))
        assert refusals[0] is None
        assert refusals[-1], "nobody ever refused"


async def test_acknowledging_what_is_somebody_elses_changes_nothing(house: House) -> None:
    async with nobody_notices(house) as http, house.attack() as client:
        absent = await house.appliance.make_user(house.app)
        async with open_hub(house.ws, absent.token) as device:
            await device.say_hello("phone")
        foreign = await house.send(http, absent, "for nobody else")
        await client.say_hello("results", results=True)
        ids = [foreign, *house.seen, *(str(uuid4()) for _ in range(1_000))]
        await client.socket.send("".join(json.dumps({"type": 3, "invocationId": one}) + "\x1e" for one in ids))
        for number, one in enumerate(ids):
            await client.socket.send(call("Acknowledge", one, call_id=number))
        for number in range(len(ids)):
            answer = await client.next(PATIENCE_S)
            assert (answer["invocationId"], answer["result"]) == (str(number), False)
        story = (await http.get(f"/push/notifications/{foreign}", headers=house.app.headers)).json()
        assert [one["state"] for one in story["deliveries"]] != []
        assert "confirmed" not in [one["state"] for one in story["deliveries"]]
        assert not any(attempt["code"] == "acknowledged" for one in story["deliveries"] for attempt in one["attempts"])


@pytest.mark.parametrize(
    "hostile",
    [b"[" * 16_000 + b"\x1e", b'{"type":1,"target":"\xff","arguments":[]}\x1e', b"\x1e" * 5_000, b"\x00" * 40_000],
    ids=["deep", "no UTF-8", "empty messages", "no end"],
)
async def test_a_hundred_clients_in_a_row_that_talk_nonsense_are_each_told_so(house: House, hostile: bytes) -> None:
    async with nobody_notices(house):
        for _ in range(100):
            async with house.attack() as client:
                with contextlib.suppress(ConnectionClosed):
                    await client.socket.send(hostile)
                (goodbye,) = await read_until_closed(client)
                assert goodbye == {"type": 7, "error": "Connection closed with an error.", "allowReconnect": True}


async def test_2000_sockets_of_one_address_are_let_in_up_to_the_cap_and_told_when_to_come_back(house: House) -> None:
    upgrade = (
        f"GET {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Authorization: Bearer {house.mallory.token}\r\n\r\n"
    ).encode()
    writers: list[asyncio.StreamWriter] = []
    at_once = asyncio.Semaphore(50)

    async def knock() -> str:
        async with at_once, asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", house.hub_port, local_addr=(CROWD, 0))
            writers.append(writer)
            writer.write(upgrade)
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        status = head.split()[1]
        if status == "503":
            retry_after = next(line for line in head.splitlines() if line.startswith("retry-after:"))
            assert 1 <= int(retry_after.partition(":")[2]) <= 10
        return status

    try:
        async with nobody_notices(house):
            statuses = await asyncio.gather(*(knock() for _ in range(2_000)))
            assert (statuses.count("101"), statuses.count("503")) == (CAP, 2_000 - CAP)
    finally:
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
