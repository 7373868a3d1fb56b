"""The hub without a socket: a hand clock, wires that a test controls, and the real rules in between."""

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from appliance.hub.connection import Connection
from appliance.hub.core import HubCore
from appliance.hub.deadlines import Deadlines
from appliance.hub.encoding_json import JsonEncoding
from appliance.hub.limits import HubLimits
from appliance.hub.messages import EncodedNotification
from appliance.hub.negotiate import WEBSOCKETS
from appliance.hub.notices import Notices
from appliance.hub.presence import Presence
from tests.doubles.hand_clock import HandClock
from tests.doubles.hub_backend import MemoryBackend

USER = UUID(int=1)
HANDSHAKE = '{"protocol":"json","version":1}\x1e'
STATEFUL_HANDSHAKE = '{"protocol":"json","version":2}\x1e'
PING = '{"type":6}\x1e'


class Wire:
    """The pipe of one connection. Writes finish at once unless the reader is stalled."""

    is_write_bounded = True

    def __init__(self) -> None:
        self.is_stalled = False
        self.records: list[dict[str, Any]] = []
        self.interrupts = 0
        self.stuck: list[asyncio.Future[None]] = []

    def start_write(self, payload: str | bytes) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.is_stalled:
            self.stuck.append(future)
        else:
            assert isinstance(payload, str)
            self.records.extend(json.loads(record) for record in payload.split("\x1e")[:-1])
            future.set_result(None)
        return future

    def interrupt(self) -> None:
        self.interrupts += 1

    def take(self) -> list[dict[str, Any]]:
        taken, self.records = self.records, []
        return taken


class House:
    """A hub core with its clock and backend, and the connections a test opens in it."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.backend = MemoryBackend()
        self.limits = HubLimits()
        self.opened: list[Connection] = []
        self.core = HubCore(
            backend=self.backend,
            clock=self.clock,
            limits=self.limits,
            encodings={"json": JsonEncoding()},
            presence=Presence(),
            deadlines=Deadlines(self.clock),
            notices=Notices(self.backend),
        )

    def limit(self, **values: Any) -> None:
        self.core.limits = self.limits = replace(self.limits, **values)

    def let_in(
        self, *, token_lives: timedelta = timedelta(hours=1), is_stateful: bool = False
    ) -> tuple[Connection, Wire]:
        principal = self.backend.add_user("alice", USER, expires_at=self.clock.now() + token_lives)
        wire = Wire()
        connection = Connection(self.core, principal, USER, wire, WEBSOCKETS, is_stateful=is_stateful)
        self.opened.append(connection)
        return connection, wire

    async def connect(self, **how: Any) -> tuple[Connection, Wire]:
        connection, wire = self.let_in(**how)
        await connection.receive(STATEFUL_HANDSHAKE if how.get("is_stateful") else HANDSHAKE)
        assert wire.take() == [{}]
        return connection, wire

    async def greet(self, device: str = "phone", **fields: Any) -> tuple[Connection, Wire]:
        return await self._greet(await self.connect(), device, fields)

    async def greet_stateful(self, device: str = "phone", **fields: Any) -> tuple[Connection, Wire]:
        how = {"token_lives": fields.pop("token_lives")} if "token_lives" in fields else {}
        return await self._greet(await self.connect(is_stateful=True, **how), device, fields)

    async def _greet(
        self, connected: tuple[Connection, Wire], device: str, fields: dict[str, Any]
    ) -> tuple[Connection, Wire]:
        await call(connected[0], "Hello", {"deviceId": device, "acknowledges": True} | fields)
        await settle()
        return connected

    def offer(self, connection: Connection, notification: EncodedNotification, device: str = "phone") -> None:
        device_id = self.backend.device_of(USER, device)
        self.backend.given.setdefault(device_id, set()).add(notification.id)
        connection.offer(device_id, notification)

    def pass_s(self, seconds: float) -> None:
        self.clock.pass_s(seconds)
        self.core.deadlines.run_due()

    def device(self, name: str = "phone") -> UUID:
        return self.backend.device_of(USER, name)


async def settle() -> None:
    """Let everything that is ready to run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def call(connection: Connection, target: str, *arguments: object, call_id: str | None = "1") -> None:
    message: dict[str, object] = {"type": 1, "target": target, "arguments": list(arguments)}
    if call_id is not None:
        message["invocationId"] = call_id
    await connection.receive(json.dumps(message) + "\x1e")


def sequences(records: list[dict[str, Any]]) -> list[int]:
    return [record["arguments"][0]["sequence"] for record in records if record.get("target") == "Notify"]


def ending_of(connection: Connection) -> str | None:
    """Give the reason for which the connection has ended, None while it has not."""
    return None if connection.ending is None else connection.ending.reason
