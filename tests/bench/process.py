"""Processes that take orders: one JSON object a line on standard input, one answer a line on standard output.

And what the system says about any process: its memory, and the processor time of all its threads.
"""

import asyncio
import contextlib
import json
import os
import resource
import selectors
import subprocess
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

ROOT: Final = Path(__file__).resolve().parents[2]
Orders = Mapping[str, Callable[..., Awaitable[dict[str, Any]]]]
_END_WITHIN_S: Final = 20.0
_LONGEST_LINE: Final = 1 << 26


@dataclass(frozen=True, slots=True)
class Cores:
    """Which processors the servers have and which the clients; the same ones where there is only one."""

    servers: frozenset[int]
    clients: frozenset[int]


def split_cores() -> Cores:
    """Keep the last processor for the clients and give the servers all others."""
    *others, last = sorted(os.sched_getaffinity(0))
    return Cores(frozenset(others or [last]), frozenset([last]))


@contextlib.contextmanager
def on_cores(cores: frozenset[int]) -> Iterator[None]:
    """Let what is started within run on these processors only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Worker:
    """One such process. An answer that does not come in time, or tells of a fault, raises `RuntimeError`."""

    def __init__(self, module: str, cores: frozenset[int], *arguments: str) -> None:
        self._name = " ".join((module, *arguments))
        with on_cores(cores):
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=ROOT,
            )
        self._held = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, order: str, *, within_s: float = 60.0, **details: Any) -> dict[str, Any]:
        """Give an order and wait for its answer."""
        self.tell(order, **details)
        return self.hear(within_s)

    def tell(self, order: str, **details: Any) -> None:
        """Give an order; its answer is heard later."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"order": order, **details}).encode() + b"\n")
        self._process.stdin.flush()

    def hear(self, within_s: float = 60.0) -> dict[str, Any]:
        """Wait for the answer to the oldest order that has none."""
        answer: dict[str, Any] = json.loads(self._read_line(time.monotonic() + within_s))
        if "fault" in answer:
            raise RuntimeError(f"{self._name}: {answer['fault']}")
        return answer

    def close(self) -> None:
        """Let it end by itself, and make it end when it does not."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _read_line(self, until: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while b"\n" not in self._held:
                left_s = until - time.monotonic()
                if left_s <= 0 or not selector.select(left_s):
                    raise RuntimeError(f"{self._name}: no answer in time")
                data = os.read(descriptor, 1 << 20)
                if not data:
                    raise RuntimeError(f"{self._name}: it ended (status {self._process.wait(_END_WITHIN_S)})")
                self._held += data
        line, _, self._held = self._held.partition(b"\n")
        return line


def serve_orders(make_orders: Callable[[], Orders]) -> None:
    """Be such a process until standard input ends; `make_orders` is called on the event loop."""
    raise_open_files_limit()
    uvloop.run(_obey(make_orders))


async def _obey(make_orders: Callable[[], Orders]) -> None:
    reader = asyncio.StreamReader(limit=_LONGEST_LINE)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    orders = make_orders()
    while line := await reader.readline():
        given = json.loads(line)
        try:
            answer = await orders[given.pop("order")](**given)
        except Exception as fault:
            traceback.print_exc()
            answer = {"fault": f"{type(fault).__name__}: {fault}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def raise_open_files_limit() -> int:
    """Let this process open as many sockets as its hard limit allows, and give that number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


@dataclass(frozen=True, slots=True)
class Memory:
    """What a process occupies, in KiB: all its pages, and its fair part of those that it shares."""

    rss_kib: int
    pss_kib: int


def read_memory(pid: int) -> Memory:
    """Ask the kernel (`/proc/PID/smaps_rollup`)."""
    found: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0])
    return Memory(found["Rss"], found["Pss"])


def read_cpu_s(pid: int) -> float:
    """Give the seconds that all threads of a process, ended ones too, have been on a processor.

    The process's own clock (`clock_getcpuclockid`), which sums what `/proc/PID/task/*/schedstat` says of each thread.
    """
    return time.clock_gettime((~pid << 3) | 2)
