"""Where a client comes from: its network address, and what it says that it is."""

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

_SITE_BITS: Final = 64
_REMEMBERED: Final = 16_384


@dataclass(frozen=True, slots=True)
class Origin:
    """Shared by all connections that have it in common.

    `site` is what caps are counted by: the address itself, or the /64 of an IPv6 address, since every customer of a
    provider has at least one of those to himself (RFC 6177). It is empty where the server knows no address, as behind a
    Unix socket; such clients are not counted.
    """

    address: str
    user_agent: str
    site: str


def make_origin(address: str, user_agent: str) -> Origin:
    """Give the origin of a request; equal ones are the same object while they are remembered."""
    return _make(address, user_agent)


@lru_cache(maxsize=_REMEMBERED)
def _make(address: str, user_agent: str) -> Origin:
    return Origin(address, user_agent, site_of(address))


@lru_cache(maxsize=_REMEMBERED)
def site_of(address: str) -> str:
    """Give what an address is counted by; a text that is no IP address counts as it is."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    network = ipaddress.IPv6Network((int(parsed), _SITE_BITS), strict=False)
    return str(network)


NOWHERE: Final = make_origin("", "")
