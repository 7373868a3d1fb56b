"""What was revoked, followed from the audit log.

Theory of operation
-------------------
A revocation is an entry of the audit log, written in the transaction that makes the change. Whoever makes it applies it
to its own memory at once. Every other process that serves the same data (the command line beside a running server, a
second node) is told by the same entry: each asks the log once a second for entries it has not seen. So there is one
record, one way to apply it, and no signal that could get lost: a revocation reaches every process within two seconds.

Entries are asked for with an overlap of `OVERLAP`, since clocks of two processes differ and a transaction may commit
later than it was stamped; the ids seen in that time are remembered, so that each entry is applied once.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, Protocol
from uuid import UUID

from appliance.api.identity.changes import FOLLOWED, Change
from appliance.domain.clock import Clock
from appliance.security.revocations import LEEWAY, MAX_TOKEN_LIFETIME, Revocations
from appliance.storage.apps import list_app_tokens_valid_from
from appliance.storage.audit import MAX_PAGE, AuditEntry, list_since
from appliance.storage.database import Database
from appliance.storage.users import list_tokens_valid_from

logger = logging.getLogger(__name__)

OVERLAP: Final = timedelta(seconds=30)
POLL_EVERY_S: Final = 1.0

_REASONS: Final = {
    Change.USER_DISABLED: "This account was disabled.",
    Change.USER_PASSWORD_SET: "The password was changed. Sign in again.",
    Change.APP_DISABLED: "This app was disabled.",
    Change.APP_SECRET_ROTATED: "The app's secret was changed. Sign in again.",
    Change.SESSION_ENDED: "Signed out.",
    Change.REFRESH_FAMILY_REVOKED: "Signed out.",
    Change.REFRESH_TOKEN_REUSED: "This sign-in was used from two places and was ended. Sign in again.",
    Change.ACCESS_TOKEN_REVOKED: "The access token was revoked.",
}


class RevocationWatcher(Protocol):
    """Who holds open connections and must close them; called on the event loop, must return at once."""

    def close_user(self, user_id: UUID, reason: str) -> object: ...

    def close_app(self, app_id: UUID, reason: str) -> object: ...

    def close_token(self, token_id: str, reason: str) -> object: ...


class RevocationFeed:
    """Applies revocations, its own and those of other processes, to this process's memory."""

    def __init__(
        self, database: Database, revocations: Revocations, clock: Clock, *, on_key_rotated: Callable[[], None]
    ) -> None:
        self._database = database
        self._revocations = revocations
        self._clock = clock
        self._on_key_rotated = on_key_rotated
        self._watchers: list[RevocationWatcher] = []
        self._seen: dict[UUID, datetime] = {}
        self._followed_until = clock.now()

    def watch(self, watcher: RevocationWatcher) -> None:
        """Tell this watcher of every revocation from now on."""
        self._watchers.append(watcher)

    async def load(self) -> None:
        """Learn at start-up what concerns tokens that may still be alive."""
        now = self._clock.now()
        since = now - MAX_TOKEN_LIFETIME - LEEWAY
        for user_id, at in await list_tokens_valid_from(self._database, since):
            self._revocations.revoke_user(user_id, at)
        for app_id, at in await list_app_tokens_valid_from(self._database, since):
            self._revocations.revoke_app(app_id, at)
        # Told at INFO when they happened; a start-up would tell a whole day of them again.
        await self._follow(since, log_level=logging.DEBUG)
        self._followed_until = now

    async def poll(self) -> int:
        """Apply what other processes have revoked since the last time, and give the number of new entries."""
        now = self._clock.now()
        applied = await self._follow(self._followed_until - OVERLAP)
        self._followed_until = now
        self._forget(now - 4 * OVERLAP)
        return applied

    def apply(self, entry: AuditEntry, *, log_level: int = logging.INFO) -> bool:
        """Apply one entry; False when it was applied before or revokes nothing."""
        if entry.id in self._seen or entry.action not in FOLLOWED:
            return False
        self._seen[entry.id] = entry.at
        change = Change(entry.action)
        if change is Change.SIGNING_KEY_ROTATED:
            self._on_key_rotated()
            return True
        try:
            self._revoke(entry, _REASONS.get(change, "Access was revoked."))
        except ValueError:
            # A damaged entry must not keep the ones behind it from being followed.
            logger.exception("revocation_not_readable", extra={"entry": str(entry.id)})
            return False
        logger.log(log_level, "revocation_applied", extra={"change": change.value, "target": entry.target})
        return True

    def _revoke(self, entry: AuditEntry, reason: str) -> None:
        kind, _, name = entry.target.partition(":")
        if kind == "user":
            user_id = UUID(name)
            self._revocations.revoke_user(user_id, entry.at)
            self._tell(lambda watcher: watcher.close_user(user_id, reason))
        elif kind == "app":
            app_id = UUID(name)
            self._revocations.revoke_app(app_id, entry.at)
            self._tell(lambda watcher: watcher.close_app(app_id, reason))
        else:
            self._revocations.revoke_token(name, entry.at)
            self._tell(lambda watcher: watcher.close_token(name, reason))

    async def _follow(self, since: datetime, *, log_level: int = logging.INFO) -> int:
        applied = 0
        after: tuple[datetime, UUID] | None = None
        while True:
            page = await list_since(self._database, since, FOLLOWED, after=after)
            applied += sum(self.apply(entry, log_level=log_level) for entry in page)
            if len(page) < MAX_PAGE:
                return applied
            after = (page[-1].at, page[-1].id)

    def _tell(self, notice: Callable[[RevocationWatcher], object]) -> None:
        for watcher in self._watchers:
            try:
                notice(watcher)
            except Exception:
                # One watcher's fault must not keep the revocation from the others.
                logger.exception("revocation_watcher_failed")

    def _forget(self, before: datetime) -> None:
        for entry_id in [entry_id for entry_id, at in self._seen.items() if at < before]:
            del self._seen[entry_id]
