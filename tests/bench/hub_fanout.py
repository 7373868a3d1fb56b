"""Messages per second and processor time a message: the hub alone beside the bare library, and the whole program.

All servers of one comparison are alive at once and take turns, so that a busy moment of the machine hits all of them.
A turn brings every client exactly one message; the next begins when the last client has it. A message that is lost,
doubled or overtaken ends the run.
"""

import contextlib
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tests.bench.house import LEAN, House
from tests.bench.hub_setting import HubSetting
from tests.bench.process import Worker, read_cpu_s
from tests.bench.report import Report, show_spread
from tests.bench.stage import BARE, BODY, FILLERS

SMALL = 1_000
BARE_GOAL = 0.8
STALLED_GOAL = 0.10
STALLED_PART = 100
"""One reader of so many stalls."""
CLIENT_BOUND = 0.9
"""From this part of the time on the clients' core is the bound, not the server."""
_PATIENCE_S = 60.0
_CONNECT_WITHIN_S = 180.0
_CUT_WITHIN_S = 11.0
_LOOK_EVERY_S = 0.2
_KINDS = {"fan_out": "one message to all", "unicast": "a message to each"}

T = TypeVar("T")


@dataclass(slots=True)
class Rounds:
    """What one server did, a value a round."""

    per_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    last_ms: list[float] = field(default_factory=list)
    client_load: list[float] = field(default_factory=list)

    def add(self, turns: "list[Turn]") -> None:
        messages, took_s = sum(turn.messages for turn in turns), sum(turn.took_s for turn in turns)
        self.per_s.append(messages / took_s)
        self.cpu_us.append(sum(turn.cpu_s for turn in turns) / messages * 1e6)
        self.p99_ms.append(statistics.median(turn.p99_s for turn in turns) * 1000)
        self.last_ms.append(statistics.median(turn.took_s for turn in turns) * 1000)
        self.client_load.append(sum(turn.client_cpu_s for turn in turns) / took_s)

    def describe(self) -> str:
        cpu = f"{show_spread(self.cpu_us, 1)} us CPU a message"
        last = f"p99 {statistics.median(self.p99_ms):.1f}, last {statistics.median(self.last_ms):.1f} ms"
        is_bound = statistics.median(self.client_load) >= CLIENT_BOUND
        return f"{cpu}, {last}{', clients are the bound' if is_bound else ''}"


@dataclass(frozen=True, slots=True)
class Turn:
    """One message to every client: from the first instruction of sending to the last arrival."""

    messages: int
    took_s: float
    p99_s: float
    cpu_s: float
    client_cpu_s: float


class Pair:
    """One stage and its crowd."""

    def __init__(self, setting: HubSetting, name: str, stack: contextlib.ExitStack) -> None:
        self.name = name
        self.stage = setting.make_stage(name)
        stack.callback(self.stage.close)
        self.crowd = setting.make_crowd()
        stack.callback(self.crowd.close)
        self._port = 0

    def open(self, count: int, unjudged: range = range(0)) -> None:
        """Listen, and let so many clients connect; those `unjudged` are not counted on."""
        self._port = self.stage.ask("open", count=count)["port"]
        self.join(count, unjudged, None)
        self.stage.ask("settle")

    def join(self, count: int, unjudged: range, only: range | None) -> None:
        self.crowd.ask(
            "connect",
            port=self._port,
            count=count,
            mode="bare" if self.name == BARE else "session",
            unjudged=list(unjudged),
            only=None if only is None else list(only),
            within_s=_CONNECT_WITHIN_S,
        )

    def run_turn(self, kind: str, **details: Any) -> Turn:
        self.crowd.ask("expect")
        self.crowd.tell("wait", patience_s=_PATIENCE_S)
        begun = self.stage.ask(kind, **details)["begun"]
        found = self.crowd.hear(_PATIENCE_S * 2)
        cpu_s = self.stage.ask("cpu")["cpu_s"]
        return Turn(found["messages"], found["last_at"] - begun, found["p99_at"] - begun, cpu_s, found["client_cpu_s"])

    def count_cut(self) -> int:
        """Tell how many clients the server has cut so far because they did not read."""
        return int(self.stage.ask("count_cut")["cut"])

    def leave(self) -> None:
        self.crowd.ask("leave")
        self.stage.ask("close")


def measure_hub_fan_out(setting: HubSetting) -> Report:
    report = setting.make_report("Fan-out and unicast")
    report.note("Medians of the rounds with least and most; CPU is that of all threads of the server.")
    counts = sorted({min(SMALL, setting.connections), setting.connections})
    for count in counts:
        _measure_alone(setting, count, report)
    for count in counts:
        _measure_program(setting, count, report)
    _measure_stalled(setting, min(SMALL, setting.connections), report)
    return report


# The hub alone.


def _measure_alone(setting: HubSetting, count: int, report: Report) -> None:
    found: dict[tuple[str, str], Rounds] = {}
    with contextlib.ExitStack() as stack:
        pairs = [Pair(setting, name, stack) for name in (*setting.listeners, BARE)]
        for pair in pairs:
            pair.open(count)
            for kind in _KINDS:
                pair.run_turn(kind)
        for number in range(setting.pace.rounds):
            for kind in _KINDS:
                for pair in _rotate(pairs, number):
                    turns = [pair.run_turn(kind) for _ in range(setting.pace.turns)]
                    found.setdefault((kind, pair.name), Rounds()).add(turns)
        for pair in pairs:
            pair.leave()
    for (kind, name), rounds in found.items():
        who = "bare websockets library" if name == BARE else f"hub alone, {name}"
        report.rate(f"{who}: {_KINDS[kind]}", count, rounds.per_s, rounds.describe())
    for kind in _KINDS:
        for name in setting.listeners:
            _compare(report, f"{name}/bare, {_KINDS[kind]}, {count}", found[kind, name], found[kind, BARE], name, kind)


def _compare(report: Report, name: str, ours: Rounds, bare: Rounds, listener: str, kind: str) -> None:
    """Judge by the median of the rounds' own ratios: what slows one round down slows both sides of it."""
    ratios = [own / other for own, other in zip(ours.per_s, bare.per_s, strict=True)]
    cpu = [other / own for own, other in zip(ours.cpu_us, bare.cpu_us, strict=True)]
    report.note(f"{name}: rate {show_spread(ratios, 2)}, by CPU a message {show_spread(cpu, 2)}")
    if listener == LEAN and kind == "fan_out":
        report.goal(f"rate of {name}", statistics.median(ratios), at_least=BARE_GOAL)


# The whole program.


def _measure_program(setting: HubSetting, count: int, report: Report) -> None:
    with contextlib.ExitStack() as stack:
        houses = {}
        for listener in setting.listeners:
            houses[listener] = setting.make_house(listener)
            stack.callback(houses[listener].stop)
        for is_one_user, name in (
            (True, "POST /push/send to one user's connections"),
            (False, "POST /push/send/batch to users who acknowledge"),
        ):
            for listener, rounds in _measure_posts(setting, houses, count, is_one_user=is_one_user).items():
                report.rate(f"the program, {listener}: {name}", count, rounds.per_s, rounds.describe())


def _measure_posts(
    setting: HubSetting, houses: dict[str, House], count: int, *, is_one_user: bool
) -> dict[str, Rounds]:
    found = {listener: Rounds() for listener in houses}
    with contextlib.ExitStack() as stack:
        crowds: list[tuple[str, Worker]] = []
        for listener, house in houses.items():
            crowd = setting.make_crowd()
            stack.callback(crowd.close)
            crowds.append((listener, crowd))
            crowd.ask(
                "connect",
                port=house.hub_port,
                count=count,
                mode="plain" if is_one_user else "session",
                people=str(setting.people.file),
                is_one_user=is_one_user,
                acknowledges=not is_one_user,
                within_s=_CONNECT_WITHIN_S,
            )
            _post(crowd, house, is_one_user=is_one_user)
        for number in range(setting.pace.rounds):
            for listener, crowd in _rotate(crowds, number):
                house = houses[listener]
                turns = [_post(crowd, house, is_one_user=is_one_user) for _ in range(setting.pace.turns)]
                found[listener].add(turns)
        for _, crowd in crowds:
            crowd.ask("leave")
    return found


def _post(crowd: Worker, house: House, *, is_one_user: bool) -> Turn:
    cpu_s = read_cpu_s(house.pid)
    found = crowd.ask(
        "post",
        port=house.port,
        body=BODY,
        is_one_user=is_one_user,
        patience_s=_PATIENCE_S,
        within_s=_PATIENCE_S * 3,
    )
    cpu_s = read_cpu_s(house.pid) - cpu_s
    begun = found["begun"]
    return Turn(found["messages"], found["last_at"] - begun, found["p99_at"] - begun, cpu_s, found["client_cpu_s"])


# Readers that stall.


def _measure_stalled(setting: HubSetting, count: int, report: Report) -> None:
    for listener in setting.listeners:
        with contextlib.ExitStack() as stack:
            pair = Pair(setting, listener, stack)
            _measure_stalled_at(setting, pair, count, report)


def _measure_stalled_at(setting: HubSetting, pair: Pair, count: int, report: Report) -> None:
    """In every other block one reader of a hundred stalls; judged are those that always read.

    The others connect anew for each block, so that nothing else differs.
    """
    spares = range(0, count, STALLED_PART)
    p99_s: tuple[list[float], list[float]] = ([], [])
    pair.open(count, spares)
    for block in range(setting.pace.stalled_blocks):
        is_stalled = block % 2 == 1
        cut_before = pair.count_cut()
        if block:
            pair.join(count, spares, spares)
        if is_stalled:
            pair.crowd.ask("stall")
        # So much that the buffers between are full, and the stalled ones are felt.
        for _ in range(FILLERS):
            pair.run_turn("fan_out", is_filler=True)
        p99_s[is_stalled].extend(pair.run_turn("fan_out").p99_s for _ in range(setting.pace.stalled_turns))
        if block + 1 < setting.pace.stalled_blocks:
            pair.crowd.ask("leave", only_unjudged=True)
    cut = _await_cut(pair, cut_before, len(spares))
    pair.leave()
    reading, stalled = (statistics.median(values) for values in p99_s)
    name = f"hub alone, {pair.name}, {len(spares)} of {count} readers stalled"
    detail = f"all reading: {reading * 1000:.1f} ms; of the last {len(spares)} that stalled {cut} were cut"
    report.figure(name, count, f"p99 of the others {stalled * 1000:.1f} ms", detail)
    report.goal(f"{name}: change of the others' p99", stalled / reading - 1, below=STALLED_GOAL)


def _await_cut(pair: Pair, before: int, wanted: int) -> int:
    """Give the server the time after which it must have lost its patience; tell how many it has cut."""
    until = time.monotonic() + _CUT_WITHIN_S
    while pair.count_cut() - before < wanted and time.monotonic() < until:
        time.sleep(_LOOK_EVERY_S)
    return pair.count_cut() - before


def _rotate(items: Sequence[T], by: int) -> list[T]:
    """Let another one begin each round."""
    first = by % len(items)
    return [*items[first:], *items[:first]]
