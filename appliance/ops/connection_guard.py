"""Keeps one machine from taking all HTTP connections of the main port.

The HTTP server accepts connections by itself, up to a number in all, and closes one that brings no request in time.
Until then a machine that opens thousands of them and says nothing would leave no room for others. So this guard looks
at the process's own sockets once a second: of the connections of one network address (an IPv6 /64) on which no request
is under way, those beyond a bound are shut down, the ones that were idle at the look before first; the server then
closes them. When idle connections take most of the room in all, the bound shrinks to what is fair to everybody.
Requests under way are bounded as well, at the moment they begin: one more from the same address is answered 503.

What belongs to the hub has the hub's own caps and is not counted; trusted proxies are not, either: their connections
are many people's. A flood from thousands of addresses, or of packets that open no connection, is a firewall's work.
"""

import asyncio
import errno
import logging
import os
import random
import resource
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from litestar.types import ASGIApp

from appliance.hub.origin import site_of
from appliance.hub.presence import count_down, count_up
from appliance.hub.requests import MOUNT_PATH
from appliance.security.trusted_proxies import TrustedProxies, plain_address

logger = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0
_OPEN_FILES: Final = "/proc/self/fd"
_FEWEST_OF_A_SITE: Final = 32
_TELL_EVERY_S: Final = 60.0
_RETRY_AFTER_S: Final = (1, 10)

_LOST_PEER_OPTIONS: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000),
)

Peer = tuple[str, int]


@dataclass(frozen=True, slots=True)
class OpenConnection:
    """A connection of the main port as the operating system sees it: the file number, and who is at the other end."""

    file: int
    peer: Peer


class ConnectionGuard:
    """Wraps the served application, and shuts idle connections of crowded addresses down while `run` runs.

    `most_of_site` bounds the connections of one address that are idle, and those with a request under way; `most` is
    how many the server accepts in all.
    """

    def __init__(
        self, app: ASGIApp, port: int, *, most: int, most_of_site: int, trusted_proxies: Sequence[str] = ()
    ) -> None:
        self._app = app
        self._port = port
        self._most = most
        self._most_of_site = most_of_site
        self._is_trusted = TrustedProxies(trusted_proxies)
        self._busy: set[Peer] = set()
        self._requests_of: dict[str, int] = {}
        self._idle_before: frozenset[Peer] = frozenset()
        self._told_at = -_TELL_EVERY_S
        self.closed = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        client = scope.get("client")
        if client is None or scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        # The server gives the port as text.
        peer = (plain_address(str(client[0])), int(client[1]))
        is_counted = scope["type"] == "http" and not scope["path"].startswith(MOUNT_PATH)
        site = site_of(peer[0]) if is_counted and not self._is_trusted(peer[0]) else ""
        if self._requests_of.get(site, 0) >= self._most_of_site:
            self._tell(site, "requests")
            await _refuse(send)
            return
        self._busy.add(peer)
        count_up(self._requests_of, site)
        try:
            await self._app(scope, receive, send)
        finally:
            self._busy.discard(peer)
            count_down(self._requests_of, site)

    async def run(self) -> None:
        """Look once a second, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                if count_open_files() - len(self._busy) > self._least_bound():
                    await self.look()
                else:
                    self._idle_before = frozenset()
            except Exception:
                # Without its guard the server still serves; what happened must not end that.
                logger.exception("connection_guard_failed")

    async def look(self) -> int:
        """Look at all connections once; gives how many were shut down."""
        # In a thread, since it is thousands of system calls when it matters.
        crowded, closed = await asyncio.to_thread(self._sweep)
        self.closed += closed
        for site in crowded:
            self._tell(site, "connections")
        return closed

    def _sweep(self) -> tuple[set[str], int]:
        idle = [
            one
            for one in list_connections(self._port)
            if one.peer not in self._busy and not self._is_trusted(one.peer[0])
        ]
        excess = choose_excess(idle, self._idle_before, most=self._most, most_of_site=self._most_of_site)
        self._idle_before = frozenset(one.peer for one in idle)
        closed = sum(shut(one) for one in excess if one.peer not in self._busy)
        return {site_of(one.peer[0]) for one in excess}, closed

    def _least_bound(self) -> int:
        return min(self._most_of_site, self._most // 2)

    def _tell(self, site: str, what: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._told_at >= _TELL_EVERY_S:
            self._told_at = now
            hint = "If this is a reverse proxy, name it in TRUSTED_PROXIES."
            logger.warning("http_address_full", extra={"address": site, "what": what, "hint": hint})


def choose_excess(
    idle: Sequence[OpenConnection], idle_before: Collection[Peer], *, most: int, most_of_site: int
) -> list[OpenConnection]:
    """Choose the idle connections that are too many for their address, those first that were idle before.

    When more than half of the room is taken by idle ones, each address keeps its fair share of that half.
    """
    of_site: dict[str, list[OpenConnection]] = {}
    for one in idle:
        of_site.setdefault(site_of(one.peer[0]), []).append(one)
    kept = min(most_of_site, fair_share({site: len(all_of_it) for site, all_of_it in of_site.items()}, most // 2))
    excess: list[OpenConnection] = []
    for all_of_it in of_site.values():
        if len(all_of_it) > kept:
            all_of_it.sort(key=lambda one: one.peer not in idle_before)
            excess.extend(all_of_it[: len(all_of_it) - kept])
    return excess


def fair_share(counts: Mapping[str, int], room: int) -> int:
    """Give the largest number that each may keep so that all together fit into `room`, but never less than 32."""
    left, waiting = room, sorted(counts.values())
    for position, count in enumerate(waiting):
        share = left // (len(waiting) - position)
        if count > share:
            return max(_FEWEST_OF_A_SITE, share)
        left -= count
    return max(room, _FEWEST_OF_A_SITE)


def count_open_files() -> int:
    """Count the open files of this process."""
    # Newer kernels tell it without a walk through the directory.
    return os.stat(_OPEN_FILES).st_size or len(list(_list_files()))


def notice_lost_peers(port: int) -> int:
    """Let the system drop connections of the port whose other end is gone without a word; gives how many listeners.

    What a listening socket is told holds for every connection that it accepts from then on: one that is silent is asked
    after 30 seconds whether it is there, and one that does not confirm what was sent is lost after a minute. Without
    it, a socket behind a broken line would live for a quarter of an hour. Source: tcp(7).
    """
    told = 0
    for file in _list_files():
        listener = _borrow(file)
        if listener is None:
            continue
        try:
            is_listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
            if is_listening and listener.getsockname()[1] == port:
                for level, option, value in _LOST_PEER_OPTIONS:
                    listener.setsockopt(level, option, value)
                told += 1
        except (OSError, IndexError):
            continue
        finally:
            listener.detach()
    return told


def list_connections(port: int) -> Iterator[OpenConnection]:
    """Give the connections that this process has accepted on a TCP port."""
    for file in _list_files():
        peer = _peer_of(file, port)
        if peer is not None:
            yield OpenConnection(file, peer)


def shut(connection: OpenConnection) -> bool:
    """Shut a connection down, both ways; False when it is not there any more. Its owner closes the file."""
    borrowed = _borrow(connection.file)
    if borrowed is None:
        return False
    try:
        if _read_peer(borrowed) != connection.peer:
            return False
        borrowed.shutdown(socket.SHUT_RDWR)
    except OSError:
        return False
    finally:
        borrowed.detach()
    return True


def _peer_of(file: int, port: int) -> Peer | None:
    borrowed = _borrow(file)
    if borrowed is None:
        return None
    try:
        if borrowed.getsockname()[1] != port:
            return None
        return _read_peer(borrowed)
    except (OSError, IndexError, ValueError):
        return None
    finally:
        borrowed.detach()


def _read_peer(connected: socket.socket) -> Peer:
    address, port = connected.getpeername()[:2]
    # On a listener for both versions an IPv4 peer has an address of IPv6; requests may name it either way.
    return plain_address(str(address)), int(port)


def _list_files() -> Iterable[int]:
    """Give the numbers of the open files; some of them may not be open any more, or never were."""
    try:
        return [int(name) for name in os.listdir(_OPEN_FILES)]
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        # To look at a directory takes a file, too, and there is none left: this is when the guard is needed most. Each
        # number below the limit is as good as open then.
        return range(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _borrow(file: int) -> socket.socket | None:
    """Look at another owner's file as a socket; the caller detaches it.

    Never a duplicate: closing a duplicate of a database file would drop the database's locks on it.
    """
    try:
        # It asks for the family: told a wrong one, it would cut addresses of IPv6 off.
        return socket.socket(fileno=file)
    except OSError:
        return None


async def _refuse(send: Any) -> None:
    # The jitter of Retry-After is no secret.
    retry_after_s = random.randint(*_RETRY_AFTER_S)  # noqa: S311
    body = (
        b'{"type":"/problems/unavailable","title":"Try again shortly","status":503,"code":"unavailable",'
        b'"detail":"Too many requests of this network address are under way. Wait for their answers.",'
        b'"retry_after_s":%d}' % retry_after_s
    )
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(body)),
        (b"retry-after", b"%d" % retry_after_s),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
