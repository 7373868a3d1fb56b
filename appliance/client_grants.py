"""Who a client is: the credentials it gets tokens with, and the token it holds."""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

import msgspec

from appliance.domain.secret import Secret

SCOPE: Final = "push:send"
# A token is renewed this long before it runs out, so that none runs out on its way.
RENEW_BEFORE_S: Final = 30.0


class TokenReply(msgspec.Struct, frozen=True):
    """The answer of `POST /oauth/token` (RFC 6749, section 5.1)."""

    access_token: str
    expires_in: float = 3600.0
    refresh_token: str | None = None


class Grant(Protocol):
    """Credentials and the token they got; told the time as monotonic seconds."""

    @property
    def can_renew(self) -> bool:
        """Whether a refused token can be replaced."""

    def token(self, now: float, *, refused: str | None) -> str | None:
        """Give the token held, or None when it is missing, has run out or is the one that was refused."""

    def form(self) -> Mapping[str, str]:
        """Give the token request's form."""

    def keep(self, reply: TokenReply, now: float) -> None:
        """Remember the token that came."""

    def fall_back(self) -> bool:
        """After a refusal of `form`: switch to the other credentials; False when there are none."""


class _Held:
    """A token and the moment from which it is not used any more."""

    __slots__ = ("_renew_at", "_token")

    def __init__(self) -> None:
        self._token: Secret | None = None
        self._renew_at = 0.0

    def give(self, now: float, refused: str | None) -> str | None:
        if self._token is None or now >= self._renew_at:
            return None
        text = self._token.reveal()
        return None if text == refused else text

    def keep(self, reply: TokenReply, now: float) -> None:
        self._token = Secret(reply.access_token)
        self._renew_at = now + max(reply.expires_in - RENEW_BEFORE_S, reply.expires_in / 2)


class AppGrant:
    """A backend: client id and secret."""

    can_renew: Final = True

    def __init__(self, client_id: str, client_secret: Secret) -> None:
        self._client_id = client_id
        self._client_secret = client_secret
        self._held = _Held()

    def token(self, now: float, *, refused: str | None) -> str | None:
        return self._held.give(now, refused)

    def form(self) -> Mapping[str, str]:
        return {
            "grant_type": "client_credentials",
            "scope": SCOPE,
            "client_id": self._client_id,
            "client_secret": self._client_secret.reveal(),
        }

    def keep(self, reply: TokenReply, now: float) -> None:
        self._held.keep(reply, now)

    def fall_back(self) -> bool:
        return False


class UserGrant:
    """A person: the password once, then the rotating refresh token; the password again if that is refused."""

    can_renew: Final = True

    def __init__(self, username: str, password: Secret) -> None:
        self._username = username
        self._password = password
        self._refresh_token: Secret | None = None
        self._held = _Held()

    def token(self, now: float, *, refused: str | None) -> str | None:
        return self._held.give(now, refused)

    def form(self) -> Mapping[str, str]:
        if self._refresh_token is not None:
            return {"grant_type": "refresh_token", "refresh_token": self._refresh_token.reveal()}
        return {"grant_type": "password", "username": self._username, "password": self._password.reveal()}

    def keep(self, reply: TokenReply, now: float) -> None:
        self._held.keep(reply, now)
        self._refresh_token = None if reply.refresh_token is None else Secret(reply.refresh_token)

    def fall_back(self) -> bool:
        had_refresh_token = self._refresh_token is not None
        self._refresh_token = None
        return had_refresh_token


class FixedToken:
    """A token from elsewhere, read anew each time it is asked for, since whoever owns it may replace it."""

    can_renew: Final = False

    def __init__(self, read: Callable[[], str]) -> None:
        self._read = read

    def token(self, now: float, *, refused: str | None) -> str | None:
        return self._read()

    def form(self) -> Mapping[str, str]:
        raise NotImplementedError("a fixed token is never renewed")

    def keep(self, reply: TokenReply, now: float) -> None:
        raise NotImplementedError("a fixed token is never renewed")

    def fall_back(self) -> bool:
        return False
