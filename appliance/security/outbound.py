"""The guarded outbound HTTP client: the only way in which the program speaks HTTP to others.

The URL comes from a stranger as often as not (a webhook, a push subscription). So: https unless the operator says
otherwise, no user info, no redirects, no proxies from the environment, no compression, a limit on the reply's size, one
deadline for the whole exchange, and only addresses that `outbound_rules` permits. HTTP/1.1 over pooled connections.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import certifi
import httpcore
import httpx

from appliance import __version__
from appliance.security.outbound_errors import FailureReason, OutboundError, OutboundFailed, OutboundRefused
from appliance.security.outbound_network import GuardedNetwork, Resolver, SystemResolver
from appliance.security.outbound_rules import OutboundRules, is_host_name, read_address

__all__ = [
    "FailureReason",
    "OutboundClient",
    "OutboundError",
    "OutboundFailed",
    "OutboundRefused",
    "OutboundRules",
    "Poster",
    "Reply",
]

DEFAULT_DEADLINE_S: Final = 10.0
DEFAULT_MAX_REPLY_BYTES: Final = 64 * 1024

_CONNECT_S: Final = 4.0
_IDLE_S: Final = 15.0
_MAX_URL_CHARS: Final = 4096
_MAX_CONNECTIONS: Final = 100
_MAX_IDLE_CONNECTIONS: Final = 32
_SLOTS_PER_ORIGIN: Final = 8
_OWN_HEADERS: Final = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "accept-encoding", "expect"}
)


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole HTTP reply. Header names are in lower case; repeated headers are joined with a comma."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class _Target:
    is_plain: bool
    host: str
    port: int
    authority: str
    path: bytes

    @property
    def origin(self) -> tuple[bool, str, int]:
        return self.is_plain, self.host, self.port


class Poster(Protocol):
    """What those who only send requests need of the guarded client."""

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes, deadline_s: float
    ) -> Reply:
        """Send one request and read the whole reply. Raises `OutboundRefused`, `OutboundFailed`."""
        ...


class OutboundClient:
    """Sends single requests within the rules. Belongs to one event loop; `close` when done.

    At most `per_origin` requests run at once to one origin and `connections` to all, with and without TLS each; the
    others wait within their own deadlines. What hangs holds the connections of its client: targets that strangers
    choose get another client than those that the operator chose, and as many connections as are ever asked for.
    """

    def __init__(
        self,
        rules: OutboundRules,
        *,
        resolver: Resolver | None = None,
        tls: ssl.SSLContext | None = None,
        is_own_listener: Callable[[int], bool] = lambda _: False,
        connections: int = _MAX_CONNECTIONS,
        per_origin: int = _SLOTS_PER_ORIGIN,
    ) -> None:
        self._per_origin = per_origin
        self._system_resolver = SystemResolver()
        resolver = resolver or self._system_resolver
        self._tls = tls or make_tls_context()
        self._pools = {
            is_plain: httpcore.AsyncConnectionPool(
                ssl_context=self._tls,
                max_connections=connections,
                max_keepalive_connections=_MAX_IDLE_CONNECTIONS,
                keepalive_expiry=_IDLE_S,
                network_backend=GuardedNetwork(rules, resolver, is_plain=is_plain, is_own_listener=is_own_listener),
            )
            for is_plain in (False, True)
        }
        self._slots: dict[tuple[bool, str, int], _Slots] = {}

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        deadline_s: float = DEFAULT_DEADLINE_S,
        max_reply_bytes: int = DEFAULT_MAX_REPLY_BYTES,
    ) -> Reply:
        """Send one request and read the whole reply, redirects included as they are.

        Raises `OutboundRefused` when the target may not be contacted, and `OutboundFailed` when there is no whole reply
        within `deadline_s` seconds and `max_reply_bytes` bytes. Never tries again by itself: the peer may have acted.
        """
        target = _read_target(url)
        try:
            async with asyncio.timeout(deadline_s), self._slot(target.origin):
                return await self._exchange(method, target, _sent_headers(target, headers), body, max_reply_bytes)
        except (TimeoutError, httpcore.TimeoutException):
            raise OutboundFailed(FailureReason.TIMEOUT) from None
        except httpcore.ConnectError as error:
            raise OutboundFailed(FailureReason.TLS if _is_tls_fault(error) else FailureReason.CONNECT) from None
        except (httpcore.NetworkError, ssl.SSLError, OSError):
            raise OutboundFailed(FailureReason.BROKEN) from None
        except httpcore.RemoteProtocolError:
            raise OutboundFailed(FailureReason.PROTOCOL) from None

    async def close(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            await pool.aclose()
        self._system_resolver.close()

    async def _exchange(
        self, method: str, target: _Target, headers: Sequence[tuple[bytes, bytes]], body: bytes, max_reply_bytes: int
    ) -> Reply:
        scheme = b"http" if target.is_plain else b"https"
        url = httpcore.URL(scheme=scheme, host=target.host.encode(), port=target.port, target=target.path)
        timeouts = {"timeout": {"connect": _CONNECT_S}}
        async with self._pools[target.is_plain].stream(
            method, url, headers=headers, content=body, extensions=timeouts
        ) as response:
            reply_body = await _read_bounded(response, max_reply_bytes)
            return Reply(response.status, _joined_headers(response.headers), reply_body)

    @asynccontextmanager
    async def _slot(self, origin: tuple[bool, str, int]) -> AsyncIterator[None]:
        slots = self._slots.setdefault(origin, _Slots(self._per_origin))
        slots.users += 1
        try:
            async with slots.free:
                yield
        finally:
            slots.users -= 1
            if slots.users == 0:
                del self._slots[origin]


class _Slots:
    """How many may speak to one origin at once; forgotten with its last user."""

    __slots__ = ("free", "users")

    def __init__(self, count: int) -> None:
        self.free = asyncio.Semaphore(count)
        self.users = 0


def check_url(url: str) -> None:
    """Check the form of a URL before it is stored; the addresses are checked when it is used.

    Raises `OutboundRefused` for anything but an http or https URL with a plain host and no user info.
    """
    _read_target(url)


def make_tls_context() -> ssl.SSLContext:
    """Make the TLS settings of a client: version 1.2 up, the system's authorities and Mozilla's.

    Unlike `ssl.create_default_context` it does not write session keys to the file that `SSLKEYLOGFILE` names.
    """
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.load_default_certs()
    tls.load_verify_locations(certifi.where())
    return tls


def _read_target(url: str) -> _Target:
    # Backslashes, blanks and control characters are what parsers disagree about.
    if len(url) > _MAX_URL_CHARS or "\\" in url or any(char <= " " or char == "\x7f" for char in url):
        raise OutboundRefused
    try:
        parsed = httpx.URL(url)
        host = parsed.raw_host.decode("ascii").lower().removesuffix(".")
        literal = read_address(host)
    except (httpx.InvalidURL, ValueError):
        raise OutboundRefused from None
    if parsed.scheme not in ("http", "https") or "@" in _authority_text(url) or parsed.port == 0:
        raise OutboundRefused
    if literal is None and not is_host_name(host):
        raise OutboundRefused
    is_plain = parsed.scheme == "http"
    port = parsed.port or (80 if is_plain else 443)
    shown_host = f"[{host}]" if ":" in host else host
    authority = shown_host if parsed.port is None else f"{shown_host}:{port}"
    return _Target(is_plain, host, port, authority, parsed.raw_path)


def _authority_text(url: str) -> str:
    # As written: the parser drops an empty user name, but `https://@host` is still somebody's trick.
    return re.split(r"[/?#]", url.partition("//")[2], maxsplit=1)[0]


def _is_tls_fault(error: BaseException | None) -> bool:
    # Each layer below wraps the fault once more.
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _sent_headers(target: _Target, headers: Mapping[str, str] | None) -> list[tuple[bytes, bytes]]:
    sent = {"host": target.authority, "user-agent": f"Carillon/{__version__}", "accept": "*/*"}
    for name, value in (headers or {}).items():
        if name.lower() in _OWN_HEADERS:
            raise ValueError(f"The header {name} is set by the client itself.")
        sent[name.lower()] = value
    # What is not compressed cannot be a bomb.
    sent["accept-encoding"] = "identity"
    return [(name.encode("ascii"), value.encode("utf-8")) for name, value in sent.items()]


async def _read_bounded(response: httpcore.Response, most: int) -> bytes:
    chunks, size = [], 0
    async for chunk in response.aiter_stream():
        size += len(chunk)
        if size > most:
            raise OutboundFailed(FailureReason.TOO_LARGE)
        chunks.append(chunk)
    return b"".join(chunks)


def _joined_headers(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    joined: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined
