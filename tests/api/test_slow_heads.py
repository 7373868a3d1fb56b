"""Requests whose head does not arrive, over real sockets.

The story: the server told the version of HTTP by the first byte, and waited for it without a deadline. A machine that
opened 4 096 connections and said nothing kept everybody else out for as long as it liked.
"""

import asyncio
import time

import pytest

from tests.doubles.appliance import RunningAppliance

STRANGERS = 30
DEADLINE_S = 15

SILENT = b""
HALF_A_HEAD = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
WHOLE_REQUEST = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


async def time_until_closed(port: int, sent: bytes, drip: bytes) -> float:
    """Send something, then one byte a second if there is one, and give the seconds until the server closes."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        async with asyncio.timeout(DEADLINE_S + 10):
            while not reader.at_eof():
                try:
                    async with asyncio.timeout(1):
                        await reader.read(4096)
                except TimeoutError:
                    writer.write(drip)
                except ConnectionResetError:
                    break
    finally:
        writer.close()
    return time.monotonic() - began


@pytest.mark.slow
async def test_a_connection_that_brings_no_head_in_time_is_closed(server: RunningAppliance):
    kinds = [(SILENT, b""), (HALF_A_HEAD, b""), (HALF_A_HEAD, b"a"), (WHOLE_REQUEST, b"")]
    took = await asyncio.gather(
        *(time_until_closed(server.port, *kinds[number % len(kinds)]) for number in range(STRANGERS))
    )
    assert min(took) > DEADLINE_S - 1, took
    assert max(took) < DEADLINE_S + 5, took
