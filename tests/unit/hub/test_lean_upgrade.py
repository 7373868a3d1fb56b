"""Upgrades that the lean listener answers by itself: exactly as the library would, and only the usual ones."""

import base64
import re
from random import Random

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.server import ServerProtocol

from appliance.hub.lean_http import accept_upgrade

DATE = "Sun, 22 Nov 2026 09:00:00 GMT"
KEY = (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ==")
USUAL = {
    b"host": b"push.example.com",
    b"upgrade": b"websocket",
    b"connection": b"Upgrade",
    b"sec-websocket-version": b"13",
    KEY[0]: KEY[1],
}


def ask_library(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Let the library answer, and put our date in the place of its own."""
    named = Headers()
    for name, value in headers:
        named[name.decode()] = value.decode()
    answer = ServerProtocol().accept(Request("", named, "GET", "HTTP/1.1")).serialize()
    return re.sub(rb"Date: [^\r]*", b"Date: " + DATE.encode(), answer)


@pytest.mark.parametrize(
    "headers",
    [
        USUAL,
        USUAL | {b"connection": b"keep-alive, Upgrade", b"upgrade": b"WebSocket"},
        USUAL | {b"sec-websocket-extensions": b"permessage-deflate; client_max_window_bits"},
        USUAL | {b"origin": b"https://app.example.com", b"sec-websocket-protocol": b"json"},
    ],
)
def test_a_usual_upgrade_is_answered_as_the_library_answers_it(headers: dict[bytes, bytes]) -> None:
    given = list(headers.items())
    assert accept_upgrade(given, DATE) == ask_library(given)


def test_any_key_of_sixteen_bytes_is_answered_as_the_library_answers_it() -> None:
    randomness = Random(6455)
    for _ in range(200):
        given = list((USUAL | {KEY[0]: base64.b64encode(randomness.randbytes(16))}).items())
        assert accept_upgrade(given, DATE) == ask_library(given)


@pytest.mark.parametrize(
    "headers",
    [
        [*USUAL.items(), KEY],
        [*USUAL.items(), (b"upgrade", b"h2c")],
        list((USUAL | {b"upgrade": b"h2c"}).items()),
        list((USUAL | {b"connection": b"close"}).items()),
        list((USUAL | {b"sec-websocket-version": b"8"}).items()),
        list((USUAL | {KEY[0]: b"c2hvcnQ="}).items()),
        list((USUAL | {KEY[0]: b"dGhlIHNhbXBsZSBub25jZR=="}).items()),
        list((USUAL | {KEY[0]: KEY[1] + b"\n"}).items()),
        [(name, value) for name, value in USUAL.items() if name != b"upgrade"],
        [],
    ],
)
def test_whatever_is_not_usual_is_left_to_the_library(headers: list[tuple[bytes, bytes]]) -> None:
    assert accept_upgrade(headers, DATE) is None
