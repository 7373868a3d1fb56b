"""What the official SignalR client (JavaScript, in Node) sees of the hub, whichever way it is connected."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from appliance.hub.limits import HubLimits
from appliance.hub.protocol import ProtocolTimes
from tests.contract.ways import NEGOTIATED_WAYS, WAYS, Way, every_negotiated_way, every_way
from tests.doubles.hub_server import ALICE, LISTENERS, HubServer, run_hub, wait_until
from tests.doubles.line import run_line
from tests.doubles.proxy import run_proxy
from tests.doubles.signalr_client import run_signalr_client

AUTHORIZED = {"authorization": "Bearer alice"}


@pytest.fixture
async def server() -> AsyncIterator[HubServer]:
    async with run_hub() as running:
        yield running


@every_way
@pytest.mark.parametrize("listener", LISTENERS)
async def test_it_connects_and_receives_in_the_plain_dialect(listener: str, way: Way) -> None:
    async with (
        run_hub(listener=listener) as server,
        run_signalr_client(server.http, "alice", **way.settings) as client,
    ):
        started = await client.next("started")
        assert started["transport"] == way.client_name
        assert (started["connectionId"] is None) == way.skips_negotiation
        body = "Zażółć 🎉 \x1e\u2028\r\n\n" + "ż" * 10_000
        notification = server.send(title="T", body=body, data={"n": 5, "large": 10**30, "list": [1, None]})
        assert await client.next_argument("ReceiveNotification") == {
            "title": "T",
            "body": body,
            "data": {
                "n": "5",
                "large": str(10**30),
                "list": "[1,null]",
                "notificationId": str(notification.id),
            },
        }


@every_way
async def test_it_says_hello_gets_what_it_missed_and_acknowledges(server: HubServer, way: Way) -> None:
    missed = server.backend.add_notification(ALICE)
    async with run_signalr_client(server.http, "alice", **way.settings) as client:
        await client.next("started")
        hello = await client.invoke("Hello", {"deviceId": "phone", "cursor": 0, "acknowledges": True})
        assert hello["result"] == {"deviceId": str(server.device()), "cursor": 0, "complete": True, "missed": 1}
        assert (await client.next_argument("Notify"))["id"] == str(missed.id)
        notification = server.send("phone", data={"n": 5, "large": 10**30})
        argument = await client.next_argument("Notify")
        assert (argument["id"], argument["data"]) == (str(notification.id), {"n": 5, "large": 1e30})
        assert (await client.invoke("Acknowledge", str(notification.id)))["result"] is True
        assert [one for _, one, _ in server.backend.acknowledged] == [notification.id]


@every_way
async def test_the_result_of_its_handler_acknowledges(server: HubServer, way: Way) -> None:
    async with run_signalr_client(server.http, "alice", results=True, **way.settings) as client:
        await client.next("started")
        await client.invoke("Hello", {"deviceId": "phone", "results": True})
        notification = server.send("phone")
        await client.next_argument("Notify")
        await wait_until(lambda: bool(server.backend.acknowledged))
        ((device_id, notification_id, round_trip_s),) = server.backend.acknowledged
        assert (device_id, notification_id) == (server.device(), notification.id)
        assert round_trip_s is not None and 0 < round_trip_s < 10


@every_way
async def test_an_unknown_method_fails_the_call_and_not_the_connection(server: HubServer, way: Way) -> None:
    async with run_signalr_client(server.http, "alice", **way.settings) as client:
        await client.next("started")
        assert "Unknown hub method 'X'" in (await client.invoke("X", 1, "a", None, {"k": [1.5]}))["error"]
        await client.order(stream="Y", call=99)
        assert "Unknown hub method 'Y'" in (await client.next("answer"))["error"]
        await client.order(send=["Z"])
        await client.next("sent")
        calls = {await client.begin(f"M{number}") for number in range(50)}
        answers = [await client.next("answer") for _ in calls]
        assert {answer["call"] for answer in answers} == calls
        server.send()
        await client.next_argument("ReceiveNotification")


async def test_500_arrive_in_order_each_once_every_way_at_the_same_time(server: HubServer) -> None:
    async with AsyncExitStack() as opened:
        clients = [
            await opened.enter_async_context(run_signalr_client(server.http, "alice", **way.settings)) for way in WAYS
        ]
        for client in clients:
            await client.next("started")
        for number in range(500):
            server.send(title=str(number))
        for client in clients:
            titles = [(await client.next_argument("ReceiveNotification"))["title"] for _ in range(500)]
            assert titles == [str(number) for number in range(500)]
        assert await clients[0].is_quiet_for(0.1)


async def test_after_one_connection_of_a_user_has_stopped_the_others_still_receive(server: HubServer) -> None:
    async with AsyncExitStack() as opened:
        clients = [
            await opened.enter_async_context(run_signalr_client(server.http, "alice", **way.settings))
            for way in NEGOTIATED_WAYS
        ]
        for client in clients:
            await client.next("started")
        left = len(clients)
        for stopped in clients:
            await stopped.order(stop=True)
            await stopped.next("stopped")
            left -= 1
            await server.until(connections=left)
            server.send(title=f"{left} left")
            for client in clients[len(clients) - left :]:
                assert (await client.next_argument("ReceiveNotification"))["title"] == f"{left} left"
        for stopped in clients:
            assert (await stopped.next("closed"))["error"] is None
            assert await stopped.is_quiet_for(0.05)


@every_negotiated_way
async def test_its_goodbye_ends_without_an_error_and_its_id_is_unknown_afterwards(server: HubServer, way: Way) -> None:
    async with (
        run_proxy(server.port) as proxy,
        run_signalr_client(proxy.hub, "alice", **way.settings) as client,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", headers=AUTHORIZED) as http,
    ):
        await client.next("started")
        await client.order(stop=True)
        assert (await client.next("closed"))["error"] is None
        await client.next("stopped")
        await server.until(connections=0)
        # Its goodbye and the end of its stream are two requests, and either may be the first to arrive.
        reasons = {"client_closed", "socket_lost"} if way.transport == "ServerSentEvents" else {"client_closed"}
        assert server.hub.stats().ended.keys() <= reasons
        (connection_id,) = proxy.ids
        for method in ("GET", "POST", "DELETE"):
            answer = await http.request(method, "/hubs/notifications", params={"id": connection_id})
            assert answer.status_code == 404


@every_way
async def test_a_bad_token_fails_the_start(server: HubServer, way: Way) -> None:
    async with run_signalr_client(server.http, "wrong", **way.settings) as client:
        error = (await client.next("failed"))["error"]
        assert way.skips_negotiation or "'401'" in error


@every_way
async def test_a_revoked_client_is_told_why_and_does_not_come_back(server: HubServer, way: Way) -> None:
    async with run_signalr_client(server.http, "alice", reconnectDelays=[0, 0, 0], **way.settings) as client:
        await client.next("started")
        server.hub.close_user(ALICE, "Your account was disabled.")
        assert "Your account was disabled." in (await client.next("closed"))["error"]


@every_way
async def test_it_comes_back_after_a_cut_line_and_receives_once(way: Way) -> None:
    async with (
        run_hub(HubLimits(disconnect_timeout_s=0.5)) as server,
        run_line(server.port) as line,
        run_signalr_client(line.hub, "alice", reconnectDelays=[0, 100, 500], **way.settings) as client,
    ):
        before = (await client.next("started"))["connectionId"]
        line.cut()
        await client.next("reconnecting")
        after = (await client.next("reconnected"))["connectionId"]
        assert way.skips_negotiation or before != after
        server.send(title="after")
        assert (await client.next_argument("ReceiveNotification"))["title"] == "after"
        assert "Unknown" in (await client.invoke("X"))["error"]
        await server.until(connections=1)


@every_way
async def test_it_comes_back_with_its_cursor_after_a_restart_and_misses_nothing(server: HubServer, way: Way) -> None:
    """The server stops while the client is connected, and another takes over the same port."""
    delays = [0, 100, 200, 500, 1000, 2000]
    async with run_signalr_client(server.http, "alice", reconnectDelays=delays, **way.settings) as client:
        await client.next("started")
        await client.invoke("Hello", {"deviceId": "phone", "cursor": 0})
        server.send("phone")
        assert (await client.next_argument("Notify"))["sequence"] == 1
        await server.restart()
        assert "The server is restarting." in (await client.next("reconnecting"))["error"]
        server.send("phone")
        await client.next("reconnected")
        assert (await client.invoke("Hello", {"deviceId": "phone", "cursor": 1}))["result"]["missed"] == 1
        assert (await client.next_argument("Notify"))["sequence"] == 2


@every_way
async def test_an_expired_token_makes_it_come_back_with_a_new_one(server: HubServer, way: Way) -> None:
    principal = server.backend.principals["alice"]
    server.backend.principals["alice"] = replace(principal, expires_at=datetime.now(UTC) + timedelta(seconds=1.5))
    async with run_signalr_client(server.http, "alice", reconnectDelays=[300, 300], **way.settings) as client:
        await client.next("started")
        assert "The access token has expired." in (await client.next("reconnecting"))["error"]
        # Not before: a poll would have brought the new one.
        server.backend.principals["alice"] = principal
        await client.next("reconnected")


@every_way
async def test_a_client_with_a_short_server_timeout_stays_up_when_idle(way: Way) -> None:
    limits = HubLimits(protocol=ProtocolTimes(keep_alive_s=0.2))
    async with (
        run_hub(limits) as server,
        run_signalr_client(server.http, "alice", serverTimeoutMs=500, **way.settings) as client,
    ):
        await client.next("started")
        assert await client.is_quiet_for(1.5)
        server.send(title="still there")
        assert (await client.next_argument("ReceiveNotification"))["title"] == "still there"
