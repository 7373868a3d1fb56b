"""A TCP line between a client and a server, which a test can cut in the middle of anything."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

# The near end spoke, was answered, and spoke again: it has seen the answer.
_CONVERSATION = 3


class Line:
    """Carries bytes both ways until it is cut; new connections may be made afterwards.

    While it `refuses`, every new one is cut at once. `conversations` counts the connections on which the client has
    answered the server's answer, so that it is through for certain. With `idle_s`, a connection on which nothing moves
    for so long is cut by the line itself, as many a proxy does.
    """

    def __init__(self, target_port: int, idle_s: float | None = None) -> None:
        self.port = 0
        self.refuses = False
        self.conversations = 0
        self._target_port = target_port
        self._idle_s = idle_s
        self._writers: set[asyncio.StreamWriter] = set()
        self._near: set[asyncio.StreamWriter] = set()
        self._stranded: set[asyncio.StreamWriter] = set()

    @property
    def hub(self) -> str:
        """The hub's URL through the line."""
        return f"http://127.0.0.1:{self.port}/hubs/notifications"

    def cut(self) -> None:
        """End every connection at once, without a goodbye on either side."""
        for writer in self._writers:
            writer.transport.abort()

    @property
    def open(self) -> int:
        """Connections that have not ended."""
        return len(self._near)

    def strand(self) -> None:
        """Cut every connection at the client's end; at the server's end it stays open, and nothing comes any more."""
        self._stranded |= self._writers - self._near
        for writer in self._near:
            writer.transport.abort()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        self._near.add(writer)
        try:
            async with asyncio.timeout(self._idle_s) as patience:
                turns = 0

                def note_bytes(*, is_near: bool) -> None:
                    nonlocal turns
                    if is_near == (turns % 2 == 0):
                        turns += 1
                        self.conversations += turns == _CONVERSATION
                    if self._idle_s is not None:
                        patience.reschedule(asyncio.get_running_loop().time() + self._idle_s)

                await asyncio.gather(
                    self._carry(reader, far_writer, partial(note_bytes, is_near=True)),
                    self._carry(far_reader, writer, partial(note_bytes, is_near=False)),
                )
        except TimeoutError:
            writer.transport.abort()
            far_writer.transport.abort()
        finally:
            self._writers -= {writer, far_writer}
            self._near.discard(writer)
            self._stranded.discard(far_writer)
            far_writer.close()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, note_bytes: Callable[[], None]
    ) -> None:
        try:
            while data := await reader.read(65_536):
                note_bytes()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            if writer not in self._stranded:
                writer.close()


@asynccontextmanager
async def run_line(target_port: int, *, idle_s: float | None = None) -> AsyncIterator[Line]:
    """Open a line to a loopback port; `line.port` is its near end."""
    line = Line(target_port, idle_s)
    server = await asyncio.start_server(line.accept, "127.0.0.1", 0)
    line.port = server.sockets[0].getsockname()[1]
    async with server:
        yield line
        line.cut()
