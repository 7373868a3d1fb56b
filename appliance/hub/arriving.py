"""How many requests of whom keep a connection of the server busy although they belong to no connection of the hub.

A poll and a stream are the hub's connections, and are counted as such. The body of a POST may take its time to arrive,
and meanwhile it holds a TCP connection that nobody else counts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from appliance.hub.limits import HubLimits
from appliance.hub.presence import count_down, count_up


class Arriving:
    """Counts requests that are arriving, by user and by network address (`Origin.site`), under the hub's limits."""

    def __init__(self, limits: HubLimits) -> None:
        self._most = limits.posts_arriving
        self._most_of_user = min(limits.posts_arriving_per_user, limits.connections_per_user)
        self._most_at_site = min(limits.posts_arriving_per_address, limits.connections_per_address)
        self._count = 0
        self._of_user: dict[str, int] = {}
        self._at_site: dict[str, int] = {}

    def __len__(self) -> int:
        return self._count

    def find_full(self, user_id: UUID, site: str) -> str | None:
        """Name the bound that leaves no room for one more, None where there is room. An empty `site` is not counted."""
        if self._count >= self._most:
            return "posts_arriving"
        if self._of_user.get(str(user_id), 0) >= self._most_of_user:
            return "posts_arriving_per_user"
        if self._at_site.get(site, 0) >= self._most_at_site:
            return "posts_arriving_per_address"
        return None

    @contextmanager
    def count(self, user_id: UUID, site: str) -> Iterator[None]:
        """Count one for as long as the context is open."""
        self._count += 1
        count_up(self._of_user, str(user_id))
        count_up(self._at_site, site)
        try:
            yield
        finally:
            self._count -= 1
            count_down(self._of_user, str(user_id))
            count_down(self._at_site, site)
