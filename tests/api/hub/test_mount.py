"""The hub mounted in a Litestar application, as the program mounts it: behind wrappers, with the server's own pair."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from granian.constants import Interfaces
from granian.server.embed import Server
from litestar import Litestar, asgi
from litestar.types import Receive, Scope, Send
from websockets.exceptions import InvalidStatus

from appliance.hub.requests import MOUNT_PATH
from tests.doubles.hub_client import open_hub, open_socket
from tests.doubles.hub_http import by_hand
from tests.doubles.hub_server import HubServer


class MountedServer(HubServer):
    """Serves the hub through Litestar, which wraps `send` in a coroutine function of its own."""

    async def start(self) -> None:
        @asgi(MOUNT_PATH, is_mount=True, copy_scope=False)
        async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
            await self.hub.app(scope, receive, send)  # type: ignore[arg-type]

        litestar = Litestar([mounted], openapi_config=None)

        async def with_raw_pair(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "lifespan":
                scope["raw_send"], scope["raw_receive"] = send, receive
            await litestar(scope, receive, send)

        self._server = Server(with_raw_pair, "127.0.0.1", self.port, interface=Interfaces.ASGI, log_enabled=False)
        self._serving = asyncio.ensure_future(self._server.serve())
        await self.wait_until_listening()


@pytest.fixture
def listener() -> str:
    """The mount is Granian's; the lean listener serves the hub without one."""
    return "granian"


@pytest.fixture
async def mounted() -> AsyncIterator[HubServer]:
    server = MountedServer(None)
    try:
        await server.start()
        yield server
        await server.stop()
    finally:
        server.release_port()


async def test_negotiate_and_both_dialects_work_below_the_mount(mounted: HubServer) -> None:
    async with httpx.AsyncClient(headers={"Authorization": "Bearer alice"}, trust_env=False) as http:
        answer = (await http.post(f"{mounted.http}/negotiate?negotiateVersion=1")).json()
        assert (await http.get(mounted.http)).status_code == 400
        assert (await http.get(f"{mounted.http}/elsewhere")).status_code == 404
    async with open_hub(f"{mounted.ws}?id={answer['connectionToken']}") as plain, open_hub(mounted.ws) as full:
        await full.say_hello()
        for number in range(200):
            mounted.send("phone", title=str(number))
        titles = [str(number) for number in range(200)]
        assert [(await plain.next())["arguments"][0]["title"] for _ in titles] == titles
        assert [(await full.next_notification())["title"] for _ in titles] == titles


async def test_a_refused_upgrade_is_401_there_too(mounted: HubServer) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with open_socket(mounted.ws, "wrong"):
            pass
    assert refused.value.response.status_code == 401
    assert refused.value.response.headers["www-authenticate"].startswith("Bearer")


async def test_a_stream_is_not_held_back_there(mounted: HubServer) -> None:
    async with by_hand(mounted) as hand:
        events = await hand.stream()
        for number in range(100):
            mounted.send(title=str(number))
        told = [(await events.next())["arguments"][0]["title"] for _ in range(100)]
        assert told == [str(number) for number in range(100)]
        assert events.headers["content-encoding"] == "identity"
        events.line.abort()
        await mounted.until(connections=0)


async def test_polls_and_posts_work_there(mounted: HubServer) -> None:
    async with by_hand(mounted) as hand:
        await hand.shake_hands_by_polls()
        waiting = await hand.begin_poll()
        mounted.send(title="polled")
        (told,) = (await waiting.reply()).records
        assert told["arguments"][0]["title"] == "polled"
        assert (await hand.delete()).status == 202
        assert (await hand.poll()).status == 404
