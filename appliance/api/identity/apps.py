"""Apps: made, authenticated by their secret, given another secret, disabled; and who is enrolled in them."""

from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from appliance.api.identity.changes import ACTOR_CLI, Change, app_target, user_target
from appliance.api.identity.revocation_feed import RevocationFeed
from appliance.domain.clock import Clock
from appliance.domain.errors import InvalidField, NotFound
from appliance.domain.identifier import make_id
from appliance.domain.notification import is_storable_text
from appliance.domain.secret import Secret
from appliance.security.client_secrets import SecretHasher, SecretKind, make_app_secret
from appliance.storage import apps, audit, users
from appliance.storage.apps import AppRow
from appliance.storage.audit import AuditEntry
from appliance.storage.database import Database
from appliance.storage.suppression import suppress_deliveries_of_app_job
from appliance.storage.writer import Transaction

MAX_NAME_CHARS: Final = 100
SUPPRESSED_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class AppWithSecret:
    """An app and its client secret, which is shown this once and never again."""

    app: AppRow
    client_secret: Secret


class Apps:
    """The backends that may send. Every change is in the audit log in the same transaction."""

    def __init__(self, database: Database, clock: Clock, hasher: SecretHasher, feed: RevocationFeed) -> None:
        self._database = database
        self._clock = clock
        self._hasher = hasher
        self._feed = feed

    async def create_app(self, name: str, *, actor: str = ACTOR_CLI) -> AppWithSecret:
        """Add an app with a new secret; push is off until it is configured. Raises `InvalidField` for a bad name."""
        secret = make_app_secret()
        now = self._clock.now()
        app = AppRow(make_id(now), check_app_name(name), self._hasher.hash(secret, SecretKind.APP_SECRET), now)

        def job(transaction: Transaction) -> None:
            apps.insert_app(transaction, app)
            audit.record(transaction, at=now, actor=actor, action=Change.APP_CREATED, target=app_target(app.id))

        await self._database.write(job)
        return AppWithSecret(app, secret)

    async def rotate_secret(self, app_id: UUID, *, actor: str = ACTOR_CLI) -> AppWithSecret:
        """Give an app a new secret; the old one and every token that it got are void at once. Raises `NotFound`."""
        secret = make_app_secret()
        hashed = self._hasher.hash(secret, SecretKind.APP_SECRET)

        def job(transaction: Transaction) -> AuditEntry:
            now = self._clock.now()
            if not apps.set_secret_hash(transaction, app_id, hashed, now):
                raise _no_such_app(app_id)
            return audit.record(
                transaction, at=now, actor=actor, action=Change.APP_SECRET_ROTATED, target=app_target(app_id)
            )

        self._feed.apply(await self._database.write(job))
        app = await apps.load_app(self._database, app_id)
        if app is None:
            raise _no_such_app(app_id)
        return AppWithSecret(app, secret)

    async def disable_app(self, app_id: UUID, *, actor: str = ACTOR_CLI) -> None:
        """Shut an app out at once, and hold back what it sent and was not delivered.

        Raises `NotFound`. Twice is harmless; after an interruption it goes on with what is left to hold back.
        """
        if await apps.load_app(self._database, app_id) is None:
            raise _no_such_app(app_id)

        def job(transaction: Transaction) -> AuditEntry | None:
            now = self._clock.now()
            if not apps.set_app_disabled(transaction, app_id, now):
                return None
            return audit.record(transaction, at=now, actor=actor, action=Change.APP_DISABLED, target=app_target(app_id))

        entry = await self._database.write(job)
        if entry is not None:
            self._feed.apply(entry)
        # In steps, others' writes in between; from the first commit on the app can add nothing to it.
        hold_back = suppress_deliveries_of_app_job(app_id, self._clock.now(), SUPPRESSED_AT_ONCE)
        while await self._database.write(hold_back) == SUPPRESSED_AT_ONCE:
            continue

    async def authenticate_app(self, client_id: str, client_secret: Secret) -> AppRow | None:
        """Give the app whose secret this is; None, at the same cost, when anything is wrong or it is disabled."""
        app = await self.find_app(client_id)
        stored = None if app is None else app.secret_hash
        verdict = self._hasher.verify(client_secret, stored, SecretKind.APP_SECRET)
        if app is None or app.is_disabled or stored is None or not verdict.is_right:
            return None
        if verdict.needs_rehash:
            return await self._rehash(app, stored, client_secret)
        return app

    async def _rehash(self, app: AppRow, stored: bytes, client_secret: Secret) -> AppRow | None:
        """Store the secret's hash under the current key; None when the app got another secret meanwhile."""
        hashed = self._hasher.hash(client_secret, SecretKind.APP_SECRET)
        if await self._database.write(
            lambda transaction: apps.replace_secret_hash(transaction, app.id, stored, hashed)
        ):
            return replace(app, secret_hash=hashed)
        # Another request with the same secret was quicker, or the secret was rotated: what is stored now decides.
        found = await apps.load_app(self._database, app.id)
        stored_now = None if found is None else found.secret_hash
        verdict = self._hasher.verify(client_secret, stored_now, SecretKind.APP_SECRET)
        return found if found is not None and verdict.is_right and not found.is_disabled else None

    async def find_app(self, client_id: str) -> AppRow | None:
        """Find an app by its client id as text; None also for what is no id."""
        try:
            app_id = UUID(client_id)
        except ValueError:
            return None
        return await apps.load_app(self._database, app_id)

    async def enrol_user(self, user_id: UUID, app_id: UUID, *, actor: str = ACTOR_CLI) -> bool:
        """Make the user a member of the app; False when it is one already. Raises `NotFound`."""
        if await apps.load_app(self._database, app_id) is None:
            raise _no_such_app(app_id)
        if await users.load_user(self._database, user_id) is None:
            raise NotFound(f"There is no user {user_id}.")
        now = self._clock.now()

        def job(transaction: Transaction) -> bool:
            if not apps.enrol_user(transaction, user_id, app_id, now):
                return False
            audit.record(
                transaction,
                at=now,
                actor=actor,
                action=Change.USER_ENROLLED,
                target=f"{user_target(user_id)} {app_target(app_id)}",
            )
            return True

        return await self._database.write(job)


def check_app_name(name: str, *, field: str = "name") -> str:
    """Give the name as it is kept; raises `InvalidField` unless it has 1 to 100 characters without control ones."""
    trimmed = name.strip()
    if not 1 <= len(trimmed) <= MAX_NAME_CHARS or not is_storable_text(trimmed) or not trimmed.isprintable():
        raise InvalidField(field, f"Give a name of 1 to {MAX_NAME_CHARS} printable characters.")
    return trimmed


def _no_such_app(app_id: UUID) -> NotFound:
    return NotFound(f"There is no app {app_id}.")
