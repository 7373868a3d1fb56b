"""Which reverse proxies are believed, and whom they say that they speak for.

One rule for every port and every cap. An IPv4 address counts as itself however it is written: a socket that listens on
`::` sees 10.0.0.5 as ::ffff:10.0.0.5.
"""

import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

_SCHEMES: Final = frozenset({"http", "https", "ws", "wss"})

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
App = Callable[[Any, Any, Any], Awaitable[None]]


class TrustedProxies:
    """Tells which addresses are trusted proxies: addresses, networks, or `*` for all. What is neither is nobody."""

    def __init__(self, trusted: Sequence[str]) -> None:
        self._trusts_all = "*" in trusted
        self._networks = [network for one in trusted if (network := _read_network(one)) is not None]

    def __bool__(self) -> bool:
        return self._trusts_all or bool(self._networks)

    def __call__(self, address: str) -> bool:
        if self._trusts_all:
            return True
        if not self._networks:
            return False
        parsed = read_address(address)
        return parsed is not None and self._has(parsed)

    def find_client(self, peer: str, forwarded: Iterable[str]) -> str:
        """Give the last address that a trusted proxy vouches for; `forwarded` are the values of X-Forwarded-For.

        Ports are cut off. Where a proxy tells what is no address, the client is that proxy.
        """
        client = peer
        for told in reversed([one for value in forwarded for one in value.split(",") if one.strip()]):
            if not self(client):
                break
            parsed = read_address(told.strip())
            if parsed is None:
                break
            client = str(parsed)
        return client

    def _has(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def read_address(text: str) -> Address | None:
    """Read an IP address, maybe with a port (`192.0.2.1:80`, `[2001:db8::1]:80`); None for anything else."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if parsed.version == 6 else None
    return mapped or parsed


def plain_address(text: str) -> str:
    """Write an IPv4 address within an IPv6 one as itself; any other text stays as it is."""
    if not text.startswith("::"):
        return text
    parsed = read_address(text)
    return text if parsed is None else str(parsed)


def believe(app: App, trusted: Sequence[str]) -> App:
    """Wrap an ASGI application so that the client and the scheme are those that a trusted proxy forwards.

    Without a trusted proxy it is the application itself.
    """
    proxies = TrustedProxies(trusted)
    if not proxies:
        return app

    def believing(scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        peer = scope.get("client")
        if peer is not None and scope["type"] != "lifespan" and proxies(peer[0]):
            _take_forwarded(scope, proxies, peer[0])
        return app(scope, receive, send)

    return believing


def _take_forwarded(scope: Any, proxies: TrustedProxies, peer: str) -> None:
    forwarded = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
    client = proxies.find_client(peer, forwarded)
    if client != peer:
        scope["client"] = (client, 0)
    schemes = [value.decode("latin-1").strip() for name, value in scope["headers"] if name == b"x-forwarded-proto"]
    scheme = next((one for one in schemes if one), "")
    if scheme in _SCHEMES:
        scope["scheme"] = scheme.replace("http", "ws") if scope["type"] == "websocket" else scheme


def _read_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    mapped = network.network_address.ipv4_mapped if network.version == 6 and network.prefixlen >= 96 else None
    return network if mapped is None else ipaddress.ip_network((mapped, network.prefixlen - 96))
