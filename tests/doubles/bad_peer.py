"""A peer that speaks no protocol at all: it hangs, resets, babbles, drips, floods, or is a stranger."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

BEFORE_TLS = ("hang", "reset", "babble")
WITHIN_TLS = ("mute", "cut", "nonsense", "drip", "flood")
FAULTS = (*BEFORE_TLS, "stranger", *WITHIN_TLS)
"""What it can do.

hang      accepts and never says anything         mute      the same, once TLS stands
reset     accepts and resets                      cut       closes as soon as it is spoken to
babble    bytes that are no TLS                   nonsense  bytes that are no answer of any protocol
stranger  a certificate that nobody trusts        drip      single bytes, for ever
                                                  flood     as many bytes as are taken, for ever
"""

_DRIP_S = 0.05
_BLOCK = b"2" * 65_536


class BadPeer:
    """The running peer; `connections` counts who came."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.port = 0
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, ssl.SSLError):
                await self._misbehave(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _misbehave(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        match self.fault:
            case "reset":
                raw: socket.socket = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            case "babble" | "nonsense":
                writer.write(b"\x00\xffThis is not what you expect.\r\n" * 3)
            case "cut":
                await reader.read(1)
                return
            case "drip":
                while True:
                    writer.write(b"2")
                    await writer.drain()
                    await asyncio.sleep(_DRIP_S)
            case "flood":
                while True:
                    writer.write(_BLOCK)
                    await writer.drain()
        await asyncio.Event().wait()


@asynccontextmanager
async def run_bad_peer(fault: str, tls: ssl.SSLContext) -> AsyncIterator[BadPeer]:
    """Run it on a loopback port until the block ends; `tls` is used for what happens within TLS, or is a stranger's."""
    peer = BadPeer(fault)
    tls.set_alpn_protocols(["h2", "http/1.1"])
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, ssl=None if fault in BEFORE_TLS else tls)
    peer.port = server.sockets[0].getsockname()[1]
    try:
        yield peer
    finally:
        server.close()
        await peer.stop()
        await server.wait_closed()
