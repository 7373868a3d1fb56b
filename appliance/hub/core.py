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
from appliance.hub.seats import SeatClock

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
    cut: int = 0
    resumed: int = 0
    caught_up: int = 0
    ended: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)

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
    away: int = 0
    """Connections whose client lost its socket and may come back with another one."""
    seats: SeatClock | None = None
    """Set where this is one node among several: then `hub.order` and `hub.resync` are in force."""
    catching_up: asyncio.Semaphore = field(init=False)
    tasks: set[asyncio.Task[object]] = field(default_factory=set)
    """Whoever serves a connection or sees to its end. `Hub.drain` waits for all of them."""

    def begin_handshake(self, site: str) -> None:
        """Count a connection that has not shaken hands yet; `end_handshake` follows, once."""
        self.handshakes_pending += 1
        count_up(self.handshakes_at_site, site)

    def end_handshake(self, site: str) -> None:
        """The handshake is over, well or not."""
        self.handshakes_pending -= 1
        count_down(self.handshakes_at_site, site)

    def __post_init__(self) -> None:
        self.catching_up = asyncio.Semaphore(self.limits.catch_ups_at_once)

    def run(self, work: Coroutine[object, object, T]) -> asyncio.Task[T]:
        """Run what must outlive the request that began it, such as the end of a connection that nobody reads."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task
