"""Where the program may connect to: pure rules over addresses, ports and the operator's exceptions.

Public addresses may be reached over TLS on a few ports. Everything special (private, loopback, link-local, shared,
translated, documentation, multicast, reserved) only when `OUTBOUND_ALLOW` names it, and the metadata services of clouds
never. IPv6 is closed but for global unicast, so that ranges assigned later start closed. Sources: the IANA registries
of special-purpose IPv4 and IPv6 addresses.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

PUBLIC_PORTS: Final = frozenset({443, 8443})

_SPECIAL_V4: Final = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
_GLOBAL_V6: Final = IPv6Network("2000::/3")
_SPECIAL_V6: Final = tuple(
    IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)
_NAT64: Final = IPv6Network("64:ff9b::/96")
_V4_COMPATIBLE: Final = IPv6Network("::/96")
_METADATA: Final[tuple[Network, ...]] = tuple(
    ip_network(network)
    for network in (
        "169.254.169.0/24",
        "169.254.170.0/24",
        "169.254.42.42/32",
        "168.63.129.16/32",
        "100.100.100.200/32",
        "192.0.0.192/32",
        "fd00:ec2::/32",
        "fd00:42::42/128",
        "fd20:ce::254/128",
    )
)
_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*"
)


@dataclass(frozen=True, slots=True)
class _Exception:
    """One entry of the operator's list: a network or a name, on one port or (`None`) on any."""

    network: Network | None
    name: str | None
    port: int | None


class OutboundRules:
    """Decides about one connection at a time.

    `allow` are the entries of `OUTBOUND_ALLOW`: a network (`192.168.1.0/24`), an address, a host name, or one of the
    last two with a port (`nas.lan:8443`, `[fd00::1]:9000`). What an entry names may be private, listen on any port that
    the entry does not exclude, and be spoken to without TLS. Raises `ValueError` that quotes an entry which is none of
    these.
    """

    def __init__(self, allow: Iterable[str] = (), *, public_ports: frozenset[int] = PUBLIC_PORTS) -> None:
        self._exceptions = tuple(_read_exception(entry) for entry in allow)
        self._public_ports = public_ports

    def permits(self, host: str, address: Address, port: int, *, is_plain: bool) -> bool:
        """Tell whether a connection to the address, found under the host's name, is allowed.

        `is_plain` means without TLS, which only the operator's exceptions may be.
        """
        if is_metadata(address):
            return False
        if any(_covers(exception, host, address, port) for exception in self._exceptions):
            return True
        return not is_plain and port in self._public_ports and not is_special_use(address)


def is_special_use(address: Address) -> bool:
    """Tell whether the address is anything but an ordinary public one."""
    address = unmapped(address)
    if isinstance(address, IPv4Address):
        return any(address in network for network in _SPECIAL_V4)
    return address not in _GLOBAL_V6 or any(address in network for network in _SPECIAL_V6)


def is_metadata(address: Address) -> bool:
    """Tell whether a cloud's metadata service answers there, also in its translated IPv6 forms."""
    forms: list[Address] = [address, *_embedded(address)]
    return any(form in network for form in forms for network in _METADATA if form.version == network.version)


def unmapped(address: Address) -> Address:
    """Give the IPv4 address that an IPv4-mapped IPv6 address means, anything else as it is, without a zone."""
    if isinstance(address, IPv4Address):
        return address
    return address.ipv4_mapped or IPv6Address(int(address))


def read_address(host: str) -> Address | None:
    """Read a host that is an address literal in its one canonical form; `None` when it is not a literal at all.

    Raises `ValueError` for the other ways to write an IPv4 address (octal, hexadecimal, shortened, one number), which
    resolvers understand and people misread.
    """
    if ":" in host:
        return ip_address(host)
    last_label = host.rsplit(".", 1)[-1]
    if last_label.isdecimal() or last_label.lower().startswith("0x"):
        return IPv4Address(host)
    return None


def is_host_name(host: str) -> bool:
    """Tell whether the text is a DNS name in ASCII (RFC 1123, with the underscores that LAN names have)."""
    return _NAME.fullmatch(host) is not None


def _embedded(address: Address) -> list[Address]:
    if isinstance(address, IPv4Address):
        return []
    embedded = [address.ipv4_mapped, address.sixtofour]
    if address in _NAT64 or address in _V4_COMPATIBLE:
        embedded.append(IPv4Address(int(address) & 0xFFFF_FFFF))
    return [found for found in embedded if found is not None]


def _covers(exception: _Exception, host: str, address: Address, port: int) -> bool:
    if exception.port is not None and exception.port != port:
        return False
    if exception.name is not None:
        return exception.name == host
    address = unmapped(address)
    return (
        exception.network is not None and address.version == exception.network.version and address in exception.network
    )


def _read_exception(entry: str) -> _Exception:
    entry = entry.strip().lower()
    try:
        return _Exception(ip_network(entry.strip("[]") if "/" not in entry else entry, strict=False), None, None)
    except ValueError:
        pass
    host, port = _split_port(entry)
    if port is None and ":" in host:
        raise _unreadable(entry)
    host = host.strip("[]").rstrip(".")
    try:
        address = read_address(host)
    except ValueError:
        raise _unreadable(entry) from None
    if address is not None:
        return _Exception(ip_network(address), None, port)
    if not is_host_name(host):
        raise _unreadable(entry)
    return _Exception(None, host, port)


def _split_port(entry: str) -> tuple[str, int | None]:
    host, colon, digits = entry.rpartition(":")
    if not colon:
        return entry, None
    if not (digits.isascii() and digits.isdecimal() and 0 < int(digits[:6]) < 65_536):
        raise _unreadable(entry)
    return host, int(digits)


def _unreadable(entry: str) -> ValueError:
    return ValueError(
        f"OUTBOUND_ALLOW: {entry!r} is not a network (192.168.1.0/24), an address, a host name or one of the last two "
        "with a port (nas.lan:8443)."
    )
