"""What a connection costs that does nothing: memory, pings, letting it in, and what comes back when it has left."""

import contextlib
import time
from dataclasses import dataclass, field

from tests.bench.house import LEAN
from tests.bench.hub_setting import HubSetting
from tests.bench.process import Memory, Worker, read_cpu_s, read_memory
from tests.bench.report import Report
from tests.bench.stage import BARE

LEAN_GOAL_KIB = 20.0
_SETTLE_S = 3.0
"""Time for what was only needed to come in, or to leave, to be given up."""
_CONNECT_WITHIN_S = 180.0
_MODES = {"plain": "handshake done", "session": "Hello session", "bare": "no protocol on top"}


@dataclass(slots=True)
class Tenant:
    """One server with its crowd, and what was measured of it."""

    name: str
    mode: str
    pid: int
    port: int
    crowd: Worker
    memory: dict[str, Memory] = field(default_factory=dict)
    connect_s: float = 0.0
    connect_cpu_s: float = 0.0
    idle_cpu: float = 0.0

    def measure(self, moment: str) -> None:
        self.memory[moment] = read_memory(self.pid)

    def kib_per_connection(self, count: int) -> tuple[float, float]:
        """Give the growth of RSS and of PSS for each connection."""
        before, after = self.memory["before"], self.memory["connected"]
        return (after.rss_kib - before.rss_kib) / count, (after.pss_kib - before.pss_kib) / count

    def given_back(self) -> float:
        """Give the part of the growth that is gone after all have left."""
        before, after, left = (self.memory[moment].rss_kib for moment in ("before", "connected", "left"))
        return (after - left) / max(1, after - before)


def measure_idle(setting: HubSetting) -> Report:
    """Measure all servers of one mode in the same stretch, each in a fresh process."""
    report = setting.make_report(f"Idle connections, {setting.connections} to each server")
    report.note(
        f"Idle CPU over {setting.pace.idle_s:g} s with the server's keep-alive pings (every 14.5 s; 15 s the bare "
        "library) and the hub clients' own (every 15 s)."
    )
    report.note("Each connection is another user's, from one of 250 addresses, by WebSocket without negotiation.")
    for mode in ("plain", "session"):
        for tenant in _measure_mode(setting, mode):
            _tell(report, tenant, setting.connections)
    return report


def _measure_mode(setting: HubSetting, mode: str) -> list[Tenant]:
    with contextlib.ExitStack() as stack:
        tenants = [_open_program(setting, listener, mode, stack) for listener in setting.listeners]
        if mode == "plain":
            tenants.append(_open_bare(setting, stack))
        for tenant in tenants:
            _fill(tenant, setting)
        time.sleep(_SETTLE_S)
        for tenant in tenants:
            tenant.measure("connected")
        before = [read_cpu_s(tenant.pid) for tenant in tenants]
        begun = time.monotonic()
        time.sleep(setting.pace.idle_s)
        took_s = time.monotonic() - begun
        for tenant, cpu_s in zip(tenants, before, strict=True):
            tenant.idle_cpu = (read_cpu_s(tenant.pid) - cpu_s) / took_s
        for tenant in tenants:
            tenant.crowd.ask("leave")
        time.sleep(_SETTLE_S)
        for tenant in tenants:
            tenant.measure("left")
        return tenants


def _open_program(setting: HubSetting, listener: str, mode: str, stack: contextlib.ExitStack) -> Tenant:
    house = setting.make_house(listener)
    stack.callback(house.stop)
    crowd = setting.make_crowd()
    stack.callback(crowd.close)
    return Tenant(f"the program, {listener}", mode, house.pid, house.hub_port, crowd)


def _open_bare(setting: HubSetting, stack: contextlib.ExitStack) -> Tenant:
    stage = setting.make_stage(BARE)
    stack.callback(stage.close)
    crowd = setting.make_crowd()
    stack.callback(crowd.close)
    port = stage.ask("open", count=setting.connections)["port"]
    return Tenant("bare websockets library", "bare", stage.pid, port, crowd)


def _fill(tenant: Tenant, setting: HubSetting) -> None:
    people = None if tenant.mode == "bare" else str(setting.people.file)
    tenant.measure("before")
    cpu_s = read_cpu_s(tenant.pid)
    found = tenant.crowd.ask(
        "connect",
        port=tenant.port,
        count=setting.connections,
        mode=tenant.mode,
        people=people,
        acknowledges=tenant.mode == "session",
        within_s=_CONNECT_WITHIN_S,
    )
    tenant.connect_s = found["took_s"]
    tenant.connect_cpu_s = read_cpu_s(tenant.pid) - cpu_s


def _tell(report: Report, tenant: Tenant, count: int) -> None:
    name = f"{tenant.name}, {_MODES[tenant.mode]}"
    rss, pss = tenant.kib_per_connection(count)
    base = tenant.memory["before"].rss_kib / 1024
    report.figure(f"{name}: memory", count, f"{rss:.1f} KiB each", f"PSS {pss:.1f} KiB, from {base:.0f} MiB when empty")
    report.figure(f"{name}: idle", count, f"{tenant.idle_cpu:.2%} of a core")
    rate, cpu_us = count / tenant.connect_s, tenant.connect_cpu_s / count * 1e6
    report.figure(f"{name}: let in", count, f"{rate:,.0f}/s", f"{cpu_us:.0f} us CPU each, {tenant.connect_s:.1f} s")
    left = tenant.memory["left"].rss_kib / 1024
    report.figure(f"{name}: given back", count, f"{tenant.given_back():.0%}", f"{left:.0f} MiB after all have left")
    if LEAN in tenant.name:
        report.goal(f"{name}: KiB each", rss, at_most=LEAN_GOAL_KIB)
