"""What the SignalR clients from PyPI see of the hub. Neither is official; both negotiate in version 0."""

import pytest

from appliance.hub.limits import HubLimits
from appliance.hub.protocol import ProtocolTimes
from tests.doubles.hub_server import run_hub, wait_until
from tests.doubles.line import run_line
from tests.doubles.signalr_client import run_python_client

# signalrcore notices that it has been stopped only when something arrives, so what arrives is a ping, soon.
LIMITS = HubLimits(protocol=ProtocolTimes(keep_alive_s=0.3))

both_clients = pytest.mark.parametrize("name", ["pysignalr", "signalrcore"])
both_protocols = pytest.mark.parametrize("protocol", ["json", "messagepack"])


@both_clients
@both_protocols
async def test_it_connects_receives_calls_and_stops(name: str, protocol: str) -> None:
    async with (
        run_hub(LIMITS) as server,
        run_python_client(name, server.http, "alice", protocol=protocol) as client,
    ):
        await client.next("started")
        body = "Zażółć 🎉 \x1e\u2028\r\n\n" + "ż" * 10_000
        notification = server.send(title="T", body=body, data={"n": 5})
        assert await client.next_argument("ReceiveNotification") == {
            "title": "T",
            "body": body,
            "data": {"n": "5", "notificationId": str(notification.id)},
        }
        assert (await client.invoke("X", 1, "a", None))["error"] == "Unknown hub method 'X'"
        for number in range(200):
            server.send(title=str(number))
        titles = [(await client.next_argument("ReceiveNotification"))["title"] for _ in range(200)]
        assert titles == [str(number) for number in range(200)]
        await client.order(stop=True)
        await client.next("stopped")
        await server.until(connections=0)


@both_clients
@both_protocols
async def test_it_says_hello_and_acknowledges(name: str, protocol: str) -> None:
    async with run_hub() as server, run_python_client(name, server.http, "alice", protocol=protocol) as client:
        await client.next("started")
        hello = await client.invoke("Hello", {"deviceId": "phone", "acknowledges": True})
        assert hello["result"]["deviceId"] == str(server.device())
        notification = server.send("phone", data={"n": 5, "list": [1, None]})
        argument = await client.next_argument("Notify")
        assert (argument["id"], argument["data"]) == (str(notification.id), {"n": 5, "list": [1, None]})
        assert (await client.invoke("Acknowledge", str(notification.id)))["result"] is True


@both_protocols
async def test_the_result_of_a_handler_of_pysignalr_acknowledges(protocol: str) -> None:
    async with (
        run_hub() as server,
        run_python_client("pysignalr", server.http, "alice", protocol=protocol, results=True) as client,
    ):
        await client.next("started")
        await client.invoke("Hello", {"deviceId": "phone", "results": True})
        notification = server.send("phone")
        await client.next_argument("Notify")
        await wait_until(lambda: bool(server.backend.acknowledged))
        assert [one for _, one, _ in server.backend.acknowledged] == [notification.id]


@both_clients
async def test_a_bad_token_fails_the_start_with_401(name: str) -> None:
    async with run_hub() as server, run_python_client(name, server.http, "wrong") as client:
        error = (await client.next("failed"))["error"]
        assert "401" in error or "Authorization" in error


@both_clients
@both_protocols
async def test_it_stays_up_when_idle_and_its_pings_are_understood(name: str, protocol: str) -> None:
    # signalrcore looks only once a second whether a ping is due.
    times = ProtocolTimes(keep_alive_s=0.2, client_timeout_s=2.0)
    async with (
        run_hub(HubLimits(protocol=times)) as server,
        run_python_client(name, server.http, "alice", protocol=protocol, keepAliveS=0.3) as client,
    ):
        await client.next("started")
        assert await client.is_quiet_for(3.0)
        server.send(title="still there")
        assert (await client.next_argument("ReceiveNotification"))["title"] == "still there"


@both_clients
@both_protocols
async def test_it_comes_back_after_a_cut_line_and_receives_once(name: str, protocol: str) -> None:
    async with (
        run_hub() as server,
        run_line(server.port) as line,
        run_python_client(name, line.hub, "alice", protocol=protocol, retries=5) as client,
    ):
        await client.next("started")
        line.cut()
        # pysignalr tries its old id first, and tells a new start.
        await client.next("reconnected" if name == "signalrcore" else "started")
        server.send(title="after")
        assert (await client.next_argument("ReceiveNotification"))["title"] == "after"
        assert (await client.invoke("X"))["error"] == "Unknown hub method 'X'"


async def test_signalrcore_receives_and_calls_over_server_sent_events() -> None:
    async with (
        run_hub(LIMITS) as server,
        run_python_client("signalrcore", server.http, "alice", transports=["ServerSentEvents"]) as client,
    ):
        await client.next("started")
        for number in range(50):
            server.send(title=str(number), body="Zażółć {} 🎉\n")
        for number in range(50):
            argument = await client.next_argument("ReceiveNotification")
            assert (argument["title"], argument["body"]) == (str(number), "Zażółć {} 🎉\n")
        assert (await client.invoke("X"))["error"] == "Unknown hub method 'X'"
        await client.order(stop=True)
        await client.next("stopped")
        await server.until(connections=0)


async def test_signalrcore_receives_and_calls_over_long_polling() -> None:
    async with run_hub(LIMITS) as server:
        # Its polls carry no header with the token, and it posts its handshake before the first of them.
        url = f"{server.http}?access_token=alice"
        async with run_python_client("signalrcore", url, "alice", transports=["LongPolling"]) as client:
            await client.next("started")
            server.send(title="T", body="Zażółć {} 🎉\n")
            assert (await client.next_argument("ReceiveNotification"))["body"] == "Zażółć {} 🎉\n"
            assert (await client.invoke("X"))["error"] == "Unknown hub method 'X'"
            await client.order(stop=True)
            await client.next("stopped")
