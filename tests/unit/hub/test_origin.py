"""What an address is counted by."""

import pytest

from appliance.hub.origin import make_origin, site_of


@pytest.mark.parametrize(
    ("address", "site"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("not an address", "not an address"),
        ("", ""),
    ],
)
def test_an_address_counts_as_its_site(address: str, site: str) -> None:
    assert site_of(address) == site


def test_equal_origins_are_shared() -> None:
    assert make_origin("192.0.2.7", "app/1") is make_origin("192.0.2.7", "app/1")
    assert make_origin("192.0.2.7", "app/1") != make_origin("192.0.2.7", "app/2")
