"""Clients as lean as Python allows: raw sockets, prepared bytes, no library between the clock and the wire."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Final, cast

HEADER_END: Final = b"\r\n\r\n"
KEEP_ALIVE_S: Final = 10.0


class HttpCaller(asyncio.Protocol):
    """One keep-alive connection with one request under way at a time."""

    def __init__(self, on_reply: Callable[["HttpCaller", int, float], None]) -> None:
        self._on_reply = on_reply
        self._buffer = b""
        self._sent_at = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport is one by its methods, not by its class.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    @property
    def is_lost(self) -> bool:
        return self._transport is None

    def call(self, request: bytes) -> None:
        assert self._transport is not None, "the server closed the connection"
        self._sent_at = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer = data if not self._buffer else self._buffer + data
        end = self._buffer.find(HEADER_END)
        if end < 0:
            return
        head = self._buffer[:end].lower()
        at = head.index(b"content-length:") + 15
        stop = head.find(b"\r\n", at)
        length = int(head[at : stop if stop > 0 else len(head)])
        if len(self._buffer) < end + 4 + length:
            return
        status = int(self._buffer[9:12])
        self._buffer = b""
        self._on_reply(self, status, time.perf_counter() - self._sent_at)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def make_request(port: int, path: str, token: str, body: object) -> bytes:
    """Give the bytes of a POST with a JSON body."""
    payload = json.dumps(body).encode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    ).encode() + payload


class HubReceiver(asyncio.Protocol):
    """One hub connection over a raw WebSocket; hands on the instant that a notification's title carries.

    With `device_id` it says Hello and acknowledges, without it is a plain client.
    """

    def __init__(self, port: int, token: str, device_id: str | None, on_notification: Callable[[float], None]) -> None:
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost = ""
        self._port = port
        self._token = token
        self._device_id = device_id
        self._on_notification = on_notification
        self._buffer = bytearray()
        self._is_open = False
        self._transport: asyncio.Transport | None = None
        self._pinging: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport is one by its methods, not by its class.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(
            f"GET /hubs/notifications HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            f"Authorization: Bearer {self._token}\r\n\r\n".encode()
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = self.lost or str(exc or "closed")
        if self._pinging is not None:
            self._pinging.cancel()
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(self.lost))

    def stall(self) -> None:
        """Read nothing more from now on."""
        assert self._transport is not None
        self._transport.pause_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._is_open:
            end = self._buffer.find(HEADER_END)
            if end < 0:
                return
            if not self._buffer.startswith(b"HTTP/1.1 101"):
                self.lost = self._buffer[:200].decode(errors="replace")
                self.close()
                return
            self._is_open = True
            del self._buffer[: end + 4]
            self._send(b'{"protocol":"json","version":1}\x1e')
        while self._take_frame():
            pass

    def _take_frame(self) -> bool:
        buffer = self._buffer
        if len(buffer) < 2:
            return False
        length, start = buffer[1] & 0x7F, 2
        if length == 126:
            length, start = int.from_bytes(buffer[2:4], "big"), 4
        elif length == 127:
            length, start = int.from_bytes(buffer[2:10], "big"), 10
        if len(buffer) < start + length:
            return False
        opcode, payload = buffer[0] & 0x0F, bytes(buffer[start : start + length])
        del buffer[: start + length]
        if opcode == 8:
            self.lost = f"closed {int.from_bytes(payload[:2], 'big')}"
        elif opcode <= 2:
            for record in payload.split(b"\x1e")[:-1]:
                self._take_record(record)
        return True

    def _take_record(self, record: bytes) -> None:
        at = record.find(b'"title":"')
        if at >= 0:
            now = time.monotonic()
            self._on_notification(now - float(record[at + 9 : record.index(b'"', at + 9)]))
            if self._device_id is not None:
                at = record.index(b'"id":"') + 6
                self._send(b'{"type":1,"target":"Acknowledge","arguments":["%b"]}\x1e' % record[at : at + 36])
        elif record == b"{}":
            self._keep_alive()
            if self._device_id is None:
                self.ready.set_result(None)
            else:
                hello = {"deviceId": self._device_id, "acknowledges": True}
                call = {"type": 1, "target": "Hello", "arguments": [hello], "invocationId": "0"}
                self._send(json.dumps(call).encode() + b"\x1e")
        elif b'"invocationId"' in record and not self.ready.done():
            if b'"error"' in record:
                self.ready.set_exception(ConnectionError(record.decode()))
            else:
                self.ready.set_result(None)

    def _keep_alive(self) -> None:
        self._send(b'{"type":6}\x1e')
        self._pinging = asyncio.get_running_loop().call_later(KEEP_ALIVE_S, self._keep_alive)

    def _send(self, payload: bytes) -> None:
        # Masked with zeros, which leaves the payload as it is.
        size = len(payload)
        head = bytes((0x81, 0x80 | size)) if size < 126 else b"\x81\xfe" + size.to_bytes(2, "big")
        assert self._transport is not None
        self._transport.write(head + b"\0\0\0\0" + payload)
