"""What all connections of one hub share."""

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from appliance.domain.clock import Clock
from appliance.hub.backend import HubBackend
from appliance.hub.deadlines import Deadlines
from appliance.hub.encoding import HubEncoding
from appliance.hub.limits import HubLimits
from appliance.hub.notices import Notices
from appliance.hub.presence import Presence, count_down, count_up
from appliance.hub.round_trips import RoundTrips
from appliance.hub.seats import SeatClock
from appliance.hub.window import LearnedWindows

if TYPE_CHECKING:
    from appliance.hub.connection import Connection

T = TypeVar("T")


@dataclass(slots=True)
class HubCounters:
    """Counts since the start; they only grow."""

    offered: int = 0
    offered_plain: int = 0
    replayed: int = 0
    acknowledged: int = 0
    acknowledged_late: int = 0
    cut: int = 0
    resumed: int = 0
    caught_up: int = 0
    cut_by_reason: dict[str, int] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    round_trips: RoundTrips = field(default_factory=RoundTrips)

    def count_cut(self, reason: str, offers: int) -> None:
        if offers:
            self.cut += offers
            self.cut_by_reason[reason] = self.cut_by_reason.get(reason, 0) + offers

    def count_ended(self, reason: str) -> None:
        self.ended[reason] = self.ended.get(reason, 0) + 1

    def count_refused(self, reason: str) -> None:
        self.refused[reason] = self.refused.get(reason, 0) + 1


@dataclass(slots=True)
class HubCore:
    """The one instance of each thing that a connection uses but does not own."""

    backend: HubBackend
    clock: Clock
    limits: HubLimits
    encodings: Mapping[str, HubEncoding]
    presence: "Presence[Connection]"
    deadlines: Deadlines
    notices: Notices
    counters: HubCounters = field(default_factory=HubCounters)
    handshakes_pending: int = 0
    handshakes_at_site: dict[str, int] = field(default_factory=dict)
    is_draining: bool = False
    seats: SeatClock | None = None
    """Set where this is one node among several: then `hub.order` and `hub.resync` are in force."""
    catching_up: asyncio.Semaphore = field(init=False)
    windows: LearnedWindows = field(init=False)
    last_number: int = 0
    """The number of the newest connection; each has its own."""
    tasks: set[asyncio.Task[object]] = field(default_factory=set)
    """Whoever serves a connection or sees to its end. `Hub.drain` waits for all of them."""

    def __post_init__(self) -> None:
        limits = self.limits
        self.catching_up = asyncio.Semaphore(limits.catch_ups_at_once)
        self.windows = LearnedWindows(
            first_s=limits.window_first_s,
            least_s=limits.window_least_s,
            most_s=limits.window_most_s,
            most=limits.windows_remembered,
        )

    def take_number(self) -> int:
        """Give the next connection its number."""
        self.last_number += 1
        return self.last_number

    def begin_handshake(self, site: str) -> None:
        """Count a connection that has not shaken hands yet; `end_handshake` follows, once."""
        self.handshakes_pending += 1
        count_up(self.handshakes_at_site, site)

    def end_handshake(self, site: str) -> None:
        """The handshake is over, well or not."""
        self.handshakes_pending -= 1
        count_down(self.handshakes_at_site, site)

    def run(self, work: Coroutine[object, object, T]) -> asyncio.Task[T]:
        """Run what must outlive the request that began it, such as the end of a connection that nobody reads."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task
