"""Whose word about the client counts, however addresses are written; one rule for both ports and the guard."""

import pytest

from appliance.ops.connection_guard import ConnectionGuard
from appliance.security.trusted_proxies import TrustedProxies, plain_address, read_address


@pytest.mark.parametrize(
    ("trusted", "address", "is_trusted"),
    [
        ("10.0.0.5", "10.0.0.5", True),
        ("10.0.0.5", "::ffff:10.0.0.5", True),
        ("10.0.0.0/8", "::ffff:10.0.0.5", True),
        ("::ffff:10.0.0.5", "10.0.0.5", True),
        ("::ffff:10.0.0.0/104", "10.9.9.9", True),
        ("10.0.0.1/8", "10.1.1.1", True),
        ("fd00::1", "FD00:0::1", True),
        ("fd00::1/64", "fd00::2", True),
        ("*", "192.0.2.1", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("10.0.0.0/8", "::10.0.0.5", False),
        ("fd00::/64", "::ffff:10.0.0.5", False),
        ("10.0.0.0/8", "", False),
        ("10.0.0.0/8", "proxy", False),
        ("proxy", "proxy", False),
    ],
)
def test_an_address_counts_the_same_however_it_is_written(trusted: str, address: str, is_trusted: bool) -> None:
    assert TrustedProxies([trusted])(address) is is_trusted
    guard = ConnectionGuard(None, 1, most=1, most_of_site=1, trusted_proxies=[trusted])  # type: ignore[arg-type]
    assert guard._is_trusted(address) is is_trusted


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (["203.0.113.9"], "203.0.113.9"),
        (["203.0.113.9:555"], "203.0.113.9"),
        (["[2001:db8::1]:443"], "2001:db8::1"),
        (["[2001:db8::1]"], "2001:db8::1"),
        (["2001:db8::1"], "2001:db8::1"),
        (["::ffff:203.0.113.9"], "203.0.113.9"),
        (["198.51.100.1, 203.0.113.9"], "203.0.113.9"),
        (["198.51.100.1", "203.0.113.9, 10.0.0.7"], "203.0.113.9"),
        (["10.0.0.8, 10.0.0.7"], "10.0.0.8"),
        (["203.0.113.9, unknown"], "10.0.0.5"),
        (["203.0.113.9, <script>, 10.0.0.7"], "10.0.0.7"),
        (["_hidden"], "10.0.0.5"),
        ([" , "], "10.0.0.5"),
        ([], "10.0.0.5"),
    ],
)
def test_the_client_is_the_last_address_that_a_trusted_proxy_vouches_for(forwarded: list[str], client: str) -> None:
    """A proxy that appends the port made each connection of a client a machine of its own, beyond every cap."""
    assert TrustedProxies(["10.0.0.0/8"]).find_client("10.0.0.5", forwarded) == client


def test_nobody_else_is_believed() -> None:
    assert TrustedProxies(["10.0.0.0/8"]).find_client("192.0.2.1", ["203.0.113.9"]) == "192.0.2.1"
    assert not TrustedProxies([])


@pytest.mark.parametrize("text", ["", ":", "[", "[]:1", "a:1", "1.2.3", "unknown", "1.2.3.4, 5.6.7.8"])
def test_what_is_no_address_is_none(text: str) -> None:
    assert read_address(text) is None


def test_an_ipv4_address_within_ipv6_is_written_as_itself() -> None:
    texts = ("::ffff:127.0.0.1", "::1", "2001:db8::1", "10.0.0.1", "")
    assert [plain_address(text) for text in texts] == ["127.0.0.1", "::1", "2001:db8::1", "10.0.0.1", ""]
