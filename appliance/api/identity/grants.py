"""What `POST /oauth/token` and `/oauth/revoke` do, without HTTP (RFC 6749, RFC 7009)."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

from appliance.api.identity.accounts import Accounts, check_still_proven
from appliance.api.identity.apps import Apps
from appliance.api.identity.changes import Change, token_target, user_target
from appliance.api.identity.revocation_feed import RevocationFeed
from appliance.api.identity.web_sessions import note_sign_in
from appliance.domain.clock import Clock
from appliance.domain.identifier import make_id
from appliance.domain.principal import SCOPE_PUSH_SEND, Principal, PrincipalKind, Role
from appliance.domain.secret import Secret
from appliance.security.client_secrets import SecretHasher, SecretKind, make_refresh_token
from appliance.security.tokens import TokenIssuer, TokenRefused
from appliance.storage import apps, audit, refresh_tokens
from appliance.storage.apps import AppRow
from appliance.storage.audit import AuditEntry
from appliance.storage.database import Database
from appliance.storage.refresh_tokens import Exchange, RefreshRow
from appliance.storage.writer import Transaction

APP_SCOPES: Final = frozenset({SCOPE_PUSH_SEND})


class GrantError(StrEnum):
    """The error codes of RFC 6749 section 5.2 that occur here."""

    INVALID_REQUEST = "invalid_request"
    INVALID_CLIENT = "invalid_client"
    INVALID_GRANT = "invalid_grant"
    INVALID_SCOPE = "invalid_scope"
    UNSUPPORTED_GRANT_TYPE = "unsupported_grant_type"
    TEMPORARILY_UNAVAILABLE = "temporarily_unavailable"


class GrantRefused(Exception):
    """No token; `description` says the next step."""

    def __init__(self, error: GrantError, description: str) -> None:
        super().__init__(description)
        self.error = error
        self.description = description


@dataclass(frozen=True, slots=True)
class Grant:
    """A new access token and, for a person, the refresh token that follows it up."""

    access_token: Secret
    expires_in_s: int
    scope: str = ""
    refresh_token: Secret | None = None
    user_id: UUID | None = None


class Grants:
    """Gives tokens to apps and people, follows them up, and takes them back."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        accounts: Accounts,
        registered_apps: Apps,
        hasher: SecretHasher,
        feed: RevocationFeed,
        issuer: TokenIssuer,
        *,
        access_lifetime: timedelta,
        refresh_lifetime: timedelta,
    ) -> None:
        self._database = database
        self._clock = clock
        self._accounts = accounts
        self._apps = registered_apps
        self._hasher = hasher
        self._feed = feed
        self._issuer = issuer
        self._access_lifetime = access_lifetime
        self._refresh_lifetime = refresh_lifetime

    async def for_app(self, client_id: str, client_secret: Secret, scope: str | None) -> Grant:
        """Grant an app a token for an hour (`client_credentials`). Raises `GrantRefused`."""
        # Told before the look-up: a rotation or a disabling that overtakes it is later, and ends this token too.
        now = self._clock.now()
        app = await self.authenticate_client(client_id, client_secret)
        scopes = _granted(scope)
        issued = self._issuer.issue_app_token(app.id, scopes, now)
        return Grant(issued.token, issued.lifetime_s, " ".join(sorted(scopes)))

    async def for_password(self, username: str, password: Secret, *, app_id: UUID | None, address: str) -> Grant:
        """Sign a person in (`password`) and start a family of refresh tokens.

        Raises as `Accounts.sign_in` does, and `GrantRefused` when the app was disabled meanwhile.
        """
        user = await self._accounts.sign_in(username, password, address)
        now = self._clock.now()
        family = make_id(now)
        token = make_refresh_token()
        token_id = self._hasher.hash(token, SecretKind.REFRESH_TOKEN).hex()

        def job(transaction: Transaction) -> None:
            check_still_proven(transaction, user)
            if app_id is not None and not apps.is_enabled(transaction, app_id):
                raise _no_such_client()
            refresh_tokens.insert_refresh_token(
                transaction,
                token_id,
                family=family,
                user_id=user.id,
                app_id=app_id,
                at=now,
                expires_at=now + self._refresh_lifetime,
            )
            note_sign_in(transaction, user.id, at=now, address=address)

        await self._database.write(job)
        return self._user_grant(user.id, user.role, app_id, family, token, now)

    async def for_refresh_token(self, token: Secret, *, client: AppRow | None, address: str) -> Grant:
        """Exchange a refresh token (`refresh_token`) for a fresh pair; see `storage.refresh_tokens` for the rules.

        Raises `GrantRefused`; when the token was used before, everything of its sign-in is revoked at once.
        """
        now = self._clock.now()
        successor = make_refresh_token()
        held_ids = self._hashes(token)

        def job(transaction: Transaction) -> tuple[Exchange, RefreshRow | None, AuditEntry | None]:
            held = refresh_tokens.find_refresh_token(transaction, held_ids)
            if held is None or (client is not None and client.id != held.app_id):
                return Exchange.REFUSED, None, None
            outcome = refresh_tokens.exchange(
                transaction,
                held,
                self._hasher.hash(successor, SecretKind.REFRESH_TOKEN).hex(),
                now=now,
                expires_at=now + self._refresh_lifetime,
            )
            entry: AuditEntry | None = None
            if outcome is Exchange.REUSED:
                entry = audit.record(
                    transaction,
                    at=now,
                    actor=user_target(held.user_id),
                    action=Change.REFRESH_TOKEN_REUSED,
                    target=token_target(str(held.family)),
                    address=address,
                )
            return outcome, held, entry

        outcome, held, entry = await self._database.write(job)
        if entry is not None:
            self._feed.apply(entry)
        if outcome is not Exchange.ROTATED or held is None:
            raise GrantRefused(
                GrantError.INVALID_GRANT, "The refresh token is not valid any more. Sign in again with the password."
            )
        return self._user_grant(held.user_id, held.role, held.app_id, held.family, successor, now)

    async def revoke(self, token: Secret, *, client: AppRow | None, address: str) -> bool:
        """Take back a refresh token (with everything of its sign-in) or an access token; False when it is neither.

        A client may take back only what was issued to it. Callers answer alike in every case (RFC 7009 section 2.2).
        """
        if token.reveal().count(".") == 2:
            return await self._revoke_access_token(token, client, address)
        now = self._clock.now()
        token_ids = self._hashes(token)

        def job(transaction: Transaction) -> AuditEntry | None:
            held = refresh_tokens.find_refresh_token(transaction, token_ids)
            if held is None or (client is not None and client.id != held.app_id):
                return None
            if not refresh_tokens.revoke_family(transaction, held.family, now):
                return None
            return audit.record(
                transaction,
                at=now,
                actor=user_target(held.user_id),
                action=Change.REFRESH_FAMILY_REVOKED,
                target=token_target(str(held.family)),
                address=address,
            )

        entry = await self._database.write(job)
        return entry is not None and self._feed.apply(entry)

    async def authenticate_client(self, client_id: str, client_secret: Secret) -> AppRow:
        """Give the app, or raise `GrantRefused` with invalid_client."""
        app = await self._apps.authenticate_app(client_id, client_secret)
        if app is None:
            raise GrantRefused(GrantError.INVALID_CLIENT, "The client id or the client secret is not right.")
        return app

    async def find_public_client(self, client_id: str) -> AppRow:
        """Give the app that a client without a secret names, or raise `GrantRefused` with invalid_client."""
        app = await self._apps.find_app(client_id)
        if app is None or app.is_disabled:
            raise _no_such_client()
        return app

    async def _revoke_access_token(self, token: Secret, client: AppRow | None, address: str) -> bool:
        now = self._clock.now()
        try:
            bearer = self._issuer.verify(token.reveal(), now)
        except TokenRefused:
            return False
        if client is not None and client.id != bearer.app_id:
            return False
        entry = await self._database.write(lambda transaction: _record_revoked(transaction, bearer, now, address))
        return self._feed.apply(entry)

    def _user_grant(
        self, user_id: UUID, role: Role, app_id: UUID | None, family: UUID, refresh_token: Secret, now: datetime
    ) -> Grant:
        issued = self._issuer.issue_user_token(
            user_id, role, now, self._access_lifetime, app_id=app_id, session_id=str(family)
        )
        return Grant(issued.token, issued.lifetime_s, "", refresh_token, user_id)

    def _hashes(self, token: Secret) -> list[str]:
        return [hashed.hex() for hashed in self._hasher.hash_candidates(token, SecretKind.REFRESH_TOKEN)]


def _no_such_client() -> GrantRefused:
    return GrantRefused(GrantError.INVALID_CLIENT, "There is no app with this client id.")


def _granted(scope: str | None) -> frozenset[str]:
    asked = frozenset((scope or "").split())
    if not asked <= APP_SCOPES:
        raise GrantRefused(GrantError.INVALID_SCOPE, f"The only scope is {SCOPE_PUSH_SEND}; leave scope out to get it.")
    return asked or APP_SCOPES


def _record_revoked(transaction: Transaction, bearer: Principal, now: datetime, address: str) -> AuditEntry:
    # A person's access token carries the id of its sign-in: what else came of that sign-in ends with it, the refresh
    # token too, or it would go on giving tokens that are refused.
    if (family := _family_of(bearer)) is not None:
        refresh_tokens.revoke_family(transaction, family, now)
    actor = user_target(bearer.user_id) if bearer.user_id is not None else f"app:{bearer.app_id}"
    return audit.record(
        transaction,
        at=now,
        actor=actor,
        action=Change.ACCESS_TOKEN_REVOKED,
        target=token_target(bearer.token_id),
        address=address,
    )


def _family_of(bearer: Principal) -> UUID | None:
    if bearer.kind is not PrincipalKind.USER:
        return None
    try:
        return UUID(bearer.token_id)
    except ValueError:
        return None
