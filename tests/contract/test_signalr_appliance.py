"""The whole program: what a backend posts reaches real SignalR clients, whichever way they are connected."""

import asyncio

import httpx
import pytest

from tests.contract.ways import Way, every_way
from tests.doubles.appliance import RunningAppliance, TestApp, TestUser
from tests.doubles.signalr_client import SignalRClient, run_python_client, run_signalr_client

PATH = "/hubs/notifications"


async def send(http: httpx.AsyncClient, app: TestApp, user: TestUser) -> str:
    """Post a notification and give its id."""
    body = {"user_id": str(user.id), "title": "Shift approved", "body": "Zażółć 🎉", "data": {"n": 5}}
    reply = await http.post("/push/send", json=body, headers=app.headers)
    assert reply.status_code == 202
    notification_id: str = reply.json()["notification_id"]
    return notification_id


async def receive_plain(client: SignalRClient, http: httpx.AsyncClient, app: TestApp, user: TestUser) -> None:
    """Send one, and see it arrive in the plain dialect."""
    await client.next("started")
    notification_id = await send(http, app, user)
    assert await client.next_argument("ReceiveNotification") == {
        "title": "Shift approved",
        "body": "Zażółć 🎉",
        "data": {"n": "5", "notificationId": notification_id},
    }


@every_way
async def test_a_send_reaches_the_official_client(
    server: RunningAppliance, http: httpx.AsyncClient, app: TestApp, user: TestUser, way: Way
) -> None:
    async with run_signalr_client(server.base_url + PATH, user.token, **way.settings) as client:
        await receive_plain(client, http, app, user)


@every_way
async def test_the_result_of_its_handler_confirms_the_delivery(
    server: RunningAppliance, http: httpx.AsyncClient, app: TestApp, user: TestUser, way: Way
) -> None:
    async with run_signalr_client(server.base_url + PATH, user.token, results=True, **way.settings) as client:
        await client.next("started")
        await client.invoke("Hello", {"deviceId": f"phone {way}", "results": True})
        notification_id = await send(http, app, user)
        assert (await client.next_argument("Notify"))["id"] == notification_id
        states: list[str] = []
        # A result is not answered, so the timeline has to be asked until it is there.
        async with asyncio.timeout(10):
            while states != ["confirmed"]:
                reply = await http.get(f"/push/notifications/{notification_id}", headers=app.headers)
                states = [delivery["state"] for delivery in reply.json()["deliveries"]]


@pytest.mark.parametrize("name", ["pysignalr", "signalrcore"])
@pytest.mark.parametrize("protocol", ["json", "messagepack"])
async def test_a_send_reaches_the_python_clients(
    server: RunningAppliance, http: httpx.AsyncClient, app: TestApp, user: TestUser, name: str, protocol: str
) -> None:
    async with run_python_client(name, server.base_url + PATH, user.token, protocol=protocol) as client:
        await receive_plain(client, http, app, user)
