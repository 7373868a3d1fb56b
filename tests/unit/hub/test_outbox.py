"""The one writer of a connection."""

import asyncio
from uuid import UUID

from appliance.hub.encoding import Frame
from appliance.hub.outbox import Outbox
from tests.doubles.hand_clock import HandClock


class Wire:
    """Writes that finish when the test says so."""

    def __init__(self, limit_bytes: int = 10) -> None:
        self.clock = HandClock()
        self.written: list[str | bytes] = []
        self.futures: list[asyncio.Future[None]] = []
        self.backlogs = 0
        self.outbox = Outbox(self._write, self.clock, limit_bytes, self._on_backlog)

    def push(self, text: str, notification: int | None = None) -> bool:
        return self.outbox.push(Frame(text, len(text)), None if notification is None else UUID(int=notification))

    async def finish_write(self) -> None:
        self.futures[-1].set_result(None)
        await asyncio.sleep(0)

    def _write(self, payload: str | bytes) -> asyncio.Future[None]:
        assert not self.futures or self.futures[-1].done(), "two writes in flight"
        self.written.append(payload)
        self.futures.append(asyncio.get_running_loop().create_future())
        return self.futures[-1]

    def _on_backlog(self) -> None:
        self.backlogs += 1


async def test_what_queues_behind_a_write_goes_out_joined_and_in_order() -> None:
    wire = Wire()
    assert all([wire.push("a"), wire.push("b"), wire.push("c")])
    assert wire.written == ["a"]
    await wire.finish_write()
    assert wire.written == ["a", "bc"]
    assert wire.push("d")
    assert wire.written == ["a", "bc"]
    await wire.finish_write()
    assert wire.written == ["a", "bc", "d"]


async def test_a_finished_write_lets_the_next_frame_out_at_once() -> None:
    wire = Wire()
    wire.push("a")
    wire.futures[-1].set_result(None)
    wire.push("b")
    assert wire.written == ["a", "b"]


async def test_a_frame_beyond_the_bound_is_refused_and_the_rest_stays() -> None:
    wire = Wire(limit_bytes=3)
    wire.push("first is in flight, not queued")
    assert wire.push("abc")
    assert not wire.push("d")
    assert wire.outbox.queued_bytes == 3


async def test_a_backlog_is_told_once_per_write() -> None:
    wire = Wire()
    for text in "abc":
        wire.push(text)
    assert wire.backlogs == 1
    await wire.finish_write()
    wire.push("d")
    assert wire.backlogs == 2


async def test_a_stuck_write_tells_since_when() -> None:
    wire = Wire()
    assert wire.outbox.stuck_since() is None
    started_at = wire.clock.monotonic()
    wire.push("a")
    wire.clock.pass_s(5)
    wire.push("b")
    assert wire.outbox.stuck_since() == started_at
    await wire.finish_write()
    assert wire.outbox.stuck_since() == started_at + 5


async def test_closing_tells_what_was_in_flight_and_queued_but_not_what_was_written() -> None:
    wire = Wire()
    wire.push("a", 1)
    wire.push("b", 2)
    await wire.finish_write()
    wire.push("c")
    wire.push("d", 4)
    assert wire.outbox.close() == [UUID(int=2), UUID(int=4)]
    assert wire.futures[-1].cancelled()
    assert wire.outbox.close() == []
    assert not wire.push("e")


async def test_dropping_the_queue_leaves_the_write_in_flight_alone() -> None:
    wire = Wire()
    wire.push("a", 1)
    wire.push("b", 2)
    assert wire.outbox.drop_queue() == [UUID(int=2)]
    wire.push("c", 3)
    await wire.finish_write()
    assert wire.written == ["a", "c"]


async def test_waiting_for_room_ends_when_the_queue_has_drained_or_the_outbox_closes() -> None:
    wire = Wire()
    wire.push("a")
    wire.push("bbbb")
    first = asyncio.ensure_future(wire.outbox.wait_until_below(2))
    await asyncio.sleep(0)
    assert not first.done()
    await wire.finish_write()
    await asyncio.wait_for(first, 1)
    wire.push("cccc")
    second = asyncio.ensure_future(wire.outbox.wait_until_below(2))
    await asyncio.sleep(0)
    wire.outbox.close()
    await asyncio.wait_for(second, 1)


async def test_waiting_for_the_last_write_ends_with_it() -> None:
    wire = Wire()
    wire.push("a")
    wire.push("b")
    waiting = asyncio.ensure_future(wire.outbox.wait_until_written())
    await asyncio.sleep(0)
    await wire.finish_write()
    await asyncio.sleep(0)
    assert not waiting.done()
    await wire.finish_write()
    await asyncio.wait_for(waiting, 1)
