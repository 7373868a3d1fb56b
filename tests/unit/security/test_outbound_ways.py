"""The ways out: what hangs on one of them leaves the others their connections, and none leads back inside."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from appliance.security.outbound import FailureReason, OutboundClient, OutboundFailed, OutboundRefused, OutboundRules
from appliance.security.outbound_network import SystemResolver
from appliance.security.outbound_ways import open_ways_out
from appliance.settings import load_settings
from tests.doubles.http_peer import run_http_peer

LOOPBACK = "127.0.0.0/8"


def settings_of(tmp_path, **given):
    return replace(load_settings(tmp_path, {"SECRET_KEY": "k" * 40, "OUTBOUND_ALLOW": LOOPBACK}), **given)


async def never(_, writer):
    await asyncio.Event().wait()


async def hold(client, peer, host, count):
    """Keep `count` requests to a peer under way, and give them as soon as the peer has as many as it gets."""
    held = [
        asyncio.create_task(client.request("GET", f"http://{host}:{peer.port}/", deadline_s=30)) for _ in range(count)
    ]
    async with asyncio.timeout(10):
        while len(peer.asked) < count:  # noqa: ASYNC110 - the peer has no event to wait for
            await asyncio.sleep(0.01)
    return held


async def test_hosts_that_hang_leave_other_hosts_and_other_ways_their_connections(tmp_path):
    """Seven hosts of one user that never answered had held all hundred connections: no https went out any more."""
    ways = open_ways_out(settings_of(tmp_path))
    held = []
    async with AsyncExitStack() as peers, run_http_peer() as well:
        try:
            for number in range(2, 9):
                host = f"127.0.0.{number}"
                sick = await peers.enter_async_context(run_http_peer(never, host=host))
                held += await hold(ways.to_browsers, sick, host, 16)
            for client in (ways.to_browsers, ways.to_relay, ways.to_webhooks):
                assert (await client.request("GET", f"http://127.0.0.1:{well.port}/", deadline_s=5)).status == 200
        finally:
            for task in held:
                task.cancel()
            await asyncio.gather(*held, return_exceptions=True)
            await ways.close()


async def test_one_origin_gets_so_many_requests_at_once_and_no_more():
    client = OutboundClient(OutboundRules([LOOPBACK]), per_origin=3)
    async with run_http_peer(never) as peer:
        held = await hold(client, peer, "127.0.0.1", 3)
        with pytest.raises(OutboundFailed) as failed:
            await client.request("GET", f"http://127.0.0.1:{peer.port}/", deadline_s=0.1)
        assert (failed.value.reason, len(peer.asked)) == (FailureReason.TIMEOUT, 3)
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
    await client.close()


@pytest.mark.parametrize("which", ["port", "hub_port"])
async def test_no_way_leads_back_to_the_program_s_own_ports(tmp_path, which):
    async with run_http_peer() as own, run_http_peer() as other:
        ways = open_ways_out(settings_of(tmp_path, **{which: own.port}))
        for client in (ways.to_browsers, ways.to_relay, ways.to_webhooks):
            with pytest.raises(OutboundRefused):
                await client.request("GET", f"http://127.0.0.1:{own.port}/")
            assert (await client.request("GET", f"http://127.0.0.1:{other.port}/")).status == 200
        assert own.asked == []
        await ways.close()


async def test_who_gives_up_on_a_name_does_not_take_the_answer_from_others_who_asked_for_it():
    resolver = SystemResolver()
    first, second = (asyncio.create_task(resolver.resolve("localhost", 80)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    async with asyncio.timeout(10):
        assert set(await second) & {"127.0.0.1", "::1"}
    assert first.cancelled()
    resolver.close()
