"""Who is here: which connections a user has, and which one speaks for a device.

Pure bookkeeping: it ends nothing and tells nobody. The rule it keeps is that a device has one session, the newest.
"""

from collections.abc import Iterable
from typing import Generic, TypeVar
from uuid import UUID

C = TypeVar("C")


class Presence(Generic[C]):
    """Connections `C` by user, by credential and by device; each look-up costs the same for any number of them."""

    def __init__(self) -> None:
        self._by_user: dict[UUID, dict[C, None]] = {}
        self._plain_by_user: dict[UUID, dict[C, None]] = {}
        self._by_token: dict[str, dict[C, None]] = {}
        self._by_device: dict[UUID, C] = {}
        self._at_site: dict[str, int] = {}
        self._count = 0
        self._plain_count = 0

    @property
    def connections(self) -> int:
        return self._count

    @property
    def plain_connections(self) -> int:
        return self._plain_count

    @property
    def devices(self) -> int:
        return len(self._by_device)

    def add(self, connection: C, user_id: UUID, token_id: str, site: str = "") -> None:
        """Note a connection that was let in; it is offered nothing yet. An empty `site` is not counted."""
        self._by_user.setdefault(user_id, {})[connection] = None
        self._by_token.setdefault(token_id, {})[connection] = None
        self._count += 1
        count_up(self._at_site, site)

    def remove(self, connection: C, user_id: UUID, token_id: str, site: str = "") -> None:
        """Forget a connection everywhere but as a device's session."""
        if _discard(self._by_user, user_id, connection):
            self._count -= 1
            count_down(self._at_site, site)
        _discard(self._by_token, token_id, connection)
        self.remove_plain(connection, user_id)

    def change_token(self, connection: C, before: str, after: str) -> None:
        """The connection goes on with another credential."""
        if _discard(self._by_token, before, connection):
            self._by_token.setdefault(after, {})[connection] = None

    def add_plain(self, connection: C, user_id: UUID) -> None:
        """From now on the connection gets its user's notifications in the plain dialect."""
        self._plain_by_user.setdefault(user_id, {})[connection] = None
        self._plain_count += 1

    def remove_plain(self, connection: C, user_id: UUID) -> None:
        """The connection gets nothing in the plain dialect any more."""
        if _discard(self._plain_by_user, user_id, connection):
            self._plain_count -= 1

    def seat(self, connection: C, device_id: UUID) -> C | None:
        """Let the connection speak for the device; give the one that did so before."""
        before = self._by_device.get(device_id)
        self._by_device[device_id] = connection
        return before

    def unseat(self, connection: C, device_id: UUID) -> bool:
        """End that; False when a newer session has the device already, which is left alone."""
        if self._by_device.get(device_id) is not connection:
            return False
        del self._by_device[device_id]
        return True

    def find_device(self, device_id: UUID) -> C | None:
        return self._by_device.get(device_id)

    def count_user(self, user_id: UUID) -> int:
        return len(self._by_user.get(user_id, ()))

    def count_site(self, site: str) -> int:
        """Count the connections from one network address (`Origin.site`)."""
        return self._at_site.get(site, 0)

    def list_plain(self, user_id: UUID) -> list[C]:
        return list(self._plain_by_user.get(user_id, ()))

    def list_user(self, user_id: UUID) -> list[C]:
        return list(self._by_user.get(user_id, ()))

    def list_token(self, token_id: str) -> list[C]:
        return list(self._by_token.get(token_id, ()))

    def list_devices(self) -> list[tuple[UUID, C]]:
        """Give every device that has a session, and who speaks for it, as a copy."""
        return list(self._by_device.items())

    def list_all(self) -> Iterable[C]:
        """Give every connection, as a copy."""
        return [connection for connections in self._by_user.values() for connection in connections]


def count_up(counts: dict[str, int], site: str) -> None:
    """Count one more; an empty name is not counted."""
    if site:
        counts[site] = counts.get(site, 0) + 1


def count_down(counts: dict[str, int], site: str) -> None:
    """Count one less; what comes to nothing takes no room."""
    left = counts.get(site, 0) - 1
    if left > 0:
        counts[site] = left
    else:
        counts.pop(site, None)


K = TypeVar("K")


def _discard(index: dict[K, dict[C, None]], key: K, connection: C) -> bool:
    connections = index.get(key)
    if connections is None or connection not in connections:
        return False
    del connections[connection]
    if not connections:
        del index[key]
    return True
