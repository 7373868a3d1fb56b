"""Remote tries: claim, let the channel deliver, record the outcome. The claim is committed before the call."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Final
from uuid import UUID

from appliance.channels.contract import Channel, Push
from appliance.channels.registry import ChannelSet
from appliance.delivery.envelope import make_envelope
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

OpenAddress = Callable[[bytes], Secret]


class RemoteTries:
    """Runs tries on the channels, each bounded by its channel's slots."""

    def __init__(
        self, database: Database, channels: ChannelSet, open_address: OpenAddress, clock: Clock, random: Random
    ) -> None:
        self._database = database
        self._channels = channels
        self._open_address = open_address
        self._clock = clock
        self._random = random
        self._in_flight: dict[UUID, tuple[Channel, asyncio.Task[None]]] = {}
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
        return list(self._in_flight)

    def busy_kinds(self) -> frozenset[AddressKind]:
        """Give the kinds of address whose channel has no free slot."""
        return frozenset(
            kind
            for kind in self._channels.remote_kinds
            if (c := self._channels.channel_for(kind)) and not self._free(c)
        )

    async def start(self, due: Sequence[Due], now: datetime) -> int:
        """Claim and begin as many tries as there are free slots; gives how many began."""
        if self._group is None:
            return 0
        chosen: list[tuple[Due, Channel]] = []
        taken: dict[int, int] = {}
        for delivery in due:
            channel = self._channels.channel_for(delivery.address_kind)
            # A clock that jumped may show a lease as run out that this very process still holds.
            if channel is None or delivery.id in self._in_flight:
                continue
            if taken.get(channel.name, 0) >= self._free(channel):
                continue
            taken[channel.name] = taken.get(channel.name, 0) + 1
            chosen.append((delivery, channel))
        if not chosen:
            return 0
        claimed = set(await self._database.write(claim_job([delivery.id for delivery, _ in chosen], now + LEASE)))
        for delivery, channel in chosen:
            if delivery.id in claimed:
                task = self._group.create_task(self._try(delivery, channel))
                self._in_flight[delivery.id] = (channel, task)
        return len(claimed)

    async def hand_back(self) -> None:
        """Stop what is in flight and give the claims back, so that the next start takes them up at once."""
        held = dict(self._in_flight)
        for _, task in held.values():
            task.cancel()
        if held:
            await asyncio.wait([task for _, task in held.values()])
            await self._database.write(hand_back_job(list(held), self._clock.now()))

    def _free(self, channel: Channel) -> int:
        used = sum(1 for other, _ in self._in_flight.values() if other is channel)
        return max(0, channel.slots - used)

    async def _try(self, due: Due, channel: Channel) -> None:
        started_at, started_mono = self._clock.now(), self._clock.monotonic()
        try:
            outcome = await self._deliver(due, channel)
            await self._record(due, channel, outcome, started_at, self._clock.monotonic() - started_mono)
        except CarillonError as refusal:
            # The outcome could not be kept: the lease runs out and the try is repeated under the same id.
            logger.error("attempt_not_recorded", extra={"delivery": str(due.id), "code": refusal.code})
        except Exception:
            logger.exception("attempt_failed", extra={"delivery": str(due.id)})
        finally:
            self._in_flight.pop(due.id, None)
            self._on_free()

    async def _deliver(self, due: Due, channel: Channel) -> Outcome:
        try:
            address = self._open_address(due.address_sealed)
        except SealError:
            return Misconfigured(
                "The stored address cannot be opened: SECRET_KEY is not the one it was sealed with.", code="sealed"
            )
        push = Push(
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
        try:
            async with asyncio.timeout(TRY_TIMEOUT_S + 1):
                return await channel.deliver(push)
        except TimeoutError:
            return Retry("The provider did not answer in time.", code="timeout")
        except Exception:
            logger.exception("channel_failed", extra={"channel": channel.name.name.lower(), "delivery": str(due.id)})
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
