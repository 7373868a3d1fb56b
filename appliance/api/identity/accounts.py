"""Users: made, signed in by password, given another password, disabled."""

from dataclasses import replace
from typing import Final
from uuid import UUID

from appliance.api.identity.changes import ACTOR_CLI, Change, user_target
from appliance.api.identity.revocation_feed import RevocationFeed
from appliance.domain.clock import Clock
from appliance.domain.errors import Conflict, NotFound, TooMany, Unauthorized, Unavailable
from appliance.domain.identifier import make_id
from appliance.domain.notification import is_storable_text
from appliance.domain.principal import Role
from appliance.domain.secret import Secret
from appliance.domain.username import MAX_USERNAME_KEY_CHARS, check_username
from appliance.security.passwords import PasswordHasher, check_new_password
from appliance.security.throttle import LogInThrottle, Retry
from appliance.storage import audit, users
from appliance.storage.audit import AuditEntry
from appliance.storage.database import Database
from appliance.storage.refresh_tokens import revoke_families_of
from appliance.storage.sessions import delete_sessions_of
from appliance.storage.suppression import suppress_deliveries_of_user
from appliance.storage.users import UserRow
from appliance.storage.writer import Transaction

REMEMBERED_SIGN_INS: Final = 5_000


class WrongPassword(Unauthorized):
    """The user name or the password is not right; which one is not told."""

    code = "wrong_password"
    title = "That did not match"

    def __init__(self) -> None:
        super().__init__("The user name or the password is not right.")


def check_still_proven(transaction: Transaction, user: UserRow) -> None:
    """Refuse what rests on a password that was changed, or on a user who was disabled, since `sign_in` gave this user.

    Call it in the transaction that stores what the sign-in gave. Raises `WrongPassword`.
    """
    found = users.lock_user(transaction, user.id)
    if (
        found is None
        or found.is_disabled
        or found.tokens_valid_from != user.tokens_valid_from
        or found.password_hash != user.password_hash
    ):
        raise WrongPassword


class Accounts:
    """The people who may sign in. Every change is in the audit log in the same transaction."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        hasher: PasswordHasher,
        throttle: LogInThrottle,
        feed: RevocationFeed,
    ) -> None:
        self._database = database
        self._clock = clock
        self._hasher = hasher
        self._throttle = throttle
        self._feed = feed

    async def load_known_addresses(self) -> None:
        """Tell the throttle at start-up from where people have signed in before."""
        entries = await audit.list_latest(self._database, Change.USER_SIGNED_IN.value, limit=REMEMBERED_SIGN_INS)
        names: dict[str, str | None] = {}
        for entry in reversed(entries):
            if entry.target not in names:
                user = await users.load_user(self._database, UUID(entry.target.partition(":")[2]))
                names[entry.target] = None if user is None else user.username
            name = names[entry.target]
            if name is not None:
                self._throttle.remember_address(name, entry.address)

    def remember_address(self, username: str, address: str) -> None:
        """Count the address as one from which this user has proven to be who they are."""
        self._throttle.remember_address(username, address)

    async def prepare_user(
        self, username: str, password: Secret | None, *, role: Role = Role.MEMBER, email: str | None = None
    ) -> UserRow:
        """Check the rules and hash the password of a user that the caller will insert. Raises `InvalidField`."""
        name = check_username(username)
        hashed: str | None = None
        if password is not None:
            check_new_password(password, username=name)
            hashed = await self._hasher.hash(password)
        now = self._clock.now()
        return UserRow(make_id(now), name, hashed, role, email, None, now)

    async def create_user(
        self,
        username: str,
        password: Secret | None,
        *,
        role: Role = Role.MEMBER,
        email: str | None = None,
        actor: str = ACTOR_CLI,
    ) -> UserRow:
        """Add a user; without a password the user cannot sign in by one.

        Raises `InvalidField` when a rule for names or passwords is broken, `Conflict` when the name is taken.
        """
        user = await self.prepare_user(username, password, role=role, email=email)

        def job(transaction: Transaction) -> None:
            users.insert_user(transaction, user)
            audit.record(
                transaction,
                at=user.created_at,
                actor=actor,
                action=Change.USER_CREATED,
                target=user_target(user.id),
            )

        await self._database.write(job)
        return user

    async def sign_in(self, username: str, password: Secret, address: str) -> UserRow:
        """Give the user whose password this is; what is issued on it must pass `check_still_proven`.

        Raises `WrongPassword` at the same cost whatever is wrong (no such user, disabled, wrong password), `TooMany`
        when this address must wait, `Unavailable` when too many people sign in at once.
        """
        permission = self._throttle.begin(username, address, self._clock.monotonic())
        if isinstance(permission, Retry):
            raise TooMany(
                f"Too many failed log-ins from this address. Try again in {permission.after_s} seconds.",
                retry_after_s=permission.after_s,
            )
        try:
            user = await self._find(username)
            stored = None if user is None or user.is_disabled else user.password_hash
            verdict = await self._hasher.verify(stored, password)
        except Unavailable:
            self._throttle.cancel(username, address, self._clock.monotonic())
            raise
        except BaseException:
            # A guesser who hangs up before the answer has still guessed.
            self._throttle.fail(username, address, self._clock.monotonic())
            raise
        if not verdict.is_right or user is None:
            self._throttle.fail(username, address, self._clock.monotonic())
            raise WrongPassword
        self._throttle.succeed(username, address, self._clock.monotonic())
        if verdict.needs_rehash and stored is not None:
            return await self._rehash(user, stored, password)
        return user

    async def set_password(
        self,
        user_id: UUID,
        password: Secret,
        *,
        actor: str = ACTOR_CLI,
        keep_session: str | None = None,
        proven: UserRow | None = None,
        field: str = "password",
    ) -> UserRow:
        """Give a user another password and end everything that was issued on the old one, but for `keep_session`.

        With `proven`, whom `sign_in` gave, it happens only while that password still counts.
        Raises `InvalidField` (on `field`) when a rule is broken, `NotFound` when there is no such user, `WrongPassword`
        when `proven` is outdated.
        """
        user = await self._load(user_id)
        check_new_password(password, username=user.username, field=field)
        hashed = await self._hasher.hash(password)

        def job(transaction: Transaction) -> AuditEntry:
            users.lock_user(transaction, user_id)
            if proven is not None:
                check_still_proven(transaction, proven)
            # Told under the lock: what another process has issued before is older, and ends.
            now = self._clock.now()
            users.set_password_hash(transaction, user_id, hashed, tokens_valid_from=now)
            delete_sessions_of(transaction, user_id, except_id=keep_session)
            revoke_families_of(transaction, user_id, now)
            return audit.record(
                transaction, at=now, actor=actor, action=Change.USER_PASSWORD_SET, target=user_target(user_id)
            )

        self._feed.apply(await self._database.write(job))
        return user

    async def disable_user(self, user_id: UUID, *, actor: str = ACTOR_CLI) -> None:
        """Shut a user out at once: sessions, tokens and open connections end, and what waits for delivery is held back.

        Raises `NotFound` when there is no such user, `Conflict` when no admin would be left. Twice is harmless.
        """
        user = await self._load(user_id)

        def job(transaction: Transaction) -> AuditEntry | None:
            users.lock_user(transaction, user_id)
            now = self._clock.now()
            if user.role is Role.ADMIN and not users.may_disable(transaction, user_id):
                raise Conflict(f"{user.username} is the only admin. Make another admin first.")
            if not users.set_disabled(transaction, user_id, now):
                return None
            suppress_deliveries_of_user(transaction, user_id, now)
            delete_sessions_of(transaction, user_id)
            revoke_families_of(transaction, user_id, now)
            return audit.record(
                transaction, at=now, actor=actor, action=Change.USER_DISABLED, target=user_target(user_id)
            )

        entry = await self._database.write(job)
        if entry is not None:
            self._feed.apply(entry)

    async def _find(self, username: str) -> UserRow | None:
        # What cannot be a name is not looked up; the caller goes on at the same cost.
        if len(username) > MAX_USERNAME_KEY_CHARS or not is_storable_text(username):
            return None
        return await users.load_user_by_name(self._database, username)

    async def _rehash(self, user: UserRow, stored: str, password: Secret) -> UserRow:
        hashed = await self._hasher.hash(password)

        def job(transaction: Transaction) -> UserRow:
            if users.replace_password_hash(transaction, user.id, stored, hashed):
                return replace(user, password_hash=hashed)
            found = users.lock_user(transaction, user.id)
            if found is None or found.is_disabled or found.tokens_valid_from != user.tokens_valid_from:
                raise WrongPassword
            # Another sign-in with the same password was quicker.
            return found

        return await self._database.write(job)

    async def _load(self, user_id: UUID) -> UserRow:
        user = await users.load_user(self._database, user_id)
        if user is None:
            raise NotFound(f"There is no user {user_id}.")
        return user
