"""Who may have an HTTP connection of the lean listener open, until it is upgraded or belongs to the hub.

A connection has a place from the moment it is accepted, below TLS. It *waits* while no request of it is under way: for
its handshake, for a head, for the next request. Where an address (an IPv6 /64), or the listener, has as many as it may
have, the one that has waited longest gives way to the newcomer: half-sent heads must not keep whole requests out. Where
none of an address waits, one more is let in for as long as it takes to read its head and to answer 503. A trusted
proxy's connections are many people's: they count in all only, and do not give way.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from appliance.hub.lean_limits import LeanLimits
from appliance.hub.origin import site_of
from appliance.hub.presence import count_down, count_up

logger = logging.getLogger(__name__)

_TELL_EVERY_S: Final = 60.0


class Newcomer(Protocol):
    """A connection that has a place."""

    def give_way(self) -> None:
        """End at once; the place has been taken away already."""


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """One connection's. `site` is what it counts by, empty for a trusted proxy."""

    site: str
    is_beyond: bool


class Places:
    """The places of one listener. `now` is the time of the event loop."""

    def __init__(self, limits: LeanLimits, trusts: Callable[[str], bool]) -> None:
        self._limits = limits
        self._trusts = trusts
        self._waiting: dict[str, dict[Newcomer, Place]] = {}
        self._told_at: float | None = None
        self.taken = 0
        self.taken_at: dict[str, int] = {}

    def take(self, newcomer: Newcomer, address: str, now: float) -> Place | None:
        """Give a place to a connection that waits for its next request; None where there is none."""
        site = "" if self._trusts(address) else site_of(address)
        is_full = bool(site) and self.taken_at.get(site, 0) >= self._limits.http_connections_per_address
        if is_full:
            self._tell(address, "connections", now)
        is_beyond = is_full and not self._oust(site)
        if self.taken >= self._limits.http_connections:
            self._tell(address, "connections_in_all", now)
            if not self._oust(self._find_most_crowded()):
                return None
        place = Place(site, is_beyond)
        self.taken += 1
        count_up(self.taken_at, site)
        self.wait(newcomer, place)
        return place

    def begin(self, newcomer: Newcomer, place: Place) -> bool:
        """A whole head has arrived; False where its address has no place for it, which is to be answered 503."""
        self._stop_waiting(newcomer, place)
        return not place.is_beyond or self.taken_at[place.site] <= self._limits.http_connections_per_address

    def wait(self, newcomer: Newcomer, place: Place) -> None:
        """All requests of the connection are answered."""
        if place.site:
            self._waiting.setdefault(place.site, {})[newcomer] = place

    def leave(self, newcomer: Newcomer, place: Place) -> None:
        """The connection has ended, or others count it from now on."""
        self._stop_waiting(newcomer, place)
        self.taken -= 1
        count_down(self.taken_at, place.site)

    def _stop_waiting(self, newcomer: Newcomer, place: Place) -> None:
        waiting = self._waiting.get(place.site)
        if waiting is not None:
            waiting.pop(newcomer, None)
            if not waiting:
                del self._waiting[place.site]

    def _find_most_crowded(self) -> str:
        return max(self._waiting, key=lambda site: len(self._waiting[site]), default="")

    def _oust(self, site: str) -> bool:
        waiting = self._waiting.get(site)
        if waiting is None:
            return False
        oldest, place = next(iter(waiting.items()))
        self.leave(oldest, place)
        oldest.give_way()
        return True

    def _tell(self, address: str, what: str, now: float) -> None:
        """Warn, at most once a minute: a reverse proxy that is not trusted makes all clients look like one machine."""
        if self._told_at is None or now - self._told_at >= _TELL_EVERY_S:
            self._told_at = now
            hint = "If this is a reverse proxy, name it in TRUSTED_PROXIES."
            logger.warning("hub_address_full", extra={"address": address, "what": what, "hint": hint})
