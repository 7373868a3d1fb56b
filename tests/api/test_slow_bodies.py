"""Bodies that do not arrive, over real sockets.

The story: a body was waited for without a deadline. Fifty strangers who each sent one byte of a form to POST
/oauth/token held fifty connections for ever, without any credential.
"""

import asyncio
import json
import time

import pytest

from appliance.api.json_body import BODY_DEADLINE_S
from tests.doubles.appliance import RunningAppliance

FORM = b"application/x-www-form-urlencoded"
STRANGERS = 50


async def send_one_byte_of_a_body(port: int, path: bytes, media_type: bytes) -> tuple[bytes, bytes, float]:
    """Announce a body, send one byte of it, and give what comes until the server closes: head, body, seconds."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            b"POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: %s\r\nContent-Length: 100\r\n\r\ng"
            % (path, port, media_type)
        )
        async with asyncio.timeout(BODY_DEADLINE_S + 10):
            reply = await reader.read()
    finally:
        writer.close()
    head, _, body = reply.partition(b"\r\n\r\n")
    return head, body, time.monotonic() - began


@pytest.mark.slow
async def test_a_body_that_does_not_arrive_is_answered_408_and_the_connection_closed(server: RunningAppliance):
    calls = [(b"/oauth/token", FORM), (b"/oauth/revoke", FORM), (b"/account/session", b"application/json")]
    replies = await asyncio.gather(
        *(send_one_byte_of_a_body(server.port, *calls[number % len(calls)]) for number in range(STRANGERS))
    )
    for head, body, took_s in replies:
        assert head.startswith(b"HTTP/1.1 408 "), head
        assert b"application/problem+json" in head
        problem = json.loads(body)
        assert (problem["code"], problem["status"]) == ("request_timeout", 408)
        assert "15 seconds" in problem["detail"]
        assert BODY_DEADLINE_S - 1 < took_s < BODY_DEADLINE_S + 5
