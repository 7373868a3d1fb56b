"""Accepting a send: check, one committed transaction, then the engine is woken. The reply never waits for delivery."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from appliance.domain.clock import Clock
from appliance.domain.errors import InvalidField, InvalidTargets, Unavailable
from appliance.domain.notification import MAX_SCHEDULE_AHEAD
from appliance.storage.database import Database
from appliance.storage.sending import (
    Accepted,
    IdempotencyKey,
    Plan,
    Released,
    Target,
    Withdrawn,
    accept_job,
    withdraw_job,
)

SendRequest = Target
SendReply = Accepted
Withdrawal = Withdrawn

HUB_FIRST = timedelta(seconds=10)
"""How long the hub goes first at most; the engine shortens it as soon as it knows better."""

MAX_HANDED_OVER = 20_000


class Engine(Protocol):
    """What accepting needs of the engine."""

    @property
    def plan(self) -> Plan: ...

    @property
    def handed_over(self) -> int: ...

    def hand_over(self, released: Sequence[Released]) -> None: ...

    def wake(self) -> None: ...

    def forget(self, notification_id: UUID) -> None: ...


class Acceptor:
    """Accepts sends and withdrawals."""

    def __init__(self, database: Database, engine: Engine, clock: Clock) -> None:
        self._database = database
        self._engine = engine
        self._clock = clock

    async def accept(
        self,
        app_id: UUID,
        requests: Sequence[SendRequest],
        *,
        field: str,
        idempotency_key: str | None = None,
        fingerprint: bytes | None = None,
    ) -> SendReply:
        """Keep the whole send or refuse it whole; what is accepted survives a crash of the program and the machine.

        `field` names the request's part that holds the targets, for error texts. Raises `PushDisabled`, `NotEnrolled`,
        `InvalidTargets`, `InvalidField`, `QuotaExceeded`, `IdempotencyMismatch`, `Unavailable`, `OutOfSpace`.
        """
        if self._engine.handed_over > MAX_HANDED_OVER:
            # Load is shed before the work: what is accepted must be delivered.
            raise Unavailable("Too many notifications wait to be delivered; nothing was accepted.", retry_after_s=2)
        now = self._clock.now()
        _check_schedule(requests, field, now)
        idempotency = IdempotencyKey(idempotency_key, fingerprint or b"") if idempotency_key is not None else None
        job = accept_job(app_id, requests, field=field, idempotency=idempotency, now=now, plan=self._engine.plan)
        return await self._database.write(job, self._hand_over)

    def _hand_over(self, accepted: SendReply) -> None:
        # Called in the order of the commits, so the engine gets a user's notifications in the order of their sequence
        # numbers; and called even when the caller has gone away meanwhile, since what is committed must be delivered.
        if accepted.released:
            self._engine.hand_over(accepted.released)
        if len(accepted.released) < len(accepted.notification_ids) and not accepted.repeated:
            self._engine.wake()

    async def withdraw(self, app_id: UUID, notification_id: UUID) -> Withdrawal:
        """Stop what has not been shown; tells what it came too late for. Raises `NotFound`."""
        job = withdraw_job(app_id, notification_id, self._clock.now())
        return await self._database.write(job, lambda _: self._engine.forget(notification_id))


def check_no_duplicates(user_ids: Sequence[UUID], field: str) -> None:
    """Refuse a bulk send that names a user twice. Raises `InvalidTargets` with the indexes of the repetitions."""
    first: dict[UUID, int] = {}
    repeated = [index for index, user_id in enumerate(user_ids) if first.setdefault(user_id, index) != index]
    if repeated:
        raise InvalidTargets(
            f"Name each user once in {field}; the listed indexes repeat one.", indexes=repeated, field=field
        )


def _check_schedule(requests: Sequence[SendRequest], field: str, now: datetime) -> None:
    latest = now + MAX_SCHEDULE_AHEAD
    for index, request in enumerate(requests):
        if request.send_at is not None and request.send_at > latest:
            path = f"{field}[{index}].send_at" if field == "notifications" else "send_at"
            raise InvalidField(path, f"Give {path} at most {MAX_SCHEDULE_AHEAD.days} days ahead.")
