import asyncio

import pytest

from appliance.security.outbound import FailureReason, OutboundClient, OutboundFailed, OutboundRules
from tests.doubles.certificates import Authority
from tests.doubles.http_peer import plain_reply, run_http_peer
from tests.doubles.name_server import NameServer

RULES = OutboundRules(["127.0.0.1"])


@pytest.fixture
async def client():
    client = OutboundClient(RULES)
    yield client
    await client.close()


async def failure(client: OutboundClient, url: str, **limits) -> FailureReason:
    with pytest.raises(OutboundFailed) as failed:
        await client.request("GET", url, **limits)
    return failed.value.reason


async def test_a_request_arrives_as_it_was_sent_and_the_reply_comes_back_whole(client):
    async with run_http_peer(plain_reply(b"hello", status=202, headers={"X-One": "1", "x-one": "2"})) as peer:
        reply = await client.request(
            "POST", f"http://127.0.0.1:{peer.port}/in?a=b#c", headers={"X-Sign": "s"}, body=b"payload"
        )

    assert (reply.status, reply.body, reply.headers["x-one"]) == (202, b"hello", "1, 2")
    asked = peer.asked[0]
    assert (asked.method, asked.path, asked.body) == ("POST", "/in?a=b", b"payload")
    assert asked.headers["host"] == f"127.0.0.1:{peer.port}"
    assert asked.headers["x-sign"] == "s"
    assert asked.headers["accept-encoding"] == "identity"
    assert asked.headers["user-agent"].startswith("Carillon/")


async def test_connections_are_kept_for_the_next_request(client):
    async with run_http_peer() as peer:
        for _ in range(5):
            await client.request("GET", f"http://127.0.0.1:{peer.port}/")

    assert (len(peer.asked), peer.connections) == (5, 1)


@pytest.mark.parametrize("name", ["Host", "content-length", "Transfer-Encoding", "connection"])
async def test_the_clients_own_headers_cannot_be_given(client, name):
    with pytest.raises(ValueError, match="set by the client"):
        await client.request("GET", "http://127.0.0.1:1/", headers={name: "x"})


async def test_a_reply_larger_than_the_limit_is_not_read_to_its_end(client):
    sent = 0

    async def endless(_, writer):
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while sent < 50_000_000:
            writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            sent += 0x10000
            await writer.drain()

    async with run_http_peer(endless) as peer:
        reason = await failure(client, f"http://127.0.0.1:{peer.port}/", max_reply_bytes=100_000)

    assert reason is FailureReason.TOO_LARGE
    assert sent < 50_000_000


async def test_a_reply_of_exactly_the_limit_is_whole(client):
    async with run_http_peer(plain_reply(bytes(1000))) as peer:
        reply = await client.request("GET", f"http://127.0.0.1:{peer.port}/", max_reply_bytes=1000)
        reason = await failure(client, f"http://127.0.0.1:{peer.port}/", max_reply_bytes=999)

    assert len(reply.body) == 1000
    assert reason is FailureReason.TOO_LARGE


async def test_a_compressed_reply_stays_as_it_is(client):
    async with run_http_peer(plain_reply(b"\x1f\x8b-not-unpacked", headers={"Content-Encoding": "gzip"})) as peer:
        reply = await client.request("GET", f"http://127.0.0.1:{peer.port}/")

    assert reply.body == b"\x1f\x8b-not-unpacked"


async def test_a_reply_that_drips_ends_at_the_deadline(client):
    async def drip(_, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with run_http_peer(drip) as peer:
        reason = await failure(client, f"http://127.0.0.1:{peer.port}/", deadline_s=0.15)

    assert reason is FailureReason.TIMEOUT


async def test_a_peer_that_never_answers_ends_at_the_deadline(client):
    async def never(_, writer):
        await asyncio.Event().wait()

    async with run_http_peer(never) as peer:
        reason = await failure(client, f"http://127.0.0.1:{peer.port}/", deadline_s=0.1)
        peer.drop_connections()

    assert reason is FailureReason.TIMEOUT


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", FailureReason.PROTOCOL),
        (b"<html>captive portal</html>\r\n\r\n", FailureReason.PROTOCOL),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", FailureReason.PROTOCOL),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000, FailureReason.PROTOCOL),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", FailureReason.PROTOCOL),
        (b"\x16\x03\x01\x02\x00", FailureReason.PROTOCOL),
    ],
)
async def test_garbage_is_a_failure_and_not_a_crash(client, raw, reason):
    async def garbage(_, writer):
        writer.write(raw)
        await writer.drain()
        writer.close()

    async with run_http_peer(garbage) as peer:
        assert await failure(client, f"http://127.0.0.1:{peer.port}/") is reason


async def test_a_reset_in_the_middle_is_a_broken_connection(client):
    async def reset(_, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nx")
        await writer.drain()
        writer.transport.abort()

    async with run_http_peer(reset) as peer:
        assert await failure(client, f"http://127.0.0.1:{peer.port}/") in (FailureReason.BROKEN, FailureReason.PROTOCOL)


async def test_nobody_listening_is_a_failed_connection(client):
    async with run_http_peer() as peer:
        port = peer.port

    assert await failure(client, f"http://127.0.0.1:{port}/") is FailureReason.CONNECT


async def test_a_name_that_does_not_resolve_is_told_apart_from_a_refusal():
    client = OutboundClient(
        RULES, resolver=NameServer({"empty.example.test": [[]], "odd.example.test": [["not an ip"]]})
    )

    for name in ("unknown", "empty", "odd"):
        assert await failure(client, f"https://{name}.example.test/") is FailureReason.NAME
    await client.close()


async def test_the_second_address_is_tried_when_the_first_does_not_answer():
    client = OutboundClient(
        OutboundRules(["127.0.0.0/8"]), resolver=NameServer({"two.example.test": [["127.0.0.9", "127.0.0.1"]]})
    )
    async with run_http_peer() as peer:
        reply = await client.request("GET", f"http://two.example.test:{peer.port}/")
    await client.close()

    assert reply.status == 200


async def test_an_untrusted_certificate_and_one_for_another_name_fail(tmp_path):
    authority = Authority(tmp_path)
    names = NameServer({"a.example.test": [["127.0.0.1"]], "b.example.test": [["127.0.0.1"]]})
    stranger = OutboundClient(RULES, resolver=names)
    trusting = OutboundClient(RULES, resolver=names)
    authority.trust(trusting._tls)
    async with run_http_peer(tls=authority.server_tls("a.example.test")) as peer:
        assert await failure(stranger, f"https://a.example.test:{peer.port}/") is FailureReason.TLS
        assert await failure(trusting, f"https://b.example.test:{peer.port}/") is FailureReason.TLS
        assert (await trusting.request("GET", f"https://a.example.test:{peer.port}/")).status == 200
    await stranger.close()
    await trusting.close()


async def test_a_peer_that_never_shakes_hands_is_hung_up_on_at_the_deadline(client):
    """The library beneath closed on faults only, so each deadline in a handshake left an open socket behind."""
    hung_up = asyncio.Event()

    async def silent(reader, writer):
        while await reader.read(1024):
            pass
        hung_up.set()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    assert await failure(client, f"https://127.0.0.1:{port}/", deadline_s=0.1) is FailureReason.TIMEOUT
    await asyncio.wait_for(hung_up.wait(), 2)
    server.close()


async def test_a_certificate_for_an_address_is_good_for_the_address(tmp_path):
    authority = Authority(tmp_path)
    client = OutboundClient(RULES)
    authority.trust(client._tls)
    async with run_http_peer(tls=authority.server_tls("127.0.0.1")) as peer:
        reply = await client.request("GET", f"https://127.0.0.1:{peer.port}/")
    await client.close()

    assert reply.status == 200


async def test_session_keys_are_not_written_for_eavesdroppers(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    authority = Authority(tmp_path)
    client = OutboundClient(RULES)
    authority.trust(client._tls)
    async with run_http_peer(tls=authority.server_tls("127.0.0.1")) as peer:
        await client.request("GET", f"https://127.0.0.1:{peer.port}/")
    await client.close()

    assert not (tmp_path / "keys").exists()


async def test_a_stuck_peer_takes_only_its_own_slots(client):
    gate, all_in, inside = asyncio.Event(), asyncio.Event(), 0

    async def stuck(_, writer):
        nonlocal inside
        inside += 1
        if inside == 8:
            all_in.set()
        await gate.wait()
        writer.close()

    async with run_http_peer(stuck) as sick, run_http_peer() as well:
        url = f"http://127.0.0.1:{sick.port}/"
        held = [asyncio.ensure_future(client.request("GET", url, deadline_s=3)) for _ in range(300)]
        await asyncio.wait_for(all_in.wait(), 2)

        replies = [await client.request("GET", f"http://127.0.0.1:{well.port}/", deadline_s=2) for _ in range(20)]

        assert sick.connections == 8
        assert all(reply.status == 200 for reply in replies)
        for request in held:
            request.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        gate.set()
    assert client._slots == {}


async def test_cancelled_requests_leave_the_client_usable(client):
    async def slow(asked, writer):
        if asked.path == "/slow":
            await asyncio.sleep(0.05)
        await plain_reply()(asked, writer)

    async with run_http_peer(slow) as peer:
        for _ in range(30):
            request = asyncio.ensure_future(client.request("GET", f"http://127.0.0.1:{peer.port}/slow"))
            await asyncio.sleep(0)
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)

        assert (await client.request("GET", f"http://127.0.0.1:{peer.port}/")).body == b"ok"
    assert client._slots == {}
