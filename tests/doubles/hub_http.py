"""A client of the hub's HTTP transports made by hand: every byte of it can be held back, split or left out."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

from tests.doubles.hub_server import HubServer

PATH = "/hubs/notifications"
HANDSHAKE = b'{"protocol":"json","version":1}\x1e'
_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Reply:
    """One whole HTTP answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def records(self) -> list[dict[str, Any]]:
        """The hub messages in the body, which holds whole ones only."""
        *records, rest = self.body.split(b"\x1e")
        assert rest == b"", self.body
        return [json.loads(record) for record in records]


class HttpLine:
    """One TCP connection that speaks HTTP/1.1."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int, *, receive_buffer: int | None = None) -> Self:
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        limit = 2**16 if receive_buffer is None else receive_buffer
        return cls(*await asyncio.open_connection(sock=sock, limit=limit))

    def send_head(self, method: str, target: str, headers: dict[str, str]) -> None:
        lines = [f"{method} {target} HTTP/1.1", "host: 127.0.0.1", *(f"{k}: {v}" for k, v in headers.items())]
        self.writer.write("\r\n".join([*lines, "", ""]).encode())

    async def ask(self, method: str, target: str, headers: dict[str, str], body: bytes = b"") -> Reply:
        """Ask and give the whole answer."""
        self.begin(method, target, headers, body)
        return await self.reply()

    def begin(self, method: str, target: str, headers: dict[str, str], body: bytes = b"") -> None:
        """Ask, and leave the answer for later."""
        if body or method == "POST":
            headers = {**headers, "content-length": str(len(body))}
        self.send_head(method, target, headers)
        if body:
            self.writer.write(body)

    async def reply(self) -> Reply:
        async with asyncio.timeout(_PATIENCE_S):
            status, headers = await self.head()
            if status == 204:
                return Reply(status, headers, b"")
            return Reply(status, headers, await self.reader.readexactly(int(headers["content-length"])))

    async def head(self) -> tuple[int, dict[str, str]]:
        async with asyncio.timeout(_PATIENCE_S):
            text = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = text.split("\r\n")[:-2]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return int(first.split()[1]), headers

    async def chunk(self) -> bytes:
        """Give the next chunk of a chunked body, empty when it has ended."""
        async with asyncio.timeout(_PATIENCE_S):
            size = int((await self.reader.readuntil(b"\r\n")).strip(), 16)
            return (await self.reader.readexactly(size + 2))[:-2]

    async def until_closed(self) -> bytes:
        """Give what comes until the server closes."""
        async with asyncio.timeout(_PATIENCE_S):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    def abort(self) -> None:
        """End the TCP connection without a goodbye."""
        self.writer.transport.abort()


class HubByHand:
    """One negotiated id. Every request goes over a TCP connection of its own unless one is given."""

    def __init__(self, server: HubServer, bearer: str) -> None:
        self.server = server
        self.headers = {"authorization": f"Bearer {bearer}"}
        self.target = ""
        self._lines: list[HttpLine] = []

    async def line(self, **options: Any) -> HttpLine:
        line = await HttpLine.open(self.server.port, **options)
        self._lines.append(line)
        return line

    async def negotiate(self) -> dict[str, Any]:
        reply = await (await self.line()).ask("POST", f"{PATH}/negotiate?negotiateVersion=1", self.headers)
        assert reply.status == 200, reply
        answer: dict[str, Any] = json.loads(reply.body)
        self.target = f"{PATH}?id={answer.get('connectionToken')}"
        return answer

    async def begin_poll(self) -> HttpLine:
        line = await self.line()
        line.begin("GET", self.target, self.headers)
        return line

    async def poll(self, **headers: str) -> Reply:
        return await (await self.line()).ask("GET", self.target, self.headers | headers)

    async def post(self, body: bytes, **headers: str) -> Reply:
        return await (await self.line()).ask("POST", self.target, self.headers | headers, body)

    async def send(self, *messages: object) -> None:
        reply = await self.post(b"".join(json.dumps(message).encode() + b"\x1e" for message in messages))
        assert (reply.status, reply.body) == (200, b""), reply

    async def delete(self) -> Reply:
        return await (await self.line()).ask("DELETE", self.target, self.headers)

    async def shake_hands_by_polls(self) -> None:
        assert (await self.poll()).body == b""
        assert (await self.post(HANDSHAKE)).status == 200
        assert (await self.poll()).records == [{}]

    async def say_hello_by_polls(self, device_id: str = "phone") -> None:
        hello = {"deviceId": device_id, "acknowledges": True}
        await self.send({"type": 1, "target": "Hello", "arguments": [hello], "invocationId": "hello"})
        (completion,) = (await self.poll()).records
        assert completion["type"] == 3 and "result" in completion, completion

    async def open_stream(self, **options: Any) -> "EventReader":
        """Open the stream and give what reads it, at the first comment."""
        line = await self.line(**options)
        line.begin("GET", self.target, self.headers | {"accept": "text/event-stream"})
        status, headers = await line.head()
        assert status == 200, (status, headers)
        events = EventReader(line, headers)
        assert await line.chunk() == b":\r\n"
        return events

    async def stream(self, **options: Any) -> "EventReader":
        """Open the stream and shake hands."""
        events = await self.open_stream(**options)
        assert (await self.post(HANDSHAKE)).status == 200
        assert await events.next() == {}
        return events

    def close(self) -> None:
        for line in self._lines:
            line.abort()

    async def leave(self) -> None:
        """Close all connections, and delete what polls may have left: nobody should wait for this client."""
        self.close()
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            await self.delete()
        self.close()


class EventReader:
    """Reads one response of Server-Sent Events. It knows no fields but `data`, and no partial records."""

    def __init__(self, line: HttpLine, headers: dict[str, str]) -> None:
        self.line = line
        self.headers = headers
        self.events: list[bytes] = []
        self._text = b""
        self._records: list[dict[str, Any]] = []

    async def next(self) -> dict[str, Any]:
        """Give the next record, pings too. Raises `EOFError` when the response has ended as it should."""
        while not self._records:
            await self._read()
        return self._records.pop(0)

    async def rest(self) -> list[dict[str, Any]]:
        """Give what comes until the response ends."""
        left: list[dict[str, Any]] = []
        try:
            while True:
                left.append(await self.next())
        except EOFError:
            return left

    async def _read(self) -> None:
        chunk = await self.line.chunk()
        if not chunk:
            assert self._text == b"", self._text
            raise EOFError
        self._text += chunk
        *events, self._text = self._text.split(b"\r\n\r\n")
        for event in events:
            lines = event.split(b"\r\n")
            assert all(line.startswith(b"data: ") for line in lines), event
            data = b"\n".join(line.removeprefix(b"data: ") for line in lines)
            self.events.append(data)
            self._records += Reply(200, {}, data).records


@asynccontextmanager
async def by_hand(server: HubServer, bearer: str = "alice") -> AsyncIterator[HubByHand]:
    """Negotiate an id, and close all its connections at the end."""
    hand = HubByHand(server, bearer)
    try:
        await hand.negotiate()
        yield hand
    finally:
        await hand.leave()
