"""The real program several times, over one real PostgreSQL and one real Redis."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from appliance.client_hub import Lost
from tests.doubles.hub_client import HubClient, open_socket
from tests.doubles.node_town import NodeTown, connected_phone, read_metrics, until_answered
from tests.doubles.postgresql import PostgresCluster
from tests.doubles.redis import RedisServer

pytestmark = pytest.mark.slow
WITHIN_S = 10.0


@pytest.fixture
async def town(tmp_path: Path, postgresql: PostgresCluster, redis: RedisServer) -> AsyncIterator[NodeTown]:
    town = NodeTown(tmp_path, postgresql.make_database(), redis, 2)
    try:
        await town.start()
        yield town
    finally:
        town.stop()


@pytest.fixture
async def three(tmp_path: Path, postgresql: PostgresCluster, redis: RedisServer) -> AsyncIterator[NodeTown]:
    town = NodeTown(tmp_path, postgresql.make_database(), redis, 3)
    try:
        await town.start()
        yield town
    finally:
        town.stop()


async def until(holds: Callable[[], object], patience_s: float = WITHIN_S) -> None:
    async with asyncio.timeout(patience_s):
        while not holds():  # noqa: ASYNC110 - what is waited for happens in another process
            await asyncio.sleep(0.02)


async def closed_within(client: HubClient, seconds: float) -> str:
    """Give the reason that the hub told when it ended the connection, which it must within that time."""
    begun = time.monotonic()
    records, _ = await client.closing(seconds)
    assert time.monotonic() - begun <= seconds
    return str(records[-1].get("error"))


def hub_of(node: object) -> str:
    return f"ws://127.0.0.1:{node.port}/hubs/notifications"  # type: ignore[attr-defined]


async def test_sent_at_one_node_received_and_acknowledged_at_another(town: NodeTown) -> None:
    here, there = town.nodes
    async with connected_phone(there, town.user, "phone") as phone:
        sent = [await town.send(here, f"n{number}") for number in range(20)]
        await phone.has(20)
        assert phone.titles == [f"n{number}" for number in range(20)]

        async def is_settled() -> bool:
            return {(await town.timeline(here, one))["state"] for one in sent} == {"delivered"}

        await until_answered(is_settled)
        attempts = (await town.timeline(here, sent[-1]))["deliveries"][0]["attempts"]
        assert [attempt["outcome"] for attempt in attempts] == ["confirmed"]
        assert (await read_metrics(here))["carillon_engine_offers_open"] == 0
        assert (await read_metrics(there))["carillon_hub_notifications_offered_total"] == 20


async def test_three_nodes_send_to_one_phone_at_once_and_it_sees_everything_in_order_and_once(three: NodeTown) -> None:
    async with connected_phone(three.nodes[2], three.user, "phone") as phone:
        sends = [three.send(three.nodes[number % 3], f"n{number}") for number in range(150)]
        await asyncio.gather(*sends)
        await phone.has(150)
        assert phone.is_in_order and not phone.doubles
        assert phone.sequences == list(range(1, 151))
        assert not [state for state in phone.states if isinstance(state, Lost)]


async def test_a_plain_connection_on_any_node_gets_what_is_sent_at_another(three: NodeTown) -> None:
    async with (
        open_socket(hub_of(three.nodes[1]), three.user.token) as one,
        open_socket(hub_of(three.nodes[2]), three.user.token) as two,
    ):
        for client in (one, two):
            await client.shake_hands()
            # An answer proves that the hub has taken the handshake, and counts the connection as plain.
            assert "error" in await client.invoke("Nonsense")
        sent = await three.send(three.nodes[0], "Hello")
        for client in (one, two):
            record = await client.next()
            assert record["target"] == "ReceiveNotification"
            assert record["arguments"][0]["data"]["notificationId"] == sent


async def test_a_node_that_is_killed_takes_nothing_with_it(three: NodeTown) -> None:
    here, there, elsewhere = three.nodes
    async with connected_phone(there, three.user, "phone") as phone:
        await three.send(here, "before")
        await phone.has(1)
        cursor = phone.sequences[-1]
        there.kill()
        lost = [await three.send(here, f"while-{number}") for number in range(3)]
    assert cursor == 1
    async with connected_phone(elsewhere, three.user, "phone") as phone:
        await phone.has(3)
        assert phone.titles[-3:] == ["while-0", "while-1", "while-2"]
        await three.send(here, "after")
        await until(lambda: phone.titles[-1] == "after")

        async def is_settled() -> bool:
            return {(await three.timeline(here, one))["state"] for one in lost} == {"delivered"}

        await until_answered(is_settled)


async def test_redis_killed_in_the_middle_of_five_hundred_sends_loses_doubles_and_shuffles_nothing(
    town: NodeTown,
) -> None:
    here, there = town.nodes
    async with (
        connected_phone(here, town.user, "phone") as phone,
        connected_phone(there, town.user, "tablet") as tablet,
    ):
        done = 0

        async def send_all(node_number: int) -> None:
            nonlocal done
            for number in range(250):
                await town.send(town.nodes[node_number], f"{node_number}-{number}")
                done += 1

        async def trouble_redis() -> None:
            await until(lambda: done >= 100, 60)
            town.redis.kill()
            await until(lambda: done >= 300, 60)
            town.redis.start()

        await asyncio.gather(send_all(0), send_all(1), trouble_redis())
        await town.until_joined()
        for device in (phone, tablet):
            await device.has(500)
            assert device.sequences == list(range(1, 501)), "nothing missed, shuffled or doubled"
            assert len([state for state in device.states if isinstance(state, Lost)]) <= 1


async def test_the_same_device_that_says_hello_at_another_node_ends_its_older_session(town: NodeTown) -> None:
    here, there = town.nodes
    async with (
        open_socket(hub_of(here), town.user.token) as older,
        open_socket(hub_of(there), town.user.token) as newer,
    ):
        for client in (older, newer):
            await client.shake_hands()
        await older.say_hello("phone")
        await newer.say_hello("phone")
        assert await closed_within(older, 4.0) == "This device connected again elsewhere."
        await town.send(here, "Only to the newer one")
        assert (await newer.next_notification())["title"] == "Only to the newer one"


@pytest.mark.parametrize("how", ["user", "token", "device"])
async def test_what_is_revoked_at_one_node_is_closed_at_another_at_once(town: NodeTown, how: str) -> None:
    here, there = town.nodes
    async with open_socket(hub_of(there), town.user.token) as client:
        await client.shake_hands()
        device_id = (await client.say_hello("phone"))["deviceId"]
        async with httpx.AsyncClient(base_url=here.base_url, headers=town.user.headers, timeout=10) as http:
            match how:
                case "device":
                    assert (await http.delete(f"/account/devices/{device_id}")).status_code == 204
                case "token":
                    reply = await http.post("/oauth/revoke", data={"token": town.user.token})
                    assert reply.status_code == 200, reply.text
                case _:
                    async with here.identity() as identity:
                        await identity.disable_user(town.user.id)
        # Within a second, on a machine that has nothing else to do.
        assert await closed_within(client, 4.0)


async def test_a_withdrawal_at_one_node_counts_at_the_other(town: NodeTown) -> None:
    here, there = town.nodes
    sent = await town.send(here, "Not for long")
    async with httpx.AsyncClient(base_url=there.base_url, headers=town.app.headers, timeout=10) as http:
        assert (await http.delete(f"/push/notifications/{sent}")).status_code == 200
    async with connected_phone(here, town.user, "phone") as phone:
        await town.send(there, "Still here")
        await phone.has(1)
        assert phone.titles == ["Still here"]


async def test_without_redis_each_node_goes_on_alone_and_says_so(town: NodeTown) -> None:
    here, there = town.nodes
    town.redis.kill()
    async with connected_phone(here, town.user, "phone") as phone:
        await town.send(here, "Alone")
        await phone.has(1)
        await town.send(there, "Found in the database")
        await phone.has(2)
        assert phone.titles == ["Alone", "Found in the database"]

        async def is_told() -> bool:
            async with httpx.AsyncClient(base_url=here.base_url, timeout=10) as http:
                reply = await http.get("/health/ready")
            assert reply.status_code == 200
            return "does not answer" in reply.json()["checks"]["nodes"]["detail"]

        await until_answered(is_told)
    assert "nodes_cut_off" in here.output
    assert "open-sesame" not in here.output


async def test_a_node_that_is_stopped_says_goodbye_and_ends_in_time(town: NodeTown) -> None:
    here, there = town.nodes
    async with connected_phone(there, town.user, "phone") as phone:
        assert there.stop() == 0
        await until(lambda: any(isinstance(state, Lost) for state in phone.states))
    await town.until_joined(nodes=1)
    assert "node_left" in here.output
    assert "task_did_not_stop" not in there.output
