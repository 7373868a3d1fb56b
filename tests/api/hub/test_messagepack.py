"""The MessagePack hub protocol on the wire: what arrives in which frame, cut how, and what a bad client gets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from tests.doubles.hub_client import open_socket
from tests.doubles.hub_server import HubServer, wait_until

HANDSHAKE = b'{"protocol":"messagepack","version":1}\x1e'
PING = bytes.fromhex("02 91 06")
CLOSED_WITH_AN_ERROR = [7, "Connection closed with an error.", True]


def pack(*elements: object) -> bytes:
    """Write one message with its length before it."""
    record = msgspec.msgpack.encode(elements)
    length, groups = len(record), bytearray()
    while length > 127:
        groups.append(length & 127 | 128)
        length >>= 7
    return bytes([*groups, length]) + record


def unpack(frame: bytes) -> list[Any]:
    """Read the messages of one frame, which has to hold whole ones."""
    messages = []
    while frame:
        size = shift = 0
        while True:
            byte, frame = frame[0], frame[1:]
            size |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        record, frame = frame[:size], frame[size:]
        assert len(record) == size
        messages.append(msgspec.msgpack.decode(record))
    return messages


@asynccontextmanager
async def open_hub(server: HubServer) -> AsyncIterator[ClientConnection]:
    async with open_socket(server.ws) as client:
        await client.socket.send(HANDSHAKE.decode())
        assert await client.socket.recv() == b"{}\x1e"
        yield client.socket


async def read(socket: ClientConnection) -> list[Any]:
    """Give the messages of the next frame, which has to be a binary one."""
    async with asyncio.timeout(10):
        frame = await socket.recv()
    assert isinstance(frame, bytes)
    return unpack(frame)


async def read_to_the_end(socket: ClientConnection) -> tuple[list[Any], int | None]:
    """Give what is left to read, and the close code."""
    left: list[Any] = []
    try:
        while True:
            left.extend(await read(socket))
    except ConnectionClosed as closed:
        return left, closed.rcvd.code if closed.rcvd is not None else None


async def test_a_notification_is_an_invocation_of_six_elements_in_a_binary_frame(server: HubServer) -> None:
    async with open_hub(server) as socket:
        notification = server.send(title="T", body="Zażółć 🎉")
        data = {"notificationId": str(notification.id)}
        argument = {"title": "T", "body": "Zażółć 🎉", "data": data}
        assert await read(socket) == [[1, {}, None, "ReceiveNotification", [argument], []]]


@pytest.mark.parametrize("handshake", [HANDSHAKE, HANDSHAKE.decode()], ids=["binary", "text"])
async def test_the_handshake_is_taken_in_any_frame_and_answered_in_a_binary_one(
    server: HubServer, handshake: str | bytes
) -> None:
    async with open_socket(server.ws) as client:
        await client.socket.send(handshake)
        assert await client.socket.recv() == b"{}\x1e"


async def test_handshake_and_calls_may_share_a_frame_and_calls_may_span_frames(server: HubServer) -> None:
    async with open_socket(server.ws) as client:
        second = pack(1, {}, "2", "X", [], [])
        await client.socket.send(HANDSHAKE + pack(1, {}, "1", "X", []) + second[:1])
        assert await client.socket.recv() == b"{}\x1e"
        assert await read(client.socket) == [[3, {}, "1", 1, "Unknown hub method 'X'"]]
        for byte in second[1:]:
            await client.socket.send(bytes([byte]))
        assert await read(client.socket) == [[3, {}, "2", 1, "Unknown hub method 'X'"]]


async def test_what_queues_up_is_joined_into_frames_of_whole_messages_in_order(server: HubServer) -> None:
    async with open_hub(server) as socket:
        for number in range(300):
            server.send(title=str(number), body="ż" * 200)
        messages: list[Any] = []
        while len(messages) < 300:
            messages.extend(await read(socket))
        assert [message[4][0]["title"] for message in messages] == [str(number) for number in range(300)]


async def test_a_hello_and_acknowledgements_of_every_kind(server: HubServer) -> None:
    async with open_hub(server) as socket:
        await socket.send(pack(1, {}, "1", "Hello", [{"deviceId": "phone", "cursor": 0, "results": True}]))
        ((_, _, call, kind, answer),) = await read(socket)
        assert (call, kind, answer["deviceId"]) == ("1", 3, str(server.device()))
        notifications = [server.send("phone", title=title) for title in ("void", "result", "error", "nobody's")]
        messages: list[Any] = []
        while len(messages) < 4:
            messages.extend(await read(socket))
        assert [message[2] for message in messages] == [str(notification.id) for notification in notifications]
        void, result, error, _ = (message[2] for message in messages)
        await socket.send(pack(3, {}, void, 2) + pack(3, {}, result, 3, True) + pack(3, {}, error, 1, "no"))
        await socket.send(pack(3, {}, "nobody", 2) + pack(3, {}, "7", 1, "x") + pack(1, {}, "2", "Nothing", []))
        assert await read(socket) == [[3, {}, "2", 1, "Unknown hub method 'Nothing'"]]
        await wait_until(lambda: len(server.backend.acknowledged) == 2)
        assert [one for _, one, _ in server.backend.acknowledged] == [one.id for one in notifications[:2]]


async def test_what_a_server_without_streams_does_not_know_is_skipped(server: HubServer) -> None:
    strays: list[tuple[object, ...]] = [
        (2, {}, "9", 1),
        (5, {}, "9"),
        (3, {}, "9", 2),
        (8, 1),
        (9, 1),
        (42, "later"),
        (6,),
        (6, "later"),
    ]
    async with open_hub(server) as socket:
        await socket.send(b"".join(pack(*stray) for stray in strays) + pack(1, {}, None, "Silent", []))
        await socket.send(pack(1, {"Authorization": "x"}, "1", "X", [1.5, b"raw", None], [], "later"))
        assert await read(socket) == [[3, {}, "1", 1, "Unknown hub method 'X'"]]


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"\x00", id="nothing"),
        pytest.param(b"\x01\xc0", id="no array"),
        pytest.param(b'\x0a{"type":6}', id="JSON"),
        pytest.param(pack(1, {}, None, "X"), id="too short"),
        pytest.param(pack(3, {}, "1", 9), id="unknown kind of completion"),
        pytest.param(pack(8, -1), id="bad sequence id"),
        pytest.param(b"\x08\x96\x01\x80\xc0\xa1\xff\x90\x90", id="bad UTF-8"),
        pytest.param(b"\x07\x92\x06\xdf\xff\xff\xff\xff", id="huge map"),
        pytest.param(b"\x8a\x27\x92\x06" + b"\x91" * 5000, id="deep nesting"),
        pytest.param(b"\x81\x80\x02", id="one byte over the limit, announced"),
        pytest.param(b"\xff\xff\xff\xff\x7f", id="length beyond 31 bits"),
        pytest.param(b"\x80\x80\x80\x80\x80", id="length without an end"),
    ],
)
async def test_a_bad_client_is_closed_with_an_error_and_nobody_else_notices(server: HubServer, sent: bytes) -> None:
    async with open_hub(server) as other, open_hub(server) as socket:
        await socket.send(sent)
        assert await read_to_the_end(socket) == ([CLOSED_WITH_AN_ERROR], 1000)
        server.send(title="T")
        ((_, _, _, _, (argument,), _),) = await read(other)
        assert argument["title"] == "T"


async def test_a_message_just_under_the_limit_is_taken(server: HubServer) -> None:
    async with open_hub(server) as socket:
        overhead = len(pack(1, {}, "1", "X", ["x" * 32_000])) - 32_000 - 3
        message = pack(1, {}, "1", "X", ["x" * (32_768 - overhead)])
        assert message[:3] == b"\x80\x80\x02"
        await socket.send(message)
        assert await read(socket) == [[3, {}, "1", 1, "Unknown hub method 'X'"]]


async def test_ten_thousand_tiny_messages_at_once_are_read_and_a_goodbye_is_answered(server: HubServer) -> None:
    async with open_hub(server) as socket:
        await socket.send(PING * 10_000)
        await socket.send(pack(7, None))
        assert await read_to_the_end(socket) == ([[7, None]], 1000)
        await server.until(connections=0)
        assert server.hub.stats().ended == {"client_closed": 1}


@pytest.mark.parametrize(
    ("handshake", "error"),
    [
        (
            '{"protocol":"messagepack","version":99}\x1e',
            "The server does not support version 99 of the 'messagepack' protocol.",
        ),
        (PING.decode("latin-1") + "\x1e", "An unexpected error occurred during connection handshake."),
    ],
)
async def test_a_bad_handshake_gets_one_error_record_and_a_closed_socket(
    server: HubServer, handshake: str, error: str
) -> None:
    async with open_socket(server.ws) as client:
        await client.socket.send(handshake)
        assert await client.closing() == ([{"error": error}], 1000)
