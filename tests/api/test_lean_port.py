"""The lean listener's port, after a server that ended before its clients did."""

import asyncio
import socket

from appliance.cli.serve import reserve_port
from appliance.clock import SystemClock
from appliance.hub.hub import Hub
from appliance.hub.lean_listener import LeanListener
from tests.doubles.hub_backend import MemoryBackend


async def test_port_is_free_for_the_next_start_while_closed_connections_linger_on_it():
    """The server was killed under its clients, and the next start found the port "in use by another program"."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", 0))
    listener = LeanListener(Hub(MemoryBackend(), SystemClock()).app, bound)
    await listener.start()
    port = listener.port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await listener.stop()
    assert await reader.read() == b""

    # The client has not closed its end: what the server closed is not forgotten by the system yet.
    with reserve_port("127.0.0.1", port) as reserved:
        assert reserved.getsockname()[1] == port

    writer.close()
    await writer.wait_closed()
