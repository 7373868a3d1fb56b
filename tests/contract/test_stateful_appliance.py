"""The whole program and a client that loses its socket: its delivery is confirmed by the acknowledgement it repeats."""

import asyncio

import httpx

from tests.contract.test_signalr_appliance import send
from tests.doubles.appliance import RunningAppliance, TestApp, TestUser
from tests.doubles.line import run_line
from tests.doubles.signalr_client import run_signalr_client


async def test_a_send_to_a_client_that_is_away_arrives_once_and_is_confirmed(
    server: RunningAppliance, http: httpx.AsyncClient, app: TestApp, user: TestUser
) -> None:
    port = httpx.URL(server.base_url).port
    assert port is not None
    async with (
        run_line(port) as line,
        run_signalr_client(line.hub, user.token, statefulReconnect=True, reconnectDelays=[]) as client,
    ):
        await client.next("started")
        await client.invoke("Hello", {"deviceId": "away", "cursor": 0, "acknowledges": True})
        line.cut()
        notification_id = await send(http, app, user)
        assert (await client.next_argument("Notify"))["id"] == notification_id
        call = await client.begin("Acknowledge", notification_id)
        line.cut()
        answer = await client.next("answer")
        assert (answer["call"], answer["result"]) == (call, True)
        states: list[str] = []
        async with asyncio.timeout(10):
            while states != ["confirmed"]:
                reply = await http.get(f"/push/notifications/{notification_id}", headers=app.headers)
                states = [delivery["state"] for delivery in reply.json()["deliveries"]]
        assert not client.has_told("Notify", "reconnecting", "closed")
