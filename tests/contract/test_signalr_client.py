"""What the official SignalR client (JavaScript, in Node) sees of the hub."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from appliance.hub.limits import HubLimits
from appliance.hub.protocol import ProtocolTimes
from tests.doubles.hub_server import ALICE, HubServer, run_hub, wait_until
from tests.doubles.line import run_line
from tests.doubles.signalr_client import run_signalr_client

ways = pytest.mark.parametrize("skip_negotiation", [False, True], ids=["negotiated", "without negotiation"])


@pytest.fixture
async def server() -> AsyncIterator[HubServer]:
    async with run_hub() as running:
        yield running


@ways
async def test_it_connects_and_receives_in_the_plain_dialect(server: HubServer, skip_negotiation: bool) -> None:
    async with run_signalr_client(server.http, "alice", skipNegotiation=skip_negotiation) as client:
        started = await client.next("started")
        assert (started["connectionId"] is None) == skip_negotiation
        body = "Zażółć 🎉 \x1e\u2028\n" + "x" * 20_000
        notification = server.send(title="T", body=body, data={"n": 5})
        assert await client.next_argument("ReceiveNotification") == {
            "title": "T",
            "body": body,
            "data": {"n": "5", "notificationId": str(notification.id)},
        }


@ways
async def test_it_says_hello_gets_what_it_missed_and_acknowledges(server: HubServer, skip_negotiation: bool) -> None:
    missed = server.backend.add_notification(ALICE)
    async with run_signalr_client(server.http, "alice", skipNegotiation=skip_negotiation) as client:
        await client.next("started")
        hello = await client.invoke("Hello", {"deviceId": "phone", "cursor": 0, "acknowledges": True})
        assert hello["result"] == {"deviceId": str(server.device()), "cursor": 0, "complete": True, "missed": 1}
        assert (await client.next_argument("Notify"))["id"] == str(missed.id)
        notification = server.send("phone")
        assert (await client.next_argument("Notify"))["id"] == str(notification.id)
        assert (await client.invoke("Acknowledge", str(notification.id)))["result"] is True
        assert [one for _, one, _ in server.backend.acknowledged] == [notification.id]


async def test_the_result_of_its_handler_acknowledges(server: HubServer) -> None:
    async with run_signalr_client(server.http, "alice", results=True) as client:
        await client.next("started")
        await client.invoke("Hello", {"deviceId": "phone", "results": True})
        notification = server.send("phone")
        await client.next_argument("Notify")
        await wait_until(lambda: bool(server.backend.acknowledged))
        ((device_id, notification_id, round_trip_s),) = server.backend.acknowledged
        assert (device_id, notification_id) == (server.device(), notification.id)
        assert round_trip_s is not None and 0 < round_trip_s < 10


async def test_an_unknown_method_fails_the_call_and_not_the_connection(server: HubServer) -> None:
    async with run_signalr_client(server.http, "alice") as client:
        await client.next("started")
        assert "Unknown hub method 'X'" in (await client.invoke("X", 1, "a"))["error"]
        await client.order(stream="Y", call=99)
        assert "Unknown hub method 'Y'" in (await client.next("answer"))["error"]
        await client.order(send=["Z"])
        await client.next("sent")
        calls = {await client.begin(f"M{number}") for number in range(50)}
        answers = [await client.next("answer") for _ in calls]
        assert {answer["call"] for answer in answers} == calls
        server.send()
        await client.next_argument("ReceiveNotification")


async def test_500_arrive_in_order_each_once(server: HubServer) -> None:
    async with run_signalr_client(server.http, "alice") as client:
        await client.next("started")
        for number in range(500):
            server.send(title=str(number))
        titles = [(await client.next_argument("ReceiveNotification"))["title"] for _ in range(500)]
        assert titles == [str(number) for number in range(500)]


async def test_its_goodbye_ends_without_an_error(server: HubServer) -> None:
    async with run_signalr_client(server.http, "alice") as client:
        await client.next("started")
        await client.order(stop=True)
        assert (await client.next("closed"))["error"] is None
        await client.next("stopped")
        await server.until(connections=0)
        assert server.hub.stats().ended == {"client_closed": 1}


async def test_a_bad_token_fails_the_start_with_401(server: HubServer) -> None:
    async with run_signalr_client(server.http, "wrong") as client:
        assert "'401'" in (await client.next("failed"))["error"]


async def test_a_revoked_client_is_told_why_and_does_not_come_back(server: HubServer) -> None:
    async with run_signalr_client(server.http, "alice", reconnectDelays=[0, 0, 0]) as client:
        await client.next("started")
        server.hub.close_user(ALICE, "Your account was disabled.")
        assert "Your account was disabled." in (await client.next("closed"))["error"]


@ways
async def test_it_comes_back_after_a_cut_line_and_receives_once(server: HubServer, skip_negotiation: bool) -> None:
    async with (
        run_line(server.port) as line,
        run_signalr_client(
            f"http://127.0.0.1:{line.port}/hubs/notifications",
            "alice",
            skipNegotiation=skip_negotiation,
            reconnectDelays=[0, 100, 500],
        ) as client,
    ):
        before = (await client.next("started"))["connectionId"]
        line.cut()
        await client.next("reconnecting")
        after = (await client.next("reconnected"))["connectionId"]
        assert skip_negotiation or before != after
        await server.until(connections=1)
        server.send(title="after")
        assert (await client.next_argument("ReceiveNotification"))["title"] == "after"
        assert "Unknown" in (await client.invoke("X"))["error"]


async def test_it_comes_back_with_its_cursor_after_a_restart_and_misses_nothing(server: HubServer) -> None:
    """The server stops while the client is connected, and another takes over the same port."""
    async with run_signalr_client(server.http, "alice", reconnectDelays=[0, 100, 200, 500, 1000, 2000]) as client:
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


async def test_an_expired_token_makes_it_come_back_with_a_new_one(server: HubServer) -> None:
    principal = server.backend.principals["alice"]
    server.backend.principals["alice"] = replace(principal, expires_at=datetime.now(UTC) + timedelta(seconds=1.5))
    async with run_signalr_client(server.http, "alice", reconnectDelays=[0, 100, 500]) as client:
        await client.next("started")
        server.backend.principals["alice"] = principal
        assert "The access token has expired." in (await client.next("reconnecting"))["error"]
        await client.next("reconnected")


async def test_a_client_with_a_short_server_timeout_stays_up_when_idle() -> None:
    limits = HubLimits(protocol=ProtocolTimes(keep_alive_s=0.2))
    async with run_hub(limits) as server, run_signalr_client(server.http, "alice", serverTimeoutMs=500) as client:
        await client.next("started")
        assert await client.is_quiet_for(1.5)
        server.send(title="still there")
        assert (await client.next_argument("ReceiveNotification"))["title"] == "still there"
