"""Connections that went through the rules: a name is resolved once, every answer checked, a checked address connected.

There is no second look-up between check and connect, so a name server that changes its mind in between gains nothing.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Final, Protocol

import anyio
import httpcore

from appliance.security.outbound_errors import FailureReason, OutboundFailed, OutboundRefused
from appliance.security.outbound_rules import Address, OutboundRules, read_address, unmapped

_RESOLVER_THREADS: Final = 16
_MAX_ADDRESSES_TRIED: Final = 4

_SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


class Resolver(Protocol):
    """Gives every address of a name, best first, as text. Raises `OSError` when there is none."""

    async def resolve(self, host: str, port: int) -> Sequence[str]: ...


class SystemResolver:
    """The operating system's resolver, in threads of its own: slow names delay other outbound names, nothing else.

    A name is looked up once at a time, however many ask for it, so that it takes 16 slow names to fill the 16 threads.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVER_THREADS, thread_name_prefix="resolver")
        self._running: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        running = self._running.get((host, port))
        if running is None:
            running = asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host, port)
            self._running[host, port] = running
            running.add_done_callback(lambda done: self._ended((host, port), done))
        # Who gives up waiting does not take the answer away from the others.
        found = await asyncio.shield(running)
        return list(dict.fromkeys(found))

    def _ended(self, name: tuple[str, int], done: asyncio.Future[list[str]]) -> None:
        del self._running[name]
        if not done.cancelled():
            # Looked at, or the loop would report a fault that nobody waits for any more.
            done.exception()

    def close(self) -> None:
        """Let the threads go; look-ups that still run end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class GuardedNetwork(httpcore.AsyncNetworkBackend):
    """An httpcore backend whose every connection the rules permit; `is_plain` is for connections without TLS.

    One refused address refuses the name. `is_own_listener` tells whether a port is the program's own; a connection that
    leads back to it is refused whatever the rules say.
    """

    def __init__(
        self,
        rules: OutboundRules,
        resolver: Resolver,
        *,
        is_plain: bool,
        is_own_listener: Callable[[int], bool] = lambda _: False,
    ) -> None:
        self._rules = rules
        self._resolver = resolver
        self._is_plain = is_plain
        self._is_own_listener = is_own_listener
        self._sockets = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[_SocketOption] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first reachable of the host's addresses; `timeout` seconds hold for each of up to four."""
        addresses = await self._addresses(host, port)
        if not all(self._rules.permits(host, address, port, is_plain=self._is_plain) for address in addresses):
            raise OutboundRefused
        failure: Exception = OutboundFailed(FailureReason.CONNECT)
        for address in addresses[:_MAX_ADDRESSES_TRIED]:
            try:
                stream = await self._sockets.connect_tcp(str(address), port, timeout, None, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return await self._refuse_self(_OwnedStream(stream), port)
        raise failure

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[_SocketOption] | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Refuse: no outbound request goes to a local socket."""
        raise OutboundRefused

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _addresses(self, host: str, port: int) -> list[Address]:
        try:
            literal = read_address(host)
        except ValueError:
            raise OutboundRefused from None
        if literal is not None:
            return [unmapped(literal)]
        try:
            answers = await self._resolver.resolve(host, port)
            addresses = [unmapped(ip_address(answer)) for answer in answers]
        except (OSError, ValueError, UnicodeError):
            raise OutboundFailed(FailureReason.NAME) from None
        if not addresses:
            raise OutboundFailed(FailureReason.NAME)
        return list(dict.fromkeys(addresses))

    async def _refuse_self(self, stream: httpcore.AsyncNetworkStream, port: int) -> httpcore.AsyncNetworkStream:
        if not self._is_own_listener(port):
            return stream
        here, there = (ip_address(str(stream.get_extra_info(name)[0])) for name in ("client_addr", "server_addr"))
        if here == there or there.is_loopback:
            await stream.aclose()
            raise OutboundRefused
        return stream


class _OwnedStream(httpcore.AsyncNetworkStream):
    """A TCP stream that is closed when it does not become a TLS stream, also when the handshake is cancelled."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            return await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except BaseException:
            # httpcore closes on faults only; a deadline or a caller that gives up would leave the socket open.
            with anyio.CancelScope(shield=True):
                await self._stream.aclose()
            raise

    def get_extra_info(self, info: str) -> object:
        extra: object = self._stream.get_extra_info(info)
        return extra


def _look_up(host: str, port: int) -> list[str]:
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [str(answer[4][0]) for answer in answers]
