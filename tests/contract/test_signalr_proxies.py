"""The official client behind proxies with the faults of real ones: no WebSockets, answers held back, short patience."""

import pytest

from appliance.hub.limits import HubLimits
from appliance.hub.protocol import ProtocolTimes
from tests.contract.ways import Way, every_negotiated_way, every_way
from tests.doubles.hub_server import LISTENERS, HubServer, run_hub
from tests.doubles.line import run_line
from tests.doubles.proxy import WHOLE, Upgrades, run_proxy
from tests.doubles.signalr_client import SignalRClient, run_signalr_client

hostile = pytest.mark.parametrize("upgrades", [one for one in Upgrades if one is not Upgrades.PASSED])
holding_back = pytest.mark.parametrize("buffer_bytes", [WHOLE, 4096], ids=["whole", "4 KiB"])
both_protocols = pytest.mark.parametrize("protocol", ["json", "messagepack"])


async def check_both_directions(server: HubServer, client: SignalRClient, count: int = 20) -> None:
    """See notifications arrive in order, each once, and a call answered."""
    for number in range(count):
        server.send(title=str(number))
    titles = [(await client.next_argument("ReceiveNotification"))["title"] for _ in range(count)]
    assert titles == [str(number) for number in range(count)]
    assert "Unknown hub method 'X'" in (await client.invoke("X"))["error"]


@every_negotiated_way
async def test_through_an_honest_proxy_every_way_works(way: Way) -> None:
    async with (
        run_hub() as server,
        run_proxy(server.port) as proxy,
        run_signalr_client(proxy.hub, "alice", **way.settings) as client,
    ):
        await client.next("started")
        await check_both_directions(server, client)


@hostile
@pytest.mark.parametrize(("protocol", "transport"), [("json", "ServerSentEvents"), ("messagepack", "LongPolling")])
async def test_where_websockets_are_blocked_it_falls_back(upgrades: Upgrades, protocol: str, transport: str) -> None:
    """What was tried and given up expires by itself, and does not keep the client from receiving once."""
    async with (
        run_hub(HubLimits(negotiation_lifetime_s=1.0, disconnect_timeout_s=1.0)) as server,
        run_proxy(server.port, upgrades=upgrades) as proxy,
        run_signalr_client(proxy.hub, "alice", protocol=protocol) as client,
    ):
        assert (await client.next("started"))["transport"] == transport
        assert proxy.seen["upgrade"] == 1
        await check_both_directions(server, client)
        await server.until(connections=1, handshakes_pending=0, negotiations_pending=0)
        await check_both_directions(server, client)


@holding_back
@both_protocols
async def test_through_a_proxy_that_holds_answers_back_long_polling_works(buffer_bytes: int, protocol: str) -> None:
    async with (
        run_hub() as server,
        run_proxy(server.port, upgrades=Upgrades.REFUSED, buffer_bytes=buffer_bytes) as proxy,
        run_signalr_client(proxy.hub, "alice", protocol=protocol, transports=["LongPolling"]) as client,
    ):
        await client.next("started")
        await check_both_directions(server, client)


@holding_back
@pytest.mark.parametrize("listener", LISTENERS)
async def test_a_client_whose_stream_is_held_back_gets_in_by_long_polling_when_it_starts_again(
    listener: str, buffer_bytes: int
) -> None:
    """The client cannot see that a proxy holds a stream back, so two starts are lost; the third one must not be.

    Nor may they cost more: had the hub ended the stream in order, the client would have got its beginning and
    its end in one turn, and would have thrown an error that ends the process.
    """
    limits = HubLimits(protocol=ProtocolTimes(handshake_timeout_s=1.0))
    async with (
        run_hub(limits, listener=listener) as server,
        run_proxy(server.port, upgrades=Upgrades.REFUSED, buffer_bytes=buffer_bytes) as proxy,
        run_signalr_client(proxy.hub, "alice") as client,
    ):
        await client.next("failed")
        assert proxy.seen["stream"] == 1
        await client.order(start=True)
        await client.next("failed")
        assert proxy.seen["stream"] == 2
        await client.order(start=True)
        assert (await client.next("started"))["transport"] == "LongPolling"
        assert proxy.seen["stream"] == 2
        await check_both_directions(server, client)


@every_way
async def test_a_line_that_cuts_idle_connections_is_kept_busy_enough(way: Way) -> None:
    limits = HubLimits(protocol=ProtocolTimes(keep_alive_s=0.2), poll_timeout_s=0.2)
    async with (
        run_hub(limits) as server,
        run_line(server.port, idle_s=1.0) as line,
        run_signalr_client(line.hub, "alice", **way.settings) as client,
    ):
        await client.next("started")
        assert await client.is_quiet_for(2.5)
        await check_both_directions(server, client)


@every_way
async def test_a_line_with_less_patience_than_the_keep_alive_costs_reconnects_but_no_notification(way: Way) -> None:
    async with (
        run_hub() as server,
        run_line(server.port, idle_s=0.5) as line,
        run_signalr_client(line.hub, "alice", reconnectDelays=[0, 0, 0], **way.settings) as client,
    ):
        await client.next("started")
        await client.invoke("Hello", {"deviceId": "phone", "cursor": 0})
        await client.next("reconnecting")
        server.send("phone")
        await client.next("reconnected")
        assert (await client.invoke("Hello", {"deviceId": "phone", "cursor": 0}))["result"]["missed"] == 1
        assert (await client.next_argument("Notify"))["sequence"] == 1
