"""Browsers on pages of other origins, at the hub itself, whatever port it is on."""

from collections.abc import AsyncIterator

import pytest

from tests.doubles.hub_http import PATH, HubByHand, by_hand
from tests.doubles.hub_server import HubServer, run_hub

PAGE = {"origin": "https://app.example.org"}
# What the official client asks for before each of its requests.
ASKED = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,x-requested-with,x-signalr-user-agent",
}
ALLOW = "access-control-allow-origin"
CREDENTIALS = "access-control-allow-credentials"


@pytest.fixture
async def shared() -> AsyncIterator[HubServer]:
    async with run_hub(origins=("https://app.example.org",)) as running:
        yield running


@pytest.mark.parametrize("path", [f"{PATH}/negotiate?negotiateVersion=1", f"{PATH}?id=unknown"])
async def test_a_preflight_needs_no_token(shared: HubServer, path: str) -> None:
    async with by_hand(shared) as hand:
        reply = await (await hand.line()).ask("OPTIONS", path, PAGE | ASKED)
    assert (reply.status, reply.headers[ALLOW]) == (204, PAGE["origin"])
    assert reply.headers[CREDENTIALS] == "true"
    allowed = reply.headers["access-control-allow-headers"].split(", ")
    assert set(ASKED["access-control-request-headers"].split(",")) <= set(allowed)


async def test_every_answer_on_the_way_is_readable(shared: HubServer) -> None:
    async with by_hand(shared) as hand:
        hand.headers |= PAGE
        first, post, refused = await hand.poll(), await hand.post(b""), await hand.poll(authorization="")
        assert [first.status, post.status, refused.status] == [200, 200, 401]
        for reply in (first, post, refused, await hand.delete()):
            assert (reply.headers[ALLOW], reply.headers[CREDENTIALS]) == (PAGE["origin"], "true")


async def test_a_stream_is_readable_and_goes_on(shared: HubServer) -> None:
    async with by_hand(shared) as hand:
        hand.headers |= PAGE
        events = await hand.stream()
        assert (events.headers[ALLOW], events.headers[CREDENTIALS]) == (PAGE["origin"], "true")
        shared.send(title="across")
        assert (await events.next())["arguments"][0]["title"] == "across"


async def test_another_origin_gets_nothing_more(shared: HubServer) -> None:
    async with by_hand(shared) as hand:
        line = await hand.line()
        reply = await line.ask("OPTIONS", f"{PATH}/negotiate", ASKED | {"origin": "https://evil.example.org"})
    assert reply.status == 401 and ALLOW not in reply.headers


async def test_without_the_setting_no_page_gets_any(server: HubServer) -> None:
    hand = HubByHand(server, "alice")
    hand.headers |= PAGE
    answer = await (await hand.line()).ask("POST", f"{PATH}/negotiate", hand.headers)
    assert answer.status == 200 and ALLOW not in answer.headers
    hand.close()
