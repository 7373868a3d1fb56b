"""Several nodes, one hub: a notification that this node accepts reaches the sessions that other nodes have.

Theory of operation
-------------------
Every node tells all others of every notification that it releases, and asks by it which of the devices have a session
there; it waits for the answers a short while before the next layer is on. A node that has such a session offers the
notification to it and answers *taken*: the one that asked opens the ordinary acknowledgement window, and hears when the
device has acknowledged, or when the offer was cut or the connection lost. What is durable is written by whoever knows
it first: the node where the device is writes the acknowledgement. If that node dies, the window passes.

Nothing rests on the bus. What it loses is found again: a frame to all carries a number, so whoever missed one knows,
and lets its sessions load what lies between from the database (`hub.resync`); so does a node that was cut off, and
everybody when a node falls silent, since what it had accepted last may not have been told. An answer that is lost only
lets a window pass, and the guards of the ladder see to it that what was acknowledged is not pushed.

A device has one session, the newest (`hub.seats`): nodes tell each other of every seat.

There is no leader, and no state but who was heard of last. With nobody to hear, everything is as on a single node, and
every few seconds the database is asked for what others accepted.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final
from uuid import UUID, uuid4

from appliance.delivery import nodes_messages as said
from appliance.delivery.nodes_clocks import MOST_S, ClockDifferences
from appliance.delivery.nodes_contract import Asking, Bus, LocalHub
from appliance.delivery.nodes_peers import SILENT_AFTER_S, Heard, Peers
from appliance.delivery.nodes_queue import FrameQueue, Outgoing
from appliance.delivery.nodes_taken import TakenOffers
from appliance.domain.clock import Clock
from appliance.hub.hub import Offered
from appliance.hub.messages import EncodedNotification

logger = logging.getLogger(__name__)

ASK_S: Final = 0.5
"""How long other nodes are waited for before the next layer is on."""
BEAT_S: Final = 1.0
LOOK_EVERY_S: Final = 10.0
"""A node that cannot hear the others looks so often into the database for what they accepted."""
RESYNC_SPREAD_S: Final = 1.0
"""Nodes that lost the same thing do not ask the database in the same moment."""
PAUSE_AFTER_FAULT_S: Final = 2.0
STEP_DEADLINE_S: Final = 60.0
MOST_WITHDRAWN: Final = 10_000
"""Withdrawals remembered, for offers that come after them from elsewhere; the oldest is forgotten first."""
SEATS_AT_ONCE: Final = 500


@dataclass(slots=True)
class NodesCounters:
    """Counts since the start; they only grow."""

    frames_sent: int = 0
    frames_heard: int = 0
    frames_unreadable: int = 0
    gaps: int = 0
    resyncs: int = 0


class Nodes:
    """This node among others. Everything runs on one event loop; nothing but `run` waits for anything.

    `follow_revocations` reads from the database what was revoked.
    """

    def __init__(
        self, bus: Bus, hub: LocalHub, clock: Clock, follow_revocations: Callable[[], Awaitable[object]], random: Random
    ) -> None:
        self.id = uuid4()
        self.counters = NodesCounters()
        self._bus = bus
        self._hub = hub
        self._clock = clock
        self._follow_revocations = follow_revocations
        self._random = random
        self._engine: Asking | None = None
        self._queue = FrameQueue(self.id)
        self._peers = Peers()
        self._clocks = ClockDifferences()
        self._taken = TakenOffers()
        self._withdrawn: OrderedDict[UUID, None] = OrderedDict()
        self._is_open = False
        self._is_up = False
        self._are_seats_due = False
        self._own_number = 0
        self._heard_self_at = 0.0
        self._looked_at = clock.monotonic()
        self._resync_wanted = asyncio.Event()
        self._revoked = asyncio.Event()
        self._stopping = asyncio.Event()

    def attach(self, engine: Asking) -> None:
        """Tell answers to this engine. Call once, before `run`."""
        self._engine = engine

    @property
    def is_up(self) -> bool:
        """Whether this node hears what it says itself: only then do others."""
        return self._is_up

    @property
    def others(self) -> int:
        """How many other nodes are alive, as far as is known here."""
        return len(self._peers)

    @property
    def dropped(self) -> int:
        """How many messages were never sent."""
        return self._queue.dropped

    def describe(self) -> str:
        """Say in plain words how this node stands with the others."""
        if not self._is_up:
            return (
                "Redis does not answer. What one node accepts reaches devices on another by the next layer, or some "
                "seconds later."
            )
        text = f"Redis answers; other nodes alive: {len(self._peers)}."
        if self.clock_difference_s > MOST_S:
            text += f" Their clocks differ by {self.clock_difference_s:.0f} s: let all machines follow a time server."
        return text

    @property
    def clock_difference_s(self) -> float:
        """How far the clock of another node is off from this one's, at most."""
        return self._clocks.largest_s

    # What the engine and the API ask.

    def ask(self, notification: EncodedNotification, device_ids: Sequence[UUID]) -> float:
        """Offer it on all other nodes; gives for how many seconds answers may come, 0 when there is nobody to answer.

        All devices are named, also those that were offered it here: a device may just have gone elsewhere, and the
        others must know that this number was for it.
        """
        self._say(said.make_offer(notification.envelope, device_ids))
        return ASK_S if self._is_up and self._peers else 0.0

    def forget(self, notification_id: UUID) -> None:
        """It was withdrawn: no other node offers it any more."""
        self._note_withdrawn(notification_id)
        self._say(said.Withdrawn(notification_id))

    def is_connected(self, device_id: UUID) -> bool:
        """Tell whether the device has a session on this node."""
        return self._hub.is_connected(device_id)

    def close_device(self, device_id: UUID, reason: str, *, allow_reconnect: bool = False) -> None:
        """End the device's session, wherever it is; `reason` is shown to the client."""
        self._hub.close_device(device_id, reason, allow_reconnect=allow_reconnect)
        self._say(said.CloseDevice(device_id, reason, allow_reconnect))

    # What identity tells: here its watchers have been told already, elsewhere it is to be looked up.

    def close_user(self, user_id: UUID, reason: str) -> None:
        """Let the other nodes look up at once what was revoked."""
        self._say(said.Revoked())

    def close_app(self, app_id: UUID, reason: str) -> None:
        """Let the other nodes look up at once what was revoked."""
        self._say(said.Revoked())

    def close_token(self, token_id: str, reason: str) -> None:
        """Let the other nodes look up at once what was revoked."""
        self._say(said.Revoked())

    # What the hub tells of sessions here: whoever waits for their answers hears it.

    def acknowledged(self, device_id: UUID, notification_id: UUID) -> None:
        """The device has answered; that is being written."""
        node = self._taken.take(device_id, notification_id)
        if node is not None:
            self._say(said.Acknowledged(device_id, notification_id), node)

    def disconnected(self, device_id: UUID, reason: str) -> None:
        """The device's session is over: what it had not answered goes to the next layer."""
        self._say_cut(device_id, self._taken.take_device(device_id), "connection_lost", reason)

    def cut(self, device_id: UUID, notification_ids: Sequence[UUID], reason: str) -> None:
        """These offers were never written: they go to the next layer."""
        self._say_cut(device_id, self._taken.take_several(device_id, notification_ids), reason, reason)

    def seated(self, device_id: UUID, seat_stamp: int) -> None:
        """The device speaks here now: its older session on another node ends."""
        self._say(said.Seated([(device_id, seat_stamp)]))

    # What the bus asks.

    def take(self) -> Outgoing | None:
        """Give the next frame that is to leave."""
        outgoing = self._queue.take(self._now_ms())
        self.counters.frames_sent += outgoing is not None
        return outgoing

    def opened(self) -> None:
        """The bus has a connection; it counts when a frame of our own has come back over it."""
        self._is_open = True
        self._heard_self_at = self._clock.monotonic()
        self.beat()

    def closed(self, reason: str) -> None:
        """The bus has no connection: from now on this node is on its own."""
        if self._is_up:
            logger.warning("nodes_cut_off", extra={"reason": reason})
        self._is_open = self._is_up = False
        self._queue.clear()
        self._clocks.clear()
        for node in self._peers.drop_silent(float("inf")):
            logger.debug("node_out_of_reach", extra={"node": str(node)})

    def hear(self, data: bytes) -> None:
        """Take a frame, of whatever sender."""
        try:
            frame = said.decode_frame(data)
        except said.Unreadable:
            self.counters.frames_unreadable += 1
            return
        if frame.node == self.id:
            self._hear_self(frame.number)
            return
        self.counters.frames_heard += 1
        if frame.number and not self._is_news(frame):
            return
        for message in frame.messages:
            try:
                self._obey(frame.node, message)
            except said.Unreadable:
                self.counters.frames_unreadable += 1
            except Exception:
                logger.exception("node_message_failed", extra={"kind": type(message).__name__})

    # Time.

    def beat(self) -> None:
        """Say that this node lives, and look who does not. To be called every second."""
        now = self._clock.monotonic()
        for node in self._peers.drop_silent(now):
            # What it accepted in its last moment was perhaps not told.
            logger.warning("node_silent", extra={"node": str(node)})
            self._clocks.forget(node)
            self.want_resync()
        if not self._is_up and now - self._looked_at >= LOOK_EVERY_S:
            self.want_resync()
        if not self._is_open:
            return
        if now - self._heard_self_at > SILENT_AFTER_S:
            self._bus.reopen()
        if self._is_up and self._are_seats_due:
            self._are_seats_due = False
            self._say_seats()
        self._queue.put_beat()
        self._bus.wake()

    async def run(self) -> None:
        """Run until `stop`; every task ends with it."""
        async with asyncio.TaskGroup() as group:
            bus = group.create_task(self._bus.run(self), name="nodes-bus")
            others = [
                group.create_task(self._beat_for_ever(), name="nodes-beat"),
                group.create_task(self._repeat(self._resync_wanted, self.resync, RESYNC_SPREAD_S), name="nodes-resync"),
                group.create_task(self._repeat(self._revoked, self._follow_revocations, 0.0), name="nodes-revocations"),
            ]
            await self._stopping.wait()
            if self._engine is None or not self._engine.handed_over:
                # It stands behind all that waits to be said: whoever hears it has heard the rest. A node that could not
                # tell everything leaves without it, and the others look up what they may have missed.
                self._say(said.Leaving())
            self._bus.stop()
            for task in others:
                task.cancel()
            await bus

    def stop(self) -> None:
        """Say goodbye and end `run`. To be called when the engine has ended, which has its last words to say."""
        self._stopping.set()

    def want_resync(self) -> None:
        """Let the sessions here catch up soon."""
        self._looked_at = self._clock.monotonic()
        self._resync_wanted.set()

    async def resync(self) -> None:
        """Let the sessions here catch up now with what was accepted elsewhere and not heard."""
        self.counters.resyncs += 1
        caught_up = await self._hub.resync()
        logger.info("nodes_resynced", extra={"sessions": caught_up})

    async def _beat_for_ever(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            try:
                self.beat()
            except Exception:
                logger.exception("nodes_beat_failed")

    async def _repeat(self, wanted: asyncio.Event, step: Callable[[], Awaitable[object]], spread_s: float) -> None:
        while True:
            await wanted.wait()
            await asyncio.sleep(self._random.uniform(0.0, spread_s))
            wanted.clear()
            try:
                async with asyncio.timeout(STEP_DEADLINE_S):
                    await step()
            except Exception as error:
                logger.warning("nodes_step_failed", extra={"reason": type(error).__name__})
                wanted.set()
                await asyncio.sleep(PAUSE_AFTER_FAULT_S)

    # Speaking and hearing.

    def _say(self, message: said.Message, to: UUID | None = None) -> None:
        if not self._is_open:
            self._queue.skip(to)
            return
        self._queue.put(message, to)
        self._bus.wake()

    def _say_cut(self, device_id: UUID, by_node: Mapping[UUID, list[UUID]], code: str, why: str) -> None:
        for node, notification_ids in by_node.items():
            self._say(said.Cut(device_id, notification_ids, code, why), node)

    def _say_seats(self) -> None:
        seats = self._hub.list_seats()
        for start in range(0, len(seats), SEATS_AT_ONCE):
            self._say(said.Seated(seats[start : start + SEATS_AT_ONCE]))

    def _hear_self(self, number: int) -> None:
        self._heard_self_at = self._clock.monotonic()
        if not self._is_up:
            self._is_up = True
            logger.info("nodes_connected", extra={"node": str(self.id)})
            self._miss()
        elif number > self._own_number + 1:
            # Our own connection had a hole, or we dropped something: if it was a hole, others were not heard either.
            self._miss()
        self._own_number = number

    def _is_news(self, frame: said.Frame) -> bool:
        known = len(self._peers)
        heard = self._peers.hear(frame.node, frame.number, self._clock.monotonic())
        if len(self._peers) > known:
            logger.info("node_joined", extra={"node": str(frame.node)})
            # It may have been here before, and may not know who sits here.
            self._are_seats_due = True
        if frame.said_at_ms and heard is not Heard.REPEATED:
            self._compare_clocks(frame)
        if heard is Heard.BEHIND_A_GAP:
            self.counters.gaps += 1
            self._miss()
        return heard is not Heard.REPEATED

    def _compare_clocks(self, frame: said.Frame) -> None:
        difference_s = self._clocks.hear(frame.node, (self._now_ms() - frame.said_at_ms) / 1000)
        if difference_s is not None:
            fact = {"node": str(frame.node), "behind_s": round(difference_s, 1)}
            logger.warning("node_clock_differs", extra=fact)

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)

    def _miss(self) -> None:
        """Something may have been said that was not heard here: notifications, seats, revocations."""
        self.want_resync()
        self._are_seats_due = True
        self._revoked.set()

    def _obey(self, node: UUID, message: said.AnyMessage) -> None:
        match message:
            case said.Offer():
                self._offer(node, message)
            case said.Seated(seats):
                self._compare_seats(node, seats)
            case said.CloseDevice(device_id, reason, allow_reconnect):
                self._hub.close_device(device_id, reason, allow_reconnect=allow_reconnect)
            case said.Revoked():
                self._revoked.set()
            case said.Leaving():
                logger.info("node_left", extra={"node": str(node)})
                self._peers.leave(node)
                self._clocks.forget(node)
            case _:
                self._tell_engine(node, message)

    def _tell_engine(self, node: UUID, message: said.AnyMessage) -> None:
        if self._engine is None:
            return
        match message:
            case said.Taken(device_id, notification_id, acknowledges, deadline_s):
                self._engine.taken(node, device_id, notification_id, Offered(acknowledges, deadline_s))
            case said.Acknowledged(device_id, notification_id):
                self._engine.acknowledged(device_id, notification_id)
            case said.Cut(device_id, notification_ids, code, why):
                self._engine.lost_elsewhere(node, device_id, notification_ids, code=code, why=why)
            case said.Withdrawn(notification_id):
                self._note_withdrawn(notification_id)
                self._engine.forget_here(notification_id)

    def _offer(self, node: UUID, offer: said.Offer) -> None:
        if offer.id in self._withdrawn:
            return
        notification = EncodedNotification(offer.envelope())
        self._hub.offer_plain(offer.user_id, notification)
        now = self._clock.monotonic()
        for device_id, taken in self._hub.offer(notification, offer.device_ids).items():
            self._taken.add(device_id, offer.id, node, now)
            self._say(said.Taken(device_id, offer.id, taken.acknowledges, taken.deadline_s), node)

    def _compare_seats(self, node: UUID, seats: Sequence[tuple[UUID, int]]) -> None:
        newer = [
            (device_id, ours)
            for device_id, stamp in seats
            if (ours := self._hub.give_way(device_id, stamp)) is not None and ours > stamp
        ]
        if newer:
            self._say(said.Seated(newer), node)

    def _note_withdrawn(self, notification_id: UUID) -> None:
        self._withdrawn[notification_id] = None
        if len(self._withdrawn) > MOST_WITHDRAWN:
            self._withdrawn.popitem(last=False)
