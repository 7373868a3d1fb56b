"""Negotiation: which id a client may open a transport with, and for how long.

An id given out is pending until a transport opens it, open while that transport lives, and unknown otherwise. It
belongs to the user who negotiated it. Source: dotnet/aspnetcore `TransportProtocols.md`, section negotiate.
"""

import re
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Generic, TypeVar
from uuid import UUID

from appliance.domain.clock import Clock
from appliance.domain.principal import Principal
from appliance.hub.presence import count_down, count_up

NEWEST_VERSION: Final = 1
# What a .NET server takes for an integer: ASCII digits that fit into 32 bits.
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,9}", re.ASCII)
_ID_BYTES: Final = 16

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class TransportOffer:
    """A transport as negotiate announces it; the order of offers is the order in which clients try them."""

    name: str
    transfer_formats: tuple[str, ...]


WEBSOCKETS: Final = TransportOffer("WebSockets", ("Text", "Binary"))
SERVER_SENT_EVENTS: Final = TransportOffer("ServerSentEvents", ("Text",))
LONG_POLLING: Final = TransportOffer("LongPolling", ("Text", "Binary"))


class NegotiationState(Enum):
    """Where an id stands."""

    PENDING = auto()
    OPEN = auto()


@dataclass(frozen=True, slots=True)
class UsedTicket:
    """A one-use ticket that has been redeemed, by its SHA-256, and what it was good for."""

    fingerprint: bytes
    principal: Principal


@dataclass(slots=True, eq=False)
class Negotiation(Generic[C]):
    """One id that was given out. `token` goes into `?id=` and is secret.

    Once it is open, `transport` is what opened it and `connection` what lives under it. `is_stateful` tells whether the
    client asked for stateful reconnect and was granted it; `ticket` is the one it was negotiated with, if it was one.
    """

    connection_id: str
    token: str
    user_id: UUID
    credential_id: str
    app_id: UUID | None
    expires_at: float
    site: str = ""
    state: NegotiationState = NegotiationState.PENDING
    transport: TransportOffer | None = None
    connection: C | None = None
    is_stateful: bool = False
    ticket: UsedTicket | None = None
    posted: bytes = b""
    """What was posted before a transport opened the id; some clients post their handshake before their first poll."""


class VersionRefused(Exception):
    """The client's `negotiateVersion` cannot be served; `text` is what clients show."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Negotiations(Generic[C]):
    """All ids that are pending or open. Pending ones expire in the order in which they were given out."""

    def __init__(self, clock: Clock, *, lifetime_s: float) -> None:
        self._clock = clock
        self._lifetime_s = lifetime_s
        # Ordered: the front of a plain dict that is emptied from the front takes ever longer to find.
        self._pending: OrderedDict[str, Negotiation[C]] = OrderedDict()
        self._pending_of_user: dict[UUID, int] = {}
        self._pending_at_site: dict[str, int] = {}
        self._open: dict[str, Negotiation[C]] = {}

    def count_pending(self) -> int:
        self._forget_expired()
        return len(self._pending)

    def count_pending_of(self, user_id: UUID) -> int:
        self._forget_expired()
        return self._pending_of_user.get(user_id, 0)

    def count_pending_at(self, site: str) -> int:
        """Count those of one network address (`Origin.site`)."""
        self._forget_expired()
        return self._pending_at_site.get(site, 0)

    def begin(
        self,
        user_id: UUID,
        credential_id: str,
        version: int,
        *,
        app_id: UUID | None = None,
        site: str = "",
        is_stateful: bool = False,
    ) -> Negotiation[C]:
        """Give out an id. In version 0 the public connection id and the secret token are one and the same.

        `app_id` is the app that the credential is bound to, if any.
        """
        self._forget_expired()
        token = secrets.token_urlsafe(_ID_BYTES)
        connection_id = token if version == 0 else secrets.token_urlsafe(_ID_BYTES)
        negotiation: Negotiation[C] = Negotiation(
            connection_id,
            token,
            user_id,
            credential_id,
            app_id,
            self._clock.monotonic() + self._lifetime_s,
            site,
            is_stateful=is_stateful,
        )
        self._pending[token] = negotiation
        self._pending_of_user[user_id] = self._pending_of_user.get(user_id, 0) + 1
        count_up(self._pending_at_site, site)
        return negotiation

    def find(self, token: str) -> Negotiation[C] | None:
        """Give the id's negotiation, None when it is unknown, expired or finished."""
        self._forget_expired()
        return self._open.get(token) or self._pending.get(token)

    def open(self, negotiation: Negotiation[C], transport: TransportOffer) -> None:
        """A transport takes the id; it does not expire any more, and `finish` must follow."""
        self._drop_pending(negotiation.token)
        negotiation.state = NegotiationState.OPEN
        negotiation.transport = transport
        self._open[negotiation.token] = negotiation

    def finish(self, negotiation: Negotiation[C]) -> None:
        """The connection has ended: the id is unknown from now on."""
        negotiation.connection = None
        self._open.pop(negotiation.token, None)

    def revoke(
        self, *, user_id: UUID | None = None, credential_id: str | None = None, app_id: UUID | None = None
    ) -> None:
        """Forget the pending ids of a user, of a credential, or of the credentials that are bound to an app."""
        revoked = [
            token
            for token, negotiation in self._pending.items()
            if negotiation.user_id == user_id
            or negotiation.credential_id == credential_id
            or (app_id is not None and negotiation.app_id == app_id)
        ]
        for token in revoked:
            self._drop_pending(token)

    def _forget_expired(self) -> None:
        now = self._clock.monotonic()
        while self._pending:
            token, negotiation = next(iter(self._pending.items()))
            if negotiation.expires_at > now:
                return
            self._drop_pending(token)

    def _drop_pending(self, token: str) -> None:
        negotiation = self._pending.pop(token, None)
        if negotiation is None:
            return
        count_down(self._pending_at_site, negotiation.site)
        left = self._pending_of_user[negotiation.user_id] - 1
        if left:
            self._pending_of_user[negotiation.user_id] = left
        else:
            del self._pending_of_user[negotiation.user_id]


def choose_version(asked: str | None) -> int:
    """Give the negotiate version to speak: the client's, at most the newest; 0 when it asks for none.

    Raises `VersionRefused` with the texts of ASP.NET Core.
    """
    if asked is None:
        return 0
    if _INTEGER.fullmatch(asked) is None:
        raise VersionRefused("The client requested a non-integer protocol version.")
    version = int(asked)
    if version < 0:
        raise VersionRefused(f"The client requested version '{version}', but the server does not support this version.")
    return min(version, NEWEST_VERSION)


def make_answer(negotiation: Negotiation[C], version: int, offers: Iterable[TransportOffer]) -> dict[str, object]:
    """Give the body of a successful negotiate; what is absent is left out, never null."""
    answer: dict[str, object] = {"negotiateVersion": version, "connectionId": negotiation.connection_id}
    if version >= 1:
        answer["connectionToken"] = negotiation.token
    if negotiation.is_stateful:
        answer["useStatefulReconnect"] = True
    answer["availableTransports"] = [_describe(offer) for offer in offers]
    return answer


def _describe(offer: TransportOffer) -> dict[str, str | Sequence[str]]:
    return {"transport": offer.name, "transferFormats": offer.transfer_formats}
