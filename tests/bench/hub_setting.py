"""What the hub's three parts have in common: how large they are, who is on which processor, and their people."""

from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.house import LEAN, House, People, list_listeners
from tests.bench.process import Cores, Worker, raise_open_files_limit, split_cores
from tests.bench.report import Report

_OTHER_FILES = 200
"""Files that a process with all those sockets has open besides."""


@dataclass(frozen=True, slots=True)
class HubPace:
    """How long to measure, and how often."""

    idle_s: float
    rounds: int
    turns: int
    stalled_blocks: int
    stalled_turns: int


QUICK = HubPace(idle_s=16.0, rounds=3, turns=3, stalled_blocks=4, stalled_turns=10)
FULL = HubPace(idle_s=20.0, rounds=5, turns=3, stalled_blocks=8, stalled_turns=20)
"""Idle for longer than the hub's keep-alive interval, so that every connection gets its ping within it."""


class TooFewFiles(Exception):
    """The system lets a process open too few sockets."""


@dataclass(slots=True)
class HubSetting:
    """One run of the hub's parts."""

    folder: Path
    connections: int
    pace: HubPace
    cores: Cores = field(default_factory=split_cores)
    listeners: tuple[str, ...] = ()
    _people: People | None = None

    def __post_init__(self) -> None:
        allowed, wanted = raise_open_files_limit(), self.connections + _OTHER_FILES
        if allowed < wanted:
            raise TooFewFiles(
                f"{self.connections} connections need {wanted} open files a process, and the hard limit here is "
                f"{allowed}: raise it (ulimit -Hn), or give --connections {max(1, allowed - _OTHER_FILES)}."
            )
        self.listeners = list_listeners(self.folder)

    @property
    def people(self) -> People:
        """As many users as there are connections, made when first asked for."""
        if self._people is None:
            place = self.folder / "hub"
            place.mkdir()
            self._people = People(place, self.connections)
        return self._people

    def make_report(self, title: str) -> Report:
        report = Report(title, scale="connections")
        servers, clients = (", ".join(map(str, sorted(cores))) for cores in (self.cores.servers, self.cores.clients))
        report.note(f"Servers run on core {servers}, clients on core {clients}.")
        if LEAN not in self.listeners:
            report.note("This program has no lean listener (HUB_LISTENER=lean): skipped, and its goals with it.")
        return report

    def make_crowd(self) -> Worker:
        return Worker("tests.bench.crowd", self.cores.clients)

    def make_phones(self) -> Worker:
        return Worker("tests.bench.phones", self.cores.clients)

    def make_stage(self, name: str) -> Worker:
        return Worker("tests.bench.stage", self.cores.servers, name)

    def make_house(self, listener: str) -> House:
        return self.people.move_into(listener, self.cores.servers)
