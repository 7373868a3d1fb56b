"""An HTTP proxy before a server, with the faults that real ones have: no WebSockets, or answers held back.

It reads requests whole and passes answers on as bytes. It takes one request a connection, which is within HTTP/1.1.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from typing import Final


class Upgrades(Enum):
    """What becomes of a request for a WebSocket."""

    PASSED = "passed"
    REFUSED = "refused"
    """Answered 400."""
    PAGE = "page"
    """Answered 200 with a page, as a captive portal does."""
    RESET = "reset"
    """The TCP connection is reset."""
    STRIPPED = "stripped"
    """Passed on without its Upgrade header, as a plain GET: what a proxy does that was not told about WebSockets."""


WHOLE: Final = -1
"""A buffer that is passed on only when the answer has ended."""

_PAGE: Final = b"<!doctype html><title>Welcome</title><p>Please sign in to use this network.</p>"
_HOP_BY_HOP: Final = re.compile(rb"(?im)^(?:connection|upgrade|keep-alive|proxy-connection):[^\r]*\r\n")
_CONTENT_LENGTH: Final = re.compile(rb"(?im)^content-length: *(\d+)")
_UPGRADE: Final = re.compile(rb"(?im)^upgrade: *websocket")
_ID: Final = re.compile(rb"[?&]id=([\w-]+)")
_FORMAT: Final = re.compile(rb"(?im)^accept: *text/event-stream")


class Proxy:
    """Passes requests on to a loopback port.

    `seen` counts them: `upgrade`, `stream`, or the method; `ids` are the connection ids in them, in order.
    """

    def __init__(self, target_port: int, upgrades: Upgrades, buffer_bytes: int) -> None:
        self.port = 0
        self.seen: Counter[str] = Counter()
        self.ids: dict[str, None] = {}
        self._target_port = target_port
        self._upgrades = upgrades
        self._buffer_bytes = buffer_bytes
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def hub(self) -> str:
        """The hub's URL through the proxy."""
        return f"http://127.0.0.1:{self.port}/hubs/notifications"

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._serve(reader, writer)
        except (OSError, EOFError):
            # One of the two sides is gone; the other one learns of it below.
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        is_upgrade = _UPGRADE.search(head) is not None
        self.seen[_name_request(head)] += 1
        if connection_id := _ID.search(head):
            self.ids[connection_id[1].decode()] = None
        match self._upgrades:
            case Upgrades.REFUSED if is_upgrade:
                writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            case Upgrades.PAGE if is_upgrade:
                fields = b"Content-Type: text/html\r\nContent-Length: %d\r\nConnection: close" % len(_PAGE)
                writer.write(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n\r\n" + _PAGE)
            case Upgrades.RESET if is_upgrade:
                writer.transport.abort()
            case Upgrades.PASSED if is_upgrade:
                await self._pass_on(reader, writer, head, buffer_bytes=0)
            case _:
                length = _CONTENT_LENGTH.search(head)
                body = await reader.readexactly(int(length[1])) if length else b""
                plain = _HOP_BY_HOP.sub(b"", head)[:-2] + b"Connection: close\r\n\r\n"
                await self._pass_on(reader, writer, plain + body, buffer_bytes=self._buffer_bytes)

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes, *, buffer_bytes: int
    ) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        self._writers.add(far_writer)
        far_writer.write(request)
        # What the client still sends belongs to its WebSocket; if it goes, so does the connection to the server.
        upstream = asyncio.ensure_future(_carry(reader, far_writer))
        try:
            await _carry(far_reader, writer, buffer_bytes)
        finally:
            upstream.cancel()
            await asyncio.gather(upstream, return_exceptions=True)
            self._writers.discard(far_writer)
            far_writer.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, buffer_bytes: int = 0) -> None:
    """Pass bytes on until their end, in whole blocks of the buffer's size; the rest goes at the end."""
    held = bytearray()
    try:
        while data := await reader.read(65_536):
            held += data
            if buffer_bytes != WHOLE and (full := len(held) - len(held) % max(buffer_bytes, 1)):
                writer.write(bytes(held[:full]))
                del held[:full]
                await writer.drain()
        writer.write(bytes(held))
        await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


def _name_request(head: bytes) -> str:
    if _UPGRADE.search(head):
        return "upgrade"
    return "stream" if _FORMAT.search(head) else head.partition(b" ")[0].decode()


@asynccontextmanager
async def run_proxy(
    target_port: int, *, upgrades: Upgrades = Upgrades.PASSED, buffer_bytes: int = 0
) -> AsyncIterator[Proxy]:
    """Open a proxy to a loopback port; it holds answers back until it has `buffer_bytes` of them, or all (`WHOLE`)."""
    proxy = Proxy(target_port, upgrades, buffer_bytes)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    async with server:
        yield proxy
        proxy.close()
