"""An external issuer's published keys: found by discovery, cached, refreshed without a stampede.

Fresh for as long as the issuer says, within 5 minutes and 24 hours. Whoever finds them stale refreshes them while the
others go on with the old ones; when the issuer does not answer, the old ones count for another day. A token with an
unknown key id makes one refresh, at most every 30 seconds, so that invented key ids cannot make us pester the issuer.
"""

import asyncio
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from appliance.domain.clock import Clock
from appliance.domain.errors import Unavailable
from appliance.security.outbound import OutboundClient, OutboundError

_FRESH_LEAST_S: Final = 5 * 60.0
_FRESH_MOST_S: Final = 24 * 3600.0
_STALE_S: Final = 24 * 3600.0
_REFETCH_S: Final = 30.0
_FETCH_DEADLINE_S: Final = 5.0
_MAX_DOCUMENT_BYTES: Final = 256 * 1024
_MAX_KEYS: Final = 64
_MAX_AGE: Final = re.compile(r"(?:^|[\s,])max-age\s*=\s*\"?(\d{1,9})", re.IGNORECASE)
_NO_STORE: Final = re.compile(r"(?:^|[\s,])(?:no-store|no-cache)(?:$|[\s,])", re.IGNORECASE)

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class IssuerUnavailable(Unavailable):
    """The external issuer does not answer, or not as it should, and no key of its is at hand."""

    code = "issuer_unavailable"
    title = "The external sign-in service does not answer"

    def __init__(self) -> None:
        super().__init__("The OIDC issuer could not be asked for its keys. Try again shortly.", retry_after_s=30)


class PublishedKey(msgspec.Struct, frozen=True):
    """One entry of a JWKS document (RFC 7517), as far as signatures need it."""

    kty: str
    kid: str | None = None
    use: str | None = None
    alg: str | None = None
    crv: str | None = None
    n: str | None = None
    e: str | None = None
    x: str | None = None
    y: str | None = None


class _Discovery(msgspec.Struct):
    issuer: str
    jwks_uri: str


class _KeySet(msgspec.Struct):
    # Entries are read one by one: a kind of key that we do not know must not hide the others.
    keys: list[msgspec.Raw]


@dataclass(frozen=True, slots=True)
class _Fetched:
    keys: tuple[PublishedKey, ...]
    fresh_until_s: float
    stale_until_s: float


class IssuerKeys:
    """The keys of one issuer. Belongs to one event loop; asks at most once at a time."""

    def __init__(self, issuer: str, client: OutboundClient, clock: Clock) -> None:
        self._issuer = issuer
        self._client = client
        self._clock = clock
        self._fetched: _Fetched | None = None
        self._asked_at_s: float | None = None
        self._asking = asyncio.Lock()

    async def current(self) -> Sequence[PublishedKey]:
        """Give the keys, fetched when there are none or they are stale. Raises `IssuerUnavailable`."""
        fetched = self._fetched
        if fetched is not None and self._clock.monotonic() < fetched.fresh_until_s:
            return fetched.keys
        if fetched is None or not self._asking.locked():
            await self._refresh()
        return self._usable()

    async def after_unknown_key(self) -> Sequence[PublishedKey]:
        """Give the keys after asking anew, unless the issuer was asked within 30 s."""
        await self._refresh()
        return self._usable()

    def _usable(self) -> Sequence[PublishedKey]:
        if self._fetched is None or self._clock.monotonic() >= self._fetched.stale_until_s:
            raise IssuerUnavailable
        return self._fetched.keys

    async def _refresh(self) -> None:
        async with self._asking:
            # Who waited here for another's answer finds it given, good or bad.
            now_s = self._clock.monotonic()
            if self._asked_at_s is not None and now_s - self._asked_at_s < _REFETCH_S:
                return
            asked_before_s, self._asked_at_s = self._asked_at_s, now_s
            try:
                self._fetched = await self._fetch()
            except (OutboundError, ValueError) as error:
                _log.warning("oidc_keys_not_fetched", extra={"issuer": self._issuer, "reason": str(error)})
            except BaseException:
                # Who gave up half-way has not asked; the next in line does.
                self._asked_at_s = asked_before_s
                raise

    async def _fetch(self) -> _Fetched:
        discovery, _ = await self._get(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration", _Discovery)
        if discovery.issuer != self._issuer:
            raise ValueError("The discovery document names another issuer.")
        key_set, fresh_s = await self._get(discovery.jwks_uri, _KeySet)
        keys = tuple(key for raw in key_set.keys[:_MAX_KEYS] if (key := _read_key(raw)) is not None)
        now_s = self._clock.monotonic()
        return _Fetched(keys, now_s + fresh_s, now_s + fresh_s + _STALE_S)

    async def _get(self, url: str, kind: type[_T]) -> tuple[_T, float]:
        reply = await self._client.request(
            "GET",
            url,
            headers={"Accept": "application/json"},
            deadline_s=_FETCH_DEADLINE_S,
            max_reply_bytes=_MAX_DOCUMENT_BYTES,
        )
        if reply.status != 200:
            raise ValueError(f"The issuer answered {reply.status}.")
        return msgspec.json.decode(reply.body, type=kind), _fresh_s(reply.headers.get("cache-control", ""))


def _read_key(raw: msgspec.Raw) -> PublishedKey | None:
    try:
        return msgspec.json.decode(raw, type=PublishedKey)
    except msgspec.MsgspecError:
        return None


def _fresh_s(cache_control: str) -> float:
    if _NO_STORE.search(cache_control):
        return _FRESH_LEAST_S
    found = _MAX_AGE.search(cache_control)
    told_s = float(found[1]) if found else _FRESH_LEAST_S
    return min(max(told_s, _FRESH_LEAST_S), _FRESH_MOST_S)
