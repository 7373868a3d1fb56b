"""The claim code: proof that the person in the browser owns this new appliance.

Theory of operation
-------------------
The code is made on the machine's own console and travels in the fragment of the setup link, which browsers send to no
server and proxies never log. Only its keyed hash is stored; a new code voids the one before, and each counts for a day.
Redeeming is one transaction: it burns the code, adds the first admin and opens the admin's session, and it does nothing
of that when somebody could administer the appliance already. Of two browsers with the same code one becomes the admin.

The code is looked at first and only wrong ones are counted: nobody can guess 256 bits, so the count only keeps the
noise down, and strangers who use it up cannot keep out the bearer of the right code. What is compared is the keyed
hash, so the time that takes tells nothing about the code.
"""

import logging
import secrets
from datetime import timedelta
from typing import Final

from appliance.api.identity.changes import ACTOR_CLI, ACTOR_SETUP, Change, user_target
from appliance.api.identity.service import Identity
from appliance.api.identity.web_sessions import OpenedSession
from appliance.domain.errors import Forbidden, NotFound, TooMany
from appliance.domain.principal import Role
from appliance.domain.secret import Secret
from appliance.security.client_secrets import SecretKind
from appliance.security.throttle import RateLimiter, Retry, source_of
from appliance.storage import audit, claims, users
from appliance.storage.writer import Transaction

logger = logging.getLogger(__name__)

CODE_LIFETIME: Final = timedelta(hours=24)
SETUP_PATH: Final = "/setup"

_CODE_BYTES: Final = 32
_TRIES: Final = 10
_TRIES_WINDOW_S: Final = 60.0


class ClaimRefused(Forbidden):
    """The code is not the one that counts; why is not told."""

    code = "claim_refused"
    title = "This setup link does not work"

    def __init__(self) -> None:
        super().__init__("The link was used, has run out or was replaced. Print a new one: carillon setup-link")
        self.field = "code"


class AlreadySetUp(NotFound):
    """There is an admin, so there is nothing to claim."""

    code = "already_set_up"
    title = "This server is set up"

    def __init__(self) -> None:
        super().__init__("This server has an admin already. Sign in instead.")


async def setup_link(identity: Identity, base_url: str) -> str | None:
    """Give a link with a fresh claim code, which voids the one before; None when the appliance has an admin."""
    if await identity.is_set_up():
        return None
    code = Secret(secrets.token_urlsafe(_CODE_BYTES))
    now = identity.clock.now()
    claim_id = identity.secrets.hash(code, SecretKind.CLAIM_CODE).hex()

    def job(transaction: Transaction) -> None:
        claims.replace_claim(transaction, claim_id, at=now, expires_at=now + CODE_LIFETIME)
        audit.record(transaction, at=now, actor=ACTOR_CLI, action=Change.CLAIM_CODE_MADE, target="appliance")

    await identity.database.write(job)
    return f"{base_url.rstrip('/')}{SETUP_PATH}#code={code.reveal()}"


class ClaimDesk:
    """Takes claim codes; of wrong ones, at most ten a minute from one address are answered as such."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._limiter = RateLimiter(_TRIES, _TRIES_WINDOW_S)

    async def redeem(
        self, code: Secret, username: str, password: Secret, *, address: str, user_agent: str
    ) -> OpenedSession:
        """Make the bearer of the code the first admin, burn the code and open a session.

        Raises `AlreadySetUp`, `ClaimRefused` (`TooMany` after ten wrong codes), and `InvalidField` for a name or
        password that breaks a rule; the code then still counts.
        """
        identity = self._identity
        if await identity.is_set_up():
            raise AlreadySetUp
        claim_ids = [hashed.hex() for hashed in identity.secrets.hash_candidates(code, SecretKind.CLAIM_CODE)]
        # A wrong code is refused before the password is hashed, so that guessing costs the house nothing.
        if not await claims.is_claim_open(identity.database, claim_ids, identity.clock.now()):
            if await identity.is_set_up():
                # Somebody else was quicker, between the two looks.
                raise AlreadySetUp
            permission = self._limiter.take(source_of(address), identity.clock.monotonic())
            if isinstance(permission, Retry):
                raise TooMany(
                    "Too many wrong codes from this address. Wait a minute.", retry_after_s=permission.after_s
                )
            logger.warning("claim_refused", extra={"address": address})
            raise ClaimRefused
        admin = await identity.accounts.prepare_user(username, password, role=Role.ADMIN)
        opened = identity.sessions.prepare(admin)

        def job(transaction: Transaction) -> None:
            if users.has_enabled_admin(transaction):
                raise AlreadySetUp
            if not claims.burn_claim(transaction, claim_ids, identity.clock.now()):
                raise ClaimRefused
            users.insert_user(transaction, admin)
            target = user_target(admin.id)
            audit.record(
                transaction,
                at=admin.created_at,
                actor=ACTOR_SETUP,
                action=Change.APPLIANCE_CLAIMED,
                target=target,
                address=address,
            )
            identity.sessions.insert(transaction, opened, address=address, user_agent=user_agent)

        await identity.database.write(job)
        identity.accounts.remember_address(admin.username, address)
        logger.info("appliance_claimed", extra={"user": str(admin.id)})
        return opened
