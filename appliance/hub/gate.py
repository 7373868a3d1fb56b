"""Who may come in: credentials, ids and caps, decided before anything is accepted, for any transport and any server."""

import asyncio
import hashlib
import hmac
import logging
import random
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from appliance.domain.errors import CarillonError
from appliance.domain.principal import Principal, PrincipalKind
from appliance.hub.arriving import Arriving
from appliance.hub.connection import Connection
from appliance.hub.core import HubCore
from appliance.hub.distrust import DistrustedStreams
from appliance.hub.negotiate import (
    SERVER_SENT_EVENTS,
    Negotiation,
    Negotiations,
    NegotiationState,
    TransportOffer,
    UsedTicket,
    VersionRefused,
    choose_version,
    make_answer,
)
from appliance.hub.origin import NOWHERE, Origin, make_origin
from appliance.hub.refusals import ID_IN_USE, NO_ID, OTHER_TRANSPORT, UNKNOWN_ID, Refusal
from appliance.hub.requests import HubRequest
from appliance.security.tickets import TICKET_PREFIX

logger = logging.getLogger(__name__)

_LONGEST_CREDENTIAL_CHARS: Final = 16_384
_TELL_EVERY_S: Final = 60.0
_WHY_BUSY: Final = {
    "draining": "The server is restarting.",
    "connections": "The server has as many connections as it takes.",
    "connections_per_user": "This user has as many connections as one may have.",
    "connections_per_address": "This network address has as many connections as one may have.",
    "handshakes_pending": "Too many clients are connecting at this moment.",
    "handshakes_pending_per_address": "Too many clients of this network address are connecting at this moment.",
    "negotiations_pending": "Too many clients are connecting at this moment.",
    "negotiations_pending_per_user": "Too many clients of this user are connecting at this moment.",
    "negotiations_pending_per_address": "Too many clients of this network address are connecting at this moment.",
    "posts_arriving": "Too many clients are sending at this moment.",
    "posts_arriving_per_user": "Too many clients of this user are sending at this moment.",
    "posts_arriving_per_address": "Too many clients of this network address are sending at this moment.",
    "posted_early": "What was posted before has not arrived yet.",
    "resumes": "This connection went on over too many sockets.",
    "authentication_too_slow": "The access token could not be checked in time.",
    "authentication_unavailable": "The access token cannot be checked at this moment.",
}


@dataclass(frozen=True, slots=True)
class Guest:
    """A user with a good credential, where they come from, and what they say that they are."""

    principal: Principal
    user_id: UUID
    origin: Origin = NOWHERE
    ticket: UsedTicket | None = None

    @property
    def address(self) -> str:
        return self.origin.address


class Gate:
    """Lets users in, one request at a time. Every method raises `Refusal`."""

    def __init__(
        self,
        core: HubCore,
        negotiations: Negotiations[Connection],
        offers: Sequence[TransportOffer],
        randomness: random.Random,
    ) -> None:
        self._core = core
        self._negotiations = negotiations
        self._offers = tuple(offers)
        self._randomness = randomness
        self._told_at: float | None = None
        limits = core.limits
        self._arriving = Arriving(limits)
        self.distrusted_streams = DistrustedStreams(
            core.clock, most=limits.streams_distrusted, lifetime_s=limits.stream_distrust_s
        )

    def check_room(self, request: HubRequest) -> None:
        """Turn a newcomer down at once where nobody could be let in: checking a credential costs far more. 503."""
        negotiation = self._negotiations.find(request.id) if request.id else None
        if negotiation is None or negotiation.connection is None:
            origin = make_origin(request.address, request.user_agent)
            self._check_open_at(origin)
            self._check_handshakes_at(origin)

    async def authenticate(self, request: HubRequest, *, is_upgrade: bool = False) -> Guest:
        """Find who asks; one good credential among those given is enough. 401 without one, 403 for an app's.

        A one-use ticket opens one connection, which takes several requests: the ticket that has negotiated an id stays
        good for the requests of this id, as long as there is one. An upgrade with it only begins what has not begun.
        """
        guest = self._recognise_ticket(request, is_upgrade=is_upgrade)
        if guest is not None:
            return guest
        for credential in request.credentials:
            principal = await self._verify(credential)
            if principal is None or principal.expires_at <= self._core.clock.now():
                continue
            if principal.kind is not PrincipalKind.USER or principal.user_id is None:
                raise Refusal(403, "The hub is for users; this token is an app's.", cause="not_a_user")
            origin = make_origin(request.address, request.user_agent)
            ticket = UsedTicket(_fingerprint(credential), principal) if credential.startswith(TICKET_PREFIX) else None
            return Guest(principal, principal.user_id, origin, ticket)
        challenge = 'Bearer error="invalid_token"' if request.credentials else "Bearer"
        raise Refusal(401, "", (("www-authenticate", challenge),), cause="unauthenticated")

    def negotiate(self, guest: Guest, request: HubRequest) -> dict[str, object]:
        """Give out an id and say which transports may open it; an unusable version is answered, not refused."""
        self._check_open_for(guest)
        self._check_negotiations_of(guest)
        try:
            version = choose_version(request.query.get("negotiateversion"))
        except VersionRefused as refused:
            return {"error": refused.text}
        negotiation = self._negotiations.begin(
            guest.user_id,
            guest.principal.token_id,
            version,
            app_id=guest.principal.app_id,
            site=guest.origin.site,
            is_stateful=request.query.get("usestatefulreconnect", "").lower() == "true",
        )
        negotiation.ticket = guest.ticket
        return make_answer(negotiation, version, self._choose_offers(guest))

    def find(self, guest: Guest, token: str | None) -> Negotiation[Connection]:
        """Find the id of a request: 400 without one, 404 for an unknown one, 403 for another user's or app's."""
        if not token:
            raise Refusal(400, NO_ID, cause="no_id")
        negotiation = self._negotiations.find(token)
        if negotiation is None:
            raise Refusal(404, UNKNOWN_ID, cause="unknown_id")
        if negotiation.user_id != guest.user_id:
            raise Refusal(403, "The connection belongs to another user.", cause="foreign_id")
        if negotiation.app_id != guest.principal.app_id:
            raise Refusal(403, "The connection was opened for another app.", cause="foreign_id")
        return negotiation

    def admit_again(self, guest: Guest, token: str | None) -> tuple[Negotiation[Connection], Connection] | None:
        """Let a client go on with its connection over another WebSocket; None where it is to be admitted anew.

        403 for another user's id. The newest socket wins; the connection is not counted again, its sockets have bounds
        of their own (503). The caller lets the connection know when the socket has ended.
        """
        negotiation = self._negotiations.find(token) if token else None
        connection = None if negotiation is None else negotiation.connection
        if negotiation is None or connection is None or not connection.is_resumable:
            return None
        self.find(guest, token)
        if self._core.is_draining:
            raise self._busy("draining")
        if not connection.take_socket():
            raise self._busy("resumes")
        return negotiation, connection

    def admit(self, guest: Guest, token: str | None, transport: TransportOffer) -> Negotiation[Connection] | None:
        """Let a transport begin, with an id or (None) without; the caller makes the connection at once.

        400, 403, 404 and 409 for the id, 503 over a cap or while the hub drains. What it gives back must be finished.
        """
        self._check_open_for(guest)
        self._check_handshakes_at(guest.origin)
        if not token:
            return None
        negotiation = self.find(guest, token)
        if negotiation.state is NegotiationState.OPEN:
            if negotiation.connection is not None and negotiation.connection.ending is not None:
                raise Refusal(404, UNKNOWN_ID, cause="unknown_id")
            if negotiation.transport is transport:
                raise Refusal(409, ID_IN_USE, cause="id_in_use")
            raise Refusal(400, OTHER_TRANSPORT, cause="other_transport")
        self._negotiations.open(negotiation, transport)
        return negotiation

    def count_arriving(self, guest: Guest) -> AbstractContextManager[None]:
        """Count a request whose body is about to arrive, for as long as the context is open. 503 over a bound."""
        full = self._arriving.find_full(guest.user_id, guest.origin.site)
        if full is not None:
            raise self._busy(full)
        return self._arriving.count(guest.user_id, guest.origin.site)

    def refuse_second_early_post(self) -> Refusal:
        """Make the refusal of a body for an id to which another one is still being posted. 503."""
        return self._busy("posted_early")

    def finish(self, negotiation: Negotiation[Connection] | None) -> None:
        """The transport that was admitted has ended."""
        if negotiation is not None:
            self._negotiations.finish(negotiation)

    def _choose_offers(self, guest: Guest) -> Sequence[TransportOffer]:
        if (guest.user_id, guest.address) not in self.distrusted_streams:
            return self._offers
        logger.info("hub_streams_not_offered", extra={"user_id": str(guest.user_id), "address": guest.address})
        return [offer for offer in self._offers if offer is not SERVER_SENT_EVENTS]

    def _recognise_ticket(self, request: HubRequest, *, is_upgrade: bool) -> Guest | None:
        negotiation = self._negotiations.find(request.id) if request.id and not request.is_negotiation else None
        ticket = None if negotiation is None else negotiation.ticket
        if negotiation is None or ticket is None or ticket.principal.expires_at <= self._core.clock.now():
            return None
        if is_upgrade and negotiation.state is not NegotiationState.PENDING:
            return None
        for credential in request.credentials:
            if hmac.compare_digest(_fingerprint(credential), ticket.fingerprint):
                origin = make_origin(request.address, request.user_agent)
                return Guest(ticket.principal, negotiation.user_id, origin, ticket)
        return None

    async def _verify(self, credential: str) -> Principal | None:
        if not credential or len(credential) > _LONGEST_CREDENTIAL_CHARS:
            return None
        try:
            async with asyncio.timeout(self._core.limits.backend_deadline_s):
                return await self._core.backend.authenticate(credential)
        except TimeoutError:
            raise self._busy("authentication_too_slow") from None
        except CarillonError:
            raise self._busy("authentication_unavailable") from None
        except Exception:
            logger.exception("hub_authentication_failed")
            raise Refusal(500, "", cause="authentication_failed") from None

    def _check_open_for(self, guest: Guest) -> None:
        core = self._core
        self._check_open_at(guest.origin)
        if core.presence.count_user(guest.user_id) >= core.limits.connections_per_user:
            raise self._busy("connections_per_user")

    def _check_open_at(self, origin: Origin) -> None:
        core = self._core
        if core.is_draining:
            raise self._busy("draining")
        if core.presence.connections >= core.limits.connections:
            raise self._busy("connections")
        if core.presence.count_site(origin.site) >= core.limits.connections_per_address:
            self._tell_of_full_site(origin)
            raise self._busy("connections_per_address")

    def _check_handshakes_at(self, origin: Origin) -> None:
        core = self._core
        if core.handshakes_pending >= core.limits.handshakes_pending:
            raise self._busy("handshakes_pending")
        if core.handshakes_at_site.get(origin.site, 0) >= core.limits.handshakes_pending_per_address:
            raise self._busy("handshakes_pending_per_address")

    def _check_negotiations_of(self, guest: Guest) -> None:
        negotiations, limits = self._negotiations, self._core.limits
        if negotiations.count_pending() >= limits.negotiations_pending:
            raise self._busy("negotiations_pending")
        if negotiations.count_pending_of(guest.user_id) >= limits.negotiations_pending_per_user:
            raise self._busy("negotiations_pending_per_user")
        if negotiations.count_pending_at(guest.origin.site) >= limits.negotiations_pending_per_address:
            raise self._busy("negotiations_pending_per_address")

    def _tell_of_full_site(self, origin: Origin) -> None:
        """Warn, at most once a minute: a reverse proxy that is not trusted makes all clients look like one machine."""
        now = self._core.clock.monotonic()
        if self._told_at is None or now - self._told_at >= _TELL_EVERY_S:
            self._told_at = now
            logger.warning(
                "hub_address_full",
                extra={"address": origin.address, "hint": "If this is a reverse proxy, name it in TRUSTED_PROXIES."},
            )

    def _busy(self, cause: str) -> Refusal:
        """Refuse for now. The spread of Retry-After keeps a crowd from coming back in the same second."""
        limits = self._core.limits
        retry_after_s = self._randomness.randint(limits.retry_after_least_s, limits.retry_after_most_s)
        text = f"{_WHY_BUSY.get(cause, 'The server is busy.')} Try again in {retry_after_s} s."
        return Refusal(503, text, (("retry-after", str(retry_after_s)),), cause=cause)


def _fingerprint(credential: str) -> bytes:
    return hashlib.sha256(credential.encode()).digest()
