"""An HTTP/1.1 server on loopback that records what it is asked and answers, or misbehaves, as it is told."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_HEAD_LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came over the wire."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Answer = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


def plain_reply(body: bytes = b"ok", *, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    """An answer of a fixed status, body and headers."""

    async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status} Told", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()

    return answer


@dataclass(slots=True)
class HttpPeer:
    """The running server. Change `answer` at any time; `asked` and `connections` tell what happened."""

    answer: Answer
    port: int = 0
    server_names: list[str | None] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while (asked := await _read_request(reader)) is not None:
                self.asked.append(asked)
                await self.answer(asked, writer)
        except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def drop_connections(self) -> None:
        """Cut every open connection."""
        for writer in list(self._writers):
            writer.close()


@asynccontextmanager
async def run_http_peer(
    answer: Answer | None = None, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[HttpPeer]:
    """Run a peer on a free port of the loopback address until the block ends."""
    peer = HttpPeer(answer or plain_reply())
    if tls is not None:
        tls.sni_callback = lambda _socket, name, _context: peer.server_names.append(name)
    server = await asyncio.start_server(peer.serve_connection, host, port, ssl=tls, limit=_HEAD_LIMIT)
    peer.port = server.sockets[0].getsockname()[1]
    try:
        yield peer
    finally:
        server.close()
        peer.drop_connections()
        await server.wait_closed()


async def _read_request(reader: asyncio.StreamReader) -> Asked | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, path, headers, body)
