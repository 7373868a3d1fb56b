"""No URL that a stranger can hand in reaches an address inside, whatever the trick.

The port is a permitted one and a peer listens on it, so the address check alone stands between them; the peer counts
who came.
"""

import pytest

from appliance.security.outbound import OutboundClient, OutboundRefused, OutboundRules, check_url, make_tls_context
from tests.doubles.certificates import Authority
from tests.doubles.http_peer import plain_reply, run_http_peer
from tests.doubles.name_server import NameServer

PRIVATE = """
    127.0.0.1 127.0.0.2 0.0.0.0 10.0.0.1 172.16.0.1 192.168.0.1 100.64.0.1 169.254.1.1 169.254.169.254 192.0.0.1
    192.0.2.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 240.0.0.1 255.255.255.255 168.63.129.16
"""
PRIVATE_V6 = """
    :: ::1 ::ffff:127.0.0.1 ::ffff:7f00:1 0:0:0:0:0:ffff:169.254.169.254 ::127.0.0.1 64:ff9b::7f00:1 2002:7f00:1::
    fd00::1 fd00:ec2::254 fe80::1 ff02::1 2001:db8::1 2001:0:7f00:1::1
"""
TRICKS = [
    "https://2130706433:{port}/",
    "https://0x7f000001:{port}/",
    "https://0x7f.0x0.0x0.0x1:{port}/",
    "https://0177.0.0.1:{port}/",
    "https://017700000001:{port}/",
    "https://127.1:{port}/",
    "https://127.0.1:{port}/",
    "https://0:{port}/",
    "https://127.0.0.1.:{port}/",
    "https://[::1%25lo]:{port}/",
    "https://[::1%lo]:{port}/",
    "https://[fe80::1%251]:{port}/",
    "https://127。0。0。1:{port}/",
    "https://１２７.0.0.1:{port}/",
    "https://①②⑦.0.0.1:{port}/",
    "https://%31%32%37.0.0.1:{port}/",
    "https://127.0.0.1%00.example.test:{port}/",
    "https://public.example.test@127.0.0.1:{port}/",
    "https://127.0.0.1:{port}@public.example.test/",
    "https://@127.0.0.1:{port}/",
    "https://user:word@public.example.test/",
    "https://public.example.test\\@127.0.0.1:{port}/",
    "https://127.0.0.1:{port}\\.example.test/",
    "https://127.0.0.1:{port} .example.test/",
    "https://127.0.0.1\t:{port}/",
    "https://127.0.0.1:{port}\r\nHost: public.example.test/",
    "https:/127.0.0.1:{port}/",
    "https:127.0.0.1:{port}",
    "//127.0.0.1:{port}/",
    "127.0.0.1:{port}",
    "http://127.0.0.1:{port}/",
    "http://public.example.test/",
    "http://public.example.test:443/",
    "https://public.example.test:0/",
    "https://public.example.test:22/",
    "https://public.example.test:6379/",
    "https://public.example.test:99999/",
    "ftp://public.example.test/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:{port}/",
    "unix:///run/carillon.sock",
    "data:text/plain,x",
    "javascript:alert(1)",
    "https://",
    "https:///",
    "https://./",
    "https://-.example.test/",
    "https://a..example.test/",
    "https://" + "a" * 64 + ".example.test/",
    "https://public.example.test/" + "x" * 5000,
    "",
    "\ud800",
]
NAMES = {
    "localhost": [["127.0.0.1"]],
    "localhost.localdomain": [["127.0.0.1", "::1"]],
    "127.0.0.1.nip.example.test": [["127.0.0.1"]],
    "7f000001.nip.example.test": [["127.0.0.1"]],
    "--1.sslip.example.test": [["::1"]],
    "mapped.example.test": [["::ffff:127.0.0.1"]],
    "translated.example.test": [["64:ff9b::7f00:1"]],
    "shared.example.test": [["100.64.0.1"]],
    "metadata.example.test": [["169.254.169.254"]],
    "scoped.example.test": [["fe80::1%lo"]],
    "first-public.example.test": [["8.8.8.8", "127.0.0.1"]],
    "last-public.example.test": [["127.0.0.1", "8.8.8.8"]],
    "one-of-many.example.test": [[*(f"8.8.8.{number}" for number in range(1, 60)), "10.0.0.1"]],
    "xn--bcher-kva.example.test": [["127.0.0.1"]],
    "public.example.test": [["8.8.8.8"]],
}
# Loading the authorities takes longer than all the rest; nothing here gets as far as using them.
TLS = make_tls_context()


async def refusal_of(url: str, port: int) -> str:
    """The text with which the URL is refused by a client whose rules permit the port."""
    rules = OutboundRules(public_ports=frozenset({443, port}))
    client = OutboundClient(rules, resolver=NameServer(NAMES), tls=TLS)
    try:
        with pytest.raises(OutboundRefused) as refused:
            await client.request("POST", url, body=b"x", deadline_s=5)
    finally:
        await client.close()
    return str(refused.value)


@pytest.mark.parametrize(
    "url",
    [f"https://{address}:{{port}}/" for address in PRIVATE.split()]
    + [f"https://[{address}]:{{port}}/" for address in PRIVATE_V6.split()]
    + [f"https://{name}:{{port}}/" for name in NAMES if not name.startswith("public")]
    + ["https://LOCALHOST:{port}/", "https://localhost.:{port}/", "https://bücher.example.test:{port}/"]
    + TRICKS,
)
async def test_a_url_to_the_inside_is_refused_before_any_connection_and_always_with_the_same_words(url):
    async with run_http_peer() as peer:
        text = await refusal_of(url.replace("{port}", str(peer.port)), peer.port)

        assert text == str(OutboundRefused())
        assert peer.connections == 0


async def test_a_name_that_changes_its_address_after_the_check_gains_nothing(tmp_path):
    """The check sees a permitted address, the connection a moment later would have seen another."""
    authority = Authority(tmp_path)
    names = NameServer({"moving.example.test": [["127.0.0.1"], ["127.0.0.2"]]})
    good_tls, inside_tls = authority.server_tls("moving.example.test"), authority.server_tls("inside.example.test")
    async with (
        run_http_peer(tls=good_tls) as good,
        run_http_peer(host="127.0.0.2", port=good.port, tls=inside_tls) as inside,
    ):
        client = OutboundClient(OutboundRules([f"127.0.0.1:{good.port}"]), resolver=names)
        authority.trust(client._tls)
        url = f"https://moving.example.test:{good.port}/"

        reply = await client.request("GET", url)
        assert (reply.status, names.questions) == (200, ["moving.example.test"])
        good.drop_connections()
        with pytest.raises(OutboundRefused):
            await client.request("GET", url)
        await client.close()

        assert (good.connections, inside.connections) == (1, 0)
        assert names.questions == ["moving.example.test"] * 2


async def test_a_redirect_to_the_inside_is_handed_back_and_not_followed(tmp_path):
    async with run_http_peer() as inside:
        away = plain_reply(b"", status=302, headers={"Location": f"http://127.0.0.1:{inside.port}/"})
        async with run_http_peer(away) as outside:
            client = OutboundClient(OutboundRules([f"127.0.0.1:{outside.port}"]))
            reply = await client.request("GET", f"http://127.0.0.1:{outside.port}/")
            await client.close()

    assert reply.status == 302
    assert inside.connections == 0


async def test_proxies_from_the_environment_are_ignored(monkeypatch):
    async with run_http_peer() as proxy, run_http_peer() as peer:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        client = OutboundClient(OutboundRules(["127.0.0.0/8"]))
        reply = await client.request("GET", f"http://127.0.0.1:{peer.port}/")
        await client.close()

    assert reply.status == 200
    assert (proxy.connections, peer.connections) == (0, 1)


async def test_the_programs_own_listener_is_refused_even_when_loopback_is_allowed():
    async with run_http_peer() as own, run_http_peer() as other:
        client = OutboundClient(OutboundRules(["127.0.0.0/8"]), is_own_listener=lambda port: port == own.port)
        with pytest.raises(OutboundRefused):
            await client.request("GET", f"http://127.0.0.1:{own.port}/")
        reply = await client.request("GET", f"http://127.0.0.1:{other.port}/")
        await client.close()

    assert own.asked == []
    assert reply.status == 200


async def test_an_allowed_target_on_the_local_network_works_with_and_without_tls(tmp_path):
    authority = Authority(tmp_path)
    names = NameServer({"nas.lan": [["127.0.0.1"]]})
    async with run_http_peer() as plain, run_http_peer(tls=authority.server_tls("nas.lan")) as secure:
        client = OutboundClient(OutboundRules(["nas.lan"]), resolver=names)
        authority.trust(client._tls)

        first = await client.request("GET", f"http://nas.lan:{plain.port}/a")
        second = await client.request("GET", f"https://nas.lan:{secure.port}/b")
        await client.close()

    assert (first.status, second.status) == (200, 200)
    assert plain.asked[0].headers["host"] == f"nas.lan:{plain.port}"
    assert secure.asked[0].headers["host"] == f"nas.lan:{secure.port}"
    assert secure.server_names == ["nas.lan"]


@pytest.mark.parametrize("url", ["https://user@hooks.example.test/", "ftp://hooks.example.test/", "https://0x7f.1/"])
def test_a_urls_form_can_be_checked_before_it_is_stored(url):
    check_url("https://hooks.example.test:8443/in?a=b")

    with pytest.raises(OutboundRefused):
        check_url(url)
