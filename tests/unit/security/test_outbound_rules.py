from ipaddress import ip_address

import pytest

from appliance.security.outbound_rules import OutboundRules, is_metadata, is_special_use, read_address

SPECIAL = """
    0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 127.0.0.1 127.255.255.254 169.254.0.1
    169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.1 192.168.255.255
    198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
    :: ::1 ::7f00:1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 64:ff9b::7f00:1 64:ff9b::808:808
    64:ff9b:1::1 100::1 2001::1 2001:2::1 2001:10::1 2001:20::1 2001:db8::1 2002:7f00:1::1 2002:808:808::1
    2620:4f:8000::1 3fff::1 4000::1 5f00::1 fc00::1 fd00::1 fd00:ec2::254 fe80::1 febf::1 fec0::1 ff02::1 ff0e::1
"""
PUBLIC = """
    1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1 172.15.255.255
    172.32.0.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255 ::ffff:8.8.8.8
    2001:200::1 2001:4860:4860::8888 2400:cb00::1 2606:4700::1 2a00:1450::1 3ffe::1
"""


@pytest.mark.parametrize("address", SPECIAL.split())
def test_a_special_address_is_not_permitted_unasked(address):
    assert is_special_use(ip_address(address))
    assert not OutboundRules().permits("name.example.test", ip_address(address), 443, is_plain=False)


@pytest.mark.parametrize("address", PUBLIC.split())
def test_an_ordinary_public_address_is_permitted_over_tls_only(address):
    assert OutboundRules().permits("name.example.test", ip_address(address), 443, is_plain=False)
    assert not OutboundRules().permits("name.example.test", ip_address(address), 443, is_plain=True)
    assert not OutboundRules().permits("name.example.test", ip_address(address), 80, is_plain=True)


@pytest.mark.parametrize("port", [1, 22, 25, 80, 444, 6379, 65535])
def test_odd_ports_of_public_addresses_are_not_permitted(port):
    assert not OutboundRules().permits("name.example.test", ip_address("8.8.8.8"), port, is_plain=False)


METADATA = """
    169.254.169.254 169.254.170.2 169.254.170.23 168.63.129.16 100.100.100.200 192.0.0.192 fd00:ec2::254 fd20:ce::254
    ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe 2002:a9fe:a9fe::1 ::a9fe:a9fe ::ffff:168.63.129.16
"""


@pytest.mark.parametrize("address", METADATA.split())
def test_metadata_services_are_never_permitted_even_when_everything_is_allowed(address):
    rules = OutboundRules(["0.0.0.0/0", "::/0", "metadata.example.test", address])

    assert is_metadata(ip_address(address))
    assert not rules.permits("metadata.example.test", ip_address(address), 443, is_plain=False)


@pytest.mark.parametrize(
    ("entry", "host", "address", "port", "permitted"),
    [
        ("192.168.1.0/24", "nas.lan", "192.168.1.9", 9000, True),
        ("192.168.1.0/24", "nas.lan", "192.168.2.9", 9000, False),
        ("192.168.1.7/24", "nas.lan", "192.168.1.9", 9000, True),
        ("192.168.1.9", "nas.lan", "192.168.1.9", 80, True),
        ("192.168.1.9", "nas.lan", "::ffff:192.168.1.9", 80, True),
        ("192.168.1.9", "nas.lan", "192.168.1.8", 80, False),
        ("192.168.1.9:9000", "nas.lan", "192.168.1.9", 9000, True),
        ("192.168.1.9:9000", "nas.lan", "192.168.1.9", 9001, False),
        ("nas.lan", "nas.lan", "192.168.1.9", 9000, True),
        (" NAS.lan. ", "nas.lan", "192.168.1.9", 9000, True),
        ("nas.lan:9000", "nas.lan", "10.0.0.9", 9000, True),
        ("nas.lan:9000", "nas.lan", "10.0.0.9", 443, False),
        ("nas.lan", "evil.nas.lan", "192.168.1.9", 443, False),
        ("nas.lan", "nas.lan.example.test", "192.168.1.9", 443, False),
        ("nas.lan", "xnas.lan", "192.168.1.9", 443, False),
        ("fd00::/8", "nas.lan", "fd12::9", 9000, True),
        ("fd00::/8", "nas.lan", "192.168.1.9", 9000, False),
        ("fd00::9", "nas.lan", "fd00::9", 9000, True),
        ("[fd00::9]", "nas.lan", "fd00::9", 9000, True),
        ("[fd00::9]:9000", "nas.lan", "fd00::9", 9000, True),
        ("[fd00::9]:9000", "nas.lan", "fd00::9", 9001, False),
        ("hooks.example.test:80", "hooks.example.test", "8.8.8.8", 80, True),
    ],
)
def test_an_exception_permits_what_it_names_and_nothing_beside(entry, host, address, port, permitted):
    rules = OutboundRules([entry])

    assert rules.permits(host, ip_address(address), port, is_plain=True) is permitted


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "*",
        "*.lan",
        "nas.lan:",
        "nas.lan:0",
        "nas.lan:70000",
        "nas.lan:http",
        "http://nas.lan",
        "nas lan",
        "10.0.0.0/33",
        "10.0.0",
        "0x7f.1",
        "fd00::zz",
        "-nas.lan",
        "nas..lan",
        "a@b",
        "nas.lan:1:2",
        "ñas.lan",
    ],
)
def test_an_unreadable_exception_is_refused_and_quoted(entry):
    with pytest.raises(ValueError, match="OUTBOUND_ALLOW") as refused:
        OutboundRules([entry])

    assert repr(entry) in str(refused.value)


@pytest.mark.parametrize(
    "host", ["127.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "127.0.0.01", "1.2.3.4.5"]
)
def test_an_ipv4_address_written_otherwise_is_no_address(host):
    with pytest.raises(ValueError):
        read_address(host)


def test_a_host_name_is_no_address_and_a_plain_address_is_read():
    assert read_address("host1.example.test") is None
    assert read_address("10.0.0.1") == ip_address("10.0.0.1")
    assert read_address("fe80::1%eth0") == ip_address("fe80::1%eth0")
