"""The SignalR clients of `tests/signalr`, each a process of its own, driven over its standard input and output.

`client.mjs` is the official one, in Node; the others are Python's, and know fewer orders.
"""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "signalr"
_PATIENCE_S = 20.0
# A client whose orders end says goodbye to the server and ends; one that hangs is killed.
_LEAVE_S = 2.0


class SignalRClient:
    """One client process. Events are taken in the order in which the client raised them."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._calls = 0
        self._kept: list[dict[str, Any]] = []

    async def is_quiet_for(self, seconds: float) -> bool:
        """Tell whether nothing happens for so long."""
        try:
            self._kept.append(await self._read(seconds))
        except TimeoutError:
            return not self._kept
        return False

    def has_told(self, *events: str) -> bool:
        """Tell whether one of these events was read and not taken."""
        return any(told["event"] in events for told in self._kept)

    async def next(self, event: str) -> dict[str, Any]:
        """Give the next event of this name; others are kept for later.

        The client shows an answer a moment after a notification of the same frame, so names have no order among them.
        """
        for told in self._kept:
            if told["event"] == event:
                self._kept.remove(told)
                return told
        while (told := await self._read())["event"] != event:
            self._kept.append(told)
        return told

    async def next_argument(self, method: str) -> dict[str, Any]:
        """Give the one argument of the next call of a client method."""
        (argument,) = (await self.next(method))["arguments"]
        taken: dict[str, Any] = argument
        return taken

    async def invoke(self, method: str, *arguments: object) -> dict[str, Any]:
        """Call a hub method and give its answer: `result` or `error`."""
        call = await self.begin(method, *arguments)
        answer = await self.next("answer")
        assert answer["call"] == call
        return answer

    async def begin(self, method: str, *arguments: object) -> int:
        """Call a hub method; its answer comes as an event with the number given here."""
        self._calls += 1
        await self.order(invoke=[method, *arguments], call=self._calls)
        return self._calls

    async def order(self, **order: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        await self._process.stdin.drain()

    async def _read(self, patience_s: float = _PATIENCE_S) -> dict[str, Any]:
        assert self._process.stdout is not None
        async with asyncio.timeout(patience_s):
            line = await self._process.stdout.readline()
        assert line, "the client process has ended"
        told: dict[str, Any] = json.loads(line)
        return told


@asynccontextmanager
async def run_signalr_client(url: str, token: str, **settings: object) -> AsyncIterator[SignalRClient]:
    """Start the official client, which connects at once; its first event is `started` or `failed`."""
    node = os.environ.get("CARILLON_NODE") or shutil.which("node")
    assert node is not None, "Node is missing; tests/run installs it"
    assert (FOLDER / "node_modules").exists(), "The client is not installed; tests/run installs it"
    async with _run(node, "client.mjs", {"url": url, "token": token} | settings) as client:
        yield client


@asynccontextmanager
async def run_python_client(name: str, url: str, token: str, **settings: object) -> AsyncIterator[SignalRClient]:
    """Start `pysignalr` or `signalrcore` in the same way."""
    async with _run(sys.executable, f"{name}_client.py", {"url": url, "token": token} | settings) as client:
        yield client


@asynccontextmanager
async def _run(program: str, script: str, settings: dict[str, object]) -> AsyncIterator[SignalRClient]:
    process = await asyncio.create_subprocess_exec(
        program,
        str(FOLDER / script),
        json.dumps(settings),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    assert process.stdin is not None
    try:
        yield SignalRClient(process)
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _LEAVE_S)
        except TimeoutError:
            process.kill()
            await process.wait()
