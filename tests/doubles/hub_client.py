"""A SignalR client as plain as can be: it shows what is on the wire, and judges nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

_PATIENCE_S = 10.0


class HubClient:
    """One WebSocket; records are cut at 0x1E, pings are kept apart."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.pings = 0
        self.frames: list[str | bytes] = []
        self._records: list[dict[str, Any]] = []

    async def shake_hands(self, protocol: str = "json", version: int = 1) -> None:
        await self.send({"protocol": protocol, "version": version})
        assert await self.next() == {}

    async def send(self, *messages: object) -> None:
        await self.socket.send("".join(json.dumps(message) + "\x1e" for message in messages))

    async def next(self, patience_s: float = _PATIENCE_S) -> dict[str, Any]:
        """Give the next record that is no ping."""
        async with asyncio.timeout(patience_s):
            while True:
                while self._records:
                    record = self._records.pop(0)
                    if record.get("type") != 6:
                        return record
                    self.pings += 1
                await self._read_frame()

    async def invoke(self, target: str, *arguments: object, call: str = "1") -> dict[str, Any]:
        """Call a method and give its completion; other records are an error."""
        await self.send({"type": 1, "target": target, "arguments": list(arguments), "invocationId": call})
        record = await self.next()
        assert record["type"] == 3 and record["invocationId"] == call, record
        return record

    async def say_hello(self, device_id: str = "phone", **fields: object) -> dict[str, Any]:
        completion = await self.invoke("Hello", {"deviceId": device_id, "acknowledges": True} | fields)
        result: dict[str, Any] = completion["result"]
        return result

    async def next_notification(self) -> dict[str, Any]:
        """Give the argument of the next `Notify`, without acknowledging it."""
        record = await self.next()
        assert record["type"] == 1 and record["target"] == "Notify", record
        argument: dict[str, Any] = record["arguments"][0]
        return argument

    async def closing(self, patience_s: float = _PATIENCE_S) -> tuple[list[dict[str, Any]], int]:
        """Give what is left to read and the close code."""
        left: list[dict[str, Any]] = []
        async with asyncio.timeout(patience_s):
            try:
                while True:
                    left.append(await self.next())
            except ConnectionClosed as closed:
                return left, closed.rcvd.code if closed.rcvd is not None else 1006

    async def _read_frame(self) -> None:
        frame = await self.socket.recv()
        self.frames.append(frame)
        text = frame if isinstance(frame, str) else frame.decode()
        assert text.endswith("\x1e"), text
        self._records.extend(json.loads(record) for record in text.split("\x1e")[:-1])


@asynccontextmanager
async def open_socket(url: str, bearer: str | None = "alice", **options: Any) -> AsyncIterator[HubClient]:
    """Open a WebSocket without a handshake."""
    headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
    async with connect(url, additional_headers=headers, proxy=None, ping_interval=None, **options) as socket:
        yield HubClient(socket)


@asynccontextmanager
async def open_hub(url: str, bearer: str | None = "alice", **options: Any) -> AsyncIterator[HubClient]:
    """Open a WebSocket and shake hands."""
    async with open_socket(url, bearer, **options) as client:
        await client.shake_hands()
        yield client
