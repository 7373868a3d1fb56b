"""One client connection, from the moment it is let in to its end, whatever carries it.

A transport feeds `receive` with what arrives, and closes when `ending` is set; it lends the connection a `Pipe` to
write to. Handshake, dialects, timeouts and the slow-reader rule are the same on every transport; what a client may call
is in `hub.calls`.

With stateful reconnect (see `hub.resume`) a connection may outlive its socket. While its client is away it stays what
it is to everybody else: present, seated, offered notifications, ended by whatever ends a connection. `lose_socket`
lends it a pipe that leads nowhere, `resume` the pipe of the next socket.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from uuid import UUID

from appliance.domain.principal import Principal
from appliance.hub import calls, endings, offering, reading
from appliance.hub.core import HubCore
from appliance.hub.encoding import Frame
from appliance.hub.endings import Ending
from appliance.hub.handshake import AwaitingHandshake, HandshakeRefused
from appliance.hub.messages import Dialect, EncodedNotification
from appliance.hub.negotiate import SERVER_SENT_EVENTS, TransportOffer
from appliance.hub.origin import NOWHERE, Origin
from appliance.hub.outbox import Outbox, WriteFuture
from appliance.hub.pipe import Pipe
from appliance.hub.protocol import AckDue, ClientTimedOut, LiveProtocol, PingDue, ProtocolTimes
from appliance.hub.resumable_outbox import ResumableOutbox
from appliance.hub.session import Session

logger = logging.getLogger(__name__)


class Connection:
    """A connection that was let in for a user; it counts from the moment it is made until `finish`.

    Whoever lends it the pipe that it has at its end must see to it that `finish` is awaited.
    """

    __slots__ = (
        "_abandoned",
        "_acknowledging",
        "_away_since",
        "_handshake",
        "_last_session",
        "_live",
        "_outbox",
        "_pipe",
        "_read_pipe",
        "_reading_turn",
        "_replaying",
        "_resumable",
        "_resumed_until",
        "_sockets",
        "_tasks",
        "core",
        "ending",
        "number",
        "opened_at",
        "origin",
        "principal",
        "session",
        "transport",
        "user_id",
        "wake_at",
    )

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
        is_stateful: bool = False,
    ) -> None:
        """`times` are the transport's own; None for those of the limits. `is_stateful` grants stateful reconnect."""
        self.wake_at: float | None = None
        self.ending: Ending | None = None
        self.core = core
        self.principal = principal
        self.user_id = user_id
        self.origin = origin
        self.number = core.take_number()
        self.opened_at = core.clock.monotonic()
        self.transport = transport
        self.session: Session | None = None
        self._acknowledging: calls.Slots | None = None
        self._last_session: Session | None = None
        self._pipe = pipe
        self._outbox: Outbox | ResumableOutbox = self._make_outbox(pipe.start_write)
        self._handshake: AwaitingHandshake | None = AwaitingHandshake(
            core.encodings,
            times or core.limits.protocol,
            core.clock.monotonic(),
            transfer_formats=transport.transfer_formats,
            is_stateful=is_stateful,
        )
        self._live: LiveProtocol | None = None
        self._resumable: ResumableOutbox | None = None
        self._reading_turn = asyncio.Lock() if is_stateful else None
        self._read_pipe: Pipe | None = None
        self._away_since: float | None = None
        self._abandoned: Pipe | None = None
        self._resumed_until = 0.0
        self._sockets = 1
        self._replaying: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] | None = None
        core.presence.add(self, user_id, principal.token_id, origin.site)
        core.begin_handshake(origin.site)
        core.deadlines.wake(self, self._handshake.next_deadline)

    # What the hub asks.

    @property
    def encoding(self) -> str | None:
        """The hub protocol that the client speaks, None before its handshake."""
        return None if self._live is None else self._live.encoding.name

    @property
    def is_away(self) -> bool:
        """Whether the client lost its socket and may come back with another one."""
        return self._away_since is not None

    @property
    def last_heard_at(self) -> float:
        """When (monotonic seconds) the client was heard last; the beginning while it has said nothing whole."""
        return self.opened_at if self._live is None else self._live.last_heard_at

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait behind the write in flight."""
        return self._outbox.queued_bytes

    def offer(self, device_id: UUID, notification: EncodedNotification) -> None:
        """Send to the session, or hold back behind its replay; what cannot be taken is reported as cut."""
        offering.offer(self, device_id, notification)

    def offer_plain(self, notification: EncodedNotification) -> None:
        """Send in the plain dialect, unless the client has said Hello meanwhile or is gone."""
        if self.ending is None and self.session is None and self._live is not None:
            self.push(notification.frame(Dialect.PLAIN, self._live.encoding))

    def end(self, ending: Ending) -> None:
        """End the connection; the first call decides how. From now on nothing is offered to it."""
        if self.ending is not None:
            return
        if self._away_since is not None:
            # There is nobody to say goodbye to.
            ending = replace(ending, is_abrupt=True)
        self.ending = ending
        self._leave(ending)
        session = self._last_session
        if ending.drops_queue and session is not None:
            self.report_cut(session.device_id, self._outbox.drop_queue(), ending.reason)
        if self._live is not None and not ending.is_abrupt:
            goodbye = self._live.encoding.encode_close(ending.error, allow_reconnect=ending.allow_reconnect)
            if not self._outbox.push_unnumbered(goodbye):
                self.ending = replace(ending, is_abrupt=True)
        if self.ending.is_abrupt:
            self._close_outbox()
        if ending.reason == endings.SLOW_READER.reason:
            logger.info("hub_slow_reader_cut", extra={"user_id": str(self.user_id)})
        self._pipe.interrupt()

    # What the transport asks.

    async def receive(self, data: str | bytes, pipe: Pipe | None = None) -> None:
        """Take what arrived; a transport that awaits this reads no faster than the client is served.

        What came by another `pipe` than the connection has now is not read: its client is going to send it again.
        """
        if self._reading_turn is None:
            await self._receive(data, self._pipe)
            return
        # What the socket before brought is served to its end: it was counted, and is not going to come again.
        async with self._reading_turn:
            if pipe is None or pipe is self._pipe:
                await self._receive(data, self._pipe)

    async def _receive(self, data: str | bytes, pipe: Pipe) -> None:
        if self.ending is not None:
            return
        self._read_pipe = pipe
        try:
            if self._handshake is not None:
                self._shake_hands(self._handshake, data)
                data = b""
            if self._live is not None and self.ending is None:
                await reading.read(self, self._live, data, pipe)
        finally:
            self._read_pipe = None

    def is_carried_by(self, pipe: Pipe) -> bool:
        """Tell whether this pipe is the one that the connection has."""
        return self._pipe is pipe

    def lose_socket(self, absence: Pipe) -> bool:
        """The socket is lost without a goodbye: wait for the client on `absence`; False where that was not agreed."""
        if self._resumable is None or self.ending is not None:
            return False
        now = self.core.clock.monotonic()
        self._resumable.lose_socket()
        self._pipe = absence
        self._away_since = now
        if self.session is not None:
            self.session.forget_round_trips()
        self.core.deadlines.wake(self, now + self.core.limits.disconnect_timeout_s)
        return True

    @property
    def is_resumable(self) -> bool:
        """Whether another socket may carry the connection on."""
        return self._resumable is not None and self.ending is None

    def take_socket(self) -> bool:
        """Count a socket that is about to go on with the connection; False where too many did, or still end.

        `leave_socket` follows when it has ended. Each repeats all that was not acknowledged.
        """
        limits = self.core.limits
        now = self.core.clock.monotonic()
        resumed_until = max(self._resumed_until, now) + 1 / limits.resumes_per_s
        if self._sockets > limits.sockets_left or resumed_until - now > limits.resumes_at_once / limits.resumes_per_s:
            return False
        self._resumed_until = resumed_until
        self._sockets += 1
        return True

    def leave_socket(self, pipe: Pipe | None = None) -> None:
        """A socket that carried the connection, or was about to, has ended."""
        self._sockets -= 1
        if self._abandoned is pipe:
            self._abandoned = None

    def was_abandoned(self, pipe: Pipe) -> bool:
        """Tell whether this pipe was replaced in the middle of a write: its client may never read again."""
        return self._abandoned is pipe

    def resume(self, pipe: Pipe, principal: Principal) -> bool:
        """Go on over another socket of the client; False when that is not possible (any more).

        Nothing is written to the socket before any more, whether it is known to be lost or not.
        """
        if self._resumable is None or self._live is None or self.ending is not None:
            return False
        now = self.core.clock.monotonic()
        older, self._pipe = self._pipe, pipe
        if self._away_since is None and self._outbox.stuck_since() is not None:
            self._abandoned = older
        if self._away_since is None and self._read_pipe is not older:
            older.interrupt()
        self._away_since = None
        if self.session is not None:
            self.session.forget_round_trips()
        self._live.begin_socket(now)
        self._resumable.begin_socket(pipe.start_write, self._live.encoding.encode_sequence)
        self.core.counters.resumed += 1
        self.renew(principal)
        self._schedule()
        return True

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
        self._close_outbox()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    # What `hub.calls` asks.

    @property
    def acknowledging(self) -> calls.Slots:
        """The acknowledgements that wait for the disk."""
        if self._acknowledging is None:
            self._acknowledging = calls.Slots(self.core.limits.acknowledgements_in_flight)
        return self._acknowledging

    def answer(self, invocation_id: str | None, result: object) -> None:
        """Answer a call, if its caller wants an answer."""
        if invocation_id is not None and self._live is not None and self.ending is None:
            self.push(self._live.encoding.encode_result(invocation_id, result))

    def answer_error(self, invocation_id: str | None, error: str) -> None:
        """Answer a call that failed, if its caller wants an answer."""
        if invocation_id is not None and self._live is not None and self.ending is None:
            self.push(self._live.encoding.encode_error(invocation_id, error))

    async def wait_for_room(self) -> None:
        """Wait until the client is there and has read so far that half of its outbox is free, or until it is gone."""
        await self._outbox.wait_until_below(self.core.limits.outbox_bytes // 2)

    def push(self, frame: Frame, notification_id: UUID | None = None) -> bool:
        """Send after all earlier frames; a connection whose outbox is full is cut, and False given."""
        if self._outbox.push(frame, notification_id):
            return True
        if self.ending is None:
            is_stuck = self._resumable is None or self._outbox.stuck_since() is not None
            self.end(endings.SLOW_READER if is_stuck else endings.NOT_ACKNOWLEDGED)
        return False

    def acknowledge_sent(self, sequence_id: int) -> None:
        """The client has every numbered message up to this one."""
        if self._resumable is not None:
            self._resumable.acknowledge(sequence_id)

    def send_full(self, session: Session, notification: EncodedNotification, *, is_measured: bool) -> None:
        """Send a notification to the session; measured offers teach it its acknowledgement window."""
        if self._live is None:
            return
        if is_measured and self._away_since is None:
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
        self.core.counters.count_cut(reason, len(notification_ids))
        self.core.notices.offer_cut(device_id, notification_ids, reason)

    def spawn(self, work: Coroutine[None, None, None], *, is_replay: bool = False) -> None:
        """Run a task that the connection owns: `finish` awaits it, and a replay is cancelled by the end."""
        if self._tasks is None:
            self._tasks = set()
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if is_replay:
            self._replaying = task

    # Time.

    def pass_time(self, now: float) -> float | None:
        """Do what is due: refuse a late handshake, cut who does not read, end an expired token, acknowledge, ping."""
        if self.ending is not None:
            return None
        if self._handshake is not None:
            return self._pass_handshake_time(self._handshake, now)
        token_left_s = (self.principal.expires_at - self.core.clock.now()).total_seconds()
        ending, cut_at = self._find_end_of_patience()
        if token_left_s > 0 and now < cut_at:
            due_at = cut_at if self._away_since is not None else self._pass_protocol_time(now)
            return None if due_at is None else min(due_at, cut_at, now + token_left_s)
        self.end(ending if now >= cut_at else endings.TOKEN_EXPIRED)
        return None

    def _pass_handshake_time(self, handshake: AwaitingHandshake, now: float) -> float | None:
        refused = handshake.pass_time(now)
        if refused is None:
            return handshake.next_deadline
        if self.transport is SERVER_SENT_EVENTS and not handshake.has_begun:
            self.end(endings.STREAM_UNHEARD)
            return None
        self._outbox.push(refused.answer)
        self.end(endings.HANDSHAKE_TIMED_OUT)
        return None

    def _pass_protocol_time(self, now: float) -> float | None:
        live = self._live
        if live is None:
            return None
        live.note_sent(self._outbox.last_write_at)
        if self._read_pipe is not None:
            live.note_busy(now)
        match live.pass_time(now):
            case PingDue():
                self._push_unnumbered(live.encoding.ping)
                live.note_sent(now)
            case AckDue(sequence_id):
                self._push_unnumbered(live.encoding.encode_ack(sequence_id))
            case ClientTimedOut():
                self.end(endings.CLIENT_TIMED_OUT)
            case None:
                pass
        return None if self.ending is not None else live.next_deadline

    def _find_end_of_patience(self) -> tuple[Ending, float]:
        """Give the moment (monotonic seconds) at which the client has kept the hub waiting too long, and the ending."""
        limits = self.core.limits
        if self._away_since is not None:
            return endings.SOCKET_LOST, self._away_since + limits.disconnect_timeout_s
        stuck_since = self._outbox.stuck_since() if self._pipe.is_write_bounded else None
        if stuck_since is not None:
            return endings.SLOW_READER, stuck_since + limits.write_deadline_s
        owed_since = None if self._resumable is None else self._resumable.unacknowledged_since
        if owed_since is not None:
            return endings.NOT_ACKNOWLEDGED, owed_since + limits.unacknowledged_deadline_s
        return endings.SLOW_READER, math.inf

    def _push_unnumbered(self, frame: Frame) -> None:
        if not self._outbox.push_unnumbered(frame) and self.ending is None:
            self.end(endings.SLOW_READER)

    def _make_outbox(self, write: Callable[[str | bytes], WriteFuture]) -> Outbox:
        return Outbox(write, self.core.clock, self.core.limits.outbox_bytes, self._watch_write)

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
        self._live = live = outcome.live
        if live.is_stateful and isinstance(self._outbox, Outbox):
            limits = self.core.limits
            self._outbox = self._resumable = ResumableOutbox(
                self._outbox, self._make_outbox, self.core.clock, limits.unacknowledged_bytes
            )
        self.go_plain()
        self._schedule()

    def _schedule(self) -> None:
        again_at = self.pass_time(self.core.clock.monotonic())
        if again_at is not None:
            self.core.deadlines.wake(self, again_at)

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

    def _close_outbox(self) -> None:
        ending = self.ending or endings.SOCKET_LOST
        # Nobody else's goodbye says that what was written before it has arrived.
        is_lost = ending.is_abrupt or ending.reason != endings.CLIENT_CLOSED.reason
        unwritten = self._outbox.close(is_lost=is_lost)
        if self._last_session is not None:
            self.report_cut(self._last_session.device_id, unwritten, ending.reason)
