"""A WebSocket client that does as it is told, right or wrong: bytes out, frames in, no rule kept by itself."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

_PATIENCE_S = 10.0
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


@dataclass(frozen=True, slots=True)
class RawFrame:
    """One frame as the server sent it."""

    opcode: int
    payload: bytes

    @property
    def code(self) -> int:
        """The code of a close frame, 1005 without one."""
        return int.from_bytes(self.payload[:2]) if self.payload else 1005


class RawSocket:
    """One TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def ask(self, head: str) -> tuple[int, str]:
        """Send a request's head (without its empty line) and give the status and the head of the answer."""
        await self.send(f"{head}\r\n\r\n".encode())
        return await self.answer()

    async def answer(self) -> tuple[int, str]:
        """Read the head of an answer; status 0 when the connection ends instead."""
        async with asyncio.timeout(_PATIENCE_S):
            try:
                head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            except (asyncio.IncompleteReadError, OSError):
                return 0, ""
        return int(head.split()[1]), head

    async def upgrade(self, bearer: str = "alice", path: str = "/hubs/notifications") -> int:
        """Ask for a WebSocket and give the status of the answer."""
        status, _ = await self.ask(make_upgrade(bearer, path))
        return status

    async def shake_hands(self, bearer: str = "alice") -> None:
        """Ask for a WebSocket and speak the hub's handshake on it."""
        assert await self.upgrade(bearer) == 101
        await self.send(make_frame(b'{"protocol":"json","version":1}\x1e'))
        assert await self.next_frame() == RawFrame(TEXT, b"{}\x1e")

    async def next_frame(self) -> RawFrame:
        """Read one frame."""
        async with asyncio.timeout(_PATIENCE_S):
            first, size = await self.reader.readexactly(2)
            if size == 126:
                (size,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
            return RawFrame(first & 0x0F, await self.reader.readexactly(size))

    async def closing(self) -> tuple[list[RawFrame], int]:
        """Read to the end; give the frames and the code of the last close frame, 1006 without one."""
        frames: list[RawFrame] = []
        try:
            while True:
                frames.append(await self.next_frame())
        except (asyncio.IncompleteReadError, OSError):
            pass
        codes = [frame.code for frame in frames if frame.opcode == CLOSE]
        return frames, codes[-1] if codes else 1006


def make_upgrade(bearer: str = "alice", path: str = "/hubs/notifications", **replaced: str) -> str:
    """Give the head of a good upgrade request; `replaced` headers (with `_` for `-`) take the place of its own."""
    headers = {
        "host": "localhost",
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        "authorization": f"Bearer {bearer}",
    } | {name.replace("_", "-"): value for name, value in replaced.items()}
    return "\r\n".join([f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items() if value)])


def make_frame(payload: bytes, opcode: int = TEXT, *, final: bool = True, masked: bool = True, bits: int = 0) -> bytes:
    """Make a client's frame; `bits` are the three reserved ones."""
    first = (0x80 if final else 0) | bits << 4 | opcode
    mask_bit = 0x80 if masked else 0
    if len(payload) < 126:
        head = struct.pack("!BB", first, mask_bit | len(payload))
    elif len(payload) < 65_536:
        head = struct.pack("!BBH", first, mask_bit | 126, len(payload))
    else:
        head = struct.pack("!BBQ", first, mask_bit | 127, len(payload))
    # A key of zeros changes nothing.
    return head + (bytes(4) if masked else b"") + payload


@asynccontextmanager
async def open_raw(port: int) -> AsyncIterator[RawSocket]:
    """Open a TCP connection to a loopback port."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield RawSocket(reader, writer)
    finally:
        writer.transport.abort()
