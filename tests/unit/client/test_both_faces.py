"""Both faces of the client over real sockets: the same calls, the same bytes, the same errors."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from appliance.client import (
    AsyncCarillonClient,
    CarillonClient,
    ClientError,
    InvalidRequest,
    Patience,
    Push,
    Unreachable,
)
from tests.doubles.http_peer import Asked, HttpPeer, plain_reply, run_http_peer

HASTE = Patience(deadline_s=5, attempt_s=1, backoff_first_s=0.01, backoff_most_s=0.02)
SENT = json.dumps({"notification_id": "n1"}).encode()
TOKEN = json.dumps({"access_token": "t1", "token_type": "Bearer", "expires_in": 3600}).encode()

Use = Callable[[Any], Any]


class Script:
    """Answers `/oauth/token` by itself and everything else from a list of answers, the last one again and again."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.tokens_given = 0

    async def __call__(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.path == "/oauth/token":
            self.tokens_given += 1
            await plain_reply(TOKEN)(asked, writer)
            return
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        await answer(asked, writer)


async def hang_up(_: Asked, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def say_nothing(_: Asked, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


async def never_end(_: Asked, writer: asyncio.StreamWriter) -> None:
    """Send a byte now and then, so that no single read ever times out."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    for _turn in range(300):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.1)


async def use_blocking(url: str, use: Use, patience: Patience) -> Any:
    def run() -> Any:
        with CarillonClient(url, "app-1", "secret", patience=patience) as client:
            return use(client)

    return await asyncio.to_thread(run)


async def use_async(url: str, use: Use, patience: Patience) -> Any:
    async with AsyncCarillonClient(url, "app-1", "secret", patience=patience) as client:
        return await use(client)


@pytest.fixture(params=[use_blocking, use_async], ids=["blocking", "async"])
def face(request: pytest.FixtureRequest) -> Any:
    return request.param


@asynccontextmanager
async def a_server(*answers: Any) -> AsyncIterator[tuple[HttpPeer, str]]:
    async with run_http_peer(Script(*answers)) as peer:
        yield peer, f"http://127.0.0.1:{peer.port}"


def sends(peer: HttpPeer) -> list[Asked]:
    return [asked for asked in peer.asked if asked.path != "/oauth/token"]


async def test_a_push_is_sent_as_the_api_reads_it(face: Any) -> None:
    quota = {"X-Quota-Limit": "100", "X-Quota-Remaining": "99", "X-Quota-Reset": "2026-03-18T00:00:00Z"}
    async with a_server(plain_reply(SENT, status=202, headers=quota)) as (peer, url):
        sent = await face(url, lambda c: c.send_push("u1", "Hello", "There", {"a": 1}, priority="high", ttl=60), HASTE)
    assert sent.notification_id == "n1"
    assert (sent.quota.limit, sent.quota.remaining) == (100, 99)
    (asked,) = sends(peer)
    assert (asked.method, asked.path) == ("POST", "/push/send")
    assert json.loads(asked.body) == {
        "user_id": "u1", "title": "Hello", "body": "There", "data": {"a": 1}, "priority": "high", "ttl": 60,
    }  # fmt: skip
    assert asked.headers["authorization"] == "Bearer t1"
    assert asked.headers["content-type"] == "application/json"
    assert asked.headers["user-agent"].startswith("carillon-client/")


async def test_bulk_and_batch_give_the_ids_in_order(face: Any) -> None:
    many = json.dumps({"notification_ids": ["n1", "n2"]}).encode()
    async with a_server(plain_reply(many, status=202)) as (peer, url):
        bulk = await face(url, lambda c: c.send_bulk(["u1", "u2"], "Hello", "There"), HASTE)
        pushes = [Push(user_id="u1", title="A", body="B"), {"user_id": "u2", "title": "C", "body": "D"}]
        batch = await face(url, lambda c: c.send_batch(pushes), HASTE)
    assert bulk.notification_ids == batch.notification_ids == ("n1", "n2")
    first, second = sends(peer)
    assert json.loads(first.body) == {"user_ids": ["u1", "u2"], "title": "Hello", "body": "There"}
    assert json.loads(second.body) == {
        "notifications": [
            {"user_id": "u1", "title": "A", "body": "B"},
            {"user_id": "u2", "title": "C", "body": "D"},
        ]
    }


async def test_a_connection_that_breaks_is_tried_again_with_the_same_key(face: Any) -> None:
    async with a_server(hang_up, plain_reply(b"", status=503), plain_reply(SENT, status=202)) as (peer, url):
        sent = await face(url, lambda c: c.send_push("u1", "Hello", "There"), HASTE)
    assert sent.notification_id == "n1"
    assert len(sends(peer)) == 3
    assert len({(asked.headers["idempotency-key"], asked.body) for asked in sends(peer)}) == 1


@pytest.mark.parametrize("answer", [say_nothing, never_end])
async def test_an_answer_that_does_not_end_is_given_up_at_the_deadline(face: Any, answer: Any) -> None:
    patience = Patience(deadline_s=0.8, attempt_s=0.4, backoff_first_s=0.01)
    async with a_server(answer) as (_, url):
        began_at = asyncio.get_running_loop().time()
        with pytest.raises(Unreachable):
            await face(url, lambda c: c.send_push("u1", "Hello", "There"), patience)
        assert asyncio.get_running_loop().time() - began_at < 3


async def test_an_answer_that_is_far_too_long_is_refused(face: Any) -> None:
    async with a_server(plain_reply(b" " * 9_000_000)) as (_, url):
        with pytest.raises(Unreachable, match="too long"):
            await face(url, lambda c: c.send_push("u1", "Hello", "There"), HASTE)


async def test_a_closed_port_is_unreachable(face: Any) -> None:
    async with a_server(hang_up) as (_, url):
        pass
    with pytest.raises(Unreachable, match="does not answer"):
        await face(url, lambda c: c.send_push("u1", "Hello", "There"), Patience(deadline_s=0.2, backoff_first_s=0.05))


async def test_a_problem_is_a_typed_error(face: Any) -> None:
    problem = {"status": 422, "code": "invalid_field", "title": "Not valid", "detail": "Shorten it.", "field": "title"}
    async with a_server(plain_reply(json.dumps(problem).encode(), status=422)) as (_, url):
        with pytest.raises(InvalidRequest) as raised:
            await face(url, lambda c: c.send_push("u1", "x" * 300, "There"), HASTE)
    assert isinstance(raised.value, ClientError)
    assert (raised.value.status, raised.value.field, raised.value.detail) == (422, "title", "Shorten it.")


async def test_a_notification_id_cannot_name_another_path(face: Any) -> None:
    async with a_server(plain_reply(b"{}")) as (peer, url):
        with pytest.raises(ValueError, match="UUID"):
            await face(url, lambda c: c.withdraw("../devices/1"), HASTE)
    assert peer.asked == []


async def test_many_tasks_at_once_share_one_token() -> None:
    script = Script(plain_reply(SENT, status=202))
    async with (
        run_http_peer(script) as peer,
        AsyncCarillonClient(f"http://127.0.0.1:{peer.port}", "app-1", "secret", patience=HASTE) as client,
    ):
        await asyncio.gather(*(client.send_push("u1", "Hello", str(number)) for number in range(20)))
    assert script.tokens_given == 1
    assert len(sends(peer)) == 20


async def test_many_threads_at_once_share_one_token() -> None:
    async with run_http_peer(script := Script(plain_reply(SENT, status=202))) as peer:
        with CarillonClient(f"http://127.0.0.1:{peer.port}", "app-1", "secret", patience=HASTE) as client:
            await asyncio.gather(
                *(asyncio.to_thread(client.send_push, "u1", "Hello", str(number)) for number in range(8))
            )
    assert script.tokens_given == 1
    assert len(sends(peer)) == 8
