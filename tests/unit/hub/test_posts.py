"""The turns of what is posted, whatever becomes of the requests that bring it."""

import asyncio
import json

import pytest

from appliance.hub.posts import Posts
from appliance.hub.requests import HubRequest
from tests.doubles.hub_house import House, ending_of, settle

REQUEST = HubRequest("POST", False, {}, {}, (), "192.0.2.1")
HELLO = {"type": 1, "target": "Hello", "arguments": [{"deviceId": "phone"}], "invocationId": "hello"}


def call(number: int) -> dict[str, object]:
    return {"type": 1, "target": "X", "arguments": [], "invocationId": str(number)}


def join(*messages: object) -> bytes:
    return b"".join(json.dumps(message).encode() + b"\x1e" for message in messages)


class Asking:
    """One request of a client whose body is there at once, and who may be gone when it is answered."""

    def __init__(self, posts: Posts, body: bytes, *, is_gone: bool = False, is_stalled: bool = False) -> None:
        self._body = body
        self._is_stalled = is_stalled
        self._is_gone = is_gone
        self.statuses: list[object] = []
        self.answering = asyncio.Event()
        self.task = asyncio.ensure_future(posts.take(REQUEST, self._receive, self._send))

    async def _receive(self) -> dict[str, object]:
        return {"type": "http.request", "body": self._body, "more_body": False}

    async def _send(self, event: dict[str, object]) -> None:
        self.answering.set()
        if self._is_stalled:
            await asyncio.Event().wait()
        if self._is_gone:
            raise RuntimeError("The client is gone.")
        if "status" in event:
            self.statuses.append(event["status"])


@pytest.mark.parametrize("fate", ["answered", "gone", "cancelled"])
async def test_a_body_is_worked_off_before_the_next_one_whatever_becomes_of_its_request(
    house: House, fate: str
) -> None:
    """The story: where the answer failed, the next body was read into the middle of the one before it."""
    connection, wire = await house.connect()
    house.backend.hello_gate = asyncio.Event()
    posts = Posts(connection)
    first = Asking(posts, join(HELLO, call(1), call(2)), is_gone=fate == "gone", is_stalled=fate == "cancelled")
    await asyncio.wait_for(first.answering.wait(), 5.0)
    if fate == "cancelled":
        first.task.cancel()
    await asyncio.wait({first.task}, timeout=5.0)
    second = Asking(posts, join(call(3)))
    await settle()
    assert wire.records == [] and second.statuses == []

    house.backend.hello_gate.set()
    await asyncio.wait_for(second.task, 5.0)
    await settle()
    assert [record["invocationId"] for record in wire.records] == ["hello", "1", "2", "3"]
    assert ending_of(connection) is None
    await asyncio.gather(first.task, return_exceptions=True)


async def test_a_body_that_cannot_be_read_leaves_its_turn_to_the_next(house: House) -> None:
    connection, wire = await house.connect()
    posts = Posts(connection)

    async def receive() -> dict[str, object]:
        return {"type": "http.disconnect"}

    async def send(_: dict[str, object]) -> None: ...

    with pytest.raises(Exception, match="ended too early"):
        await posts.take(REQUEST, receive, send)
    await Asking(posts, join(call(1))).task
    await settle()
    assert [record["invocationId"] for record in wire.records] == ["1"]


async def test_stopping_ends_the_call_that_a_body_is_waiting_for(house: House) -> None:
    connection, wire = await house.connect()
    house.backend.hello_gate = asyncio.Event()
    posts = Posts(connection)
    await Asking(posts, join(HELLO, call(1))).task
    await settle()
    assert house.backend.hellos

    await asyncio.wait_for(posts.stop(), 5.0)

    house.backend.hello_gate.set()
    await settle()
    assert ending_of(connection) == "server_stopping"
    assert [record for record in wire.records if "invocationId" in record] == []


async def test_what_was_posted_early_goes_before_what_is_posted_next(house: House) -> None:
    connection, wire = await house.connect()
    house.backend.hello_gate = asyncio.Event()
    posts = Posts(connection)
    posts.take_early(join(HELLO, call(1)))
    second = Asking(posts, join(call(2)))
    await settle()
    assert second.statuses == []
    house.backend.hello_gate.set()
    await asyncio.wait_for(second.task, 5.0)
    await settle()
    assert [record["invocationId"] for record in wire.records] == ["hello", "1", "2"]
