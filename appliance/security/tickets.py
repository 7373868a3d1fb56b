"""One-use connection tickets, so that no access token ever stands in a URL.

A browser cannot set headers on a WebSocket. It asks for a ticket with its token and opens the connection with the
ticket in the query, where a copy in some log is worth nothing: it counts once and for a minute.
"""

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from appliance.domain.errors import Unauthorized
from appliance.domain.principal import Principal
from appliance.domain.secret import Secret
from appliance.security.client_secrets import SecretHasher, SecretKind, make_ticket
from appliance.security.revocations import Revocations

TICKET_LIFETIME: Final = timedelta(seconds=60)
TICKET_PREFIX: Final = "tk_"


class TicketRefused(Unauthorized):
    """The ticket is unknown, used, run out or revoked; the bearer is not told which."""

    code = "invalid_ticket"
    title = "The connection ticket is not valid"

    def __init__(self) -> None:
        super().__init__("Get a new ticket; each opens one connection within 60 seconds.")


@dataclass(frozen=True, slots=True)
class IssuedTicket:
    """A new ticket and the instant from which it no longer counts."""

    ticket: Secret
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class _Open:
    bearer: Principal
    issued_at: datetime
    expires_at: datetime


class TicketOffice:
    """Issues tickets and redeems each exactly once.

    Keeps hashes only, in memory: a restart voids the tickets of the last minute. At most `per_bearer` open tickets a
    user or app and `total` in all; beyond that the oldest is dropped. Belongs to one event loop.
    """

    def __init__(
        self, hasher: SecretHasher, revocations: Revocations, *, per_bearer: int = 32, total: int = 20_000
    ) -> None:
        self._hasher = hasher
        self._revocations = revocations
        self._per_bearer = per_bearer
        self._total = total
        self._open: OrderedDict[bytes, _Open] = OrderedDict()
        self._by_bearer: dict[UUID | None, OrderedDict[bytes, None]] = {}

    @property
    def open_count(self) -> int:
        """How many tickets are open."""
        return len(self._open)

    def issue(self, bearer: Principal, now: datetime) -> IssuedTicket:
        """Issue a ticket that passes the bearer on; it never outlives the credential it was asked with."""
        self._drop_expired(now)
        ticket = make_ticket()
        hashed = self._hasher.hash(ticket, SecretKind.TICKET)
        expires_at = min(now + TICKET_LIFETIME, bearer.expires_at)
        self._open[hashed] = _Open(bearer, now, expires_at)
        own = self._by_bearer.setdefault(_name(bearer), OrderedDict())
        own[hashed] = None
        if len(own) > self._per_bearer:
            self._take(next(iter(own)))
        if len(self._open) > self._total:
            self._take(next(iter(self._open)))
        return IssuedTicket(ticket, expires_at)

    def redeem(self, ticket: str, now: datetime) -> Principal:
        """Give the bearer of a ticket and void it, whatever comes of it. Raises `TicketRefused`."""
        found = self._take(self._hasher.hash(Secret(ticket), SecretKind.TICKET))
        if found is None or now >= found.expires_at:
            raise TicketRefused
        if self._revocations.is_bearer_revoked(found.bearer, found.issued_at):
            raise TicketRefused
        return found.bearer

    def _take(self, hashed: bytes) -> _Open | None:
        found = self._open.pop(hashed, None)
        if found is not None:
            own = self._by_bearer[_name(found.bearer)]
            del own[hashed]
            if not own:
                del self._by_bearer[_name(found.bearer)]
        return found

    def _drop_expired(self, now: datetime) -> None:
        # Oldest first; one whose credential ran out early waits behind its elders and is refused at the counter.
        while self._open:
            hashed, oldest = next(iter(self._open.items()))
            if now < oldest.expires_at:
                return
            self._take(hashed)


def _name(bearer: Principal) -> UUID | None:
    return bearer.user_id or bearer.app_id
