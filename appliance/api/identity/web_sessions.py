"""Web sessions: a browser that signed in, told by a cookie, for 30 days from its last visit."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from appliance.api.identity.accounts import check_still_proven
from appliance.api.identity.changes import Change, token_target, user_target
from appliance.api.identity.revocation_feed import RevocationFeed
from appliance.domain.clock import Clock
from appliance.domain.principal import Principal, PrincipalKind
from appliance.domain.secret import Secret
from appliance.security.client_secrets import SecretHasher, SecretKind, make_session_id
from appliance.storage import audit, sessions
from appliance.storage.audit import AuditEntry
from appliance.storage.database import Database
from appliance.storage.sessions import SessionRow
from appliance.storage.users import UserRow
from appliance.storage.writer import Transaction

SESSION_LIFETIME: Final = timedelta(days=30)
PROLONG_AFTER: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """A new session: the cookie's value, and until when it counts unless it is used again."""

    cookie: Secret
    session: SessionRow


class WebSessions:
    """Opens, finds and ends web sessions. Each look-up asks the database, so an end is felt at once everywhere."""

    def __init__(self, database: Database, clock: Clock, hasher: SecretHasher, feed: RevocationFeed) -> None:
        self._database = database
        self._clock = clock
        self._hasher = hasher
        self._feed = feed

    async def open(self, user: UserRow, *, address: str, user_agent: str) -> OpenedSession:
        """Open a session for a user who has just proven who they are; never takes over an id from outside.

        Raises `WrongPassword` when that proof was overtaken by another password or a disabling.
        """
        opened = self.prepare(user)

        def job(transaction: Transaction) -> None:
            check_still_proven(transaction, user)
            self.insert(transaction, opened, address=address, user_agent=user_agent)

        await self._database.write(job)
        return opened

    def prepare(self, user: UserRow) -> OpenedSession:
        """Make a session that the caller will `insert` in a transaction of its own."""
        cookie = make_session_id()
        session_id = self._hasher.hash(cookie, SecretKind.SESSION_ID).hex()
        now = self._clock.now()
        session = SessionRow(session_id, user.id, user.username, user.role, now, now, now + SESSION_LIFETIME)
        return OpenedSession(cookie, session)

    def insert(self, transaction: Transaction, opened: OpenedSession, *, address: str, user_agent: str) -> None:
        """Store a prepared session."""
        session = opened.session
        sessions.insert_session(
            transaction,
            session.id,
            session.user_id,
            at=session.created_at,
            expires_at=session.expires_at,
            user_agent=user_agent,
        )
        note_sign_in(transaction, session.user_id, at=session.created_at, address=address)

    async def find(self, cookie: Secret) -> SessionRow | None:
        """Find the living session of a cookie."""
        hashes = [hashed.hex() for hashed in self._hasher.hash_candidates(cookie, SecretKind.SESSION_ID)]
        return await sessions.load_session(self._database, hashes, self._clock.now())

    async def prolong(self, session: SessionRow) -> datetime | None:
        """Let a session that is in use last 30 days from now; None when that was done within the hour."""
        now = self._clock.now()
        if now - session.last_seen_at < PROLONG_AFTER:
            return None
        expires_at = now + SESSION_LIFETIME
        await self._database.write(
            lambda transaction: sessions.prolong_session(transaction, session.id, seen_at=now, expires_at=expires_at)
        )
        return expires_at

    async def end(self, session: SessionRow, *, address: str) -> None:
        """Sign a browser out; connections that were opened from it are closed."""
        now = self._clock.now()

        def job(transaction: Transaction) -> AuditEntry | None:
            if not sessions.delete_session(transaction, session.id):
                return None
            return audit.record(
                transaction,
                at=now,
                actor=user_target(session.user_id),
                action=Change.SESSION_ENDED,
                target=token_target(session.id),
                address=address,
            )

        entry = await self._database.write(job)
        if entry is not None:
            self._feed.apply(entry)


def principal_of_session(session: SessionRow) -> Principal:
    """Give the bearer that a session speaks for."""
    return Principal(
        kind=PrincipalKind.USER,
        user_id=session.user_id,
        app_id=None,
        role=session.role,
        scopes=frozenset(),
        expires_at=session.expires_at,
        token_id=session.id,
    )


def note_sign_in(transaction: Transaction, user_id: UUID, *, at: datetime, address: str) -> None:
    """Write down from where a user signed in: shown to the user, and known to the throttle after a restart."""
    target = user_target(user_id)
    audit.record(transaction, at=at, actor=target, action=Change.USER_SIGNED_IN, target=target, address=address)
