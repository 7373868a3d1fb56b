"""Unmodified clients find the lean listener by themselves: negotiate on the main port sends them there."""

import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from appliance.cli.instance import find_running
from appliance.domain.principal import Role
from tests.doubles.appliance import RunningAppliance
from tests.doubles.hub_client import open_hub
from tests.doubles.line import Line, run_line
from tests.doubles.signalr_client import run_signalr_client

HUB = "/hubs/notifications"
NOBODY = {"authorization": ""}


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    """A line to a port that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        hub_port = free.getsockname()[1]
    async with run_line(hub_port) as line:
        yield line


@pytest.fixture
def appliance(tmp_path: Path, line: Line) -> Iterator[RunningAppliance]:
    """A program with a lean listener at the far end of the line, whose near end is its public address."""
    environment = {
        "HUB_LISTENER": "lean",
        "HUB_PORT": str(line._target_port),
        "HUB_PUBLIC_URL": f"http://127.0.0.1:{line.port}/",
    }
    running = RunningAppliance(tmp_path / "data", environment)
    running.start()
    try:
        yield running
    finally:
        running.stop()


async def issue_ticket(appliance: RunningAppliance, headers: dict[str, str]) -> str:
    async with httpx.AsyncClient(base_url=appliance.base_url, headers=headers, trust_env=False) as http:
        return str((await http.post("/account/ticket")).raise_for_status().json()["ticket"])


@pytest.mark.parametrize("way", ["WebSockets", "ServerSentEvents", "LongPolling"])
async def test_the_official_client_follows_with_its_token_and_receives(
    appliance: RunningAppliance, line: Line, way: str
) -> None:
    admin = await appliance.make_user(role=Role.ADMIN)
    app = await appliance.make_app(admin)
    user = await appliance.make_user(app)
    async with (
        run_signalr_client(f"{appliance.base_url}{HUB}", user.token, transports=[way]) as client,
        httpx.AsyncClient(base_url=appliance.base_url, trust_env=False) as http,
    ):
        await client.next("started")
        body = {"user_id": str(user.id), "title": "There", "body": "you are"}
        (await http.post("/push/send", json=body, headers=app.headers)).raise_for_status()
        assert (await client.next_argument("ReceiveNotification"))["title"] == "There"
        # A client between two polls has no connection that could be cut; it must not find the way for its next one.
        line.refuses = True
        line.cut()
        await client.next("closed")


@pytest.mark.parametrize(
    ("ways", "taken"),
    [
        ([], "WebSocket"),
        (["WebSockets"], "WebSocket"),
        (["ServerSentEvents"], "ServerSentEvents"),
        (["LongPolling"], "LongPolling"),
    ],
)
async def test_the_official_client_follows_with_a_ticket_that_counts_once(
    appliance: RunningAppliance, ways: list[str], taken: str
) -> None:
    """The main port redeemed the ticket and sent its bearer away with it, where it was worth nothing any more."""
    user = await appliance.make_user()
    ticket = await issue_ticket(appliance, user.headers)
    async with run_signalr_client(f"{appliance.base_url}{HUB}", ticket, transports=ways) as client:
        assert (await client.next("started"))["transport"] == taken
    async with run_signalr_client(f"{appliance.base_url}{HUB}", ticket, transports=ways) as client:
        await client.next("failed")


async def test_an_open_connection_is_not_taken_over_with_the_ticket_that_opened_it(appliance: RunningAppliance) -> None:
    user = await appliance.make_user()
    ticket = await issue_ticket(appliance, user.headers)
    bearer = {"authorization": f"Bearer {ticket}"}
    running = find_running(appliance.data_dir)
    assert running is not None
    async with httpx.AsyncClient(headers=bearer, trust_env=False) as http:
        query = "negotiateVersion=1&useStatefulReconnect=true"
        negotiated = (await http.post(f"{running.local_hub_url}{HUB}/negotiate?{query}")).json()
    url = f"ws://127.0.0.1:{running.hub_port}{HUB}?id={negotiated['connectionToken']}"
    async with open_hub(url, ticket):
        with pytest.raises(InvalidStatus) as refused:
            async with open_hub(url, ticket):
                pass
        assert refused.value.response.status_code == 401


async def test_negotiation_names_the_address_and_gives_no_id_of_its_own(appliance: RunningAppliance) -> None:
    running = find_running(appliance.data_dir)
    assert running is not None and running.local_hub_url is not None
    user = await appliance.make_user()
    async with httpx.AsyncClient(headers=user.headers, trust_env=False) as http:
        answer = (await http.post(f"{appliance.base_url}{HUB}/negotiate?negotiateVersion=1")).json()
        assert set(answer) == {"url"} and answer["url"].endswith(HUB)
        followed = (await http.post(f"{answer['url']}/negotiate?negotiateVersion=1")).json()
        assert "url" not in followed and followed["connectionToken"]
        # Clients of the first version do not follow without a token in the answer: they are served where they are.
        assert "connectionId" in (await http.post(f"{appliance.base_url}{HUB}/negotiate")).json()
        refused = await http.post(f"{appliance.base_url}{HUB}/negotiate?negotiateVersion=1", headers=NOBODY)
        assert refused.status_code == 401
        assert (await http.get(f"{running.local_hub_url}/health")).status_code == 404


async def test_stopping_says_goodbye_on_both_ports(appliance: RunningAppliance) -> None:
    running = find_running(appliance.data_dir)
    assert running is not None
    user = await appliance.make_user()
    async with (
        open_hub(f"ws://127.0.0.1:{running.port}{HUB}", user.token) as main,
        open_hub(f"ws://127.0.0.1:{running.hub_port}{HUB}", user.token) as lean,
    ):
        os.kill(appliance.pid, signal.SIGTERM)
        for client in (main, lean):
            (goodbye,), code = await client.closing()
            assert (goodbye["allowReconnect"], code) == (True, 1001)
    assert appliance.stop() == 0
