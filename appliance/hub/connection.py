"""One client connection, from the moment it is let in to its end, whatever carries it.

A transport feeds `receive` with what arrives, and closes when `ending` is set; it lends the connection a `Pipe` to
write to. Handshake, dialects, timeouts and the slow-reader rule are the same on every transport; what a client may call
is in `hub.calls`.
"""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Final, Protocol
from uuid import UUID

from appliance.domain.principal import Principal
from appliance.hub import calls, endings
from appliance.hub.core import HubCore
from appliance.hub.encoding import Frame
from appliance.hub.endings import Ending
from appliance.hub.handshake import AwaitingHandshake, HandshakeRefused
from appliance.hub.messages import Dialect, EncodedNotification
from appliance.hub.negotiate import TransportOffer
from appliance.hub.order import Place, SentOrder
from appliance.hub.origin import NOWHERE, Origin
from appliance.hub.outbox import Outbox, WriteFuture
from appliance.hub.protocol import (
    ClientTimedOut,
    CloseReceived,
    CompletionReceived,
    InvocationReceived,
    LiveEvent,
    LiveProtocol,
    PingDue,
    ProtocolTimes,
    ProtocolViolation,
)
from appliance.hub.replay import HISTORY_PASSED
from appliance.hub.session import Session

logger = logging.getLogger(__name__)

# After so many messages, and after so many bytes of messages that need no answer, others get a turn of the loop.
_TURN: Final = 64
_CHUNK_BYTES: Final = 16_384


class Pipe(Protocol):
    """The way out that a transport lends to its connection."""

    @property
    def is_write_bounded(self) -> bool:
        """Whether a write that takes longer than the write deadline means a reader that does not read.

        False where a write waits for the client's next request, and the transport has a deadline of its own.
        """
        ...

    def start_write(self, payload: str | bytes) -> WriteFuture:
        """Begin to write one frame; never called while an earlier write is unfinished."""
        ...

    def interrupt(self) -> None:
        """Make the transport stop reading, see `Connection.ending` and close."""
        ...


class Connection:
    """A connection that was let in for a user; it counts from the moment it is made until `finish`.

    Whoever makes it must see to it that `finish` is awaited.
    """

    def __init__(
        self,
        core: HubCore,
        principal: Principal,
        user_id: UUID,
        pipe: Pipe,
        transport: TransportOffer,
        origin: Origin = NOWHERE,
        *,
        times: ProtocolTimes | None = None,
    ) -> None:
        """`times` are the transport's own; None for those of the limits."""
        self.wake_at: float | None = None
        self.ending: Ending | None = None
        self.core = core
        self.principal = principal
        self.user_id = user_id
        self.origin = origin
        self.opened_at = core.clock.monotonic()
        self.transport = transport
        self.session: Session | None = None
        self.acknowledging = calls.Slots(core.limits.acknowledgements_in_flight)
        self._last_session: Session | None = None
        self._pipe = pipe
        self._outbox = Outbox(pipe.start_write, core.clock, core.limits.outbox_bytes, self._watch_write)
        self._handshake: AwaitingHandshake | None = AwaitingHandshake(
            core.encodings,
            times or core.limits.protocol,
            core.clock.monotonic(),
            transfer_formats=transport.transfer_formats,
        )
        self._live: LiveProtocol | None = None
        self._is_reading = False
        self._replaying: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        core.presence.add(self, user_id, principal.token_id, origin.site)
        core.begin_handshake(origin.site)
        core.deadlines.wake(self, self._handshake.next_deadline)

    # What the hub asks.

    def offer(self, device_id: UUID, notification: EncodedNotification) -> None:
        """Send to the session, or hold back behind its replay; what cannot be taken is reported as cut."""
        session = self.session
        if session is None:
            self.report_cut(device_id, [notification.id], "disconnected")
        elif session.order is not None:
            self._offer_in_order(session, session.order, notification)
        elif session.replay is None:
            self._offer_live(session, notification)
        elif not session.replay.hold(notification):
            self.report_cut(device_id, [notification.id], "replay_overflow")

    def _offer_live(self, session: Session, notification: EncodedNotification) -> None:
        if not session.is_behind_history(notification.envelope.sequence):
            self.send_full(session, notification, is_measured=True)
        elif not session.was_in_history(notification.id):
            # Sending it now would break the order, on which the client's cursor rests (see hub.replay).
            self.report_cut(session.device_id, [notification.id], HISTORY_PASSED)

    def _offer_in_order(self, session: Session, order: SentOrder, notification: EncodedNotification) -> None:
        sequence = notification.envelope.sequence
        place = order.place(sequence, notification.id)
        if place is Place.PASSED:
            self.report_cut(session.device_id, [notification.id], HISTORY_PASSED)
        if place in (Place.PASSED, Place.SENT):
            return
        if place is Place.GAP and session.replay is None:
            calls.catch_up(self, session)
        if session.replay is None:
            order.note_sent(sequence, notification.id)
            self.send_full(session, notification, is_measured=True)
        elif not session.replay.hold(notification):
            self.report_cut(session.device_id, [notification.id], "replay_overflow")

    def offer_plain(self, notification: EncodedNotification) -> None:
        """Send in the plain dialect, unless the client has said Hello meanwhile or is gone."""
        if self.ending is None and self.session is None and self._live is not None:
            self.push(notification.frame(Dialect.PLAIN, self._live.encoding))

    def end(self, ending: Ending) -> None:
        """End the connection; the first call decides how. From now on nothing is offered to it."""
        if self.ending is not None:
            return
        self.ending = ending
        self._leave(ending)
        session = self._last_session
        if ending.drops_queue and session is not None:
            self.report_cut(session.device_id, self._outbox.drop_queue(), ending.reason)
        if self._live is not None and not ending.is_abrupt:
            goodbye = self._live.encoding.encode_close(ending.error, allow_reconnect=ending.allow_reconnect)
            if not self._outbox.push(goodbye):
                self.ending = replace(ending, is_abrupt=True)
        if self.ending.is_abrupt:
            self._close_outbox(ending.reason)
        if ending is endings.SLOW_READER:
            logger.info("hub_slow_reader_cut", extra={"user_id": str(self.user_id)})
        self._pipe.interrupt()

    # What the transport asks.

    async def receive(self, data: str | bytes) -> None:
        """Take what arrived; a transport that awaits this reads no faster than the client is served."""
        if self.ending is not None:
            return
        self._is_reading = True
        try:
            if self._handshake is not None:
                self._shake_hands(self._handshake, data)
                data = b""
            if self._live is not None and self.ending is None:
                await self._read(self._live, data)
        finally:
            self._is_reading = False

    def renew(self, principal: Principal) -> None:
        """Go on with another token of the same user: it expires and is revoked in place of the one before."""
        if self.ending is not None or principal is self.principal:
            return
        self.core.presence.change_token(self, self.principal.token_id, principal.token_id)
        self.principal = principal
        self._schedule()

    async def wait_until_written(self) -> None:
        """Wait until the goodbye and all before it is written; the caller sets the deadline."""
        await self._outbox.wait_until_written()

    async def finish(self) -> None:
        """Settle what is left when the transport has ended: report what was not written, await what still runs."""
        self.end(endings.SOCKET_LOST)
        self._close_outbox(endings.SOCKET_LOST.reason if self.ending is None else self.ending.reason)
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    # What `hub.calls` asks.

    def answer(self, invocation_id: str | None, result: object) -> None:
        """Answer a call, if its caller wants an answer."""
        if invocation_id is not None and self._live is not None and self.ending is None:
            self.push(self._live.encoding.encode_result(invocation_id, result))

    def answer_error(self, invocation_id: str | None, error: str) -> None:
        """Answer a call that failed, if its caller wants an answer."""
        if invocation_id is not None and self._live is not None and self.ending is None:
            self.push(self._live.encoding.encode_error(invocation_id, error))

    async def wait_for_room(self) -> None:
        """Wait until the client has read so far that half of its outbox is free, or until it is gone."""
        await self._outbox.wait_until_below(self.core.limits.outbox_bytes // 2)

    def push(self, frame: Frame, notification_id: UUID | None = None) -> bool:
        """Send after all earlier frames; a connection whose outbox is full is cut, and False given."""
        if self._outbox.push(frame, notification_id):
            return True
        if self.ending is None:
            self.end(endings.SLOW_READER)
        return False

    def send_full(self, session: Session, notification: EncodedNotification, *, is_measured: bool) -> None:
        """Send a notification to the session; measured offers teach it its acknowledgement window."""
        if self._live is None:
            return
        if is_measured:
            session.note_offered(notification.id, self.core.clock.monotonic())
        if not self.push(notification.frame(session.dialect, self._live.encoding), notification.id):
            self.report_cut(session.device_id, [notification.id], endings.SLOW_READER.reason)

    def seat(self, session: Session) -> None:
        """Let this connection speak for the session's device; an older session of the device ends."""
        self.core.presence.remove_plain(self, self.user_id)
        self.session = self._last_session = session
        if self.core.seats is not None:
            self.core.notices.device_seated(self.user_id, session.device_id, session.seat_stamp)
        older = self.core.presence.seat(self, session.device_id)
        if older is not None:
            older.end(endings.REPLACED)

    def unseat(self, session: Session, reason: str) -> None:
        """Take that back; held offers are reported as cut."""
        self.core.presence.unseat(self, session.device_id)
        self.session = None
        if session.replay is not None:
            self.report_cut(session.device_id, session.replay.abandon(), reason)
        if session.is_announced:
            self.core.notices.device_disconnected(self.user_id, session.device_id, reason)

    def go_plain(self) -> None:
        """Count among the user's plain connections."""
        self.core.presence.add_plain(self, self.user_id)

    def report_cut(self, device_id: UUID, notification_ids: Sequence[UUID], reason: str) -> None:
        """Tell the layers above that these offers were never written."""
        self.core.counters.cut += len(notification_ids)
        self.core.notices.offer_cut(device_id, notification_ids, reason)

    def spawn(self, work: Coroutine[None, None, None], *, is_replay: bool = False) -> None:
        """Run a task that the connection owns: `finish` awaits it, and a replay is cancelled by the end."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if is_replay:
            self._replaying = task

    # Time.

    def pass_time(self, now: float) -> float | None:
        """Do what is due: refuse a late handshake, cut a stuck writer, end an expired token, ping."""
        if self.ending is not None:
            return None
        if self._handshake is not None:
            return self._pass_handshake_time(self._handshake, now)
        stuck_since = self._outbox.stuck_since() if self._pipe.is_write_bounded else None
        stuck_at = None if stuck_since is None else stuck_since + self.core.limits.write_deadline_s
        if stuck_at is not None and now >= stuck_at:
            self.end(endings.SLOW_READER)
            return None
        token_left_s = (self.principal.expires_at - self.core.clock.now()).total_seconds()
        if token_left_s <= 0:
            self.end(endings.TOKEN_EXPIRED)
            return None
        protocol_at = self._pass_protocol_time(now)
        if protocol_at is None:
            return None
        return min(protocol_at, now + token_left_s, protocol_at if stuck_at is None else stuck_at)

    def _pass_handshake_time(self, handshake: AwaitingHandshake, now: float) -> float | None:
        refused = handshake.pass_time(now)
        if refused is None:
            return handshake.next_deadline
        self._outbox.push(refused.answer)
        self.end(endings.HANDSHAKE_TIMED_OUT)
        return None

    def _pass_protocol_time(self, now: float) -> float | None:
        live = self._live
        if live is None:
            return None
        live.note_sent(self._outbox.last_write_at)
        if self._is_reading:
            live.note_busy(now)
        match live.pass_time(now):
            case PingDue():
                self.push(live.encoding.ping)
                live.note_sent(now)
            case ClientTimedOut():
                self.end(endings.CLIENT_TIMED_OUT)
            case None:
                pass
        return None if self.ending is not None else live.next_deadline

    def _watch_write(self) -> None:
        if self._pipe.is_write_bounded:
            self.core.deadlines.wake(self, self._outbox.last_write_at + self.core.limits.write_deadline_s)

    # Reading.

    def _shake_hands(self, handshake: AwaitingHandshake, data: str | bytes) -> None:
        outcome = handshake.receive(data, self.core.clock.monotonic())
        if outcome is None:
            return
        self._outbox.push(outcome.answer)
        if isinstance(outcome, HandshakeRefused):
            self.end(endings.HANDSHAKE_REFUSED)
            return
        self._handshake = None
        self.core.end_handshake(self.origin.site)
        self._live = outcome.live
        self.go_plain()
        self._schedule()

    def _schedule(self) -> None:
        again_at = self.pass_time(self.core.clock.monotonic())
        if again_at is not None:
            self.core.deadlines.wake(self, again_at)

    async def _read(self, live: LiveProtocol, data: str | bytes) -> None:
        received = data.encode() if isinstance(data, str) else data
        for start in range(0, len(received) or 1, _CHUNK_BYTES):
            if start:
                await asyncio.sleep(0)
            events = live.receive(received[start : start + _CHUNK_BYTES], self.core.clock.monotonic())
            for number, event in enumerate(events, start=1):
                await self._handle(event)
                if self.ending is not None:
                    return
                if number % _TURN == 0:
                    await asyncio.sleep(0)
        # The first ping of a client brings its timeout, which may be earlier than what was next.
        self.core.deadlines.wake(self, live.next_deadline)

    async def _handle(self, event: LiveEvent) -> None:
        match event:
            case InvocationReceived():
                await calls.answer_invocation(self, event)
            case CompletionReceived():
                await calls.take_completion(self, event)
            case CloseReceived():
                self.end(endings.CLIENT_CLOSED)
            case ProtocolViolation(reason):
                logger.info("hub_protocol_violation", extra={"user_id": str(self.user_id), "reason": reason})
                self.end(endings.PROTOCOL_VIOLATION)

    # Leaving.

    def _leave(self, ending: Ending) -> None:
        core = self.core
        core.deadlines.forget(self)
        core.presence.remove(self, self.user_id, self.principal.token_id, self.origin.site)
        core.counters.count_ended(ending.reason)
        if self._handshake is not None:
            self._handshake = None
            core.end_handshake(self.origin.site)
        if self._replaying is not None:
            self._replaying.cancel()
        if self.session is not None:
            self.unseat(self.session, ending.reason)

    def _close_outbox(self, reason: str) -> None:
        unwritten = self._outbox.close()
        if self._last_session is not None:
            self.report_cut(self._last_session.device_id, unwritten, reason)
