"""The lean listener against clients that mean it ill, over real sockets. What it has in common with the other listener
is tested with that one."""

import asyncio
import gc
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop
from websockets.asyncio.client import connect
from websockets.protocol import Protocol

from appliance.hub.asgi_types import Receive, Scope, Send
from appliance.hub.lean_limits import LeanLimits
from appliance.hub.lean_listener import LeanListener
from tests.doubles.certificates import Authority
from tests.doubles.hub_client import open_hub
from tests.doubles.hub_server import HubServer, run_hub, wait_until
from tests.doubles.raw_websocket import BINARY, CLOSE, PING, PONG, TEXT, RawFrame, make_frame, make_upgrade, open_raw

HANDSHAKE = b'{"protocol":"json","version":1}\x1e'
CALL = b'{"type":1,"target":"X","arguments":[],"invocationId":"1"}\x1e'
GET = "GET /hubs/notifications HTTP/1.1\r\nhost: localhost"


@pytest.fixture
def listener() -> str:
    return "lean"


@pytest.fixture
async def server() -> AsyncIterator[HubServer]:
    async with run_hub(listener="lean") as running:
        yield running


class TestHeads:
    @pytest.mark.parametrize(
        "head",
        [
            f"GET /hubs/notifications?x={'y' * 40_000} HTTP/1.1",
            f"{GET}\r\nx: {'y' * 40_000}",
            f"{GET}\r\n" + "\r\n".join(f"x{number}: {'y' * 1_000}" for number in range(40)),
            f"{GET}\r\nx: {'y' * 600_000}",
            f"{GET}\r\n{'y' * 600_000}",
        ],
        ids=["long path", "long value", "many headers", "huge value", "huge name"],
    )
    async def test_one_beyond_the_bound_is_431_and_the_connection_is_closed(self, server: HubServer, head: str) -> None:
        async with open_raw(server.port) as raw:
            raw.writer.write(head.encode() + b"\r\n\r\n")
            status, _ = await raw.answer()
            assert status in (431, 0)
        async with open_hub(server.ws) as good:
            assert (await good.invoke("X"))["error"]

    async def test_one_that_has_no_end_is_refused_before_it_has_one(self, server: HubServer) -> None:
        async with open_raw(server.port) as raw:
            await raw.send(f"{GET}\r\nx: ".encode())
            for _ in range(33):
                await raw.send(b"y" * 1_000)
                await asyncio.sleep(0)
            assert (await raw.answer())[0] == 431

    async def test_one_that_trickles_in_is_cut_at_its_deadline(self) -> None:
        async with (
            run_hub(listener="lean", lean_limits=LeanLimits(head_deadline_s=0.2)) as server,
            open_raw(server.port) as raw,
            open_raw(server.port) as silent,
        ):
            await raw.send(GET.encode())
            assert await raw.answer() == (0, "")
            assert await silent.answer() == (0, "")

    async def test_the_next_one_on_a_connection_has_a_deadline_too(self) -> None:
        limits = LeanLimits(head_deadline_s=0.2)
        async with run_hub(listener="lean", lean_limits=limits) as server, open_raw(server.port) as raw:
            status, head = await raw.ask(GET)
            assert status == 401 and "content-length: 0" in head and "date: " in head
            await raw.send(b"GET")
            assert await raw.answer() == (0, "")

    async def test_an_idle_connection_is_closed(self) -> None:
        async with run_hub(listener="lean", lean_limits=LeanLimits(idle_s=0)) as server, open_raw(server.port) as raw:
            assert (await raw.ask(GET))[0] == 401
            assert await raw.answer() == (0, "")

    async def test_many_requests_behind_one_are_bounded(self, server: HubServer) -> None:
        async with open_raw(server.port) as raw:
            await raw.send(f"{GET}\r\n\r\n".encode() * 1_000)
            statuses = [(await raw.answer())[0] for _ in range(30)]
            assert 400 in statuses and statuses[-1] == 0

    async def test_what_is_no_request_is_400(self, server: HubServer) -> None:
        async with open_raw(server.port) as raw:
            assert (await raw.ask("\x16\x03\x01 nonsense"))[0] == 400

    async def test_their_credentials_are_not_logged(self, server: HubServer, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        async with open_raw(server.port) as raw:
            assert (await raw.ask("GET /hubs/notifications?id=x&access_token=secret-1 HTTP/1.1\r\nhost: a"))[0] == 401
        async with open_raw(server.port) as raw:
            assert (await raw.upgrade("secret-2", "/hubs/notifications?access_token=secret-3")) == 401
        async with open_raw(server.port) as raw:
            await raw.shake_hands()
            await raw.send(make_frame(b"secret-4\x1e"))
            assert b"Connection closed with an error." in (await raw.next_frame()).payload
        assert "secret-" not in caplog.text


class TestUpgrades:
    @pytest.mark.parametrize(
        ("changed", "status"),
        [
            ({"sec_websocket_version": "8"}, 400),
            ({"sec_websocket_version": ""}, 400),
            ({"sec_websocket_key": "short"}, 400),
            ({"sec_websocket_key": ""}, 400),
        ],
    )
    async def test_a_bad_one_is_refused(self, server: HubServer, changed: dict[str, str], status: int) -> None:
        async with open_raw(server.port) as raw:
            assert (await raw.ask(make_upgrade(**changed)))[0] == status

    async def test_one_off_the_path_is_404(self, server: HubServer) -> None:
        for path in ("/", "/elsewhere", "/hubs/notifications/elsewhere", "/hubs/notifications/negotiate"):
            async with open_raw(server.port) as raw:
                assert await raw.upgrade(path=path) == 404

    async def test_one_behind_a_request_that_is_not_answered_yet_is_refused(self, server: HubServer) -> None:
        async with open_raw(server.port) as raw:
            await raw.send(f"{GET}\r\n\r\n{make_upgrade()}\r\n\r\n".encode())
            assert {(await raw.answer())[0] for _ in range(2)} & {400}

    @pytest.mark.parametrize("protocol", ["h2c", "TLS/1.0, websocket"])
    async def test_one_to_what_is_not_offered_is_ignored_and_the_connection_goes_on(
        self, server: HubServer, protocol: str
    ) -> None:
        """A client that would rather speak HTTP/2 asked to negotiate, and was refused with 400."""
        upgrade = f"host: localhost\r\nconnection: Upgrade\r\nupgrade: {protocol}\r\nauthorization: Bearer alice"
        negotiate = f"POST /hubs/notifications/negotiate?negotiateVersion=1 HTTP/1.1\r\n{upgrade}"
        async with open_raw(server.port) as raw:
            for body in ("", "content-length: 3\r\n"):
                await raw.send(f"{negotiate}\r\n{body}\r\n{'abc' if body else ''}".encode())
                status, head = await raw.answer()
                length = next(int(line[15:]) for line in head.splitlines() if line.startswith("content-length:"))
                assert status == 200 and b"connectionToken" in await raw.reader.readexactly(length)
            assert (await raw.ask(GET))[0] == 401

    async def test_frames_that_come_with_it_are_read(self, server: HubServer) -> None:
        async with open_raw(server.port) as raw:
            await raw.send(f"{make_upgrade()}\r\n\r\n".encode() + make_frame(HANDSHAKE + CALL))
            assert (await raw.answer())[0] == 101
            assert (await raw.next_frame()).payload == b"{}\x1e"
            assert b"Unknown hub method" in (await raw.next_frame()).payload


class TestFrames:
    @pytest.mark.parametrize("size", [0, 1, 80, 81, 60_000, 65_300, 70_000])
    async def test_messages_of_any_size_arrive(self, server: HubServer, size: int) -> None:
        async with open_hub(server.ws, max_size=None) as client:
            server.send(title="T", body="ż" * size)
            assert (await client.next())["arguments"][0]["body"] == "ż" * size

    @pytest.mark.parametrize(
        ("hostile", "code"),
        [
            (make_frame(b"x", opcode=3), 1002),
            (make_frame(b"x", opcode=11), 1002),
            (make_frame(b"x", bits=4), 1002),
            (make_frame(b"x", bits=1), 1002),
            (make_frame(CALL, masked=False), 1002),
            (make_frame(b"x", opcode=0), 1002),
            (make_frame(b"x", final=False) + make_frame(b"x"), 1002),
            (make_frame(b"x" * 126, opcode=PING), 1002),
            (make_frame(b"x", opcode=PING, final=False), 1002),
            (make_frame(b"\x03", opcode=CLOSE), 1002),
            (make_frame((999).to_bytes(2), opcode=CLOSE), 1002),
            (make_frame((1000).to_bytes(2) + b"\xff", opcode=CLOSE), 1007),
            (make_frame(bytes(131_073))[:14], 1009),
            (make_frame(bytes(20 << 20))[:14], 1009),
            (b"\x82\xff" + b"\xff" * 12, 1009),
        ],
        ids=lambda value: value[:3].hex() if isinstance(value, bytes) else str(value),
    )
    async def test_what_the_protocol_forbids_ends_its_own_connection_with_the_code_for_it(
        self, server: HubServer, hostile: bytes, code: int
    ) -> None:
        async with open_hub(server.ws) as good, open_raw(server.port) as bad:
            await bad.shake_hands()
            await bad.send(hostile)
            assert (await bad.closing())[1] == code
            await server.until(connections=1)
            assert server.hub.stats().ended == {"socket_lost": 1}
            server.send()
            assert (await good.next())["target"] == "ReceiveNotification"

    async def test_20_mib_in_one_frame_are_refused_while_they_come_and_the_code_is_seen(
        self, server: HubServer
    ) -> None:
        async with open_hub(server.ws) as good, open_raw(server.port) as bad:
            await bad.shake_hands()
            frame = make_frame(bytes(20 << 20))

            async def pour() -> None:
                try:
                    for start in range(0, len(frame), 65_536):
                        await bad.send(frame[start : start + 65_536])
                except OSError:
                    pass

            pouring = asyncio.ensure_future(pour())
            assert (await bad.closing())[1] == 1009
            assert (await good.invoke("X"))["error"]
            await asyncio.wait_for(pouring, 10.0)

    async def test_fragments_beyond_the_bound_are_refused_like_one_frame(self, server: HubServer) -> None:
        async with open_raw(server.port) as raw:
            await raw.shake_hands()
            await raw.send(make_frame(b"{", final=False))
            for _ in range(17):
                await raw.send(make_frame(b" " * 8_000, opcode=0, final=False))
            frames, _ = await raw.closing()
            # The hub's own limit of a message is met first, and says goodbye.
            assert b"Connection closed with an error." in frames[0].payload

    async def test_a_message_in_10000_fragments_with_pings_between_is_understood(self, server: HubServer) -> None:
        call = CALL.replace(b'"arguments"', b'"headers":{"x":"' + b"y" * (10_000 - len(CALL)) + b'"},"arguments"')
        fragments = [make_frame(call[:1], final=False)]
        fragments += [make_frame(call[at : at + 1], opcode=0, final=False) for at in range(1, len(call) - 1)]
        fragments.insert(5_000, make_frame(b"mid", opcode=PING))
        fragments.append(make_frame(call[-1:], opcode=0))
        async with open_raw(server.port) as raw:
            await raw.shake_hands()
            await raw.send(b"".join(fragments))
            assert await raw.next_frame() == RawFrame(PONG, b"mid")
            assert b"Unknown hub method" in (await raw.next_frame()).payload

    async def test_empty_and_binary_frames_and_pongs_are_borne(self, server: HubServer) -> None:
        async with open_raw(server.port) as raw:
            await raw.shake_hands()
            await raw.send(make_frame(b"") + make_frame(b"late", opcode=PONG) + make_frame(CALL, opcode=BINARY))
            answer = await raw.next_frame()
            assert answer.opcode == TEXT and b"Unknown hub method" in answer.payload

    async def test_a_flood_of_pings_is_answered_and_does_not_hold_the_others(self, server: HubServer) -> None:
        pings = 20_000
        async with open_hub(server.ws) as good, open_raw(server.port) as flooding:
            await flooding.shake_hands("bob")
            flooding.writer.write(make_frame(b"p", opcode=PING) * pings)
            answered = 0
            while answered < pings:
                if answered % 2_000 == 0:
                    server.send(title=str(answered))
                    assert (await good.next())["arguments"][0]["title"] == str(answered)
                frame = await flooding.next_frame()
                answered += frame.opcode == PONG
            await flooding.send(make_frame(CALL))
            assert b"Unknown hub method" in (await flooding.next_frame()).payload

    async def test_who_floods_with_pings_and_reads_no_answer_is_not_read_any_more(self, server: HubServer) -> None:
        # The story: answers to pings pass no queue with a bound, so a client that never reads could fill the memory.
        flood = make_frame(b"p" * 100, opcode=PING) * 1_000
        flooding = socket.socket()
        flooding.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        flooding.setblocking(False)
        loop = asyncio.get_running_loop()
        with flooding:
            await loop.sock_connect(flooding, ("127.0.0.1", server.port))
            await loop.sock_sendall(flooding, f"{make_upgrade()}\r\n\r\n".encode() + make_frame(HANDSHAKE))
            await server.until(plain_connections=1)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.0):
                    for _ in range(1_000):
                        await loop.sock_sendall(flooding, flood)
            (held,) = _list_transports(server)
            assert held.get_write_buffer_size() < 100_000
            async with open_hub(server.ws) as good:
                assert (await good.invoke("X"))["error"]

    async def test_what_comes_faster_than_it_is_served_waits_in_the_socket(self, server: HubServer) -> None:
        server.backend.hello_gate = asyncio.Event()
        hello = b'{"type":1,"target":"Hello","arguments":[{"deviceId":"a"}],"invocationId":"1"}\x1e'
        async with open_raw(server.port) as raw:
            await raw.shake_hands()
            await raw.send(make_frame(hello))
            pings = make_frame(b'{"type":6}\x1e' * 1_000)

            async def pour() -> None:
                for _ in range(2_000):
                    await raw.send(pings)

            pouring = asyncio.ensure_future(pour())
            done, _ = await asyncio.wait({pouring}, timeout=1.0)
            assert not done, "22 MB were taken while the client's call was not answered"
            server.backend.hello_gate.set()
            assert b'"result"' in (await raw.next_frame()).payload
            await asyncio.wait_for(pouring, 20.0)


class TestEnding:
    @pytest.mark.parametrize("code", [1000, 1001])
    async def test_a_close_frame_is_answered_with_its_code_and_counts_as_a_goodbye(
        self, server: HubServer, code: int
    ) -> None:
        async with open_raw(server.port) as raw:
            await raw.shake_hands()
            await raw.send(make_frame(code.to_bytes(2), opcode=CLOSE))
            assert await raw.closing() == ([RawFrame(CLOSE, code.to_bytes(2))], code)
            await server.until(connections=0)
            assert server.hub.stats().ended == {"client_closed": 1}

    async def test_what_was_sent_before_the_close_frame_is_still_read(self, server: HubServer) -> None:
        async with open_raw(server.port) as raw:
            await raw.shake_hands()
            hello = b'{"type":1,"target":"Hello","arguments":[{"deviceId":"a"}],"invocationId":"1"}\x1e'
            await raw.send(make_frame(hello) + make_frame(b"", opcode=CLOSE))
            assert (await raw.closing())[1] == 1005
            await server.until(connections=0)
            assert [one.device_id for one in server.backend.hellos] == ["a"]

    async def test_a_client_that_answers_no_close_frame_is_dropped(self) -> None:
        limits = LeanLimits(close_wait_s=0.2)
        async with run_hub(listener="lean", lean_limits=limits) as server, open_raw(server.port) as raw:
            await raw.shake_hands()
            await raw.send(make_frame(b'{"type":7}\x1e'))
            frames, code = await raw.closing()
            assert (frames[0].payload, code) == (b'{"type":7}\x1e', 1000)
            assert not _list_transports(server)

    async def test_a_write_to_a_lost_peer_is_over_where_nobody_reads_any_more(self) -> None:
        """Whoever had asked for an event and been cancelled counted as a reader: a goodbye waited out its deadline."""
        unfinished, outcome = asyncio.Event(), asyncio.get_running_loop().create_future()

        async def write_without_reading(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            asyncio.ensure_future(receive()).cancel()
            done = True
            while done:
                write: Any = send({"type": "websocket.send", "bytes": bytes(60_000)})
                # The system may still take it, in a moment.
                done = write.done() or bool((await asyncio.wait({write}, timeout=0.2))[0])
            unfinished.set()
            outcome.set_result(bool((await asyncio.wait({write}, timeout=2.0))[0]))

        listener = LeanListener(write_without_reading, _bind())
        await listener.start()
        async with open_raw(listener.port) as raw:
            assert await raw.upgrade() == 101
            raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await unfinished.wait()
            raw.writer.transport.abort()
        assert await asyncio.wait_for(outcome, 8.0)
        await listener.stop()

    async def test_stopping_drops_those_that_answer_no_close_frame(self) -> None:
        limits = LeanLimits(close_wait_s=30.0, stop_wait_s=0.2)
        async with (
            run_hub(listener="lean", lean_limits=limits) as server,
            open_raw(server.port) as raw,
            open_raw(server.port) as headless,
        ):
            await raw.shake_hands()
            await server.stop()
            assert (await raw.closing())[1] == 1001
            assert await headless.answer() == (0, "")

    @pytest.mark.parametrize("is_lost", [True, False], ids=["lost", "closed"])
    async def test_nothing_of_a_connection_waits_for_a_collection_of_cycles(
        self, server: HubServer, is_lost: bool
    ) -> None:
        """Each crowd that came and went left 1.2 KiB a client behind: the frames' parser holds what holds it."""
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                async with open_raw(server.port) as raw:
                    await raw.shake_hands()
                    assert _count_parsers() > 0
                    if not is_lost:
                        await raw.send(make_frame(b"", opcode=CLOSE))
                        assert (await raw.closing())[1] == 1005
            await wait_until(lambda: _count_parsers() == 0)
        finally:
            gc.enable()


def _count_parsers() -> int:
    return sum(type(one) is Protocol for one in gc.get_objects())


class TestSockets:
    async def test_a_peer_that_vanishes_without_a_word_is_noticed_by_the_system(self, server: HubServer) -> None:
        async with open_hub(server.ws):
            (transport,) = _list_transports(server)
            accepted = transport.get_extra_info("socket")
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 65_536

    def test_a_crowd_is_taken_from_the_system_within_a_few_turns_of_the_loop(self) -> None:
        """The program's loop took one a turn: ten thousand that came at once overflowed the system's queue, and whom it
        dropped were not asked again for up to half a minute."""
        uvloop.run(_let_crowd_in(64, within_turns=16))


async def _let_crowd_in(count: int, *, within_turns: int) -> None:
    async with run_hub(listener="lean") as server:
        assert server.lean is not None
        crowd = [socket.create_connection(("127.0.0.1", server.port), 5) for _ in range(count)]
        for _ in range(within_turns):
            await asyncio.sleep(0)
        taken = len(server.lean._shared.state.connections)
        for one in crowd:
            one.close()
        assert taken == count


class TestTls:
    @pytest.fixture
    def authority(self, tmp_path: Path) -> Authority:
        authority = Authority(tmp_path)
        authority.server_tls("127.0.0.1")
        return authority

    @pytest.fixture
    def pem(self, tmp_path: Path, authority: Authority) -> Path:
        (path,) = tmp_path.glob("*.pem")
        return path

    async def test_the_hub_is_served_over_tls_too(self, server: HubServer, authority: Authority, pem: Path) -> None:
        listener = LeanListener(server.hub.own_port_app, _bind(), tls_cert=pem, tls_key=pem)
        await listener.start()
        tls = authority.trust(ssl.create_default_context())
        url = f"wss://127.0.0.1:{listener.port}/hubs/notifications"
        headers = {"authorization": "Bearer alice"}
        async with connect(url, additional_headers=headers, ssl=tls, proxy=None, max_size=None) as client:
            await client.send(HANDSHAKE)
            assert await client.recv() == "{}\x1e"
            for size in (10, 1_000_000):
                server.send(title="T", body="x" * size)
                assert len(await client.recv()) > size
            await client.send(CALL)
            assert "Unknown hub method" in str(await client.recv())
        await server.until(connections=0)
        await listener.stop()

    async def test_connections_count_before_their_handshake_and_it_has_a_deadline(
        self, server: HubServer, pem: Path
    ) -> None:
        """Any number of connections that said nothing stayed for ten seconds each: they counted after it only."""
        limits = LeanLimits(http_connections_per_address=3, tls_handshake_s=0.5)
        listener = LeanListener(server.hub.own_port_app, _bind(), limits=limits, tls_cert=pem, tls_key=pem)
        await listener.start()
        async with AsyncExitStack() as opened:
            crowd = [await opened.enter_async_context(open_raw(listener.port)) for _ in range(10)]
            for one in crowd[:7]:
                assert await one.answer() == (0, "")
            assert not any(one.reader.at_eof() for one in crowd[7:])
            for one in crowd[7:]:
                assert await one.answer() == (0, "")
        assert listener._shared.places.taken == 0
        await listener.stop()

    async def test_whoever_speaks_no_tls_leaves_nothing_behind(self, server: HubServer, pem: Path) -> None:
        listener = LeanListener(server.hub.own_port_app, _bind(), tls_cert=pem, tls_key=pem)
        await listener.start()
        async with open_raw(listener.port) as raw:
            assert (await raw.ask(GET))[0] == 0
        await wait_until(lambda: listener._shared.places.taken == 0 and not listener._handshakes)
        await listener.stop()

    async def test_stopping_ends_handshakes(self, server: HubServer, pem: Path) -> None:
        limits = LeanLimits(stop_wait_s=0.1)
        listener = LeanListener(server.hub.own_port_app, _bind(), limits=limits, tls_cert=pem, tls_key=pem)
        await listener.start()
        async with open_raw(listener.port) as raw:
            await wait_until(lambda: bool(listener._handshakes))
            await listener.stop()
            assert await raw.answer() == (0, "")


class TestAddresses:
    @pytest.mark.parametrize(
        ("trusted", "forwarded", "seen"),
        [
            ((), "203.0.113.7", ["127.0.0.1", "http"]),
            (("127.0.0.1",), "203.0.113.7", ["203.0.113.7", "https"]),
            (("127.0.0.0/8",), "203.0.113.7, 127.0.0.9", ["203.0.113.7", "https"]),
            (("192.0.2.1",), "203.0.113.7", ["127.0.0.1", "http"]),
        ],
    )
    async def test_only_a_trusted_proxy_tells_who_the_client_is(
        self, trusted: tuple[str, ...], forwarded: str, seen: list[str]
    ) -> None:
        listener = LeanListener(_tell_client, _bind(), trusted_proxies=trusted)
        await listener.start()
        headers = {"x-forwarded-for": forwarded, "x-forwarded-proto": "https"}
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.get(f"http://127.0.0.1:{listener.port}/", headers=headers)
        await listener.stop()
        assert answer.text.split() == seen

    async def test_a_trusted_proxy_may_hold_more_connections_without_a_head(self) -> None:
        listener = LeanListener(
            _tell_client, _bind(), trusted_proxies=["127.0.0.1"], limits=LeanLimits(http_connections_per_address=1)
        )
        await listener.start()
        async with open_raw(listener.port), open_raw(listener.port) as second:
            assert (await second.ask("GET / HTTP/1.1\r\nhost: a"))[0] == 200
        await listener.stop()


def _list_transports(server: HubServer) -> list[Any]:
    assert server.lean is not None
    return [one._transport for one in server.lean._shared.sockets]


def _bind() -> socket.socket:
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    return bound


async def _tell_client(scope: Scope, receive: Receive, send: Send) -> None:
    client: Any = scope["client"]
    body = f"{client[0]} {scope['scheme']}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
