"""How many may come in: caps in all, of one user and of one network address, for what is open and what is beginning."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_address

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from appliance.hub.limits import HubLimits
from tests.doubles.hub_client import HubClient, open_hub, open_socket
from tests.doubles.hub_http import by_hand
from tests.doubles.hub_server import HubServer, run_hub

OFFICE, HOME = "127.0.0.2", "127.0.0.3"


async def negotiate(server: HubServer, bearer: str = "alice", address: str = OFFICE) -> httpx.Response:
    transport = httpx.AsyncHTTPTransport(local_address=address)
    async with httpx.AsyncClient(transport=transport) as client:
        url = f"{server.http}/negotiate?negotiateVersion=1"
        return await client.post(url, headers={"Authorization": f"Bearer {bearer}"})


@asynccontextmanager
async def open_from(
    server: HubServer, address: str, bearer: str = "alice", *, shaken: bool = True
) -> AsyncIterator[HubClient]:
    opening = open_hub if shaken else open_socket
    async with opening(server.ws, bearer, local_addr=(address, 0)) as client:
        yield client


async def refused(server: HubServer, address: str = OFFICE, bearer: str = "alice") -> httpx.Headers:
    """Fail to open a WebSocket with 503; give the headers of the answer."""
    with pytest.raises(InvalidStatus) as caught:
        async with open_from(server, address, bearer):
            raise AssertionError("it was let in")
    response = caught.value.response
    assert response.status_code == 503
    assert b"Try again in" in (response.body or b"")
    return httpx.Headers(list(response.headers.raw_items()))


def assert_busy(response: httpx.Response, says: str) -> None:
    assert (response.status_code, response.headers["content-type"]) == (503, "text/plain")
    assert says in response.text
    assert 1 <= int(response.headers["retry-after"]) <= 10
    assert f"Try again in {response.headers['retry-after']} s." in response.text


class TestOpenConnections:
    @pytest.mark.parametrize(
        ("limits", "cause"),
        [
            (HubLimits(connections=2), "connections"),
            (HubLimits(connections_per_user=2), "connections_per_user"),
            (HubLimits(connections_per_address=2), "connections_per_address"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    async def test_one_over_the_cap_is_refused_until_another_leaves(self, limits: HubLimits, cause: str) -> None:
        async with run_hub(limits) as server, AsyncExitStack() as opened:
            await opened.enter_async_context(open_from(server, OFFICE))
            async with open_from(server, OFFICE):
                assert 1 <= int((await refused(server))["retry-after"]) <= 10
                assert_busy(await negotiate(server), "as many connections as")
                assert server.hub.stats().refused == {cause: 2}
            await server.until(connections=1)
            await opened.enter_async_context(open_from(server, OFFICE))

    async def test_who_could_not_come_in_anyway_is_turned_down_before_the_credential_is_checked(self) -> None:
        """Ten thousand that come at once cost least so; the sum of checks would keep out those who have a place."""
        async with run_hub(HubLimits(connections=1)) as server, open_from(server, OFFICE):
            await refused(server, OFFICE, "nobody")
            assert server.hub.stats().refused == {"connections": 1}

    async def test_another_address_of_the_same_user_is_let_in_while_one_is_full(self) -> None:
        async with run_hub(HubLimits(connections_per_address=1)) as server, open_from(server, OFFICE):
            await refused(server, OFFICE, "bob")
            async with open_from(server, HOME):
                assert server.hub.stats().connections == 2

    async def test_polls_and_streams_count_as_sockets_do(self) -> None:
        limits = HubLimits(connections_per_address=2)
        async with run_hub(limits) as server, by_hand(server) as polling, by_hand(server, "bob") as streaming:
            await polling.shake_hands_by_polls()
            await streaming.open_stream()
            await refused(server, "127.0.0.1")
            async with open_from(server, HOME):
                assert server.hub.stats().refused == {"connections_per_address": 1}
            assert (await polling.delete()).status == 202
            async with open_from(server, "127.0.0.1"):
                pass

    async def test_a_full_address_is_told_in_the_log_once_a_minute(self, caplog: pytest.LogCaptureFixture) -> None:
        async with run_hub(HubLimits(connections_per_address=1)) as server, open_from(server, OFFICE):
            for _ in range(3):
                await refused(server)
        told = [record for record in caplog.records if record.message == "hub_address_full"]
        assert len(told) == 1
        assert (getattr(told[0], "address", None), "TRUSTED_PROXIES" in getattr(told[0], "hint", "")) == (OFFICE, True)


class TestBeginnings:
    async def test_handshakes_that_do_not_come_are_capped_for_each_address(self) -> None:
        limits = HubLimits(handshakes_pending_per_address=3)
        async with run_hub(limits) as server, AsyncExitStack() as opened:
            for _ in range(3):
                silent = await opened.enter_async_context(open_from(server, OFFICE, shaken=False))
            await refused(server)
            async with open_from(server, HOME):
                pass
            await silent.shake_hands()
            async with open_from(server, OFFICE):
                pass
            assert server.hub.stats().refused == {"handshakes_pending_per_address": 1}

    async def test_handshakes_that_do_not_come_are_capped_in_all(self) -> None:
        async with run_hub(HubLimits(handshakes_pending=1)) as server:
            async with open_from(server, OFFICE, shaken=False):
                await refused(server, HOME, "bob")
            await server.until(connections=0, handshakes_pending=0)
            async with open_from(server, HOME, "bob"):
                pass

    async def test_ids_that_nobody_opens_are_capped_for_each_address(self) -> None:
        async with run_hub(HubLimits(negotiations_pending_per_address=2)) as server:
            ids = [(await negotiate(server)).json()["connectionToken"] for _ in range(2)]
            assert_busy(await negotiate(server, "bob"), "network address")
            assert (await negotiate(server, "bob", HOME)).status_code == 200
            async with open_hub(f"{server.ws}?id={ids[0]}"):
                assert (await negotiate(server)).status_code == 200
            assert server.hub.stats().refused == {"negotiations_pending_per_address": 1}

    async def test_a_crowd_is_told_different_moments_to_come_back(self) -> None:
        async with run_hub(HubLimits(connections=0)) as server:
            replies = await asyncio.gather(*(negotiate(server) for _ in range(40)))
            moments = {int(reply.headers["retry-after"]) for reply in replies}
            assert len(moments) > 4
            assert min(moments) >= 1 and max(moments) <= 10


def test_the_addresses_used_here_are_loopback() -> None:
    assert all(ip_address(address).is_loopback for address in (OFFICE, HOME))
