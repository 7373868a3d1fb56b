"""Connects to an HTTP/2 server, and says in plain words why that did not work.

The name is resolved for every connection. Its addresses are tried in turn, IPv6 and IPv4 alternating, the next one as
soon as the last has failed or kept silent for a moment (RFC 8305): a home with broken IPv6 must not wait for it. By
hand, because not every event loop can.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, zip_longest
from typing import Final, TypeAlias, TypeVar
from urllib.parse import urlsplit

from appliance.channels.http2_messages import Failure

_ALPN: Final = "h2"
_NEXT_ADDRESS_S: Final = 0.25
_MOST_ADDRESSES: Final = 6
_TLS_SHUTDOWN_S: Final = 1.0
# Their own: names that nobody answers must not keep the threads that the rest of the program shares.
_LOOK_UP_THREADS: Final = ThreadPoolExecutor(4, thread_name_prefix="provider-name")

ProtocolType = TypeVar("ProtocolType", bound=asyncio.Protocol)


@dataclass(frozen=True, slots=True)
class Http2Target:
    """The server behind a base URL."""

    host: str
    port: int
    is_plain: bool

    @property
    def scheme(self) -> bytes:
        return b"http" if self.is_plain else b"https"

    @property
    def authority(self) -> bytes:
        shown = f"[{self.host}]" if ":" in self.host else self.host
        usual = 80 if self.is_plain else 443
        return (shown if self.port == usual else f"{shown}:{self.port}").encode("ascii")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to connect to: the family, and the place as `socket` takes it."""

    family: int
    place: tuple[object, ...]


LookUp: TypeAlias = Callable[[str, int], Awaitable[Sequence[Address]]]


class ConnectFailed(Exception):
    """There is no connection; `reason` classifies it, the text says why in plain words."""

    def __init__(self, reason: Failure, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def read_target(base_url: str) -> Http2Target:
    """Read a base URL: https, or http for a server that is spoken to in HTTP/2 without TLS (prior knowledge).

    Raises `ValueError` that quotes the URL when it is none, or names more than a server.
    """
    try:
        url = urlsplit(base_url)
        port = url.port
    except ValueError:
        raise ValueError(f"{base_url!r} is not a URL.") from None
    if url.scheme not in ("https", "http") or not url.hostname or not base_url.isascii():
        raise ValueError(f"{base_url!r} is not an https URL of a server.")
    if url.path not in ("", "/") or url.query or url.fragment or url.username is not None:
        raise ValueError(f"{base_url!r} names more than a server: give scheme, host and port only.")
    is_plain = url.scheme == "http"
    return Http2Target(url.hostname, port or (80 if is_plain else 443), is_plain)


async def look_up(host: str, port: int) -> Sequence[Address]:
    """Give the addresses of a name as the system knows them now, best first. Raises `OSError`."""
    look = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    found = await asyncio.get_running_loop().run_in_executor(_LOOK_UP_THREADS, look)
    return [Address(answer[0], answer[4]) for answer in found]


async def connect(
    make_protocol: Callable[[], ProtocolType],
    target: Http2Target,
    tls: ssl.SSLContext,
    deadline_s: float,
    *,
    look_up: LookUp = look_up,
) -> ProtocolType:
    """Resolve the name anew, connect, and agree on HTTP/2. `tls` must offer it (ALPN) and verify as the caller wishes.

    Raises `ConnectFailed` when there is no connection after `deadline_s` seconds or earlier.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(deadline_s):
            transport, protocol = await loop.create_connection(
                make_protocol,
                sock=await _open_socket(target, look_up),
                ssl=None if target.is_plain else tls,
                server_hostname=None if target.is_plain else target.host,
                ssl_handshake_timeout=None if target.is_plain else deadline_s,
                ssl_shutdown_timeout=None if target.is_plain else _TLS_SHUTDOWN_S,
            )
    except TimeoutError:
        raise ConnectFailed(
            Failure.CONNECT, f"{_name(target)} did not accept a connection within {deadline_s:g} s."
        ) from None
    except OSError as error:
        raise explain(error, target) from None
    if not target.is_plain:
        agreed = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        if agreed != _ALPN:
            transport.abort()
            raise ConnectFailed(Failure.PROTOCOL, f"{_name(target)} does not offer HTTP/2.")
    return protocol


def offer_http2(tls: ssl.SSLContext) -> ssl.SSLContext:
    """Let TLS settings offer HTTP/2 and nothing else; gives them back."""
    tls.set_alpn_protocols([_ALPN])
    return tls


def explain(error: OSError, target: Http2Target) -> ConnectFailed:
    """Say what a fault of the network or of TLS means for somebody who can do something about it."""
    name = _name(target)
    match error:
        case socket.gaierror():
            return ConnectFailed(Failure.NAME, f"The name {target.host} could not be resolved: check DNS and network.")
        case ssl.SSLCertVerificationError():
            return ConnectFailed(
                Failure.TLS, f"The certificate of {name} is not accepted: {error.verify_message or 'unknown fault'}."
            )
        case ssl.SSLError() if "alert" in str(error).lower():
            said = (getattr(error, "reason", None) or "alert").lower().replace("_", " ")
            return ConnectFailed(Failure.TLS, f"{name} refused the TLS connection or our certificate: {said}.")
        case ssl.SSLError():
            said = (getattr(error, "reason", None) or "no details").lower().replace("_", " ")
            return ConnectFailed(Failure.TLS, f"No TLS connection to {name}: {said}.")
        case ConnectionRefusedError():
            return ConnectFailed(Failure.CONNECT, f"{name} refuses connections: nothing listens there.")
        case ConnectionError():
            return ConnectFailed(Failure.CONNECT, f"{name} closed the connection before it could be used.")
        case _:
            said = os.strerror(error.errno).lower() if error.errno else "unknown fault"
            return ConnectFailed(Failure.CONNECT, f"No connection to {name}: {said}.")


async def _open_socket(target: Http2Target, look_up: LookUp) -> socket.socket:
    """Connect to the first of the server's addresses that answers; the others are given up."""
    waiting = _alternate(await look_up(target.host, target.port))[:_MOST_ADDRESSES]
    trying: set[asyncio.Task[socket.socket]] = set()
    failure: OSError = socket.gaierror()
    connected: socket.socket | None = None
    try:
        while connected is None and (waiting or trying):
            if waiting:
                trying.add(asyncio.create_task(_connect_socket(waiting.pop(0))))
            done, trying = await asyncio.wait(
                trying, timeout=_NEXT_ADDRESS_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                error = task.exception()
                if error is None and connected is None:
                    connected = task.result()
                elif error is None:
                    task.result().close()
                elif isinstance(error, OSError):
                    failure = error
                else:
                    raise error
        await _give_up(trying)
    except BaseException:
        if connected is not None:
            connected.close()
        await _give_up(trying)
        raise
    if connected is None:
        raise failure
    return connected


async def _connect_socket(address: Address) -> socket.socket:
    connecting = socket.socket(address.family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        connecting.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connecting, address.place)
    except BaseException:
        connecting.close()
        raise
    return connecting


async def _give_up(trying: set[asyncio.Task[socket.socket]]) -> None:
    if not trying:
        return
    for task in trying:
        task.cancel()
    for came_of_it in await asyncio.gather(*trying, return_exceptions=True):
        if isinstance(came_of_it, socket.socket):
            came_of_it.close()


def _alternate(addresses: Sequence[Address]) -> list[Address]:
    """Alternate between the families, beginning with the one that the system prefers."""
    preferred = addresses[0].family if addresses else 0
    first = [address for address in addresses if address.family == preferred]
    second = [address for address in addresses if address.family != preferred]
    pairs = chain.from_iterable(zip_longest(first, second))
    return [address for address in pairs if address is not None]


def _name(target: Http2Target) -> str:
    return f"{target.host}:{target.port}"
