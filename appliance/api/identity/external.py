"""People of a trusted external issuer (OpenID Connect): known by `issuer|sub`, made on first sight."""

import hashlib
import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from appliance.api.identity.changes import ACTOR_EXTERNAL, Change, user_target
from appliance.domain.clock import Clock
from appliance.domain.errors import Conflict, InvalidField
from appliance.domain.identifier import make_id
from appliance.domain.principal import Principal, PrincipalKind, Role
from appliance.domain.username import check_username
from appliance.security.oidc import ExternalIdentity, ExternalTokenRefused, OidcVerifier
from appliance.security.revocations import Revocations
from appliance.storage import audit, users
from appliance.storage.database import Database
from appliance.storage.users import UserRow
from appliance.storage.writer import Transaction

logger = logging.getLogger(__name__)

REMEMBERED: Final = 1024
_MARK_CHARS: Final = 8


@dataclass(frozen=True, slots=True)
class _Known:
    principal: Principal
    revocations_seen: int


class ExternalUsers:
    """Verifies an external issuer's tokens and finds their users; an account of our own is never taken over.

    A token that was verified is remembered (1024 of them) until it runs out or anything is revoked; then it is verified
    and the user looked up again, so that a disabled user is refused.
    """

    def __init__(
        self, database: Database, clock: Clock, verifier: OidcVerifier, issuer: str, revocations: Revocations
    ) -> None:
        self._database = database
        self._clock = clock
        self._verifier = verifier
        self._issuer = issuer
        self._revocations = revocations
        self._known: OrderedDict[bytes, _Known] = OrderedDict()

    async def authenticate(self, token: str) -> Principal | None:
        """Give the token's bearer, None when it does not count. Raises `IssuerUnavailable`."""
        mark = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._known.get(mark)
        if (
            known is not None
            and known.revocations_seen == self._revocations.version
            and self._clock.now() < known.principal.expires_at
        ):
            self._known.move_to_end(mark)
            return known.principal
        self._known.pop(mark, None)
        # Taken before the look-ups: what is revoked meanwhile makes the entry old at once.
        version = self._revocations.version
        try:
            external = await self._verifier.verify(token)
        except ExternalTokenRefused as refusal:
            logger.debug("external_token_refused", extra={"reason": refusal.reason})
            return None
        user = await self._find_or_make(external)
        if user.is_disabled:
            return None
        principal = Principal(
            kind=PrincipalKind.USER,
            user_id=user.id,
            app_id=None,
            role=user.role,
            scopes=frozenset(),
            expires_at=external.expires_at,
            token_id=f"oidc:{mark.hex()[:32]}",
        )
        self._known[mark] = _Known(principal, version)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return principal

    async def _find_or_make(self, external: ExternalIdentity) -> UserRow:
        subject = f"{self._issuer}|{external.sub}"
        found = await users.load_user_by_subject(self._database, subject)
        if found is not None:
            return found
        for username in _usernames(external, subject):
            try:
                return await self._make(username, subject, external.email)
            except Conflict:
                # Made by another request in this moment, or somebody else has the name: then the next name is tried.
                found = await users.load_user_by_subject(self._database, subject)
                if found is not None:
                    return found
        raise Conflict("The external user could not be given a user name.")

    async def _make(self, username: str, subject: str, email: str | None) -> UserRow:
        now = self._clock.now()
        user = UserRow(make_id(now), username, None, Role.MEMBER, email, subject, now)

        def job(transaction: Transaction) -> None:
            users.insert_user(transaction, user)
            audit.record(
                transaction, at=now, actor=ACTOR_EXTERNAL, action=Change.USER_CREATED, target=user_target(user.id)
            )

        await self._database.write(job)
        logger.info("external_user_made", extra={"user": str(user.id)})
        return user


def _usernames(external: ExternalIdentity, subject: str) -> list[str]:
    """Give the names to try: what the issuer knows, and behind it one with a mark of the subject, which is unique."""
    mark = hashlib.sha256(subject.encode()).hexdigest()[:_MARK_CHARS]
    names = []
    for name in (external.email, external.name):
        try:
            names.append(check_username(name or ""))
        except InvalidField:
            continue
    stem = names[0] if names else "user"
    return [*names, f"{stem[:100]} {mark}", f"user {hashlib.sha256(subject.encode()).hexdigest()}"]
