"""Remote tries: claim, let the channel deliver, record the outcome. The claim is committed before the call.

What may not begin because its lane is full or closed is either not read at all (where a channel has one lane), or put
off by a moved `due_at`, so that it does not stand in the way of what other lanes could take: the more waits for a lane,
the longer.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil
from random import Random
from typing import Final
from uuid import UUID

from appliance.channels.contract import Channel, Push
from appliance.channels.registry import ChannelSet
from appliance.delivery.envelope import make_envelope
from appliance.delivery.lanes import Lane, LaneReport, Lanes
from appliance.delivery.mail_tries import MailTries
from appliance.delivery.strangers import Strangers
from appliance.delivery.unsubscribing import UnsubscribeLinks
from appliance.domain.breaker import Trial
from appliance.domain.clock import Clock
from appliance.domain.device import AddressKind
from appliance.domain.errors import CarillonError
from appliance.domain.ladder import event_of
from appliance.domain.outcome import Gone, Misconfigured, Outcome, Retry, kind_of, reason_of
from appliance.domain.retry import MISCONFIGURED_PAUSE, next_try_at
from appliance.domain.secret import Secret
from appliance.security.sealing import SealError
from appliance.storage.database import Database
from appliance.storage.deliveries import (
    AttemptRow,
    Busy,
    Due,
    Move,
    claim_job,
    hand_back_job,
    move_job,
    retire_device_job,
)
from appliance.storage.put_off import load_waiting, put_off_job
from appliance.storage.writer import Transaction

logger = logging.getLogger(__name__)

TRY_TIMEOUT_S: Final = 20.0
LEASE: Final = timedelta(seconds=60)
"""Longer than a try can take, so that only a dead process loses its lease."""

MOST_AT_ONCE: Final = 512
"""Most tries of all lanes at once."""
MANY_HELD_UP: Final = 50
"""From so many of one page on, and more than half of it, what else waits for these devices is put off with them."""
MOST_PUT_OFF: Final = 5_000
"""Most of that in one transaction."""
BATCH_S: Final = 0.5
"""What waits for a slow lane comes back at instants so far apart, all at once: each look costs, whatever it finds."""
ONLY_LANE: Final = "only"

OpenAddress = Callable[[bytes], Secret]


@dataclass(frozen=True, slots=True, eq=False)
class _Try:
    """A delivery that is about to be tried; `push` is None where its address cannot be opened."""

    due: Due
    push: Push | None
    lane: Lane
    trial: Trial


@dataclass(frozen=True, slots=True)
class _Flight:
    """What is under way, and the deliveries that it will settle: one, or all of a digest."""

    task: asyncio.Task[None]
    delivery_ids: Sequence[UUID]
    lease_until: datetime


class RemoteTries:
    """Runs tries on the channels, each bounded by its lane's slots and held back by its lane's breaker."""

    def __init__(
        self,
        database: Database,
        channels: ChannelSet,
        open_address: OpenAddress,
        clock: Clock,
        random: Random,
        links: UnsubscribeLinks | None = None,
    ) -> None:
        self._database = database
        self._channels = channels
        self._open_address = open_address
        self._clock = clock
        self._random = random
        self._lanes = Lanes(random)
        channels.watch(self._lanes.forget)
        self._strangers = Strangers()
        self._in_flight: dict[UUID, _Flight] = {}
        self._mails = MailTries(database, channels, self._only_lane_of, self, clock, random, links)
        self._group: asyncio.TaskGroup | None = None
        self._on_free: Callable[[], None] = lambda: None
        self._on_retired: Callable[[UUID], None] = lambda device_id: None

    def use(self, group: asyncio.TaskGroup, *, on_free: Callable[[], None], on_retired: Callable[[UUID], None]) -> None:
        """Run tries as tasks of this group; tell `on_free` when one has ended, and which device was retired by one."""
        self._group = group
        self._on_free = on_free
        self._on_retired = on_retired

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    @property
    def held(self) -> list[UUID]:
        """The deliveries that this process has in hand right now, whatever the wall clock says of their leases."""
        return [delivery_id for flight in self._in_flight.values() for delivery_id in flight.delivery_ids]

    @property
    def free(self) -> int:
        """How many more tries of all lanes may begin."""
        return MOST_AT_ONCE - len(self._in_flight)

    def report_lanes(self) -> Sequence[LaneReport]:
        """Give the lanes that are in use or not well, for console and metrics."""
        return self._lanes.report(self._clock.monotonic())

    def busy(self) -> list[Busy]:
        """Tell of what nothing could begin now, so that it need not be read."""
        places = self._channels.own_places
        kinds = self._channels.remote_kinds | {kind for _, kind in places}
        if len(self._in_flight) >= MOST_AT_ONCE:
            return [Busy(kind) for kind in kinds]
        now = self._clock.monotonic()
        busy: list[Busy] = []
        for kind in kinds:
            own = {app_id: self._is_busy(kind, app_id, now) for app_id, of_kind in places if of_kind is kind}
            if self._is_busy(kind, None, now):
                busy.append(Busy(kind, tuple(app_id for app_id, is_busy in own.items() if not is_busy)))
            elif any(own.values()):
                apps = tuple(app_id for app_id, is_busy in own.items() if is_busy)
                busy.append(Busy(kind, apps, is_all_but=False))
        return busy

    def _is_busy(self, kind: AddressKind, app_id: UUID | None, now: float) -> bool:
        channel = self._channels.channel_for(kind, app_id)
        if channel is None:
            return False
        if not channel.has_one_lane:
            return self._strangers.are_many
        return not self._lanes.of(channel, ONLY_LANE, now).may_begin(now)

    async def start(self, due: Sequence[Due], now: datetime) -> int:
        """Claim and begin what may begin, put the rest off until its lane may be free; gives how many of both."""
        if self._group is None:
            return 0
        waiting: dict[_Try, None] = {}
        held_up: list[tuple[Due, Lane]] = []
        try:
            self._choose(due, waiting, held_up)
            return await self._claim(waiting, await self._put_off(held_up, len(due), now), now)
        finally:
            # Whatever came in between: what has not been launched holds no slot.
            for one in waiting:
                self._release(one)

    def _choose(self, due: Sequence[Due], chosen: dict[_Try, None], held_up: list[tuple[Due, Lane]]) -> None:
        """Take a slot for what may begin, and gather what its lane holds up."""
        now_mono = self._clock.monotonic()
        for delivery in due:
            channel = self._channels.channel_for(delivery.address_kind, delivery.app_id)
            # A clock that jumped may show a lease as run out that this very process still holds.
            if channel is None or delivery.id in self._in_flight:
                continue
            push = self._make_push(delivery)
            lane = self._lanes.of(channel, _lane_name(channel, push), now_mono)
            has_room = len(self._in_flight) + len(chosen) < MOST_AT_ONCE
            if channel.has_one_lane:
                if has_room and lane.may_begin(now_mono):
                    chosen[_Try(delivery, push, lane, lane.begin(now_mono))] = None
            elif has_room and lane.may_begin(now_mono) and self._strangers.may_begin(delivery.user_id):
                self._strangers.begin(delivery.user_id)
                chosen[_Try(delivery, push, lane, lane.begin(now_mono))] = None
            else:
                held_up.append((delivery, lane))

    async def _claim(self, waiting: dict[_Try, None], put_off: Sequence[tuple[UUID, datetime]], now: datetime) -> int:
        if not waiting and not put_off:
            return 0
        lease_until = now + LEASE
        claim = claim_job([one.due.id for one in waiting], lease_until) if waiting else None
        put = put_off_job(put_off) if put_off else None

        def job(transaction: Transaction) -> list[UUID]:
            if put is not None:
                put(transaction)
            return claim(transaction) if claim is not None else []

        claimed = set(await self._database.write(job))
        for one in list(waiting):
            if one.due.id in claimed:
                del waiting[one]
                self.launch(one.due.id, (one.due.id,), lease_until, self._try(one, lease_until))
        return len(put_off) + len(claimed)

    async def _put_off(
        self, held_up: Sequence[tuple[Due, Lane]], looked_at: int, now: datetime
    ) -> list[tuple[UUID, datetime]]:
        """Give when to look again at what is held up, and at what else waits for the same devices if that is much."""
        now_mono = self._clock.monotonic()

        def free_again_at(lane: Lane, expires_at: datetime) -> datetime:
            at = now + timedelta(seconds=lane.free_again_in(now_mono, self._random))
            return min(expires_at, _in_batch(at) if lane.is_slow(now_mono) else at)

        put_off = [(due.id, free_again_at(lane, due.expires_at)) for due, lane in held_up]
        if len(held_up) >= MANY_HELD_UP and len(held_up) * 2 > looked_at:
            lanes = {due.device_id: lane for due, lane in held_up}
            known = {due.id for due, _ in held_up} | self._in_flight.keys()
            for one in await load_waiting(self._database, list(lanes), now, MOST_PUT_OFF):
                if one.id not in known:
                    put_off.append((one.id, free_again_at(lanes[one.device_id], one.expires_at)))
        return put_off

    def _release(self, one: _Try, outcome: Outcome | None = None, took_s: float = 0.0) -> None:
        """Give the slot of a try back, with what it came to; None says nothing of the lane."""
        if not one.lane.channel.has_one_lane:
            self._strangers.end(one.due.user_id)
        if outcome is None:
            one.lane.abandon(one.trial)
        else:
            one.lane.end(one.trial, outcome, self._clock.monotonic(), took_s=took_s)

    async def start_mails(self, now: datetime) -> int:
        """Look at what is due for mailboxes; gives how much of it moved or began."""
        return 0 if self._group is None else await self._mails.start(now, LEASE, TRY_TIMEOUT_S)

    def launch(
        self, key: UUID, delivery_ids: Sequence[UUID], lease_until: datetime, work: Coroutine[None, None, None]
    ) -> None:
        """Run a try of deliveries claimed until then as a task of the group; it must end with `landed`."""
        if self._group is None:
            raise RuntimeError("There is no group to run tries in.")
        self._in_flight[key] = _Flight(self._group.create_task(work), delivery_ids, lease_until)

    def landed(self, key: UUID) -> None:
        """A try has ended."""
        self._in_flight.pop(key, None)
        self._on_free()

    def _only_lane_of(self, channel: Channel) -> Lane:
        return self._lanes.of(channel, ONLY_LANE, self._clock.monotonic())

    async def hand_back(self) -> None:
        """Stop what is in flight and give the claims back, so that the next start takes them up at once."""
        claims: dict[datetime, list[UUID]] = {}
        for flight in self._in_flight.values():
            claims.setdefault(flight.lease_until, []).extend(flight.delivery_ids)
        tasks = [flight.task for flight in self._in_flight.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
            await self._database.write(hand_back_job(claims, self._clock.now()))

    async def _try(self, one: _Try, lease_until: datetime) -> None:
        started_at, started_mono = self._clock.now(), self._clock.monotonic()
        outcome: Outcome | None = None
        try:
            outcome = await self._deliver(one)
            took_s = self._clock.monotonic() - started_mono
            await self._record(one, lease_until, outcome, started_at, took_s)
        except CarillonError as refusal:
            # The outcome could not be kept: the lease runs out and the try is repeated under the same id.
            logger.error("attempt_not_recorded", extra={"delivery": str(one.due.id), "code": refusal.code})
        except Exception:
            logger.exception("attempt_failed", extra={"delivery": str(one.due.id)})
        finally:
            self._release(one, outcome, self._clock.monotonic() - started_mono)
            self.landed(one.due.id)

    def _make_push(self, due: Due) -> Push | None:
        try:
            address = self._open_address(due.address_sealed)
        except SealError:
            return None
        return Push(
            envelope=make_envelope(
                id=due.notification_id,
                app_id=due.app_id,
                user_id=due.user_id,
                content=due.content,
                sequence=due.sequence,
                released_at=due.released_at,
                expires_at=due.expires_at,
            ),
            app_id=due.app_id,
            device_id=due.device_id,
            platform=due.platform,
            address=address,
            timeout_s=TRY_TIMEOUT_S,
            registered_at=due.registered_at,
        )

    async def _deliver(self, one: _Try) -> Outcome:
        if one.push is None:
            return Misconfigured(
                "The stored address cannot be opened: SECRET_KEY is not the one it was sealed with.",
                code="sealed",
                is_about_device=True,
                was_asked=False,
            )
        return await self.ask(one.lane.channel, one.push, one.due.id)

    async def ask(self, channel: Channel, push: Push, key: UUID) -> Outcome:
        """Let the channel deliver; whatever it does, there is an outcome within a second of its deadline."""
        try:
            async with asyncio.timeout(push.timeout_s + 1):
                return await channel.deliver(push)
        except TimeoutError:
            return Retry("The provider did not answer in time.", code="timeout")
        except Exception:
            fact = {"channel": channel.name.name.lower(), "delivery": str(key)}
            logger.exception("channel_failed", extra=fact)
            return Retry("An unexpected error occurred while sending; it is logged.", code="internal_error")

    async def _record(
        self, one: _Try, lease_until: datetime, outcome: Outcome, started_at: datetime, took_s: float
    ) -> None:
        due, now = one.due, self._clock.now()
        attempt = AttemptRow(
            channel=one.lane.channel.name,
            started_at=started_at,
            latency_ms=round(took_s * 1000),
            outcome=kind_of(outcome),
            code=outcome.code,
            reason=reason_of(outcome),
        )
        move = Move(
            due.id,
            event_of(outcome),
            attempt,
            due_at=self._next_try_at(due, outcome, now),
            provider_id=getattr(outcome, "provider_id", None),
            lease_until=lease_until,
        )
        settle = move_job([move], now)
        if not isinstance(outcome, Gone):
            await self._database.write(settle)
            return
        retire = retire_device_job(due.device_id, outcome.evidence, now)

        def job(transaction: Transaction) -> None:
            settle(transaction)
            retire(transaction)

        await self._database.write(job)
        self._on_retired(due.device_id)

    def _next_try_at(self, due: Due, outcome: Outcome, now: datetime) -> datetime | None:
        match outcome:
            case Retry(after=after):
                pause = after
            case Misconfigured():
                pause = MISCONFIGURED_PAUSE
            case _:
                return None
        return next_try_at(
            attempts=due.attempts + 1,
            accepted_at=due.released_at,
            expires_at=due.expires_at,
            now=now,
            random=self._random,
            retry_after=pause,
        )


def _lane_name(channel: Channel, push: Push | None) -> str:
    if push is None or channel.has_one_lane:
        return ONLY_LANE
    try:
        return channel.lane_of(push)
    except Exception:
        # One address that the channel cannot read must not keep the others from being looked at.
        logger.exception("address_unreadable", extra={"device": str(push.device_id)})
        return ONLY_LANE


def _in_batch(at: datetime) -> datetime:
    return datetime.fromtimestamp(ceil(at.timestamp() / BATCH_S) * BATCH_S, UTC)
