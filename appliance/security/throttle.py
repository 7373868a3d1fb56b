"""Who may try again, and when.

`RateLimiter` counts exactly in a sliding window. `LogInThrottle` slows down guessing without giving strangers a way to
lock others out:

* A source is an IPv4 address, or the /64 of an IPv6 address, which is the least that one host can be told by. A source
  answers to its own failures alone: a right password from a source that has not failed itself is never refused,
  whoever else guesses, for this account or from the same office.
* A source from which the account logged in before answers only to its failures for that account.
* Every other source answers to its failures for this account, and to its failures for all accounts together.
* When an account has many failures from strange sources, each strange source gets fewer tries and then waits longer.
  That slows a botnet down by its own size.
* Who holds an IPv6 /48 holds 65 536 sources. Their failures are counted together, too; that counts only for those
  among them that have failed themselves within the hour.

All state is in memory, bounded, least recently used first out. Callers tell the time in seconds of a monotonic clock.
"""

import math
import unicodedata
from collections import OrderedDict, deque
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, Generic, TypeAlias, TypeVar


@dataclass(frozen=True, slots=True)
class Allowed:
    """Go ahead."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Not now; come back after so many seconds, rounded up."""

    after_s: int


Permission: TypeAlias = Allowed | Retry

ALLOWED: Final = Allowed()

_MAX_ACCOUNT_CHARS: Final = 256

_Place: TypeAlias = tuple[str, str, str]
_K = TypeVar("_K")
_V = TypeVar("_V")


class RateLimiter:
    """Lets each key through at most `limit` times in any window of `window_s` seconds.

    Exact: a stamp is kept for each passage, so there is no edge at which twice the limit passes. Past `max_keys` the
    key that came longest ago is forgotten.
    """

    def __init__(self, limit: int, window_s: float, *, max_keys: int = 10_000) -> None:
        self._limit = limit
        self._window_s = window_s
        self._passages: _Recent[str, deque[float]] = _Recent(max_keys)

    def take(self, key: str, now_s: float) -> Permission:
        """Count a passage and allow it, or tell when the next one is free; a refusal is not counted."""
        passages = self._passages.get(key)
        if passages is None:
            passages = self._passages.put(key, deque())
        while passages and passages[0] <= now_s - self._window_s:
            passages.popleft()
        if len(passages) >= self._limit:
            return Retry(_whole_seconds(passages[0] + self._window_s - now_s))
        passages.append(now_s)
        return ALLOWED

    def give_back(self, key: str) -> None:
        """Uncount the latest passage: what it was for did not happen."""
        passages = self._passages.get(key)
        if passages:
            passages.pop()

    @property
    def key_count(self) -> int:
        """How many keys are remembered."""
        return len(self._passages)


@dataclass(frozen=True, slots=True)
class Allowance:
    """A token bucket's measure: so many tries at once, then one every `refill_s` seconds."""

    tries: int
    refill_s: float


class TokenBucket:
    """One key's bucket: full at first, one try leaves, tries come back with time up to the allowance."""

    __slots__ = ("_at_s", "_left")

    def __init__(self, allowance: Allowance, now_s: float) -> None:
        self._left = float(allowance.tries)
        self._at_s = now_s

    def wait_s(self, allowance: Allowance, now_s: float) -> float:
        """Tell the seconds until a try is there; 0 when one is. The allowance may change from call to call."""
        self._refill(allowance, now_s)
        return 0.0 if self._left >= 1 else (1 - self._left) * allowance.refill_s

    def take(self) -> None:
        """Take one try out; ask `wait_s` first."""
        self._left -= 1

    def give_back(self) -> None:
        """Put the try back."""
        self._left += 1

    def fill(self, allowance: Allowance, now_s: float) -> None:
        """Make it as new."""
        self._left, self._at_s = float(allowance.tries), now_s

    def _refill(self, allowance: Allowance, now_s: float) -> None:
        passed_s = max(0.0, now_s - self._at_s)
        self._left = min(float(allowance.tries), self._left + passed_s / allowance.refill_s)
        self._at_s = now_s


@dataclass(frozen=True, slots=True)
class LogInRules:
    """How many failures are borne before waits begin. An office that goes out by one address is one `source`."""

    known_source: Allowance = Allowance(tries=10, refill_s=30)
    account_at_source: Allowance = Allowance(tries=5, refill_s=60)
    account_at_source_under_attack: Allowance = Allowance(tries=3, refill_s=300)
    source: Allowance = Allowance(tries=30, refill_s=20)
    wide_block: Allowance = Allowance(tries=120, refill_s=5)
    wide_block_binds_for_s: float = 3600
    attack_failures: int = 20
    attack_fades_s: float = 120
    known_per_account: int = 16


class LogInThrottle:
    """Decides whether a log-in may be tried, per account and address.

    Call `begin` before the password is checked and then exactly one of `fail`, `succeed` or `cancel`; `begin` takes the
    try at once, so that parallel guesses count. Accounts that do not exist are counted like the others. At start-up
    tell `remember_address` what storage knows of good log-ins.
    """

    def __init__(self, rules: LogInRules | None = None, *, max_keys: int = 20_000) -> None:
        self._rules = rules or LogInRules()
        self._buckets: _Recent[_Place, TokenBucket] = _Recent(max_keys)
        self._pressure: _Recent[str, _Pressure] = _Recent(max_keys)
        self._known: _Recent[str, OrderedDict[str, None]] = _Recent(max_keys)
        self._failed_at_s: _Recent[str, float] = _Recent(max_keys)

    def begin(self, account: str, address: str, now_s: float) -> Permission:
        """Take a try of every bucket that concerns it, or take none and tell the longest wait."""
        places = self._places(account, address, now_s)
        binding = places + self._wide_places(account, address, now_s)
        wait_s = max(self._wait_s(place, allowance, now_s) for place, allowance in binding)
        if wait_s > 0:
            return Retry(_whole_seconds(wait_s))
        for place, allowance in places:
            self._bucket(place, allowance, now_s).take()
        return ALLOWED

    def fail(self, account: str, address: str, now_s: float) -> None:
        """Keep the try spent: the password was wrong."""
        account = _fold(account)
        if self._is_known(account, address):
            return
        pressure = self._pressure.get(account) or self._pressure.put(account, _Pressure())
        pressure.add(now_s, self._rules)
        wide_block = wide_block_of(address)
        if wide_block is not None:
            self._failed_at_s.put(source_of(address), now_s)
            bucket = self._bucket(_wide_place(wide_block), self._rules.wide_block, now_s)
            # Never below empty: sources that fail for the first time are let through, and must leave no debt to others.
            if bucket.wait_s(self._rules.wide_block, now_s) == 0:
                bucket.take()

    def succeed(self, account: str, address: str, now_s: float) -> None:
        """Give the try back, remember the address as good for the account and forgive its failures there."""
        self.cancel(account, address, now_s)
        self.remember_address(account, address)
        for place, allowance in self._places(account, address, now_s):
            self._bucket(place, allowance, now_s).fill(allowance, now_s)

    def cancel(self, account: str, address: str, now_s: float) -> None:
        """Give the try back: the password was never checked."""
        for place, _ in self._places(account, address, now_s):
            bucket = self._buckets.get(place)
            if bucket is not None:
                bucket.give_back()

    def remember_address(self, account: str, address: str) -> None:
        """Count the address as one from which the account has logged in; the 16 latest are kept."""
        account = _fold(account)
        addresses = self._known.get(account) or self._known.put(account, OrderedDict())
        addresses[source_of(address)] = None
        addresses.move_to_end(source_of(address))
        if len(addresses) > self._rules.known_per_account:
            addresses.popitem(last=False)

    def _is_known(self, account: str, address: str) -> bool:
        return source_of(address) in (self._known.get(account) or ())

    def _places(self, account: str, address: str, now_s: float) -> list[tuple[_Place, Allowance]]:
        account, rules = _fold(account), self._rules
        if self._is_known(account, address):
            return [(("known", account, source_of(address)), rules.known_source)]
        pressure = self._pressure.get(account)
        is_attacked = pressure is not None and pressure.failures(now_s, rules) >= rules.attack_failures
        at_source = rules.account_at_source_under_attack if is_attacked else rules.account_at_source
        return [
            (("account", account, source_of(address)), at_source),
            (("source", "", source_of(address)), rules.source),
        ]

    def _wide_places(self, account: str, address: str, now_s: float) -> list[tuple[_Place, Allowance]]:
        """Give the /48 that binds this source; none when the source has not failed itself."""
        wide_block = wide_block_of(address)
        if wide_block is None or self._is_known(_fold(account), address):
            return []
        failed_at_s = self._failed_at_s.get(source_of(address))
        if failed_at_s is None or now_s - failed_at_s >= self._rules.wide_block_binds_for_s:
            return []
        return [(_wide_place(wide_block), self._rules.wide_block)]

    def _wait_s(self, place: _Place, allowance: Allowance, now_s: float) -> float:
        # A refused try makes no bucket, so a flood of invented names cannot push out the buckets that count.
        bucket = self._buckets.get(place)
        return 0.0 if bucket is None else bucket.wait_s(allowance, now_s)

    def _bucket(self, place: _Place, allowance: Allowance, now_s: float) -> TokenBucket:
        return self._buckets.get(place) or self._buckets.put(place, TokenBucket(allowance, now_s))


def source_of(address: str) -> str:
    """Give the source that an address counts as: IPv4 whole, IPv6 by its /64, whose lower half hosts change themselves.

    What is no address (a Unix socket's empty peer) is a source of its own.
    """
    parsed = _parse(address)
    if parsed is None:
        return "no-address"
    return str(parsed) if parsed.version == 4 else str(ip_network((parsed, 64), strict=False))


def wide_block_of(address: str) -> str | None:
    """Give the /48 that one IPv6 customer may hold; IPv4 has none."""
    parsed = _parse(address)
    if parsed is None or parsed.version == 4:
        return None
    return str(ip_network((parsed, 48), strict=False))


def _wide_place(wide_block: str) -> _Place:
    return ("wide", "", wide_block)


def _parse(address: str) -> IPv4Address | IPv6Address | None:
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed


def _fold(account: str) -> str:
    # Longer names than anybody has share what their first characters say; memory stays bounded.
    return unicodedata.normalize("NFKC", account[:_MAX_ACCOUNT_CHARS]).strip().casefold()


def _whole_seconds(wait_s: float) -> int:
    return max(1, math.ceil(wait_s))


class _Pressure:
    """Failures from strange addresses, fading one by one."""

    __slots__ = ("_at_s", "_failures")

    def __init__(self) -> None:
        self._failures = 0.0
        self._at_s = -math.inf

    def add(self, now_s: float, rules: LogInRules) -> None:
        # Not more than twice the threshold is remembered, or a long attack would be felt for days.
        self._failures = min(self.failures(now_s, rules) + 1, 2.0 * rules.attack_failures)
        self._at_s = now_s

    def failures(self, now_s: float, rules: LogInRules) -> float:
        return max(0.0, self._failures - max(0.0, now_s - self._at_s) / rules.attack_fades_s)


class _Recent(Generic[_K, _V]):
    """A map that forgets the least recently used entry past `limit`."""

    __slots__ = ("_entries", "_limit")

    def __init__(self, limit: int) -> None:
        self._entries: OrderedDict[_K, _V] = OrderedDict()
        self._limit = limit

    def get(self, key: _K) -> _V | None:
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, key: _K, value: _V) -> _V:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)
        return value

    def __len__(self) -> int:
        return len(self._entries)
