"""The listener against the real hub over real sockets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from appliance.client_cursor import FileCursor, MemoryCursor
from appliance.client_errors import NotSignedIn, Unreachable
from appliance.client_hub import HubListener, HubNotification, HubRefused, Live, Lost
from tests.doubles.http_peer import plain_reply, run_http_peer
from tests.doubles.hub_server import ALICE, HubServer, run_hub, wait_until

DEADLINE_S = 10.0


@pytest.fixture
async def hub() -> AsyncIterator[HubServer]:
    async with run_hub() as server:
        yield server


def alice(refused: str | None) -> Any:
    return asyncio.sleep(0, "alice")


def a_listener(hub: HubServer, *, token: Any = alice, device_id: str = "phone", **options: Any) -> HubListener:
    # No jitter: the first try after a loss comes at once, the second after half a second.
    options.setdefault("jitter", lambda: 0.0)
    return HubListener(f"http://127.0.0.1:{hub.port}", token, device_id=device_id, **options)


async def take(listener: HubListener, count: int) -> list[HubNotification]:
    taken: list[HubNotification] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(taken) < count:
            taken.append(await anext(listener))
    return taken


async def settle(listener: HubListener, seconds: float = 0.3) -> list[HubNotification]:
    """Take whatever else comes within a moment."""
    taken: list[HubNotification] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                taken.append(await anext(listener))
    return taken


def acknowledged(hub: HubServer) -> list[UUID]:
    return [notification_id for _, notification_id, _ in hub.backend.acknowledged]


async def until_live(hub: HubServer, sessions: int = 1) -> None:
    await hub.until(sessions=sessions)


async def test_a_notification_is_acknowledged_when_the_next_one_is_asked_for(hub: HubServer) -> None:
    async with a_listener(hub) as listener:
        await until_live(hub)
        sent = hub.send("phone", title="Hello", data={"route": "/x"})
        (notification,) = await take(listener, 1)
        assert (notification.title, notification.data) == ("Hello", {"route": "/x"})
        assert acknowledged(hub) == []
        asking = asyncio.create_task(take(listener, 1))
        await wait_until(lambda: acknowledged(hub) == [sent.id])
        asking.cancel()


async def test_an_acknowledgement_that_is_awaited_tells_that_the_hub_has_it(hub: HubServer) -> None:
    async with a_listener(hub) as listener:
        await until_live(hub)
        sent = hub.send("phone")
        (notification,) = await take(listener, 1)
        assert await listener.acknowledge(notification)
        assert acknowledged(hub) == [sent.id]


async def test_what_was_sent_while_it_was_away_comes_first_and_in_order(hub: HubServer) -> None:
    sent = [hub.backend.add_notification(ALICE) for _ in range(50)]
    states: list[Any] = []
    async with a_listener(hub, on_state=states.append) as listener:
        taken = await take(listener, 50)
    assert [notification.id for notification in taken] == [str(one.id) for one in sent]
    assert states == [Live(50, True)]


async def test_a_restarted_server_is_found_again_and_nothing_comes_twice(hub: HubServer) -> None:
    states: list[Any] = []
    async with a_listener(hub, on_state=states.append) as listener:
        await until_live(hub)
        first = hub.send("phone")
        await take(listener, 1)
        await hub.restart()
        await until_live(hub)
        second = hub.send("phone")
        (taken,) = await take(listener, 1)
        assert taken.id == str(second.id)
        assert await settle(listener) == []
        # The first was in hand when the connection ended: what the hub sends again of it is answered, not shown.
        await wait_until(lambda: first.id in acknowledged(hub))
    assert isinstance(states[0], Live)
    assert isinstance(states[1], Lost)
    assert states[1].reason == "The server is restarting."
    assert isinstance(states[-1], Live)


async def test_a_killed_connection_is_made_again_from_the_cursor(hub: HubServer) -> None:
    cursor = MemoryCursor()
    async with a_listener(hub, cursor=cursor) as listener:
        await until_live(hub)
        hub.send("phone")
        (taken,) = await take(listener, 1)
        await listener.acknowledge(taken)
        assert listener._socket is not None
        listener._socket.transport.abort()
        await wait_until(lambda: len(hub.backend.hellos) == 2)
        assert hub.backend.hellos[1].cursor == 1 == cursor.load()
        hub.send("phone")
        assert [notification.sequence for notification in await take(listener, 1)] == [2]


async def test_the_cursor_file_outlives_the_program(hub: HubServer, tmp_path: Path) -> None:
    place = tmp_path / "cursor.json"
    hub.backend.add_notification(ALICE)
    hub.backend.add_notification(ALICE)
    async with a_listener(hub, cursor=FileCursor(place)) as listener:
        first, _second = await take(listener, 2)
    assert first.sequence == 1
    assert place.stat().st_mode & 0o777 == 0o600
    # The second was still in hand when the program ended, so it comes again.
    async with a_listener(hub, cursor=FileCursor(place)) as listener:
        (again,) = await take(listener, 1)
        assert again.sequence == 2
        await listener.acknowledge(again)
    async with a_listener(hub, cursor=FileCursor(place)) as listener:
        await until_live(hub)
        assert await settle(listener) == []


async def test_a_cursor_of_a_database_that_is_no_more_starts_again(hub: HubServer) -> None:
    cursor = MemoryCursor(900)
    async with a_listener(hub, cursor=cursor) as listener:
        await until_live(hub)
        await wait_until(lambda: cursor.load() == 0)
        hub.send("phone")
        (taken,) = await take(listener, 1)
        await listener.acknowledge(taken)
    assert cursor.load() == 1


async def test_an_incomplete_history_is_told(hub: HubServer) -> None:
    hub.backend.complete = False
    states: list[Any] = []
    async with a_listener(hub, on_state=states.append):
        await wait_until(lambda: states == [Live(0, False)])


async def test_a_refused_token_is_renewed_once(hub: HubServer) -> None:
    asked: list[str | None] = []

    async def token(refused: str | None) -> str:
        asked.append(refused)
        return "stale" if refused is None else "alice"

    async with a_listener(hub, token=token):
        await until_live(hub)
    assert asked == [None, "stale"]


async def test_a_token_that_stays_refused_ends_the_listener(hub: HubServer) -> None:
    async with a_listener(hub, token=lambda refused: asyncio.sleep(0, "nobody")) as listener:
        with pytest.raises(HubRefused, match="token"):
            await take(listener, 1)
        # It does not hang when asked again.
        with pytest.raises(HubRefused):
            await take(listener, 1)


async def test_what_the_token_provider_raises_reaches_the_caller(hub: HubServer) -> None:
    async def token(refused: str | None) -> str:
        raise NotSignedIn(status=401, code="invalid_grant", title="That did not match", detail="")

    async with a_listener(hub, token=token) as listener:
        with pytest.raises(NotSignedIn):
            await take(listener, 1)


async def test_a_token_provider_in_bad_weather_is_asked_again(hub: HubServer) -> None:
    answers: list[Callable[[], str]] = [lambda: "alice"]

    async def token(refused: str | None) -> str:
        if answers:
            answers.clear()
            raise Unreachable("no network")
        return "alice"

    states: list[Any] = []
    async with a_listener(hub, token=token, on_state=states.append):
        await until_live(hub)
    assert [type(state) for state in states] == [Lost, Live]


async def test_the_same_device_elsewhere_ends_the_first_listener(hub: HubServer) -> None:
    async with a_listener(hub) as first:
        await until_live(hub)
        async with a_listener(hub):
            with pytest.raises(HubRefused, match="connected again elsewhere"):
                await take(first, 1)


async def test_a_device_that_the_hub_refuses_is_told_why(hub: HubServer) -> None:
    hub.backend.refusal = "This device belongs to somebody else."
    async with a_listener(hub) as listener:
        with pytest.raises(HubRefused, match="somebody else"):
            await take(listener, 1)


async def test_without_acknowledging_there_is_no_cursor_and_no_answer(hub: HubServer) -> None:
    cursor = MemoryCursor()
    async with a_listener(hub, acknowledges=False, cursor=cursor) as listener:
        await until_live(hub)
        hub.send("phone")
        hub.send("phone")
        await take(listener, 2)
    assert (hub.backend.hellos[0].acknowledges, hub.backend.hellos[0].cursor) == (False, None)
    assert acknowledged(hub) == []
    assert cursor.load() is None


async def test_a_slow_handler_stays_connected_and_loses_nothing(hub: HubServer) -> None:
    # More than the listener holds: the rest waits in the socket until there is room.
    async with a_listener(hub) as listener:
        await until_live(hub)
        await take_after_burst(hub, listener, 600)


async def take_after_burst(hub: HubServer, listener: HubListener, count: int) -> None:
    sent = [hub.send("phone") for _ in range(count)]
    await wait_until(lambda: listener._arrived.qsize() >= 256)
    taken = await take(listener, count)
    assert [notification.id for notification in taken] == [str(one.id) for one in sent]


async def test_a_server_without_a_hub_is_asked_again_later() -> None:
    states: list[Any] = []
    async with run_http_peer(plain_reply(b"", status=503, headers={"Retry-After": "7"})) as peer:
        url = f"http://127.0.0.1:{peer.port}"
        async with HubListener(url, alice, device_id="phone", on_state=states.append):
            await wait_until(lambda: bool(states))
    assert states == [Lost("The server has no hub to offer now (503).", 7.0)]


async def test_a_redirect_is_not_followed_because_the_token_would_go_along() -> None:
    async with run_http_peer() as elsewhere:
        place = f"http://127.0.0.1:{elsewhere.port}/"
        states: list[Any] = []
        async with run_http_peer(plain_reply(b"", status=302, headers={"Location": place})) as peer:
            url = f"http://127.0.0.1:{peer.port}"
            async with HubListener(url, alice, device_id="phone", on_state=states.append):
                await wait_until(lambda: bool(states))
        assert elsewhere.asked == []


async def test_a_listener_must_be_entered_first() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await anext(HubListener("http://127.0.0.1:1", alice, device_id="phone"))
