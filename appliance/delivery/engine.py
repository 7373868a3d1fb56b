"""The engine: runs the ladder for everything that is accepted.

Theory of operation
-------------------
Two ways lead in. *Hand-over*: what was just committed is offered on the hub at once, without reading it back. *Due*:
whatever else needs attention — retries, scheduled sends, expiry, deliveries of a process that died — is found by its
`due_at` in the database. Nothing is known only in memory that the database could not tell again after a crash: an offer
on the hub is not recorded before its answer, because repeating it is harmless (same id, and the client's cursor tells
what it has), while a remote try is always claimed under a lease before it begins.

Where several nodes run, what is offered here is offered there too (`delivery.nodes`). Devices without a session here
get a short window in which a node that has one may say so; then that node's answers count as the hub's own.

One task runs the loop; each remote try is a task of the same group, bounded by its channel's slots. The engine sleeps
until the nearest of: a hand-over, a passed acknowledgement window, a due row, a free slot. However busy it is, it looks
into the database every half minute: another node may have accepted something and died.

A graceful stop offers what was handed over before it ends, so that sessions on other nodes have it at once; nobody
waits for their answers any more, and what is not answered is due in the database for whoever looks.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, Protocol
from uuid import UUID

from appliance.channels.registry import ChannelSet
from appliance.delivery.accept import HUB_FIRST
from appliance.delivery.envelope import make_envelope
from appliance.delivery.hub_attempts import retired_attempt, taken_attempt, unanswered_attempt
from appliance.delivery.remote import RemoteTries
from appliance.delivery.windows import Window, Windows
from appliance.domain.clock import Clock
from appliance.domain.errors import Unavailable
from appliance.domain.ladder import Event
from appliance.hub.hub import Offered
from appliance.hub.messages import EncodedNotification
from appliance.storage.database import Database
from appliance.storage.deliveries import (
    Due,
    Move,
    expire_job,
    lapse_job,
    load_due,
    load_next_due_at,
    move_job,
    recover_job,
)
from appliance.storage.sending import Plan, Released, release_job
from appliance.storage.writer import Job, Transaction

logger = logging.getLogger(__name__)

FAIRNESS: Final = 64
"""Hand-overs after which the loop lets others run."""
MOST_OFFERS_A_STEP: Final = 4_096
"""Hand-overs after which the engine looks at its other duties, however many more there are."""
DUE_PAGE: Final = 200
EXPIRE_PAGE: Final = 2_000
LONGEST_SLEEP_S: Final = 30.0
"""The database is looked at so often at least: clocks jump, and other programs may write."""
PAUSE_AFTER_FAULT_S: Final = 1.0
LAST_OFFERS_S: Final = 2.0
"""How long a stopping engine may take to offer what was handed over."""
TRAVEL_S: Final = 0.25
"""What the window of a session on another node is longer, for the way of the answers."""


class LiveConnections(Protocol):
    """What the engine needs of the hub; neither call ever blocks."""

    def offer(self, notification: EncodedNotification, device_ids: Sequence[UUID]) -> Mapping[UUID, Offered]: ...

    def offer_plain(self, user_id: UUID, notification: EncodedNotification) -> int: ...

    def close_device(self, device_id: UUID, reason: str, *, allow_reconnect: bool = False) -> None: ...


class OtherNodes(Protocol):
    """What the engine needs of the other nodes, where there are any; no call ever blocks."""

    def ask(self, notification: EncodedNotification, device_ids: Sequence[UUID]) -> float: ...

    def forget(self, notification_id: UUID) -> None: ...

    def close_device(self, device_id: UUID, reason: str, *, allow_reconnect: bool = False) -> None: ...


class DeliveryEngine:
    """Runs every delivery from accepted to settled. `run` is the one task; everything else is called on its loop."""

    def __init__(
        self,
        database: Database,
        hub: LiveConnections,
        channels: ChannelSet,
        remote: RemoteTries,
        clock: Clock,
        nodes: OtherNodes | None = None,
    ) -> None:
        self._database = database
        self._hub = hub
        self._channels = channels
        self._remote = remote
        self._clock = clock
        self._nodes = nodes
        self._handed_over: deque[Released] = deque()
        self._windows = Windows()
        self._moves: list[Move] = []
        self._wake = asyncio.Event()
        self._look_at: datetime | None = None
        self._look_now = True
        self._looked_mono = clock.monotonic()
        self._is_stopping = False
        self._is_running = False

    @property
    def is_running(self) -> bool:
        """Whether deliveries are being worked on; readiness needs it."""
        return self._is_running

    @property
    def plan(self) -> Plan:
        """How new deliveries are due, under the channels of this moment."""
        return Plan(self._channels.remote_kinds, HUB_FIRST, self._channels.own_places)

    @property
    def handed_over(self) -> int:
        """How many accepted notifications wait to be offered."""
        return len(self._handed_over)

    @property
    def offers_open(self) -> int:
        """How many offers wait for their acknowledgement."""
        return len(self._windows)

    def is_offered(self, device_id: UUID, notification_id: UUID) -> bool:
        """Tell whether the device has been offered it and may still acknowledge within its window."""
        return self._windows.is_open(device_id, notification_id)

    def hand_over(self, released: Sequence[Released]) -> None:
        """Take what has just been committed; it is offered in this order."""
        self._handed_over.extend(released)
        # They are not read back before they are due: at the latest when they expire, and for mailboxes when planned.
        looks = [one.expires_at for one in released if one.deliveries]
        looks += [one.mail_due_at for one in released if one.mail_due_at is not None]
        if looks and (self._look_at is None or min(looks) < self._look_at):
            self._look_at = min(looks)
        self._wake.set()

    def wake(self) -> None:
        """Look at the database soon: something was written that may be due."""
        self._look_now = True
        self._wake.set()

    def forget(self, notification_id: UUID) -> None:
        """Do not offer a withdrawn notification on any node, and stop waiting for its acknowledgements."""
        self.forget_here(notification_id)
        if self._nodes is not None:
            self._nodes.forget(notification_id)

    def forget_here(self, notification_id: UUID) -> None:
        """Forget what was withdrawn on this node or on another one."""
        if any(released.id == notification_id for released in self._handed_over):
            self._handed_over = deque(one for one in self._handed_over if one.id != notification_id)
        self._windows.close_notification(notification_id)

    def acknowledged(self, device_id: UUID, notification_id: UUID) -> Window | None:
        """The device has answered: its window closes. None when no window was open."""
        return self._windows.close(device_id, notification_id)

    def disconnected(self, device_id: UUID, reason: str) -> None:
        """The device's connection is gone: what it had not answered goes to the next layer."""
        self._pass(self._windows.close_device(device_id), code="connection_lost", why=reason)

    def cut(self, device_id: UUID, notification_ids: Sequence[UUID], reason: str) -> None:
        """These offers were never written to the device's connection: they go to the next layer."""
        self._pass(self._windows.close_held(None, device_id, notification_ids), code=reason, why=reason)

    def taken(self, node: UUID, device_id: UUID, notification_id: UUID, offer: Offered) -> None:
        """Another node has offered it to the device's session there; too late, when the next layer is on already."""
        window = self._windows.find_asking(device_id, notification_id)
        if window is not None:
            self._windows.close(device_id, notification_id)
            deadline = self._clock.monotonic() + offer.deadline_s + TRAVEL_S
            if window.has_remote:
                # Not longer than the hub goes first: then the delivery is due for whichever node looks.
                deadline = min(deadline, window.offered_mono + HUB_FIRST.total_seconds())
            self._offered(
                replace(window, holder=node, is_asking=False, acknowledges=offer.acknowledges, deadline=deadline)
            )
            self._wake.set()

    def lost_elsewhere(
        self, node: UUID, device_id: UUID, notification_ids: Sequence[UUID], *, code: str, why: str
    ) -> None:
        """What another node had taken will not be answered: it goes to the next layer."""
        self._pass(self._windows.close_held(node, device_id, notification_ids), code=code, why=why)

    async def recover(self) -> None:
        """Open again what a process that died had claimed. Call once, before `run`, where this is the only node."""
        opened = await self._database.write(recover_job(self._clock.now()))
        if opened:
            logger.info("deliveries_recovered", extra={"deliveries": opened})

    async def run(self) -> None:
        """Run until `stop`. A fault of the database is logged and waited out; nothing is lost by it."""
        self._is_running = True
        try:
            await self._run()
        finally:
            self._is_running = False

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._remote.use(group, on_free=self.wake, on_retired=self._retired)
            while not self._is_stopping:
                try:
                    await self._step()
                except Unavailable as refusal:
                    logger.warning("engine_waits_for_storage", extra={"code": refusal.code})
                    self._look_now = True
                    await asyncio.sleep(PAUSE_AFTER_FAULT_S)
                except Exception:
                    logger.exception("engine_step_failed")
                    self._look_now = True
                    await asyncio.sleep(PAUSE_AFTER_FAULT_S)
            try:
                await self._offer_the_rest()
                await self._flush()
            finally:
                await self._remote.hand_back()

    async def _offer_the_rest(self) -> None:
        until = self._clock.monotonic() + LAST_OFFERS_S
        while self._handed_over and self._clock.monotonic() < until:
            await self._offer_handed_over()

    def _retired(self, device_id: UUID) -> None:
        # Its live session would be offered nothing any more and not know it; coming back, it is a device again.
        live = self._hub if self._nodes is None else self._nodes
        live.close_device(device_id, "The push address of this device is dead.", allow_reconnect=True)

    def stop(self) -> None:
        """Ask `run` to end: claims are handed back, nothing new begins."""
        self._is_stopping = True
        self._wake.set()

    async def _step(self) -> None:
        self._wake.clear()
        await self._offer_handed_over()
        passed = self._windows.close_passed(self._clock.monotonic())
        self._give_up_asking([window for window in passed if window.is_asking])
        passed = [window for window in passed if not window.is_asking]
        self._pass(
            [window for window in passed if window.acknowledges],
            code="no_acknowledgement",
            why="The device did not acknowledge in time.",
        )
        self._settle_taken([window for window in passed if not window.acknowledges])
        await self._flush()
        if self._is_look_due():
            await self._look()
        if not (self._wake.is_set() or self._handed_over or self._moves):
            await self._sleep()

    def _is_look_due(self) -> bool:
        if self._look_now or self._clock.monotonic() - self._looked_mono >= LONGEST_SLEEP_S:
            return True
        return self._look_at is not None and self._look_at <= self._clock.now()

    async def _sleep(self) -> None:
        wait_s = self._looked_mono + LONGEST_SLEEP_S - self._clock.monotonic()
        if self._look_at is not None:
            wait_s = min(wait_s, (self._look_at - self._clock.now()).total_seconds())
        if (deadline := self._windows.next_deadline) is not None:
            wait_s = min(wait_s, deadline - self._clock.monotonic())
        try:
            await asyncio.wait_for(self._wake.wait(), max(0.0, wait_s))
        except TimeoutError:
            return

    async def _offer_handed_over(self) -> None:
        count = 0
        while self._handed_over:
            self._offer_or_pass(self._handed_over.popleft())
            count += 1
            if count % FAIRNESS == 0:
                await asyncio.sleep(0)
            if count >= MOST_OFFERS_A_STEP:
                return

    def _offer_or_pass(self, released: Released) -> None:
        """Offer one; where that fails it goes to the next layer, and neither waits here nor holds up the others."""
        try:
            self._offer(released)
        except Exception:
            logger.exception("engine_offer_failed", extra={"notification_id": str(released.id)})
            now = self._clock.now()
            for delivery in released.deliveries:
                has_remote = self._channels.channel_for(delivery.address_kind, released.app_id) is not None
                self._not_live(delivery.id, released.expires_at, now, has_remote=has_remote)

    def _offer(self, released: Released) -> None:
        notification = EncodedNotification(
            make_envelope(
                id=released.id,
                app_id=released.app_id,
                user_id=released.user_id,
                content=released.content,
                sequence=released.sequence,
                released_at=released.released_at,
                expires_at=released.expires_at,
            )
        )
        self._hub.offer_plain(released.user_id, notification)
        device_ids = [delivery.device_id for delivery in released.deliveries]
        offered = self._hub.offer(notification, device_ids)
        ask_s = 0.0 if self._nodes is None else self._nodes.ask(notification, device_ids)
        now, now_mono = self._clock.now(), self._clock.monotonic()
        for delivery in released.deliveries:
            has_remote = self._channels.channel_for(delivery.address_kind, released.app_id) is not None
            offer = offered.get(delivery.device_id)
            if offer is None and not ask_s:
                self._not_live(delivery.id, released.expires_at, now, has_remote=has_remote)
                continue
            window = Window(
                delivery_id=delivery.id,
                device_id=delivery.device_id,
                notification_id=released.id,
                offered_at=now,
                offered_mono=now_mono,
                deadline=now_mono + (ask_s if offer is None else offer.deadline_s),
                expires_at=released.expires_at,
                has_remote=has_remote,
                acknowledges=offer is None or offer.acknowledges,
                is_asking=offer is None,
            )
            self._offered(window)

    def _offered(self, window: Window) -> None:
        if window.acknowledges or not window.has_remote:
            self._windows.open(window)
            return
        # It cannot acknowledge: the remote push goes in parallel, under the same id.
        self._moves.append(Move(window.delivery_id, None, taken_attempt(window.offered_at), due_at=self._clock.now()))
        self._look_now = True

    def _not_live(self, delivery_id: UUID, expires_at: datetime, now: datetime, *, has_remote: bool) -> None:
        if expires_at <= now:
            self._moves.append(Move(delivery_id, Event.EXPIRE))
        elif has_remote:
            self._moves.append(Move(delivery_id, None, due_at=now))
            self._look_now = True

    def _give_up_asking(self, windows: Sequence[Window]) -> None:
        """No other node has the device either: the next layer is on."""
        for window in windows:
            self._not_live(window.delivery_id, window.expires_at, self._clock.now(), has_remote=window.has_remote)

    def _settle_taken(self, windows: Sequence[Window]) -> None:
        """Settle what a client without acknowledgements was offered and what was not cut in all that time."""
        for window in windows:
            self._moves.append(Move(window.delivery_id, Event.OFFER))
            self._moves.append(Move(window.delivery_id, Event.PROVIDER_ACCEPTED, taken_attempt(window.offered_at)))

    def _pass(self, windows: Sequence[Window], *, code: str, why: str) -> None:
        """Record that offers were not answered and let the next layer have them, or the device's next connection."""
        if not windows:
            return
        now, now_mono = self._clock.now(), self._clock.monotonic()
        for window in windows:
            attempt = unanswered_attempt(window, now_mono, code=code, why=why)
            if window.expires_at <= now:
                self._moves.append(Move(window.delivery_id, None, attempt, due_at=now))
                self._moves.append(Move(window.delivery_id, Event.EXPIRE))
            else:
                due_at = now if window.has_remote else window.expires_at
                self._moves.append(Move(window.delivery_id, None, attempt, due_at=due_at))
                self._look_now = self._look_now or window.has_remote
        self._wake.set()

    async def _flush(self) -> None:
        if not self._moves:
            return
        moves, self._moves = self._moves, []
        try:
            await self._database.write(move_job(moves, self._clock.now()))
        except Unavailable:
            self._moves[:0] = moves
            raise

    async def _look(self) -> None:
        """Read what is due and act on it; then note when to look again."""
        self._look_now = False
        self._look_at = None
        self._looked_mono = self._clock.monotonic()
        await self._channels.keep_fresh()
        now = self._clock.now()
        released, expired = await self._database.write(self._upkeep_job(now), self._hand_over_released)
        due = await load_due(self._database, now, limit=DUE_PAGE, busy=self._remote.busy())
        started = await self._act_on(due, now)
        mailed = await self._remote.start_mails(now)
        if len(released) == DUE_PAGE or expired == EXPIRE_PAGE or (due and started) or mailed:
            self._look_now = True
            self._wake.set()
        next_at = await load_next_due_at(self._database)
        # A full channel wakes the engine when a slot is free; until then its rows must not spin the loop.
        held_back = next_at is not None and next_at <= now and not self._look_now
        if held_back:
            next_at = now + timedelta(seconds=1)
        # What was handed over during these reads may be earlier, and is not in what they saw.
        self._look_at = min((at for at in (self._look_at, next_at) if at is not None), default=None)

    def _hand_over_released(self, upkeep: tuple[tuple[Released, ...], int]) -> None:
        # As with sends: in the order of the commits, or a send of the same moment would overtake.
        if upkeep[0]:
            self.hand_over(upkeep[0])

    def _upkeep_job(self, now: datetime) -> Job[tuple[tuple[Released, ...], int]]:
        """Release what is scheduled, open lapsed claims, expire: one transaction."""
        release, expire = release_job(now, self.plan, DUE_PAGE), expire_job(now, EXPIRE_PAGE)
        lapse = lapse_job(now, self._remote.held)

        def job(transaction: Transaction) -> tuple[tuple[Released, ...], int]:
            lapse(transaction)
            return release(transaction), expire(transaction)

        return job

    async def _act_on(self, due: Sequence[Due], now: datetime) -> bool:
        moves: list[Move] = []
        tries: list[Due] = []
        for delivery in due:
            if delivery.is_withdrawn:
                moves.append(Move(delivery.id, Event.WITHDRAW))
            elif delivery.device_retired:
                moves.append(Move(delivery.id, Event.PROVIDER_GONE, retired_attempt(now)))
            elif self._channels.channel_for(delivery.address_kind, delivery.app_id) is None:
                moves.append(Move(delivery.id, None, due_at=delivery.expires_at))
            else:
                tries.append(delivery)
        if moves:
            await self._database.write(move_job(moves, now))
        started = await self._remote.start(tries, now)
        return bool(moves) or started > 0
