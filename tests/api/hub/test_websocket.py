"""The hub over real WebSockets: both dialects, order, and every way to end."""

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from appliance.hub.limits import HubLimits
from appliance.hub.protocol import ProtocolTimes
from tests.doubles.hub_client import open_hub, open_socket
from tests.doubles.hub_server import ALICE, HubServer, run_hub, wait_until

SHOP, OTHER_SHOP = UUID(int=7), UUID(int=8)


class TestHandshake:
    async def test_it_is_answered_with_an_empty_object_in_a_text_frame(self, server: HubServer) -> None:
        async with open_hub(server.ws) as client:
            assert client.frames == ["{}\x1e"]

    async def test_binary_frames_are_understood_and_answered_in_text(self, server: HubServer) -> None:
        async with open_socket(server.ws) as client:
            await client.socket.send(b'{"protocol":"json","version":1}\x1e')
            assert await client.next() == {}
            await client.socket.send(b'{"type":1,"target":"X","arguments":[],"invocationId":"1"}\x1e')
            assert (await client.next())["error"] == "Unknown hub method 'X'"
            assert all(isinstance(frame, str) for frame in client.frames)

    async def test_handshake_and_calls_may_share_a_frame_and_calls_may_span_frames(self, server: HubServer) -> None:
        call = '{"type":1,"target":"X","arguments":[],"invocationId":"%s"}\x1e'
        async with open_socket(server.ws) as client:
            await client.socket.send('{"protocol":"json","version":1}\x1e' + call % 1 + (call % 2)[:20])
            assert await client.next() == {}
            assert (await client.next())["invocationId"] == "1"
            await client.socket.send((call % 2)[20:])
            assert (await client.next())["invocationId"] == "2"

    @pytest.mark.parametrize(
        ("sent", "error"),
        [
            ('{"protocol":"x","version":1}\x1e', "The protocol 'x' is not supported."),
            ('{"protocol":"json","version":99}\x1e', "The server does not support version 99 of the 'json' protocol."),
            ('{"type":6}\x1e', "An unexpected error occurred during connection handshake."),
            ("nonsense\x1e", "An unexpected error occurred during connection handshake."),
            ("x" * 40_000, "Handshake was canceled."),
        ],
    )
    async def test_a_bad_one_gets_one_error_record_and_a_closed_socket(
        self, server: HubServer, sent: str, error: str
    ) -> None:
        async with open_socket(server.ws) as client:
            await client.socket.send(sent)
            assert await client.closing() == ([{"error": error}], 1000)

    async def test_one_that_never_comes_closes_the_socket(self) -> None:
        limits = HubLimits(protocol=ProtocolTimes(handshake_timeout_s=0.1))
        async with run_hub(limits) as server, open_socket(server.ws) as client:
            assert await client.closing() == ([{"error": "Handshake was canceled."}], 1000)


class TestReceiving:
    @pytest.mark.parametrize("text", ["a\x1eb\n\r\t", "\u2028 Zażółć gęślą jaźń 🎉", "ż" * 20_000])
    async def test_any_text_arrives_unchanged_in_both_dialects(self, server: HubServer, text: str) -> None:
        async with open_hub(server.ws) as plain, open_hub(server.ws) as full:
            await full.say_hello()
            server.send("phone", title="T", body=text, data={"k": text[:50]})
            (argument,) = (await plain.next())["arguments"]
            assert (argument["body"], argument["data"]["k"]) == (text, text[:50])
            assert (await full.next_notification())["body"] == text

    async def test_500_in_a_row_arrive_in_order_each_once_on_every_connection(self, server: HubServer) -> None:
        async with open_hub(server.ws) as plain, open_hub(server.ws) as full, open_hub(server.ws) as other:
            await full.say_hello()
            await other.say_hello("tablet")
            for number in range(500):
                server.send("phone", "tablet", title=f"{number}")
                if number % 50 == 0:
                    await asyncio.sleep(0)
            titles = [str(number) for number in range(500)]
            assert [(await plain.next())["arguments"][0]["title"] for _ in titles] == titles
            for client in (full, other):
                assert [(await client.next_notification())["title"] for _ in titles] == titles

    async def test_a_device_that_is_named_twice_gets_it_once(self, server: HubServer) -> None:
        async with open_hub(server.ws) as phone, open_hub(server.ws) as tablet:
            await phone.say_hello()
            await tablet.say_hello("tablet")
            await wait_until(lambda: len(server.backend.notices) == 2)
            for devices in (["phone", "phone"], ["phone", "tablet", "unknown", "phone", "tablet"]):
                server.send(*devices, title=str(len(devices)))
            assert [(await phone.next_notification())["title"] for _ in range(2)] == ["2", "5"]
            assert (await tablet.next_notification())["title"] == "5"
            assert (await phone.invoke("X"))["error"] and (await tablet.invoke("X"))["error"]
            assert server.hub.stats().offered == 3

    async def test_all_connections_of_a_user_receive_and_nobody_else(self, server: HubServer) -> None:
        async with open_hub(server.ws) as first, open_hub(server.ws, "bob") as bob:
            async with open_hub(server.ws) as second:
                server.send(title="both")
                for client in (first, second):
                    assert (await client.next())["arguments"][0]["title"] == "both"
            await server.until(connections=2)
            server.send(title="one")
            assert (await first.next())["arguments"][0]["title"] == "one"
            assert (await bob.invoke("X"))["error"]

    async def test_a_large_fanout_reaches_every_connection_in_order(self, server: HubServer) -> None:
        async with AsyncExitStack() as opened:
            clients = [await opened.enter_async_context(open_hub(server.ws)) for _ in range(150)]
            for number in range(3):
                server.send(title=str(number))
            for client in clients:
                told = [(await client.next())["arguments"][0]["title"] for _ in range(3)]
                assert told == ["0", "1", "2"]


class TestHello:
    async def test_what_was_missed_follows_the_answer_and_is_acknowledged(self, server: HubServer) -> None:
        missed = [server.backend.add_notification(ALICE) for _ in range(2)]
        async with open_hub(server.ws) as client:
            answer = await client.say_hello(cursor=0, label="Kitchen", platform="web")
            assert answer == {"deviceId": str(server.device()), "cursor": 0, "complete": True, "missed": 2}
            told = [(await client.next_notification())["id"] for _ in missed]
            assert told == [str(notification.id) for notification in missed]
            for notification_id in told:
                assert (await client.invoke("Acknowledge", notification_id))["result"] is True

    async def test_a_reconnect_with_the_cursor_brings_exactly_what_was_missed(self, server: HubServer) -> None:
        async with open_hub(server.ws) as client:
            await client.say_hello()
            server.send("phone")
            assert (await client.next_notification())["sequence"] == 1
        await server.until(connections=0)
        server.send("phone")
        server.send("phone")
        async with open_hub(server.ws) as client:
            assert (await client.say_hello(cursor=1))["missed"] == 2
            assert [(await client.next_notification())["sequence"] for _ in range(2)] == [2, 3]

    async def test_50_calls_at_once_get_each_their_own_answer(self, server: HubServer) -> None:
        async with open_hub(server.ws) as client:
            await client.say_hello()
            notification = server.send("phone")
            await client.next_notification()
            calls = [
                {"type": 1, "target": target, "arguments": [str(notification.id)], "invocationId": str(number)}
                for number, target in enumerate(["Acknowledge", "Nothing"] * 25)
            ]
            await client.send(*calls)
            answers = {record["invocationId"]: record for record in [await client.next() for _ in calls]}
            for number in range(50):
                if number % 2:
                    assert answers[str(number)]["error"] == "Unknown hub method 'Nothing'"
                else:
                    assert answers[str(number)]["result"] is True

    async def test_a_second_socket_of_the_device_takes_over(self, server: HubServer) -> None:
        async with open_hub(server.ws) as older, open_hub(server.ws) as newer:
            await older.say_hello()
            await newer.say_hello()
            goodbye = {"type": 7, "error": "This device connected again elsewhere."}
            assert await older.closing() == ([goodbye], 1000)
            server.send("phone")
            assert (await newer.next_notification())["sequence"] == 1
            assert server.hub.stats().sessions == 1


class TestEnding:
    async def test_a_goodbye_is_answered_and_the_socket_closed_with_1000(self, server: HubServer) -> None:
        async with open_hub(server.ws) as client:
            await client.send({"type": 7})
            assert await client.closing() == ([{"type": 7}], 1000)
        await server.until(connections=0)

    async def test_an_idle_connection_is_pinged_and_still_receives(self) -> None:
        limits = HubLimits(protocol=ProtocolTimes(keep_alive_s=0.05))
        async with run_hub(limits) as server, open_hub(server.ws) as client:
            with pytest.raises(TimeoutError):
                await client.next(patience_s=0.3)
            assert client.pings >= 3
            server.send()
            assert (await client.next())["target"] == "ReceiveNotification"

    async def test_a_client_that_pinged_and_went_silent_is_closed(self) -> None:
        limits = HubLimits(protocol=ProtocolTimes(client_timeout_s=0.2))
        async with run_hub(limits) as server, open_hub(server.ws) as silent, open_hub(server.ws) as never_pinged:
            await silent.send({"type": 6})
            ((goodbye,), code) = await silent.closing()
            assert (goodbye["allowReconnect"], code) == (True, 1000)
            assert (await never_pinged.invoke("X"))["error"]

    async def test_an_expired_token_ends_the_connection_within_a_second(self, server: HubServer) -> None:
        expires_at = datetime.now(UTC) + timedelta(seconds=0.5)
        server.backend.add_user("short", ALICE, expires_at=expires_at)
        async with open_hub(server.ws, "short") as client:
            goodbye = {"type": 7, "error": "The access token has expired.", "allowReconnect": True}
            assert await client.closing() == ([goodbye], 1000)
            assert datetime.now(UTC) - expires_at < timedelta(seconds=1)

    @pytest.mark.parametrize("what", ["user", "device", "token"])
    async def test_a_revoked_one_is_closed_and_may_not_come_back(self, server: HubServer, what: str) -> None:
        server.backend.add_user("alice2", ALICE)
        async with open_hub(server.ws) as client, open_hub(server.ws, "alice2") as other:
            await client.say_hello()
            match what:
                case "user":
                    server.hub.close_user(ALICE, "Your account was disabled.")
                case "device":
                    server.hub.close_device(server.device(), "Your account was disabled.")
                case "token":
                    server.hub.close_token("token-of-alice", "Your account was disabled.")
            assert await client.closing() == ([{"type": 7, "error": "Your account was disabled."}], 1000)
            assert server.hub.stats().sessions == 0
            if what == "user":
                assert (await other.closing())[0] == [{"type": 7, "error": "Your account was disabled."}]
            else:
                assert (await other.invoke("X"))["error"]

    async def test_a_revoked_app_loses_the_connections_of_its_tokens_and_no_other(self, server: HubServer) -> None:
        # The story: disabling an app, or changing its secret, left its users' connections open.
        bound = server.backend.add_user("shopper", ALICE)
        server.backend.principals["shopper"] = replace(bound, app_id=SHOP)
        async with open_hub(server.ws, "shopper") as shopper, open_hub(server.ws) as unbound:
            server.hub.close_app(OTHER_SHOP, "Another app.")
            assert (await shopper.invoke("X"))["error"]
            server.hub.close_app(SHOP, "This app was disabled.")
            assert await shopper.closing() == ([{"type": 7, "error": "This app was disabled."}], 1000)
            assert (await unbound.invoke("X"))["error"]

    async def test_draining_tells_everybody_to_come_back_and_lets_nobody_in(self, server: HubServer) -> None:
        async with open_hub(server.ws) as plain, open_hub(server.ws) as full:
            await full.say_hello()
            await server.hub.drain(5.0)
            goodbye = {"type": 7, "error": "The server is restarting.", "allowReconnect": True}
            for client in (plain, full):
                assert await client.closing() == ([goodbye], 1001)
        assert server.backend.notices[-1] == ("disconnected", server.device(), "server_stopping")
        assert server.hub.stats().connections == 0

    async def test_what_was_offered_goes_out_before_the_goodbye_and_what_comes_later_is_reported(
        self, server: HubServer
    ) -> None:
        devices = [f"device {number}" for number in range(100)]
        async with AsyncExitStack() as opened:
            clients = [await opened.enter_async_context(open_hub(server.ws)) for _ in devices]
            for client, device in zip(clients, devices, strict=True):
                await client.say_hello(device)
            ids = [server.device(device) for device in devices]
            server.hub.offer(server.backend.add_notification(ALICE, title="last"), ids)
            draining = asyncio.ensure_future(server.hub.drain(5.0))
            await asyncio.sleep(0)
            late = server.backend.add_notification(ALICE, title="late")
            taken = set(server.hub.offer(late, ids))
            await draining
            reported = {notice[1] for notice in server.backend.notices if notice[0] == "cut"}
            for client, device_id in zip(clients, ids, strict=True):
                told, code = await client.closing()
                titles = [record["arguments"][0]["title"] for record in told if record["type"] == 1]
                expected = ["last", "late"] if device_id in taken - reported else ["last"]
                assert (titles, told[-1]["type"], code) == (expected, 7, 1001)

    async def test_a_lost_socket_is_noticed_and_the_layers_above_hear_of_it(self, server: HubServer) -> None:
        async with open_hub(server.ws) as client:
            await client.say_hello()
            client.socket.transport.abort()
            await server.until(connections=0)
        await asyncio.sleep(0)
        assert server.backend.notices == [
            ("connected", server.device(), True),
            ("disconnected", server.device(), "socket_lost"),
        ]

    async def test_a_connection_that_is_closed_in_the_middle_of_its_hello_leaves_nothing(
        self, server: HubServer
    ) -> None:
        server.backend.hello_gate = asyncio.Event()
        async with open_hub(server.ws) as client:
            await client.send({"type": 1, "target": "Hello", "arguments": [{"deviceId": "a"}], "invocationId": "1"})
            await wait_until(lambda: bool(server.backend.hellos))
            server.hub.close_user(ALICE, "Gone.")
            assert (await client.closing()) == ([{"type": 7, "error": "Gone."}], 1000)
        assert server.hub.stats().sessions == 0
        assert server.backend.notices == []


class TestHostileInput:
    @pytest.mark.parametrize(
        "hostile",
        [
            b"\x1e",
            b"nonsense\x1e",
            b"\xff\xfe\x1e",
            b'{"type":1,"target":"\xff","arguments":[]}\x1e',
            b'{"protocol":"json","version":1}\x1e',
            b'{"type":"1"}\x1e',
            b'{"type":1,"target":"A","arguments":[' + b"[" * 16_000 + b"]" * 16_000 + b"]}\x1e",
            b"[" * 16_000 + b"\x1e",
            b"x" * 32_769,
            b'{"type":1,"target":"' + b"x" * 33_000 + b'","arguments":[]}\x1e',
            b"x" * 131_072,
        ],
        ids=lambda hostile: repr(hostile[:24]),
    )
    async def test_it_ends_its_own_connection_with_an_error_and_no_other(
        self, server: HubServer, hostile: bytes
    ) -> None:
        async with open_hub(server.ws) as good, open_hub(server.ws) as bad:
            await bad.socket.send(hostile)
            goodbye = {"type": 7, "error": "Connection closed with an error.", "allowReconnect": True}
            assert await bad.closing() == ([goodbye], 1000)
            server.send()
            assert (await good.next())["target"] == "ReceiveNotification"

    async def test_a_message_without_its_end_gets_no_answer_and_no_end(self, server: HubServer) -> None:
        async with open_hub(server.ws) as client:
            await client.socket.send('{"type":1,"target":"X","arguments":[],"invocationId":"1"}')
            server.send()
            assert (await client.next())["target"] == "ReceiveNotification"
            await client.socket.send("\x1e")
            assert (await client.next())["error"] == "Unknown hub method 'X'"

    async def test_a_message_just_under_the_limit_is_served(self, server: HubServer) -> None:
        async with open_hub(server.ws) as client:
            message = {"type": 1, "target": "X", "arguments": [""], "invocationId": "1"}
            message["arguments"] = ["x" * (32_768 - len(json.dumps(message)))]
            await client.send(message)
            assert (await client.next())["error"] == "Unknown hub method 'X'"

    async def test_10000_tiny_frames_and_unknown_types_are_borne(self, server: HubServer) -> None:
        async with open_hub(server.ws) as client:
            for _ in range(10_000):
                await client.socket.send('{"type":42}\x1e')
            assert (await client.invoke("X"))["error"]

    async def test_frames_full_of_pings_do_not_hold_the_others(self, server: HubServer) -> None:
        async with open_hub(server.ws) as good, open_hub(server.ws, "bob") as bad:
            for _ in range(9):
                await bad.socket.send('{"type":6}\x1e' * 10_000)
            started_at = asyncio.get_running_loop().time()
            server.send()
            await good.next()
            assert asyncio.get_running_loop().time() - started_at < 0.5
            assert (await bad.invoke("X"))["error"]


class TestSlowReaders:
    async def test_a_client_that_does_not_read_is_cut_and_delays_nobody(self) -> None:
        async with (
            run_hub(HubLimits(outbox_bytes=65_536)) as server,
            open_hub(server.ws) as good,
            open_hub(server.ws, max_queue=1) as stalled,
        ):
            await good.say_hello("good")
            await stalled.say_hello("stalled")
            stalled.socket.transport.pause_reading()
            latencies = []
            for number in range(3_000):
                server.send("good", "stalled", title=str(number), body="x" * 4_000)
                started_at = asyncio.get_running_loop().time()
                assert (await good.next_notification())["title"] == str(number)
                latencies.append(asyncio.get_running_loop().time() - started_at)
                if server.hub.stats().sessions < 2:
                    break
            assert server.hub.stats().ended == {"slow_reader": 1}
            assert max(latencies) < 1.0
            await server.until(connections=1)
            cut = [notice for notice in server.backend.notices if notice[0] == "cut"]
            assert cut and {notice[3] for notice in cut} == {"slow_reader"}
            assert server.hub.offer(server.backend.add_notification(ALICE), [server.device("good")])
            stalled.socket.transport.abort()

    async def test_a_reader_that_pauses_during_a_long_replay_gets_all_of_it_in_order(self) -> None:
        async with run_hub(HubLimits(outbox_bytes=65_536)) as server:
            for _ in range(1_000):
                server.backend.add_notification(ALICE, body="x" * 4_000)
            async with open_hub(server.ws, max_queue=1) as client:
                await client.send(
                    {"type": 1, "target": "Hello", "arguments": [{"deviceId": "phone"}], "invocationId": "1"}
                )
                client.socket.transport.pause_reading()
                await asyncio.sleep(0.3)
                assert server.hub.stats().replayed < 1_000
                client.socket.transport.resume_reading()
                assert (await client.next())["result"]["missed"] == 1_000
                told = [(await client.next_notification())["sequence"] for _ in range(1_000)]
                assert told == list(range(1, 1_001))
