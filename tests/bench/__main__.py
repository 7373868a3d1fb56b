"""Measures what the appliance does on this machine and prints it beside what SQLite itself can do in the same run.

    python -m tests.bench [--quick] [--folder DIR] [--only storage,http,batch,receipts,fanout]
    python -m tests.bench [--quick] [--connections N] --only hub-idle,hub-fanout,hub-stampede
    python -m tests.bench [--quick] --only push

Never part of a test run. The numbers hold for one machine and one moment; the ratios say more.
"""

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx

from appliance.domain.principal import Role
from appliance.domain.secret import Secret
from appliance.storage.database import DATABASE_FILE
from appliance.storage.sqlite import connect
from tests.bench.hub_fanout import measure_hub_fan_out
from tests.bench.hub_idle import measure_idle
from tests.bench.hub_setting import FULL as HUB_FULL
from tests.bench.hub_setting import QUICK as HUB_QUICK
from tests.bench.hub_setting import HubSetting, TooFewFiles
from tests.bench.hub_stampede import measure_stampede
from tests.bench.push import FULL as PUSH_FULL
from tests.bench.push import QUICK as PUSH_QUICK
from tests.bench.push import measure_push
from tests.bench.report import Report
from tests.doubles.appliance import RunningAppliance, TestApp, TestUser

ROOT = Path(__file__).resolve().parents[2]
CALLERS = (1, 16, 64)
PARTS = ("storage", "http", "batch", "receipts", "fanout")
HUB_PARTS = {"hub-idle": measure_idle, "hub-fanout": measure_hub_fan_out, "hub-stampede": measure_stampede}
PUSH_PART = "push"
HUB_CONNECTIONS = 10_000
HUB_CONNECTIONS_QUICK = 1_000
HUB_LEAST = 100
BODY = "B" * 220
LARGE_BODY = "B" * 3_500
FAN_OUT = 1_000
STALLED = 10
SLOWER_BY_S = (0.001, 0.0025)
"""What an fsync costs on other disks: the share of the bare writer that can be reached depends on nothing more."""
SLOW_READER_EVENT = "hub_slow_reader_cut"
ENROL_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to measure, and how often."""

    seconds: float
    rounds: int
    blocks: int
    turns: int


QUICK = Pace(seconds=2.0, rounds=1, blocks=4, turns=10)
FULL = Pace(seconds=5.0, rounds=3, blocks=6, turns=20)


class Bench:
    """One running appliance with its people, and the processes that load it."""

    def __init__(self, folder: Path, pace: Pace, report: Report) -> None:
        self.folder = folder
        self.pace = pace
        self.report = report
        self.appliance = RunningAppliance(folder / "data")
        self.core = max(os.sched_getaffinity(0)) if len(os.sched_getaffinity(0)) > 1 else None
        self.app: TestApp
        self.users: list[TestUser] = []

    async def open(self) -> None:
        await asyncio.to_thread(self.appliance.start)
        admin = await self.appliance.make_user(role=Role.ADMIN)
        self.app = await self.appliance.make_app(admin, daily_quota=100_000_000)

    async def enrol(self, count: int) -> list[TestUser]:
        """Make users until there are so many, and give them."""
        async with self.appliance.identity() as identity:

            async def add() -> TestUser:
                password = Secret(secrets.token_urlsafe(16))
                user = await identity.create_user(f"user-{secrets.token_hex(8)}", password, role=Role.MEMBER)
                await identity.enrol_user(user.id, self.app.id)
                issued = await identity.issue_user_token(user.id, timedelta(days=1))
                return TestUser(user.id, user.username, "", issued.token.reveal())

            while len(self.users) < count:
                page = min(ENROL_AT_ONCE, count - len(self.users))
                self.users += await asyncio.gather(*(add() for _ in range(page)))
        return self.users[:count]

    def load(self, kind: str, **task: Any) -> dict[str, Any]:
        """Run one load task in its own process, on the last core where there are several."""
        given = {
            "kind": kind,
            "core": self.core,
            "port": self.appliance.port,
            "token": self.app.token,
            "patience_s": 30.0,
            **task,
        }
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.load"],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"The load failed: {done.stderr[-2_000:]}")
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def inside(self, kind: str, callers: int, extra_s: float = 0.0) -> float:
        """Measure the storage without HTTP, in a process of its own; each commit takes longer by `extra_s`."""
        arguments = [kind, str(callers), str(self.pace.seconds), str(extra_s), str(self.folder)]
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.inside", *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=True,
        )
        return float(json.loads(done.stdout)["per_s"])

    def singles(self, callers: int) -> dict[str, Any]:
        bodies = [{"user_id": str(user.id), "title": "Title", "body": BODY} for user in self.users[:100]]
        return self.load(
            "closed_loop",
            path="/push/send",
            bodies=bodies,
            callers=callers,
            seconds=self.pace.seconds,
            warm_up_s=min(1.0, self.pace.seconds / 3),
        )


def measure_storage(bench: Bench, *, with_http: bool) -> None:
    """Interleave the rounds, so that a busy moment of the machine hits all of them."""
    rates: dict[tuple[str, int], list[float]] = {}
    latencies: dict[int, dict[str, float]] = {}
    kinds = ("raw", "bare", "accept")
    for _ in range(bench.pace.rounds):
        for callers in CALLERS:
            for kind in kinds:
                rates.setdefault((kind, callers), []).append(bench.inside(kind, callers))
            if with_http:
                result = bench.singles(callers)
                rates.setdefault(("http", callers), []).append(result["per_s"])
                latencies[callers] = result
                _refuse_failures(result["statuses"])
    named = {
        "raw": "SQLite's own limit: the same statements, one thread, N sends a commit",
        "bare": "bare group-commit writer, one 300-byte row a job",
        "accept": "accept() in process",
        "http": "POST /push/send over HTTP",
    }
    for kind in (*kinds, "http") if with_http else kinds:
        for callers in CALLERS:
            detail = ""
            if kind == "http":
                found = latencies[callers]
                detail = f"p50 {found['p50_ms']:.1f} ms, p99 {found['p99_ms']:.1f} ms"
            bench.report.rate(named[kind], callers, rates[kind, callers], detail)
    bare, accept = statistics.median(rates["bare", 16]), statistics.median(rates["accept", 16])
    bench.report.goal("accept() at 16 callers, part of the bare writer", accept / bare, at_least=0.5)
    for extra_s in SLOWER_BY_S:
        slow = {kind: bench.inside(kind, 16, extra_s) for kind in ("bare", "accept")}
        bench.report.note(
            f"Were each commit {extra_s * 1000:g} ms slower, accept() at 16 callers would be "
            f"{slow['accept'] / slow['bare']:.0%} of the bare writer: {slow['accept']:,.0f}/s of {slow['bare']:,.0f}/s."
        )
    if with_http:
        http = statistics.median(rates["http", 16])
        bench.report.goal("HTTP at 16 callers, part of the bare writer", http / bare, at_least=0.5)
        bench.report.note(f"HTTP at 16 callers is {http / accept:.0%} of accept() in process.")


async def measure_batches(bench: Bench) -> None:
    users = await bench.enrol(500)
    bulk = {"user_ids": [str(user.id) for user in users], "title": "Title", "body": BODY}
    entries = [{"user_id": str(user.id), "title": "Title", "body": BODY} for user in users]
    for path, body in (("/push/send/bulk", bulk), ("/push/send/batch", {"notifications": entries})):
        for callers in (1, 4):
            result = bench.load(
                "closed_loop", path=path, bodies=[body], callers=callers, seconds=bench.pace.seconds, warm_up_s=1.0
            )
            _refuse_failures(result["statuses"])
            detail = f"{result['per_s']:.1f} calls/s, p99 {result['p99_ms']:.0f} ms"
            bench.report.rate(f"POST {path}, 500 each, notifications", callers, [result["per_s"] * 500], detail)


async def measure_receipts(bench: Bench) -> None:
    users = (await bench.enrol(100))[:100]
    found: list[dict[str, Any]] = []
    for turn in range(bench.pace.rounds):
        found.append(
            bench.load(
                "receipts",
                path="/push/send",
                bodies=[{"user_id": str(user.id), "body": BODY} for user in users],
                receivers=[(user.token, f"bench-{turn}") for user in users],
                callers=16,
                rate=200,
                seconds=max(5.0, bench.pace.seconds * 2),
                warm_up_s=1.0,
            )
        )
        # A device of an earlier turn is not live any more, but still one that each notification is for.
    for result in found:
        _refuse_failures(result["statuses"])
        if result["received"] < result["sent"]:
            raise RuntimeError(f"{result['sent'] - result['received']} of {result['sent']} never arrived")
    best = sorted(found, key=lambda result: float(result["p99_ms"]))[len(found) // 2]
    bench.report.latency("send → hub receipt at 200/s, 100 devices that acknowledge", best)
    bench.report.goal("p99 send → receipt at 200/s, ms", best["p99_ms"], below=15.0)


async def measure_fan_out(bench: Bench) -> None:
    users = await bench.enrol(FAN_OUT)
    ids = [str(user.id) for user in users]
    halves = [{"user_ids": ids[:500], "body": LARGE_BODY}, {"user_ids": ids[500:], "body": LARGE_BODY}]
    crowd = [(user.token, "bench-fan") for user in users]
    one = [(users[0].token, None)] * FAN_OUT
    for name, path, bodies, receivers in (
        ("2 bulk sends to 500 users each", "/push/send/bulk", halves, crowd),
        ("1 user with 1000 connections", "/push/send", [{"user_id": ids[0], "body": LARGE_BODY}], one),
    ):
        before = bench.appliance.output.count(SLOW_READER_EVENT)
        result = bench.load(
            "fan_out",
            path=path,
            bodies=bodies,
            receivers=receivers,
            stalled=STALLED,
            blocks=bench.pace.blocks,
            turns=bench.pace.turns,
            warm_up=3,
            pause_s=0.1,
        )
        cut = bench.appliance.output.count(SLOW_READER_EVENT) - before
        for kind in ("all read", "some stalled"):
            spread = result[kind]
            detail = f"p99 of one send {spread['turn_p99_ms']:.1f} ms (median of the sends)"
            bench.report.latency(f"fan-out, {name}, {kind}", spread, detail)
        bench.report.note(
            f"{name}: {result['stalled']} stalled, of them the server has cut {cut} off; "
            f"{result['lost_readers']} others lost their connection."
        )
        # By the median of the sends: one busy moment of the machine is not the readers' doing.
        change = result["some stalled"]["turn_p99_ms"] / result["all read"]["turn_p99_ms"] - 1
        bench.report.goal(f"{name}: change of the others' p99 by stalled readers", change, below=0.10)


def _refuse_failures(statuses: dict[str, int]) -> None:
    failures = {status: count for status, count in statuses.items() if status != "202"}
    if failures:
        raise RuntimeError(f"Sends were refused, so the numbers mean nothing: {failures}")


def describe_policy(data_dir: Path) -> str:
    """Tell by the database itself when a commit counts as done."""
    with contextlib.closing(connect(data_dir / DATABASE_FILE)) as connection:
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
        level = ("OFF", "NORMAL", "FULL", "EXTRA")[connection.execute("PRAGMA synchronous").fetchone()[0]]
    return f"SQLite {sqlite3.sqlite_version}, journal_mode={mode}, synchronous={level}: an fsync for each group"


def measure_fsync(folder: Path) -> str:
    """Write and sync 4 KiB a few hundred times."""
    times: list[float] = []
    descriptor = os.open(folder / "fsync", os.O_RDWR | os.O_CREAT)
    try:
        for number in range(300):
            os.pwrite(descriptor, os.urandom(4096), number % 16 * 4096)
            begun = time.perf_counter()
            os.fdatasync(descriptor)
            times.append(time.perf_counter() - begun)
    finally:
        os.close(descriptor)
    ordered = sorted(times)
    return f"fdatasync of 4 KiB here: p50 {ordered[150] * 1000:.2f} ms, p99 {ordered[297] * 1000:.2f} ms"


def measure_rss(pid: int) -> str:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS"):
            return f"{int(line.split()[1]) // 1024} MiB"
    return "unknown"


async def run(parts: list[str], pace: Pace, folder: Path) -> bool:
    report = Report()
    bench = Bench(folder, pace, report)
    await bench.open()
    try:
        report.note(describe_policy(bench.appliance.data_dir))
        report.note(measure_fsync(folder))
        report.note(f"{os.cpu_count()} cores; the load runs on core {bench.core}, the server wherever it likes")
        report.note(f"RSS of the server at the start: {measure_rss(bench.appliance.pid)}")
        await bench.enrol(100)
        if "storage" in parts or "http" in parts:
            await asyncio.to_thread(measure_storage, bench, with_http="http" in parts)
        if "batch" in parts:
            await measure_batches(bench)
        if "receipts" in parts:
            await measure_receipts(bench)
        if "fanout" in parts:
            await measure_fan_out(bench)
        async with httpx.AsyncClient(base_url=bench.appliance.base_url) as client:
            (await client.get("/health")).raise_for_status()
        report.note(f"RSS of the server at the end: {measure_rss(bench.appliance.pid)}")
    finally:
        await asyncio.to_thread(bench.appliance.stop)
    report.print()
    return report.all_met


def run_hub_parts(parts: list[str], setting: HubSetting) -> bool:
    """Run these one after another, each with servers of its own, and print each one's table when it is done."""
    is_met = True
    for name, measure in HUB_PARTS.items():
        if name in parts:
            report = measure(setting)
            report.print()
            is_met = is_met and report.all_met
    return is_met


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short round of each")
    parser.add_argument("--folder", type=Path, help="where to put the data; its disk decides what an fsync costs")
    every = (*PARTS, *HUB_PARTS, PUSH_PART)
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, separated by commas: {', '.join(every)}")
    parser.add_argument("--connections", type=int, help="of the hub's parts, to each server; 10000, or 1000 if quick")
    given = parser.parse_args()
    parts = given.only.split(",")
    if unknown := set(parts) - set(every):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    if given.connections is not None and given.connections < HUB_LEAST:
        parser.error(f"--connections: give at least {HUB_LEAST}")
    is_met = True
    with tempfile.TemporaryDirectory(prefix="carillon-bench-", dir=given.folder) as folder:
        if set(parts) & set(PARTS):
            is_met = asyncio.run(run(parts, QUICK if given.quick else FULL, Path(folder)))
        if set(parts) & set(HUB_PARTS):
            count = given.connections or (HUB_CONNECTIONS_QUICK if given.quick else HUB_CONNECTIONS)
            try:
                setting = HubSetting(Path(folder), count, HUB_QUICK if given.quick else HUB_FULL)
            except TooFewFiles as refusal:
                parser.error(str(refusal))
            is_met = run_hub_parts(parts, setting) and is_met
        if PUSH_PART in parts:
            pushes = measure_push(Path(folder), PUSH_QUICK if given.quick else PUSH_FULL)
            pushes.print()
            is_met = is_met and pushes.all_met
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
