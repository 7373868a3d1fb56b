"""Remote tries: claim, let the channel deliver, record the outcome. The claim is committed before the call.

What may not begin because its lane is full or closed is either not read at all (where a channel has one lane), or put
off by a moved `due_at`, so that it does not stand in the way of what other lanes could take.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Final
from uuid import UUID

from appliance.channels.contract import Channel, Push
from appliance.channels.registry import ChannelSet
from appliance.delivery.envelope import make_envelope
from appliance.delivery.lanes import Lane, LaneReport, Lanes
from appliance.delivery.mail_tries import MailTries
from appliance.delivery.unsubscribing import UnsubscribeLinks
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
    Due,
    Move,
    claim_job,
    hand_back_job,
    move_job,
    retire_device_job,
)
from appliance.storage.writer import Transaction

logger = logging.getLogger(__name__)

TRY_TIMEOUT_S: Final = 20.0
LEASE: Final = timedelta(seconds=60)
"""Longer than a try can take, so that only a dead process loses its lease."""

MOST_AT_ONCE: Final = 512
"""Most tries of all lanes at once."""
SHORTEST_PUT_OFF_S: Final = 0.25
ONLY_LANE: Final = "only"

OpenAddress = Callable[[bytes], Secret]


@dataclass(frozen=True, slots=True, eq=False)
class _Try:
    """A delivery that is about to be tried; `push` is None where its address cannot be opened."""

    due: Due
    push: Push | None
    lane: Lane


@dataclass(frozen=True, slots=True)
class _Flight:
    """What is under way, and the deliveries that it will settle: one, or all of a digest."""

    task: asyncio.Task[None]
    delivery_ids: Sequence[UUID]


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

    def busy_kinds(self) -> frozenset[AddressKind]:
        """Give the kinds of address for which nothing could begin now, so that they need not be read."""
        if len(self._in_flight) >= MOST_AT_ONCE:
            return self._channels.remote_kinds
        now = self._clock.monotonic()
        return frozenset(kind for kind in self._channels.remote_kinds if self._is_busy(kind, now))

    def _is_busy(self, kind: AddressKind, now: float) -> bool:
        channel = self._channels.channel_for(kind)
        return channel is not None and channel.has_one_lane and not self._lanes.of(channel, ONLY_LANE).may_begin(now)

    async def start(self, due: Sequence[Due], now: datetime) -> int:
        """Claim and begin what may begin, put the rest off until its lane may be free; gives how many of both."""
        if self._group is None:
            return 0
        chosen: list[_Try] = []
        put_off: list[Move] = []
        now_mono = self._clock.monotonic()
        for delivery in due:
            channel = self._channels.channel_for(delivery.address_kind)
            # A clock that jumped may show a lease as run out that this very process still holds.
            if channel is None or delivery.id in self._in_flight:
                continue
            push = self._make_push(delivery)
            lane = self._lanes.of(channel, ONLY_LANE if push is None or channel.has_one_lane else channel.lane_of(push))
            if len(self._in_flight) + len(chosen) < MOST_AT_ONCE and lane.may_begin(now_mono):
                lane.begin(now_mono)
                chosen.append(_Try(delivery, push, lane))
            elif not channel.has_one_lane:
                put_off.append(Move(delivery.id, None, due_at=self._free_again_at(lane, delivery, now, now_mono)))
        if put_off:
            await self._database.write(move_job(put_off, now))
        return len(put_off) + await self._begin(chosen, now)

    async def _begin(self, chosen: Sequence[_Try], now: datetime) -> int:
        if not chosen or self._group is None:
            return 0
        waiting = dict.fromkeys(chosen)
        try:
            claimed = set(await self._database.write(claim_job([one.due.id for one in chosen], now + LEASE)))
            for one in chosen:
                if one.due.id in claimed:
                    del waiting[one]
                    self.launch(one.due.id, (one.due.id,), self._try(one))
        finally:
            for one in waiting:
                one.lane.abandon()
        return len(claimed)

    async def start_mails(self, now: datetime) -> int:
        """Look at what is due for mailboxes; gives how much of it moved or began."""
        return 0 if self._group is None else await self._mails.start(now, LEASE, TRY_TIMEOUT_S)

    def launch(self, key: UUID, delivery_ids: Sequence[UUID], work: Coroutine[None, None, None]) -> None:
        """Run a try of claimed deliveries as a task of the group; it must end with `landed`."""
        if self._group is None:
            raise RuntimeError("There is no group to run tries in.")
        self._in_flight[key] = _Flight(self._group.create_task(work), delivery_ids)

    def landed(self, key: UUID) -> None:
        """A try has ended."""
        self._in_flight.pop(key, None)
        self._on_free()

    def _only_lane_of(self, channel: Channel) -> Lane:
        return self._lanes.of(channel, ONLY_LANE)

    def _free_again_at(self, lane: Lane, due: Due, now: datetime, now_mono: float) -> datetime:
        rests_s = max(SHORTEST_PUT_OFF_S, (lane.breaker.open_until or now_mono) - now_mono)
        # Spread out: what waits for one lane must not come back in one instant.
        return min(due.expires_at, now + timedelta(seconds=rests_s * (1 + self._random.random())))

    async def hand_back(self) -> None:
        """Stop what is in flight and give the claims back, so that the next start takes them up at once."""
        held, tasks = self.held, [flight.task for flight in self._in_flight.values()]
        for task in tasks:
            task.cancel()
        if held:
            await asyncio.wait(tasks)
            await self._database.write(hand_back_job(held, self._clock.now()))

    async def _try(self, one: _Try) -> None:
        started_at, started_mono = self._clock.now(), self._clock.monotonic()
        outcome: Outcome | None = None
        try:
            outcome = await self._deliver(one)
            await self._record(one.due, one.lane.channel, outcome, started_at, self._clock.monotonic() - started_mono)
        except CarillonError as refusal:
            # The outcome could not be kept: the lease runs out and the try is repeated under the same id.
            logger.error("attempt_not_recorded", extra={"delivery": str(one.due.id), "code": refusal.code})
        except Exception:
            logger.exception("attempt_failed", extra={"delivery": str(one.due.id)})
        finally:
            if outcome is None or one.push is None:
                # Nothing was asked of the provider, so nothing is known of it.
                one.lane.abandon()
            else:
                one.lane.end(outcome, self._clock.monotonic())
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
                "The stored address cannot be opened: SECRET_KEY is not the one it was sealed with.", code="sealed"
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

    async def _record(self, due: Due, channel: Channel, outcome: Outcome, started_at: datetime, took_s: float) -> None:
        now = self._clock.now()
        attempt = AttemptRow(
            channel=channel.name,
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
