"""The face of identity: who is this, who may sign in, what was revoked. Used by the API, the set-up and the CLI."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from appliance.api.identity.accounts import Accounts
from appliance.api.identity.apps import Apps, AppWithSecret
from appliance.api.identity.changes import ACTOR_CLI, Change
from appliance.api.identity.external import ExternalUsers
from appliance.api.identity.grants import Grants
from appliance.api.identity.key_ring import KeyRing
from appliance.api.identity.revocation_feed import POLL_EVERY_S, RevocationFeed, RevocationWatcher
from appliance.api.identity.web_sessions import WebSessions
from appliance.domain.clock import Clock
from appliance.domain.errors import CarillonError, NotFound, Unauthorized
from appliance.domain.principal import Principal, Role
from appliance.domain.secret import Secret
from appliance.security.client_secrets import SecretHasher
from appliance.security.oidc import OidcVerifier
from appliance.security.outbound import OutboundClient, OutboundRules
from appliance.security.passwords import PasswordHasher
from appliance.security.revocations import Revocations
from appliance.security.sealing import Sealer
from appliance.security.throttle import LogInThrottle
from appliance.security.tickets import TICKET_PREFIX, IssuedTicket, TicketOffice, TicketRefused
from appliance.security.tokens import IssuedToken, RefusalReason, TokenIssuer, TokenRefused
from appliance.settings import Settings
from appliance.storage import apps, audit, users
from appliance.storage.apps import AppRow
from appliance.storage.database import Database
from appliance.storage.users import UserRow
from appliance.storage.writer import Transaction

logger = logging.getLogger(__name__)

ISSUER_WITHOUT_URL: Final = "urn:carillon"
HOUSEKEEPING_EVERY_S: Final = 3600.0
STEP_DEADLINE_S: Final = 30.0
_MAY_BE_EXTERNAL: Final = (RefusalReason.MALFORMED, RefusalReason.UNKNOWN_KEY)
KEEP_SIGN_INS: Final = timedelta(days=90)
KEEP_AUDIT: Final = timedelta(days=400)


@dataclass(frozen=True, slots=True)
class Parts:
    """What identity is made of; `open_identity` puts it together."""

    database: Database
    settings: Settings
    clock: Clock
    secrets: SecretHasher
    issuer: TokenIssuer
    keys: KeyRing
    feed: RevocationFeed
    tickets: TicketOffice
    accounts: Accounts
    apps: Apps
    sessions: WebSessions
    grants: Grants
    external: ExternalUsers | None


class Identity:
    """Who people and apps are. Belongs to one event loop; make it with `open_identity`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.accounts = parts.accounts
        self.apps = parts.apps
        self.sessions = parts.sessions
        self.grants = parts.grants
        self.secrets = parts.secrets
        self.database = parts.database
        self.settings = parts.settings
        self.clock = parts.clock

    async def authenticate(self, bearer: str) -> Principal | None:
        """Verify an access token, or redeem a one-use ticket; None when it does not count.

        Raises `IssuerUnavailable` when a trusted external issuer does not answer.
        """
        if bearer.startswith(TICKET_PREFIX):
            try:
                return self._parts.tickets.redeem(bearer, self.clock.now())
            except TicketRefused:
                return None
        return await self.verify_bearer(bearer)

    async def verify_bearer(self, token: str) -> Principal | None:
        """Verify an access token, our own or one of the trusted external issuer; never a ticket.

        Raises `IssuerUnavailable` when the issuer's keys are not at hand.
        """
        try:
            return self._parts.issuer.verify(token, self.clock.now())
        except TokenRefused as refusal:
            logger.debug("access_token_refused", extra={"reason": refusal.reason.value})
            if self._parts.external is None or refusal.reason not in _MAY_BE_EXTERNAL:
                return None
        return await self._parts.external.authenticate(token)

    def issue_ticket(self, principal: Principal) -> IssuedTicket:
        """Issue a ticket that opens one hub connection within a minute. Raises `Unauthorized` for an expired bearer."""
        now = self.clock.now()
        if principal.expires_at <= now:
            raise Unauthorized("Sign in again.")
        return self._parts.tickets.issue(principal, now)

    async def issue_user_token(self, user_id: UUID, lifetime: timedelta, *, app_id: UUID | None = None) -> IssuedToken:
        """Issue an access token without a password, up to a day long, for the owner of the machine to hand out.

        Raises `NotFound` for an unknown or disabled user, `ValueError` for a longer life.
        """
        # Told before the look-up: a disabling that overtakes it is later, and ends this token too.
        now = self.clock.now()
        user = await users.load_user(self.database, user_id)
        if user is None or user.is_disabled:
            raise NotFound(f"There is no active user {user_id}.")
        return self._parts.issuer.issue_user_token(user.id, user.role, now, lifetime, app_id=app_id)

    def public_keys(self) -> dict[str, list[dict[str, str]]]:
        """Give the key set of `/.well-known/jwks.json`."""
        return self._parts.issuer.jwks(self.clock.now())

    @property
    def issuer_name(self) -> str:
        """The `iss` of our tokens."""
        return issuer_name(self.settings)

    def watch(self, watcher: RevocationWatcher) -> None:
        """Tell whoever holds connections of every revocation, so that it closes them."""
        self._parts.feed.watch(watcher)

    async def is_set_up(self) -> bool:
        """Tell whether somebody can administer this appliance."""
        return await users.load_admin_exists(self.database)

    async def create_user(
        self,
        username: str,
        password: Secret | None,
        *,
        role: Role = Role.MEMBER,
        email: str | None = None,
        actor: str = ACTOR_CLI,
    ) -> UserRow:
        """See `Accounts.create_user`."""
        return await self.accounts.create_user(username, password, role=role, email=email, actor=actor)

    async def sign_in(self, username: str, password: Secret, address: str) -> UserRow:
        """See `Accounts.sign_in`."""
        return await self.accounts.sign_in(username, password, address)

    async def set_password(
        self, user_id: UUID, password: Secret, *, actor: str = ACTOR_CLI, keep_session: str | None = None
    ) -> UserRow:
        """See `Accounts.set_password`."""
        return await self.accounts.set_password(user_id, password, actor=actor, keep_session=keep_session)

    async def disable_user(self, user_id: UUID, *, actor: str = ACTOR_CLI) -> None:
        """See `Accounts.disable_user`."""
        await self.accounts.disable_user(user_id, actor=actor)

    async def find_user(self, username: str) -> UserRow | None:
        """Find a user by name or by id as text."""
        found = await users.load_user_by_name(self.database, username)
        if found is not None:
            return found
        try:
            return await users.load_user(self.database, UUID(username))
        except ValueError:
            return None

    async def list_users(self, *, after: UUID | None = None, limit: int = 100) -> list[UserRow]:
        """Give users in the order of their making."""
        return await users.list_users(self.database, after=after, limit=limit)

    async def create_app(self, name: str, *, actor: str = ACTOR_CLI) -> AppWithSecret:
        """See `Apps.create_app`."""
        return await self.apps.create_app(name, actor=actor)

    async def rotate_secret(self, app_id: UUID, *, actor: str = ACTOR_CLI) -> AppWithSecret:
        """See `Apps.rotate_secret`."""
        return await self.apps.rotate_secret(app_id, actor=actor)

    async def enrol_user(self, user_id: UUID, app_id: UUID, *, actor: str = ACTOR_CLI) -> bool:
        """See `Apps.enrol_user`."""
        return await self.apps.enrol_user(user_id, app_id, actor=actor)

    async def list_apps(self, *, after: UUID | None = None, limit: int = 100) -> list[AppRow]:
        """Give apps in the order of their making."""
        return await apps.list_apps(self.database, after=after, limit=limit)

    async def follow_revocations(self) -> int:
        """Apply what other processes have revoked since the last time; the running server does so every second."""
        return await self._parts.feed.poll()

    async def keep_house(self) -> None:
        """Rotate the signing key when it is due, and drop old entries of the audit log; the server does so hourly.

        Sessions and refresh tokens that ran out are dropped with all else that is stale: `storage.retention`.
        """
        self._parts.issuer.replace_keys(await self._parts.keys.load())
        now = self.clock.now()
        await self.database.write(lambda transaction: _drop_past_entries(transaction, now))


def issuer_name(settings: Settings) -> str:
    """Give the `iss` of tokens: the public URL, or a fixed name while there is none.

    It hangs on no port and no host name, so tokens made by the command line count in the server beside it.
    """
    return settings.public_url.rstrip("/") or ISSUER_WITHOUT_URL


@asynccontextmanager
async def open_identity(
    database: Database,
    settings: Settings,
    clock: Clock,
    *,
    passwords: PasswordHasher | None = None,
    is_server: bool = True,
) -> AsyncIterator[Identity]:
    """Put identity together; with `is_server` it follows other processes' revocations and keeps house by itself.

    Raises `SealError` when SECRET_KEY does not open the stored keys, `ValueError` when it is too short.
    """
    async with AsyncExitStack() as owned:
        if passwords is None:
            passwords = PasswordHasher()
            owned.callback(passwords.close)
        outbound: OutboundClient | None = None
        if settings.oidc_issuer:
            outbound = OutboundClient(OutboundRules(settings.outbound_allow))
            owned.push_async_callback(outbound.close)
        rotated = asyncio.Event()
        identity = Identity(await _put_together(database, settings, clock, passwords, outbound, rotated))
        async with _background(identity, rotated, is_server=is_server):
            yield identity


async def _put_together(
    database: Database,
    settings: Settings,
    clock: Clock,
    passwords: PasswordHasher,
    outbound: OutboundClient | None,
    rotated: asyncio.Event,
) -> Parts:
    sealer = Sealer(settings.secret_key, [settings.secret_key_previous] if settings.secret_key_previous else [])
    secret_hasher = SecretHasher(sealer)
    revocations = Revocations()
    keys = KeyRing(database, sealer, clock)
    issuer = TokenIssuer(await keys.load(), issuer_name(settings), revocations=revocations)
    feed = RevocationFeed(database, revocations, clock, on_key_rotated=rotated.set)
    await feed.load()
    accounts = Accounts(database, clock, passwords, LogInThrottle(), feed)
    await accounts.load_known_addresses()
    external: ExternalUsers | None = None
    if outbound is not None:
        verifier = OidcVerifier(settings.oidc_issuer, settings.oidc_audience, outbound, clock)
        external = ExternalUsers(database, clock, verifier, settings.oidc_issuer, revocations)
    registered_apps = Apps(database, clock, secret_hasher, feed)
    return Parts(
        database=database,
        settings=settings,
        clock=clock,
        secrets=secret_hasher,
        issuer=issuer,
        keys=keys,
        feed=feed,
        tickets=TicketOffice(secret_hasher, revocations),
        accounts=accounts,
        apps=registered_apps,
        sessions=WebSessions(database, clock, secret_hasher, feed),
        grants=Grants(
            database,
            clock,
            accounts,
            registered_apps,
            secret_hasher,
            feed,
            issuer,
            access_lifetime=timedelta(minutes=settings.access_token_minutes),
            refresh_lifetime=timedelta(days=settings.refresh_token_days),
        ),
        external=external,
    )


@asynccontextmanager
async def _background(identity: Identity, rotated: asyncio.Event, *, is_server: bool) -> AsyncIterator[None]:
    tasks = []
    if is_server:
        tasks = [
            asyncio.create_task(_follow(identity), name="identity-revocations"),
            asyncio.create_task(_keep_house(identity, rotated), name="identity-housekeeping"),
        ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _follow(identity: Identity) -> None:
    while True:
        await asyncio.sleep(POLL_EVERY_S)
        try:
            async with asyncio.timeout(STEP_DEADLINE_S):
                await identity.follow_revocations()
        except Exception as error:
            _log_failure("revocations_not_followed", error)


async def _keep_house(identity: Identity, rotated: asyncio.Event) -> None:
    while True:
        try:
            async with asyncio.timeout(HOUSEKEEPING_EVERY_S):
                await rotated.wait()
        except TimeoutError:
            pass
        rotated.clear()
        try:
            async with asyncio.timeout(STEP_DEADLINE_S):
                await identity.keep_house()
        except Exception as error:
            _log_failure("identity_housekeeping_failed", error)


def _log_failure(event: str, error: Exception) -> None:
    if isinstance(error, CarillonError | TimeoutError):
        logger.warning(event, extra={"reason": type(error).__name__})
    else:
        logger.error(event, exc_info=error)


def _drop_past_entries(transaction: Transaction, now: datetime) -> None:
    audit.delete_entries_before(transaction, now - KEEP_SIGN_INS, action=Change.USER_SIGNED_IN.value)
    audit.delete_entries_before(transaction, now - KEEP_AUDIT)
