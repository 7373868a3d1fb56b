"""Tries of mails: what is due for mailboxes is looked at in one job (`storage.mail_claims`); what it claims is sent.

A digest is one try with many deliveries: they share its outcome, its next try and its Message-ID.
"""

import logging
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Final, Protocol
from uuid import UUID

from appliance.channels.contract import Channel, ChannelName, Push
from appliance.channels.registry import ChannelSet
from appliance.delivery.lanes import Lane
from appliance.delivery.letters import make_mail
from appliance.delivery.unsubscribing import UnsubscribeLinks
from appliance.domain.breaker import Trial
from appliance.domain.clock import Clock
from appliance.domain.device import AddressKind
from appliance.domain.errors import CarillonError
from appliance.domain.ladder import event_of
from appliance.domain.outcome import Accepted, Misconfigured, Outcome, Retry, kind_of, reason_of
from appliance.domain.retry import MISCONFIGURED_PAUSE, next_try_at
from appliance.storage.database import Database
from appliance.storage.deliveries import AttemptRow, Move, move_job
from appliance.storage.letters import LetterRow, load_letter
from appliance.storage.mail_claims import (
    ClaimedMail,
    MailClaims,
    claim_mails_job,
    load_due_mails,
    put_mails_off_job,
)

logger = logging.getLogger(__name__)

PAGE: Final = 200
MOST_MOVES: Final = 500
"""Deliveries that one transaction settles. A crash between two makes the rest of a digest be sent again as itself."""


class Flights(Protocol):
    """What mails need of the tries of all channels."""

    @property
    def free(self) -> int: ...

    def launch(
        self, key: UUID, delivery_ids: Sequence[UUID], lease_until: datetime, work: Coroutine[None, None, None]
    ) -> None: ...

    async def ask(self, channel: Channel, push: Push, key: UUID) -> Outcome: ...

    def landed(self, key: UUID) -> None: ...


class MailTries:
    """Sends what is mailed, within the slots and the breaker of the mail server's lane."""

    def __init__(
        self,
        database: Database,
        channels: ChannelSet,
        lane_of: Callable[[Channel], Lane],
        flights: Flights,
        clock: Clock,
        random: Random,
        links: UnsubscribeLinks | None,
    ) -> None:
        self._database = database
        self._channels = channels
        self._lane_of = lane_of
        self._flights = flights
        self._clock = clock
        self._random = random
        self._links = links

    async def start(self, now: datetime, lease: timedelta, timeout_s: float) -> int:
        """Look at what is due for mailboxes and begin what may begin; gives how many deliveries and mails moved."""
        due = await load_due_mails(self._database, now, PAGE)
        if not due:
            return 0
        channel = self._channels.channel_for(AddressKind.MAILBOX)
        if channel is None:
            return await self._database.write(put_mails_off_job(due))
        lane = self._lane_of(channel)
        trials = self._begin(lane, min(len(due), self._flights.free))
        if not trials:
            return 0
        claims = MailClaims()
        lease_until = now + lease
        try:
            job = claim_mails_job(due, now, lease_until, room=len(trials), channel=ChannelName.EMAIL)
            claims = await self._database.write(job)
            for claimed in claims.claimed:
                work = self._try(claimed, lease_until, lane, trials.pop(0), timeout_s)
                self._flights.launch(claimed.id, claimed.delivery_ids, lease_until, work)
        finally:
            for trial in trials:
                lane.abandon(trial)
        return claims.moved + len(claims.claimed)

    def _begin(self, lane: Lane, most: int) -> list[Trial]:
        now_mono, trials = self._clock.monotonic(), list[Trial]()
        while len(trials) < most and lane.may_begin(now_mono):
            trials.append(lane.begin(now_mono))
        return trials

    async def _try(
        self, claimed: ClaimedMail, lease_until: datetime, lane: Lane, trial: Trial, timeout_s: float
    ) -> None:
        started_at, started_mono = self._clock.now(), self._clock.monotonic()
        outcome: Outcome | None = None
        try:
            row = await load_letter(self._database, claimed)
            if row is not None:
                push = make_mail(claimed, row, self._links, timeout_s=timeout_s)
                outcome = await self._flights.ask(lane.channel, push, claimed.id)
                await self._record(row, lease_until, outcome, started_at, self._clock.monotonic() - started_mono)
        except CarillonError as refusal:
            # The outcome could not be kept: the lease runs out and the try is repeated under the same Message-ID.
            logger.error("mail_not_recorded", extra={"mail": str(claimed.id), "code": refusal.code})
        except Exception:
            logger.exception("mail_failed", extra={"mail": str(claimed.id)})
        finally:
            if outcome is None:
                lane.abandon(trial)
            else:
                ended_mono = self._clock.monotonic()
                lane.end(trial, outcome, ended_mono, took_s=ended_mono - started_mono)
            self._flights.landed(claimed.id)

    async def _record(
        self, row: LetterRow, lease_until: datetime, outcome: Outcome, started_at: datetime, took_s: float
    ) -> None:
        now = self._clock.now()
        attempt = AttemptRow(
            channel=ChannelName.EMAIL,
            started_at=started_at,
            latency_ms=round(took_s * 1000),
            outcome=kind_of(outcome),
            code=outcome.code,
            reason=_reason(outcome, len(row.deliveries)),
        )
        due_at = self._next_try_at(row, outcome, now)
        moves = [
            Move(
                one.id,
                event_of(outcome),
                attempt,
                due_at=None if due_at is None else min(due_at, one.expires_at),
                provider_id=getattr(outcome, "provider_id", None),
                lease_until=lease_until,
            )
            for one in row.deliveries
        ]
        for start in range(0, len(moves), MOST_MOVES):
            await self._database.write(move_job(moves[start : start + MOST_MOVES], now))

    def _next_try_at(self, row: LetterRow, outcome: Outcome, now: datetime) -> datetime | None:
        match outcome:
            case Retry(after=after):
                pause = after
            case Misconfigured():
                pause = MISCONFIGURED_PAUSE
            case _:
                return None
        return next_try_at(
            attempts=max(one.attempts for one in row.deliveries),
            accepted_at=row.deliveries[0].released_at,
            expires_at=max(one.expires_at for one in row.deliveries),
            now=now,
            random=self._random,
            retry_after=pause,
        )


def _reason(outcome: Outcome, count: int) -> str:
    if not isinstance(outcome, Accepted):
        return reason_of(outcome)
    return "The mail server accepted it." if count == 1 else f"The mail server accepted it, in one e-mail of {count}."
