"""What stands in the way of a connection is told in words that somebody can act on."""

import asyncio
import contextlib
import errno
import socket
import ssl

import pytest

from appliance.channels.http2_connect import Address, ConnectFailed, Http2Target, connect, explain, read_target
from appliance.channels.http2_messages import Ambiguous, Failure, Http2Request, NotSent
from tests.doubles.http2_server import run_http2_server

REQUEST = Http2Request(b"/", b"{}")
TARGET = Http2Target("api.push.example", 443, False)


@pytest.mark.parametrize(
    ("url", "target", "authority"),
    [
        ("https://api.push.apple.com", Http2Target("api.push.apple.com", 443, False), b"api.push.apple.com"),
        (
            "https://api.push.apple.com:2197/",
            Http2Target("api.push.apple.com", 2197, False),
            b"api.push.apple.com:2197",
        ),
        ("http://127.0.0.1:9700", Http2Target("127.0.0.1", 9700, True), b"127.0.0.1:9700"),
        ("https://[::1]:8443", Http2Target("::1", 8443, False), b"[::1]:8443"),
    ],
)
def test_a_base_url_names_a_server(url, target, authority):
    assert read_target(url) == target
    assert target.authority == authority


@pytest.mark.parametrize(
    "url", ["", "api.push.apple.com", "ftp://a.example", "https://", "https://a.example/path", "https://u@a.example",
            "https://a.example:99999", "https://a.example?x=1", "https://bücher.example"],
)  # fmt: skip
def test_a_base_url_that_names_no_server_or_more_is_refused(url):
    with pytest.raises(ValueError, match=r"URL|names more"):
        read_target(url)


async def test_a_port_where_nothing_listens_is_told(make_sender):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        answer = await make_sender(port, backoff_first_s=0.01).send(REQUEST, 30)
    assert answer == NotSent(Failure.CONNECT, f"localhost:{port} refuses connections: nothing listens there.")


async def test_a_certificate_of_a_strange_authority_is_told(make_sender, authority):
    strange = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    async with run_http2_server(tls=authority.server_tls("localhost")) as server:
        answer = await make_sender(server.port, tls=strange, backoff_first_s=0.01).send(REQUEST, 30)
        assert answer.reason == Failure.TLS
        assert answer.detail.startswith(f"The certificate of localhost:{server.port} is not accepted: ")
        assert server.taken == 0


async def test_a_certificate_for_another_name_is_told(make_sender, authority):
    async with run_http2_server(tls=authority.server_tls("other.example")) as server:
        answer = await make_sender(server.port, backoff_first_s=0.01).send(REQUEST, 30)
    assert answer.reason == Failure.TLS
    assert "Hostname mismatch" in answer.detail


async def test_a_server_without_http2_is_told(make_sender, authority):
    async def greet(_, writer):
        writer.close()

    tls = authority.server_tls("localhost")
    server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=tls)
    async with server:
        port = server.sockets[0].getsockname()[1]
        answer = await make_sender(port, backoff_first_s=0.01).send(REQUEST, 30)
    assert answer == NotSent(Failure.PROTOCOL, f"localhost:{port} does not offer HTTP/2.")


async def test_a_server_that_accepts_and_says_nothing_is_told(make_sender, leap):
    async with run_http2_server() as server:
        server.is_mute = True
        sender = make_sender(server.port, host="127.0.0.1", scheme="http", connect_s=10, failures_told=1)
        sending = asyncio.create_task(sender.send(REQUEST, 30))
        async with asyncio.timeout(60):
            while not sender.connections:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.005)
        leap(10)
        answer = await sending
    detail = "The server accepted the connection but did not begin to speak HTTP/2."
    assert answer == NotSent(Failure.PROTOCOL, detail)


async def test_a_refused_client_certificate_is_told(make_sender, authority):
    """In TLS 1.3 the server looks at the certificate only after the client has begun to speak."""
    tls = authority.trust(authority.server_tls("localhost"))
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.set_alpn_protocols(["h2"])
    # Event loops do not write the alert; a blocking socket does.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        refusing = asyncio.create_task(asyncio.to_thread(_refuse_twice, listener, tls))
        answer = await make_sender(listener.getsockname()[1], backoff_first_s=0.01).send(REQUEST, 10)
        await refusing
    assert answer.reason == Failure.TLS
    assert "refused the TLS connection or our certificate" in answer.detail


def _refuse_twice(listener, tls):
    for _ in range(2):
        accepted, _ = listener.accept()
        accepted.settimeout(10)
        greeted = tls.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
        with contextlib.suppress(ssl.SSLError):
            greeted.do_handshake()
        # Closed with something unread, the socket would send a reset that overtakes the alert.
        with socket.socket(fileno=greeted.detach()) as rest, contextlib.suppress(OSError):
            while rest.recv(4_096):
                pass


async def test_a_server_that_closes_without_a_word_is_told(make_sender, authority):
    tls = authority.trust(authority.server_tls("localhost"))
    tls.verify_mode = ssl.CERT_REQUIRED
    async with run_http2_server(tls=tls) as server:
        answer = await make_sender(server.port, backoff_first_s=0.01).send(REQUEST, 30)
    detail = f"localhost:{server.port} closed the connection before it could be used."
    assert answer == NotSent(Failure.CONNECT, detail)


@pytest.mark.parametrize(
    ("error", "reason", "words"),
    [
        (socket.gaierror(-2, "Name or service not known"), Failure.NAME, "check DNS and network"),
        (ConnectionResetError(), Failure.CONNECT, "closed the connection"),
        (OSError(errno.ENETUNREACH, "x"), Failure.CONNECT, "network is unreachable"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), Failure.TLS, "No TLS connection"),
    ],
)
def test_every_fault_has_its_words(error, reason, words):
    failed = explain(error, TARGET)
    assert failed.reason == reason
    assert words in failed.detail
    assert "api.push.example" in failed.detail


async def test_after_two_failures_in_a_row_everybody_is_told_at_once(make_sender):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        sender = make_sender(unused.getsockname()[1], backoff_first_s=0.01, backoff_most_s=3_600.0)
        answers = await asyncio.gather(*(sender.send(REQUEST, 30) for _ in range(20)))
        assert {type(answer) for answer in answers} == {NotSent}
        assert (sender.counters.connect_failed, sender.queued) == (2, 0)


async def test_while_pausing_after_failures_requests_are_answered_without_dialling(make_sender):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        sender = make_sender(unused.getsockname()[1], backoff_first_s=3_600.0, backoff_most_s=3_600.0, failures_told=1)
        for _ in range(5):
            assert (await sender.send(REQUEST, 30)).reason == Failure.CONNECT
        assert sender.counters.connect_failed == 1


async def test_one_failed_connection_is_no_outage(make_sender, authority):
    async with run_http2_server(tls=authority.server_tls("localhost")) as server:
        server.on_connected = [lambda connection: connection.drop()]
        sender = make_sender(server.port, backoff_first_s=0.01)
        assert (await sender.send(REQUEST, 30)).status == 200
        assert (server.connected, sender.counters.connect_failed) == (2, 1)


async def test_connections_that_die_young_are_followed_by_growing_pauses(make_sender, authority, leap):
    """A server that drops every connection at once must not be hammered: providers take that for an attack."""
    async with run_http2_server(lambda asked: asked.connection.drop(), tls=authority.server_tls("localhost")) as server:
        sender = make_sender(server.port, backoff_first_s=3_600.0, backoff_most_s=3_600.0)
        assert isinstance(await sender.send(REQUEST, 30), Ambiguous)
        sending = asyncio.create_task(sender.send(REQUEST, 5))
        await asyncio.sleep(0)
        leap(5)
        late = await sending
        assert (late.reason, server.connected) == (Failure.TIMEOUT, 1)
        assert late.detail == "There was no connection in time. The connection broke."


async def test_the_next_address_is_tried_while_the_first_keeps_silent():
    """A home with broken IPv6: the first address swallows everything."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        fillers = [_begin(silent.getsockname()) for _ in range(3)]
        async with run_http2_server() as server:

            async def look_up(_host, _port):
                places = silent.getsockname(), ("127.0.0.1", server.port)
                return [Address(socket.AF_INET, place) for place in places]

            target = Http2Target("two.example", 1, True)
            await connect(asyncio.Protocol, target, ssl.create_default_context(), 30, look_up=look_up)
            assert server.connected == 1
            server.connections[0].drop()
        for filler in fillers:
            filler.close()


async def test_a_name_without_an_address_is_told():
    async def look_up(_host, _port):
        return []

    with pytest.raises(ConnectFailed) as failed:
        await connect(asyncio.Protocol, TARGET, ssl.create_default_context(), 30, look_up=look_up)
    assert failed.value.reason == Failure.NAME


def _begin(address):
    filler = socket.socket()
    filler.setblocking(False)
    filler.connect_ex(address)
    return filler
