"""Who is connected, for people who look: what the console lists, and what metrics count.

Everything is read when it is asked for, in one walk over the connections; nothing is kept for it beside a number that
each connection has anyway.
"""

import heapq
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from appliance.hub.connection import Connection
from appliance.hub.core import HubCore

_NUMBER_BITS: Final = 48
_NUMBER_MASK: Final = (1 << _NUMBER_BITS) - 1

PLAIN: Final = "plain"
FULL: Final = "full"
UNKNOWN: Final = "none"


@dataclass(frozen=True, slots=True)
class ConnectionFacts:
    """One connection at one moment.

    `id` names it for people and has nothing to do with the secret in its URL. `encoding` and `dialect` are None before
    the handshake, `device_id` and `window_s` without a Hello. `is_away`: its client lost the socket and may come back.
    """

    id: UUID
    user_id: UUID
    device_id: UUID | None
    transport: str
    encoding: str | None
    dialect: str | None
    address: str
    user_agent: str
    connected_at: datetime
    last_heard_at: datetime
    window_s: float | None
    queued_bytes: int
    is_away: bool


@dataclass(frozen=True, slots=True)
class Census:
    """How many connections there are of each kind; a kind that nobody has is left out."""

    transports: Mapping[str, int]
    encodings: Mapping[str, int]
    dialects: Mapping[str, int]
    away: int


class Roster:
    """Tells of the connections of one hub, oldest first."""

    def __init__(self, core: HubCore) -> None:
        self._core = core
        # The rest of an id is the connection's number; so ids of another start of the server name nobody.
        self._base = UUID(bytes=secrets.token_bytes(16), version=4).int & ~_NUMBER_MASK

    def list(
        self, user_id: UUID | None, *, limit: int, after: UUID | None
    ) -> tuple[Sequence[ConnectionFacts], UUID | None]:
        """Give a page, of one user or of all, and the cursor of the next one, None on the last page."""
        presence = self._core.presence
        connections = presence.list_all() if user_id is None else presence.list_user(user_id)
        passed = 0 if after is None else self._number_of(after)
        waiting = (one for one in connections if one.number > passed)
        page = heapq.nsmallest(limit + 1, waiting, key=lambda one: one.number)
        facts = [self._describe(one) for one in page[:limit]]
        return facts, facts[-1].id if len(page) > limit else None

    def find(self, connection_id: UUID) -> Connection | None:
        """Find the connection of that id."""
        number = self._number_of(connection_id)
        return next((one for one in self._core.presence.list_all() if one.number == number), None)

    def describe(self, connection_id: UUID) -> ConnectionFacts | None:
        """Tell of the connection of that id."""
        connection = self.find(connection_id)
        return None if connection is None else self._describe(connection)

    def take_census(self) -> Census:
        """Count by kind."""
        transports: Counter[str] = Counter()
        encodings: Counter[str] = Counter()
        dialects: Counter[str] = Counter()
        away = 0
        for one in self._core.presence.list_all():
            transports[one.transport.name] += 1
            encodings[one.encoding or UNKNOWN] += 1
            dialects[_dialect_of(one) or UNKNOWN] += 1
            away += one.is_away
        return Census(transports, encodings, dialects, away)

    def _number_of(self, connection_id: UUID) -> int:
        """Give the number in an id; of a foreign id one that nobody has and that lies before all others."""
        is_ours = connection_id.int & ~_NUMBER_MASK == self._base
        return connection_id.int & _NUMBER_MASK if is_ours else 0

    def _describe(self, connection: Connection) -> ConnectionFacts:
        now, now_mono = self._core.clock.now(), self._core.clock.monotonic()
        session = connection.session
        return ConnectionFacts(
            id=UUID(int=self._base | connection.number),
            user_id=connection.user_id,
            device_id=None if session is None else session.device_id,
            transport=connection.transport.name,
            encoding=connection.encoding,
            dialect=_dialect_of(connection),
            address=connection.origin.address,
            user_agent=connection.origin.user_agent,
            connected_at=now - timedelta(seconds=now_mono - connection.opened_at),
            last_heard_at=now - timedelta(seconds=now_mono - connection.last_heard_at),
            window_s=None if session is None else session.window_s(self._core.limits.window_most_s),
            queued_bytes=connection.queued_bytes,
            is_away=connection.is_away,
        )


def _dialect_of(connection: Connection) -> str | None:
    if connection.encoding is None:
        return None
    return PLAIN if connection.session is None else FULL
