"""A port after a server that ended before its clients did."""

import asyncio
import socket

import pytest

from appliance.cli.serve import _reserve_beside, reserve_port
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


def test_port_is_had_though_a_client_has_reached_the_socket_that_only_asks_for_it():
    """Of ten thousand clients that came back after a crash one was so early that the server found its port taken."""
    with socket.socket() as probe, socket.socket() as early, socket.socket() as rival:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 0))
        probe.listen(1)
        port = probe.getsockname()[1]
        early.connect(("127.0.0.1", port))
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)

        with _reserve_beside(probe, "127.0.0.1", port):
            probe.close()
            early.close()

            rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                rival.bind(("127.0.0.1", port))
                rival.listen(1)
