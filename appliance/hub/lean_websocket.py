"""One WebSocket of the lean listener: the raw ASGI pair that the hub works with, straight on a transport.

Framing is the sans-IO protocol of the `websockets` library; this file moves its bytes. What differs from a server for
general use, and saves memory and time per connection:

- No queues and no tasks. `send` writes when it is called and gives back something done at once, or, while the kernel
  takes no more, a future of the moment at which it has; `receive` gives a future. `send.start_write` takes a payload
  without an event around it.
- What arrives is given on as one stream of bytes, whatever the opcodes and the cuts: frames that came together are one
  event, a message's fragments are not put together. The hub cuts its records by itself.
- A text that goes to many connections is framed once.

Bounds: what was read and not taken yet is at most two slices and what one read of the socket brought, then the socket
is not read; a peer that does not read what answers its pings is not read either.

Closing, as the hub expects it of a server: `websocket.disconnect` brings the code of the peer's close frame (1005 when
it had none) and 1006 when the connection was lost without one. Source: RFC 6455.
"""

import asyncio
import logging
from collections.abc import Callable, Generator, Iterable
from enum import Enum, auto
from http import HTTPStatus
from typing import Final, cast

from websockets.frames import Close, Opcode
from websockets.protocol import Protocol, Side
from websockets.protocol import State as FrameState

from appliance.hub.asgi_types import AsgiApplication, Event, Send
from appliance.hub.lean_limits import LeanLimits

logger = logging.getLogger(__name__)

# The library tells every frame at debug level, payload and all.
_frame_log: Final = logging.getLogger(f"{__name__}.frames")
_frame_log.setLevel(logging.WARNING)

_DATA: Final = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)
_TEXT_HEAD: Final = 0x81
_BINARY_HEAD: Final = 0x82
_LOST: Final = 1006


class _Written:
    """A write that was finished when it was begun; stands in for a future."""

    __slots__ = ()

    def done(self) -> bool:
        return True

    def cancel(self) -> bool:
        return False

    def add_done_callback(self, callback: Callable[[object], None], /) -> None:
        asyncio.get_running_loop().call_soon(callback, self)

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


WRITTEN: Final = _Written()


class Framer:
    """Puts payloads into frames, and remembers the last one: a notification goes to many connections in a row."""

    __slots__ = ("_frame", "_payload")

    def __init__(self) -> None:
        self._payload: str | bytes = b""
        self._frame = bytes((_BINARY_HEAD, 0))

    def frame(self, payload: str | bytes) -> bytes:
        """Give the whole frame, unmasked and in one piece: text as text, bytes as binary."""
        if payload is not self._payload:
            self._frame = _make_frame(payload)
            self._payload = payload
        return self._frame


class _State(Enum):
    ASKED = auto()
    OPEN = auto()
    CLOSING = auto()
    LOST = auto()


# Looked at for every frame, and an enumeration's members are slow to look up.
_OPEN: Final = _State.OPEN


class LeanWebSocket(asyncio.Protocol):
    """Serves one upgraded connection with `app`, which may accept it, or deny it with an HTTP answer.

    A connection that the application leaves without closing it is dropped.
    """

    __slots__ = (
        "_answer",
        "_close_code",
        "_closing_timer",
        "_drained",
        "_framer",
        "_frames",
        "_inbound",
        "_is_announced",
        "_is_choked",
        "_is_reading_paused",
        "_is_scheduled",
        "_is_writing_paused",
        "_limits",
        "_loop",
        "_on_lost",
        "_scope",
        "_state",
        "_transport",
        "_unread",
        "_waiter",
        "task",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        answer: bytes,
        framer: Framer,
        limits: LeanLimits,
        on_lost: Callable[["LeanWebSocket"], None],
    ) -> None:
        """`answer` is the HTTP answer that accepts the upgrade; `on_lost` is told when the connection has ended."""
        self.task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._answer = answer
        self._framer = framer
        self._limits = limits
        self._on_lost = on_lost
        self._scope: dict[str, object] | None = None
        self._state = _State.ASKED
        self._frames: Protocol | None = None
        self._unread = b""
        self._inbound = b""
        self._waiter: asyncio.Future[Event] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._close_code: int | None = None
        self._closing_timer: asyncio.TimerHandle | None = None
        self._is_announced = False
        self._is_choked = False
        self._is_scheduled = False
        self._is_reading_paused = False
        self._is_writing_paused = False
        # So small that a write counts as unfinished as soon as the kernel takes no more.
        transport.set_write_buffer_limits(high=1, low=0)

    def run(self, app: AsgiApplication, scope: dict[str, object]) -> None:
        """Begin to serve; `task` is set from now on."""
        self._scope = scope
        work = cast("Generator[None, None, None]", app(scope, self.receive, cast(Send, self)))
        self.task = self._loop.create_task(work)
        self.task.add_done_callback(self._after_app)

    def drop(self) -> None:
        """End the connection at once, without a goodbye."""
        self._transport.abort()

    # The ASGI pair.

    def receive(self) -> "asyncio.Future[Event]":
        """Give the next event; only one may be asked for at a time."""
        waiter: asyncio.Future[Event] = self._loop.create_future()
        if not self._is_announced:
            self._is_announced = True
            waiter.set_result({"type": "websocket.connect"})
        else:
            self._waiter = waiter
            self._deliver()
            self._go_on()
        return waiter

    def __call__(self, event: dict[str, object]) -> "_Written | asyncio.Future[None]":
        """Send: write what the event says, now; what is sent to a connection that has ended is forgotten."""
        kind = event["type"]
        match kind:
            case "websocket.send":
                payload = event.get("text")
                return self.start_write(cast("str | bytes", event["bytes"] if payload is None else payload))
            case "websocket.accept":
                self._accept()
            case "websocket.close":
                self._close(cast(int, event.get("code", 1000)))
            case "websocket.http.response.start":
                self._begin_denial(cast(int, event["status"]), cast("Iterable[tuple[bytes, bytes]]", event["headers"]))
            case "websocket.http.response.body":
                self._deny(cast(bytes, event.get("body", b"")))
            case _:
                raise RuntimeError(f"a WebSocket sends no {kind!r}")
        return WRITTEN

    def start_write(self, payload: str | bytes) -> "_Written | asyncio.Future[None]":
        """Write one message, without the event around it; done when the kernel has it."""
        if self._state is not _OPEN:
            return WRITTEN
        self._transport.write(self._framer.frame(payload))
        if not self._is_writing_paused:
            return WRITTEN
        if self._drained is None or self._drained.done():
            self._drained = self._loop.create_future()
        return self._drained

    # What the transport tells.

    def data_received(self, data: bytes) -> None:
        self._unread = self._unread + data if self._unread else data
        if not self._is_scheduled:
            self._read_slice()

    def pause_writing(self) -> None:
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        self._finish_write()
        if self._is_choked:
            self._is_choked = False
            self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = _State.LOST
        self._unread = b""
        if self._frames is not None:
            # The library's parser holds what holds it: both would stay in memory until a collection that comes rarely.
            self._frames.parser.close()
            self._frames = None
        if self._close_code is None:
            self._close_code = _LOST
        if self._closing_timer is not None:
            self._closing_timer.cancel()
        if self._waiter is None or self._waiter.done():
            # Nobody reads, so nobody hears of the loss: whoever waits for a write must not wait for ever.
            self._finish_write()
        self._deliver()
        self._on_lost(self)

    # Reading.

    def _read_slice(self) -> None:
        """Read the next slice of what arrived; the rest has its turn after the others have had theirs."""
        self._is_scheduled = False
        frames = self._frames
        if not self._unread or frames is None or self._is_full():
            self._hold_reading()
            return
        size = self._limits.slice_bytes
        data, self._unread = self._unread[:size], self._unread[size:]
        frames.receive_data(data)
        events = frames.events_received()
        self._answer_frames(frames)
        if self._state is _OPEN:
            for event in events:
                if event.opcode in _DATA:  # type: ignore[union-attr]
                    self._inbound += event.data  # type: ignore[union-attr]
            self._look_for_end(frames)
            self._deliver()
        self._go_on()

    def _answer_frames(self, frames: Protocol) -> None:
        """Write what the library answers by itself: pongs, and close frames."""
        for data in frames.data_to_send():
            if data:
                self._transport.write(data)
                self._is_choked = self._is_writing_paused
            elif frames.parser_exc is None:
                self._transport.close()
            elif self._transport.can_write_eof():
                # Closing with input unread would reset the connection, and the peer would not see the close code.
                self._transport.write_eof()

    def _look_for_end(self, frames: Protocol) -> None:
        if frames.state is FrameState.OPEN:
            return
        received: Close | None = frames.close_rcvd
        self._close_code = _LOST if received is None else int(received.code)
        if frames.parser_exc is not None:
            logger.info("hub_frames_refused", extra={"code": int(frames.close_sent.code) if frames.close_sent else 0})
        self._begin_closing()

    def _deliver(self) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if self._inbound:
            waiter.set_result({"type": "websocket.receive", "bytes": self._inbound})
            self._inbound = b""
        elif self._close_code is not None:
            waiter.set_result({"type": "websocket.disconnect", "code": self._close_code})
        else:
            return
        self._waiter = None

    def _is_full(self) -> bool:
        return self._is_choked or len(self._inbound) >= self._limits.slice_bytes

    def _go_on(self) -> None:
        """Read on when there is something to read and room for it."""
        if self._state is _State.LOST or self._frames is None:
            return
        if self._unread or self._is_full():
            self._hold_reading()
            if not self._is_scheduled and not self._is_full():
                self._is_scheduled = True
                self._loop.call_soon(self._read_slice)
        elif self._is_reading_paused:
            self._is_reading_paused = False
            self._transport.resume_reading()

    def _hold_reading(self) -> None:
        if not self._is_reading_paused and not self._transport.is_closing():
            self._is_reading_paused = True
            self._transport.pause_reading()

    # Writing and ending.

    def _accept(self) -> None:
        if self._state is not _State.ASKED:
            return
        self._transport.write(self._answer)
        self._answer = b""
        if self._scope is not None:
            # The head was read; ten thousand of them need not be kept.
            self._scope["headers"] = ()
            self._scope = None
        self._frames = Protocol(
            Side.SERVER, state=FrameState.OPEN, max_size=self._limits.frame_bytes, logger=_frame_log
        )
        self._state = _OPEN
        self._go_on()

    def _close(self, code: int) -> None:
        if self._state is _State.ASKED:
            self._begin_denial(403, ())
            self._deny(b"")
        elif self._state is _OPEN and self._frames is not None:
            self._frames.send_close(code)
            self._answer_frames(self._frames)
            self._begin_closing()
            self._go_on()

    def _begin_closing(self) -> None:
        """From now on nothing is written, and what arrives is only looked through for the peer's close frame."""
        self._state = _State.CLOSING
        if self._inbound and self._close_code is None:
            self._inbound = b""
        self._closing_timer = self._loop.call_later(self._limits.close_wait_s, self._transport.abort)

    def _begin_denial(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        lines = [b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode()), b"connection: close"]
        lines += [b"%s: %s" % header for header in headers]
        self._answer = b"\r\n".join((*lines, b"", b""))

    def _deny(self, body: bytes) -> None:
        if self._state is _State.ASKED:
            self._state = _State.CLOSING
            self._transport.write(self._answer + body)
            self._transport.close()
            self._closing_timer = self._loop.call_later(self._limits.close_wait_s, self._transport.abort)

    def _finish_write(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def _after_app(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("hub_application_failed", exc_info=error)
        if self._state in (_State.ASKED, _OPEN):
            self._transport.abort()


def _make_frame(payload: str | bytes) -> bytes:
    head, data = (_TEXT_HEAD, payload.encode()) if isinstance(payload, str) else (_BINARY_HEAD, payload)
    size = len(data)
    if size < 126:
        return bytes((head, size)) + data
    if size < 65_536:
        return bytes((head, 126)) + size.to_bytes(2) + data
    return bytes((head, 127)) + size.to_bytes(8) + data
