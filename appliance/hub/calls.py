"""What a client may call on the hub: `Hello`, once, and `Acknowledge`, any number of times.

Calls of one connection are served one at a time and in order, with one exception: an acknowledgement waits for the
disk, and the next one does not wait for it. So many may be under way, up to a bound, at which the connection is not
read.
"""

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import UUID

from appliance.domain.errors import CarillonError
from appliance.hub import endings
from appliance.hub.backend import DeviceLost, HelloRefused, Missed
from appliance.hub.methods import (
    ACKNOWLEDGE,
    HELLO,
    WrongArguments,
    parse_acknowledge,
    parse_hello,
    parse_notification_id,
    shorten_name,
)
from appliance.hub.protocol import CompletionReceived, InvocationReceived
from appliance.hub.replay import HISTORY_PASSED, Replay
from appliance.hub.session import Session

if TYPE_CHECKING:
    from appliance.hub.connection import Connection
    from appliance.hub.messages import EncodedNotification

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SPOKE_ALREADY: Final = "This connection has said Hello already."
_HELLO_FIRST: Final = "Say Hello first."
_TOO_SLOW: Final = "The server is too busy. Try again shortly."
# A replay gives way to others after so many notifications, even when its client reads without a pause.
_TURN: Final = 64
_NO_TURN: Final = nullcontext()


class Slots:
    """A bound on work under way: `take` waits for a free slot. One taker at a time."""

    __slots__ = ("_most", "_room", "_taken")

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._room: asyncio.Future[None] | None = None

    @property
    def taken(self) -> int:
        return self._taken

    async def take(self) -> None:
        while self._taken >= self._most:
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        self._taken += 1

    def give_back(self) -> None:
        self._taken -= 1
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


class CallFailed(Exception):
    """A call cannot be served; `text` is what its caller is told."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


async def answer_invocation(connection: "Connection", call: InvocationReceived) -> None:
    """Serve one call; a call without an invocation id is served, too, but gets no answer."""
    if not connection.is_resumable:
        # Who asks faster than it reads the answers has to wait. Not where an Ack makes the room: it may come behind.
        await connection.wait_for_room()
        if connection.ending is not None:
            return
    serve = _METHODS.get(call.target.lower())
    try:
        if serve is None:
            raise CallFailed(f"Unknown hub method '{shorten_name(call.target)}'")
        if call.is_stream:
            raise CallFailed(f"'{call.target}' is not a streaming method.")
        await serve(connection, call)
    except WrongArguments as wrong:
        connection.answer_error(call.invocation_id, wrong.text)
    except CallFailed as failed:
        connection.answer_error(call.invocation_id, failed.text)


async def take_completion(connection: "Connection", completion: CompletionReceived) -> None:
    """Take a result of a `Notify` that asked for one as its acknowledgement; ignore every other completion."""
    session = connection.session
    if session is None or not session.wants_results or completion.error is not None:
        return
    notification_id = parse_notification_id(completion.invocation_id)
    if notification_id is not None:
        await connection.acknowledging.take()
        connection.spawn(_record(connection, session, notification_id, None))


async def _acknowledge(connection: "Connection", call: InvocationReceived) -> None:
    session = connection.session
    if session is None:
        raise CallFailed(_HELLO_FIRST)
    notification_id = parse_acknowledge(call.arguments)
    await connection.acknowledging.take()
    connection.spawn(_record(connection, session, notification_id, call.invocation_id))


async def _record(connection: "Connection", session: Session, notification_id: UUID, invocation_id: str | None) -> None:
    core = connection.core
    round_trip_s = session.note_acknowledged(notification_id, core.clock.monotonic())
    is_late = round_trip_s is not None and session.is_late(round_trip_s)
    if round_trip_s is not None:
        core.counters.acknowledged_late += is_late
        core.counters.round_trips.add(round_trip_s)
        session.learn(round_trip_s)
    try:
        work = core.backend.acknowledge(session.device_id, notification_id, round_trip_s, is_late=is_late)
        is_recorded = await _call_backend(connection, work, "Acknowledge")
    except CallFailed as failed:
        connection.answer_error(invocation_id, failed.text)
    else:
        core.counters.acknowledged += is_recorded
        connection.answer(invocation_id, is_recorded)
    finally:
        connection.acknowledging.give_back()


async def _say_hello(connection: "Connection", call: InvocationReceived) -> None:
    """Register the device, seat its session, answer, and leave the replay running behind the answer."""
    if connection.session is not None:
        raise CallFailed(_SPOKE_ALREADY)
    hello, wants_results = parse_hello(call.arguments)
    core = connection.core
    accepted = await _call_backend(connection, core.backend.register_hello(connection.principal, hello), "Hello")
    if connection.ending is not None:
        return
    session = Session(
        accepted.device_id,
        acknowledges=hello.acknowledges,
        wants_results=wants_results,
        limits=core.limits,
        seat_stamp=None if core.seats is None else core.seats.stamp(),
        window=core.windows.recall(accepted.device_id) if hello.acknowledges else None,
        is_resumable=connection.is_resumable,
    )
    replay = session.begin_replay(hello.cursor)
    connection.seat(session)
    try:
        missed = await _load_page(connection, session, replay)
        left = await _count_behind(connection, session, replay, missed)
    except DeviceLost as lost:
        _end_lost(connection, lost)
        return
    except CallFailed:
        if connection.ending is None:
            connection.unseat(session, "hello_failed")
            connection.go_plain()
        raise
    history = _choose_fresh(connection, session, replay, missed)
    answer = {
        "deviceId": str(session.device_id),
        "cursor": _safe_cursor(missed, history),
        "complete": missed.complete,
        "missed": len(history) + left,
    }
    connection.answer(call.invocation_id, answer)
    if history or replay.has_held or replay.is_round_owed:
        connection.spawn(_run_replay(connection, session, replay, history), is_replay=True)
    else:
        # Nearly every Hello: there is nothing to wait for, and no task is needed.
        _go_live(connection, session)


def _safe_cursor(missed: Missed, history: "Sequence[EncodedNotification]") -> int:
    """Give the cursor that a client may keep at once: just before what follows, or the newest when nothing does.

    A client that kept the newest number here and lost its connection in the middle of the replay would, by its next
    Hello, claim to have what it never got.
    """
    return history[0].envelope.sequence - 1 if history else missed.cursor


async def _run_replay(
    connection: "Connection",
    session: Session,
    replay: Replay,
    history: "Sequence[EncodedNotification]",
    turn: AbstractAsyncContextManager[object] = _NO_TURN,
) -> None:
    """Replay; a fault in it ends the connection, which would otherwise take every offer and bring none."""
    try:
        await _replay(connection, session, replay, history, turn)
    except Exception:
        logger.exception("hub_replay_failed")
        connection.end(endings.INTERNAL_ERROR)


async def _replay(
    connection: "Connection",
    session: Session,
    replay: Replay,
    history: "Sequence[EncodedNotification]",
    turn: AbstractAsyncContextManager[object],
) -> None:
    """Send the history, then what was held back, then let the session go live, without a gap between the last two.

    `turn` is held while a page is loaded, and not while it is sent: a client that is away or reads slowly takes its
    time for that.
    """
    while connection.ending is None:
        await _send_history(connection, session, replay, history)
        await _send_held(connection, session, replay)
        if not replay.is_round_owed:
            break
        try:
            async with turn:
                missed = await _load_page(connection, session, replay)
        except DeviceLost as lost:
            _end_lost(connection, lost)
            return
        except CallFailed:
            connection.end(endings.INTERNAL_ERROR)
            return
        if not missed.complete:
            # The client was told that it has everything up to here; only a new Hello can tell it otherwise.
            connection.end(endings.HISTORY_INCOMPLETE)
            return
        history = _choose_fresh(connection, session, replay, missed)
    _go_live(connection, session)


def _go_live(connection: "Connection", session: Session) -> None:
    """End the replay, unless the connection has ended meanwhile."""
    if connection.ending is not None:
        return
    was_announced = session.is_announced
    session.go_live()
    if not was_announced:
        connection.core.notices.device_connected(connection.user_id, session.device_id, session.acknowledges)


def catch_up(connection: "Connection", session: Session) -> None:
    """Let the session load what other nodes accepted behind the number it has reached; offers wait meanwhile.

    For one node among several. A replay that is under way loads once more.
    """
    if connection.ending is not None or session.order is None:
        return
    if session.replay is not None:
        session.replay.owe_round()
        return
    connection.core.counters.caught_up += 1
    replay = session.begin_replay(session.order.reached)
    replay.owe_round()
    connection.spawn(_run_replay(connection, session, replay, (), connection.core.catching_up), is_replay=True)


async def _send_history(
    connection: "Connection", session: Session, replay: Replay, history: "Sequence[EncodedNotification]"
) -> None:
    """Send at the client's reading speed; a client that does not read at all is cut by the write deadline."""
    for number, notification in enumerate(history, start=1):
        await connection.wait_for_room()
        if connection.ending is not None:
            return
        replay.note_sent(notification.id)
        try:
            connection.send_full(session, notification, is_measured=False)
        except Exception:
            # One that cannot be written stands in front of all that follow, at every Hello of the device.
            logger.exception("hub_replay_skipped", extra={"notification_id": str(notification.id)})
            connection.report_cut(session.device_id, [notification.id], endings.INTERNAL_ERROR.reason)
        connection.core.counters.replayed += 1
        if number % _TURN == 0:
            await asyncio.sleep(0)


async def _send_held(connection: "Connection", session: Session, replay: Replay) -> None:
    """Send what was offered meanwhile; returns without another turn of the loop after the last one."""
    while connection.ending is None and not replay.is_round_owed:
        await connection.wait_for_room()
        held = replay.take_held()
        _report_passed(connection, session, replay)
        if held is None:
            return
        connection.send_full(session, held, is_measured=True)


async def _load_page(connection: "Connection", session: Session, replay: Replay) -> Missed:
    """Load the next page. Raises `CallFailed`, `DeviceLost`."""
    replay.begin_round()
    backend, limit = connection.core.backend, connection.core.limits.replay_page
    work = backend.load_missed(
        connection.user_id, session.device_id, replay.position, limit, is_open_only=replay.is_open_only
    )
    return await _call_backend(connection, work, "Hello")


async def _count_behind(connection: "Connection", session: Session, replay: Replay, missed: Missed) -> int:
    if not missed.has_more:
        return 0
    work = connection.core.backend.count_missed(
        connection.user_id, session.device_id, missed.cursor, is_open_only=replay.is_open_only
    )
    return await _call_backend(connection, work, "Hello")


def _choose_fresh(
    connection: "Connection", session: Session, replay: Replay, missed: Missed
) -> "Sequence[EncodedNotification]":
    history = replay.choose_fresh(missed.notifications, missed.cursor, has_more=missed.has_more)
    _report_passed(connection, session, replay)
    return history


def _report_passed(connection: "Connection", session: Session, replay: Replay) -> None:
    if passed := replay.take_passed():
        connection.report_cut(session.device_id, passed, HISTORY_PASSED)


def _end_lost(connection: "Connection", lost: DeviceLost) -> None:
    """End a connection whose device was revoked between its Hello and its seat, or during its replay."""
    connection.end(endings.make_revocation(lost.text, allow_reconnect=lost.may_return))


async def _call_backend(connection: "Connection", work: Awaitable[T], method: str) -> T:
    """Await the layers above, within the deadline. Raises `CallFailed` with a text for the client, `DeviceLost`."""
    try:
        async with asyncio.timeout(connection.core.limits.backend_deadline_s):
            return await work
    except HelloRefused as refused:
        raise CallFailed(refused.text) from None
    except DeviceLost:
        raise
    except TimeoutError:
        logger.warning("hub_backend_too_slow", extra={"method": method})
        raise CallFailed(_TOO_SLOW) from None
    except CarillonError as refusal:
        raise CallFailed(refusal.detail) from None
    except Exception:
        logger.exception("hub_call_failed", extra={"method": method})
        raise CallFailed(f"An unexpected error occurred invoking '{method}' on the server.") from None


_METHODS: Final = {HELLO: _say_hello, ACKNOWLEDGE: _acknowledge}
