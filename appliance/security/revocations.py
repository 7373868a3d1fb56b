"""What no longer counts although its signature still does.

An entry is kept until every token it could concern has run out, so the memory is bounded by a day's revocations.
Callers fill it from storage at start-up and record each revocation there too.
"""

from datetime import datetime, timedelta
from typing import Final, TypeVar
from uuid import UUID

from appliance.domain.principal import Principal

MAX_TOKEN_LIFETIME: Final = timedelta(hours=24)
# How far the clocks of several nodes may be apart: for so long more is kept what concerns tokens.
LEEWAY: Final = timedelta(seconds=5)

_TIDY_EVERY: Final = 256
_KEEP: Final = MAX_TOKEN_LIFETIME + 2 * LEEWAY

_K = TypeVar("_K")


class Revocations:
    """The revoked tokens, sessions, users and apps, in memory.

    `version` grows with each revocation, so that whoever remembers a verdict knows when to ask again. Belongs to one
    event loop.
    """

    def __init__(self) -> None:
        self.version = 0
        self._tokens: dict[str, datetime] = {}
        self._users: dict[UUID, datetime] = {}
        self._apps: dict[UUID, datetime] = {}

    def revoke_token(self, token_id: str, at: datetime) -> None:
        """Refuse a token (by its `jti`) or every token of a session (by the session's id) from `at` on."""
        _put(self._tokens, token_id, at)
        self._note(at)

    def revoke_user(self, user_id: UUID, before: datetime) -> None:
        """Refuse every token of the user issued before the instant; newer ones count."""
        _put(self._users, user_id, before)
        self._note(before)

    def revoke_app(self, app_id: UUID, before: datetime) -> None:
        """Refuse every token of the app, and of users in that app, issued before the instant; newer ones count."""
        _put(self._apps, app_id, before)
        self._note(before)

    def is_token_revoked(self, token_id: str) -> bool:
        """Tell whether the token or session of this id was revoked."""
        return token_id in self._tokens

    def is_bearer_revoked(self, bearer: Principal, issued_at: datetime) -> bool:
        """Tell whether a credential issued to the bearer at that instant was revoked by its id, its user or its app."""
        return (
            bearer.token_id in self._tokens
            or _is_before(self._users, bearer.user_id, issued_at)
            or _is_before(self._apps, bearer.app_id, issued_at)
        )

    def forget_past(self, now: datetime) -> None:
        """Drop what can concern no living token any more; recording does it too from time to time."""
        gone = now - _KEEP
        _drop_older(self._tokens, gone)
        _drop_older(self._users, gone)
        _drop_older(self._apps, gone)

    @property
    def count(self) -> int:
        """How many revocations are remembered."""
        return len(self._tokens) + len(self._users) + len(self._apps)

    def _note(self, at: datetime) -> None:
        self.version += 1
        if self.version % _TIDY_EVERY == 0:
            self.forget_past(at)


def _is_before(entries: dict[UUID, datetime], key: UUID | None, issued_at: datetime) -> bool:
    before = None if key is None else entries.get(key)
    return before is not None and issued_at < before


def _put(entries: dict[_K, datetime], key: _K, at: datetime) -> None:
    earlier = entries.get(key)
    entries[key] = at if earlier is None else max(earlier, at)


def _drop_older(entries: dict[_K, datetime], gone: datetime) -> None:
    past = [key for key, at in entries.items() if at < gone]
    for key in past:
        del entries[key]
