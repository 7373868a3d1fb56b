"""The load, as a process of its own on a core of its own: takes one JSON task on standard input, prints one result."""

import asyncio
import itertools
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import uvloop

from tests.bench.wire import HttpCaller, HubReceiver, make_request

CONNECT_AT_ONCE = 50
STALLED_RECEIVE_BYTES = 4_096
STALLED_SEGMENT_BYTES = 536
"""Small segments make for small buffers at the server's end, too, so that a stalled reader is felt soon."""
FILLERS = 20
FILLER = "好" * 4_096
CUT_WITHIN_S = 11.0


async def closed_loop(task: dict[str, Any]) -> dict[str, Any]:
    """Each caller sends its next request when the last one is answered; gives replies by status and their rate."""
    requests = itertools.cycle(make_request(task["port"], task["path"], task["token"], body) for body in task["bodies"])
    prepared = list(itertools.islice(requests, len(task["bodies"])))
    supply = itertools.cycle(prepared)
    latencies: list[float] = []
    statuses: dict[int, int] = {}
    is_counting = False
    is_over = False

    def on_reply(caller: HttpCaller, status: int, took_s: float) -> None:
        if is_counting:
            latencies.append(took_s)
            statuses[status] = statuses.get(status, 0) + 1
        if not is_over:
            caller.call(next(supply))

    callers = [await _connect(HttpCaller(on_reply), task["port"]) for _ in range(task["callers"])]
    for caller in callers:
        caller.call(next(supply))
    await asyncio.sleep(task["warm_up_s"])
    is_counting, begun = True, time.perf_counter()
    await asyncio.sleep(task["seconds"])
    is_counting, took_s = False, time.perf_counter() - begun
    is_over = True
    await asyncio.sleep(0.2)
    for caller in callers:
        caller.close()
    return {"per_s": statuses.get(202, 0) / took_s, "statuses": statuses, **_spread(latencies)}


async def receipts(task: dict[str, Any]) -> dict[str, Any]:
    """Send at a fixed rate, whatever comes back, and measure from the sending to the arrival at the hub client."""
    latencies: list[float] = []
    receivers = await _connect_receivers(task["port"], task["receivers"], latencies.append)
    statuses: dict[int, int] = {}
    idle: list[HttpCaller] = []

    def on_reply(caller: HttpCaller, status: int, took_s: float) -> None:
        statuses[status] = statuses.get(status, 0) + 1
        idle.append(caller)

    for _ in range(task["callers"]):
        idle.append(await _connect(HttpCaller(on_reply), task["port"]))
    everybody = list(idle)
    bodies = itertools.cycle(task["bodies"])
    count, late = int(task["seconds"] * task["rate"]), 0
    begun = time.monotonic() + 0.2
    warm_up = int(task["warm_up_s"] * task["rate"])
    for number in range(warm_up + count):
        due = begun + number / task["rate"]
        if (wait_s := due - time.monotonic()) > 0:
            await asyncio.sleep(wait_s)
        if number == warm_up:
            latencies.clear()
        while not idle:
            late += 1
            await asyncio.sleep(0.0005)
        # The instant at which it was due, not the one at which there was a free connection.
        body = {**next(bodies), "title": f"{due:.6f}"}
        idle.pop().call(make_request(task["port"], task["path"], task["token"], body))
    await _until(lambda: len(latencies) >= count, task["patience_s"])
    for caller in everybody:
        caller.close()
    for receiver in receivers:
        receiver.close()
    return {"sent": count, "received": len(latencies), "late": late, "statuses": statuses, **_spread(latencies)}


async def fan_out(task: dict[str, Any]) -> dict[str, Any]:
    """Send to a thousand live clients again and again, in blocks: in every other one some of them do not read.

    Judged are those that always read. The others connect anew for each block, so that nothing else differs.
    """
    latencies: list[float] = []
    spares = [task["receivers"][number] for number in _stalled_of(task)]
    steady = [one for number, one in enumerate(task["receivers"]) if number not in _stalled_of(task)]
    readers = await _connect_receivers(task["port"], steady, latencies.append)
    replies: asyncio.Queue[int] = asyncio.Queue()
    caller = await _connect(HttpCaller(lambda _, status, __: replies.put_nowait(status)), task["port"])
    found: dict[str, list[float]] = {}
    turns: dict[str, list[float]] = {}

    async def send(fields: dict[str, str]) -> None:
        latencies.clear()
        for body in task["bodies"]:
            stamped = {**body, "title": f"{time.monotonic():.6f}", **fields}
            caller.call(make_request(task["port"], task["path"], task["token"], stamped))
            assert await replies.get() == 202
        await _until(lambda: len(latencies) >= len(readers), task["patience_s"])
        assert len(latencies) >= len(readers), f"{len(latencies)} of {len(readers)} arrived"

    for block in range(task["blocks"]):
        name = ("all read", "some stalled")[block % 2]
        others = await _connect_receivers(task["port"], spares, lambda _: None, is_narrow=True)
        if name == "some stalled":
            for receiver in others:
                receiver.stall()
        for _ in range(FILLERS):
            await send({"body": FILLER})
        for turn in range(task["warm_up"] + task["turns"]):
            await send({})
            if turn >= task["warm_up"]:
                found.setdefault(name, []).extend(latencies)
                turns.setdefault(name, []).append(_spread(latencies)["p99_ms"])
            await asyncio.sleep(task["pause_s"])
        if name == "some stalled":
            # Time for the server to lose its patience with them.
            await asyncio.sleep(CUT_WITHIN_S)
        for receiver in others:
            receiver.close()
    lost_readers = sum(1 for receiver in readers if receiver.lost)
    caller.close()
    for receiver in readers:
        receiver.close()
    return {name: {**_spread(values), "turn_p99_ms": _median(turns[name])} for name, values in found.items()} | {
        "stalled": len(spares) * (task["blocks"] // 2),
        "lost_readers": lost_readers,
    }


def _stalled_of(task: dict[str, Any]) -> range:
    """Give the numbers of the receivers that are going to stall, spread over all of them."""
    count = task.get("stalled", 0)
    return range(0, len(task["receivers"]), len(task["receivers"]) // count) if count else range(0)


async def _connect(caller: Any, port: int, *, is_narrow: bool = False) -> Any:
    endpoint = socket.socket()
    if is_narrow:
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STALLED_RECEIVE_BYTES)
        endpoint.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, STALLED_SEGMENT_BYTES)
    endpoint.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(endpoint, ("127.0.0.1", port))
    endpoint.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await loop.create_connection(lambda: caller, sock=endpoint)
    return caller


async def _connect_receivers(
    port: int, wanted: Sequence[Any], on_notification: Callable[[float], None], *, is_narrow: bool = False
) -> list[HubReceiver]:
    receivers: list[HubReceiver] = []
    for start in range(0, len(wanted), CONNECT_AT_ONCE):
        page = [
            HubReceiver(port, token, device_id, on_notification)
            for token, device_id in wanted[start : start + CONNECT_AT_ONCE]
        ]
        for receiver in page:
            await _connect(receiver, port, is_narrow=is_narrow)
        await asyncio.gather(*(receiver.ready for receiver in page))
        receivers += page
    return receivers


async def _until(condition: Any, patience_s: float) -> None:
    end = time.monotonic() + patience_s
    while not condition() and time.monotonic() < end:  # noqa: ASYNC110 - a thousand receivers are waited for
        await asyncio.sleep(0.001)


def _spread(values_s: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values_s)
    if not ordered:
        return {"p50_ms": 0.0, "p99_ms": 0.0}
    return {
        "p50_ms": ordered[len(ordered) // 2] * 1000,
        "p99_ms": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000,
    }


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


TASKS = {"closed_loop": closed_loop, "receipts": receipts, "fan_out": fan_out}


if __name__ == "__main__":
    given = json.load(sys.stdin)
    if given.get("core") is not None:
        os.sched_setaffinity(0, {given["core"]})
    print(json.dumps(uvloop.run(TASKS[given["kind"]](given))))
