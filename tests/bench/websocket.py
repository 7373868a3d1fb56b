"""A WebSocket client as lean as Python allows, and connections by the thousand from one machine."""

import asyncio
import socket
from typing import Final, cast

HEADER_END: Final = b"\r\n\r\n"
RECORD_END: Final = b"\x1e"
_HANDSHAKE: Final = b'{"protocol":"json","version":1}\x1e'
_PING: Final = b'{"type":6}\x1e'
_TEXT, _CLOSE, _PING_FRAME, _PONG_FRAME = 0x1, 0x8, 0x9, 0xA
_SOURCES: Final = 250
_IP_BIND_ADDRESS_NO_PORT: Final = 24
STALLED_RECEIVE_BYTES: Final = 4_096
STALLED_SEGMENT_BYTES: Final = 536
"""Small segments make for small buffers at the server's end, too, so that a stalled reader is felt soon."""


class WebSocketClient(asyncio.Protocol):
    """Opens a WebSocket and hands on what arrives; a subclass says what that means.

    It trusts the server: frames are neither masked nor cut into fragments.
    """

    __slots__ = ("_is_open", "_rest", "_transport")

    def __init__(self) -> None:
        self._is_open = False
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    # What a subclass answers.

    def make_upgrade(self) -> bytes:
        """Give the request that opens the WebSocket."""
        raise NotImplementedError

    def opened(self) -> None:
        """The server has agreed."""

    def refused(self, head: bytes) -> None:
        """The server has answered with something else; the connection is dropped."""

    def message(self, data: bytes, start: int, end: int) -> None:
        """A message arrived: it is `data[start:end]`."""

    def closed(self, reason: str) -> None:
        """The connection is gone."""

    # What it does.

    @property
    def is_gone(self) -> bool:
        return self._transport is None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport is one by its methods, not by its class.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self.make_upgrade())

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.closed("end of stream" if exc is None else type(exc).__name__)

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        at = 0
        if not self._is_open:
            end = data.find(HEADER_END)
            if end < 0:
                self._rest = data
                return
            if not data.startswith(b"HTTP/1.1 101"):
                self._rest = b""
                self.refused(data[:end])
                self.abort()
                return
            self._is_open = True
            at = end + len(HEADER_END)
            self.opened()
        self._rest = self._take_frames(data, at)

    def _take_frames(self, data: bytes, at: int) -> bytes:
        size = len(data)
        while size - at >= 2:
            length, start = data[at + 1], at + 2
            if length == 126:
                start = at + 4
                length = int.from_bytes(data[at + 2 : start], "big")
            elif length == 127:
                start = at + 10
                length = int.from_bytes(data[at + 2 : start], "big")
            end = start + length
            if size < end:
                break
            opcode = data[at] & 0x0F
            if opcode <= 2:
                self.message(data, start, end)
            elif opcode == _PING_FRAME:
                self._send(_PONG_FRAME, data[start:end])
            elif opcode == _CLOSE:
                self._send(_CLOSE, data[start:end])
            at = end
        return data[at:]

    def send_text(self, payload: bytes) -> None:
        self._send(_TEXT, payload)

    def shake_hands(self) -> None:
        self._send(_TEXT, _HANDSHAKE)

    def ping(self) -> None:
        """Tell the hub that this client is alive."""
        self._send(_TEXT, _PING)

    def stall(self) -> None:
        """Read nothing more from now on."""
        assert self._transport is not None
        self._transport.pause_reading()

    def abort(self) -> None:
        """Drop the connection without a goodbye."""
        if self._transport is not None:
            self._transport.abort()

    def _send(self, opcode: int, payload: bytes) -> None:
        # Masked with zeros, which leaves the payload as it is.
        size = len(payload)
        head = bytes((0x80 | opcode, 0x80 | size)) if size < 126 else bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2)
        if self._transport is not None:
            self._transport.write(head + b"\0\0\0\0" + payload)


def make_upgrade(path: str, host: str, headers: str = "") -> bytes:
    """Give the bytes of a WebSocket's opening request."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{headers}\r\n"
    ).encode()


def make_hub_upgrade(port: int, token: str) -> bytes:
    """Give the opening request of a hub connection without negotiation."""
    return make_upgrade(f"/hubs/notifications?access_token={token}", f"127.0.0.1:{port}")


async def connect(client: asyncio.Protocol, port: int, number: int, *, is_narrow: bool = False) -> None:
    """Connect to a port of this machine; `number` chooses one of 250 source addresses. Raises `OSError`.

    A port is then free for each of far more connections than one pair of addresses has, and a bound on connections per
    address is not what is measured.
    """
    endpoint = socket.socket()
    try:
        endpoint.setblocking(False)
        endpoint.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        endpoint.bind((f"127.1.{number % _SOURCES}.1", 0))
        if is_narrow:
            endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STALLED_RECEIVE_BYTES)
            endpoint.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, STALLED_SEGMENT_BYTES)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(endpoint, ("127.0.0.1", port))
        await loop.create_connection(lambda: client, sock=endpoint)
    except BaseException:
        endpoint.close()
        raise
