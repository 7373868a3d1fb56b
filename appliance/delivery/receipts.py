"""Receipts on their way: each is sent to its app's webhook until that answers 2xx, for two days, then kept as dead.

Theory of operation
-------------------
A receipt is written in the transaction that settles its delivery (`storage.receipts.note_settled`), so there is one if
and only if there is something to tell. This task claims what is due under a lease, sends it, and records what came of
it. A crash in between repeats a receipt under the same `webhook-id`: receivers tell repetitions by that.

A webhook that does not answer harms only its own app: one receipt goes first, then at most four are under way, and
after a failure the app rests a while, growing to five minutes, before one receipt tries again. Order is not promised;
`number` counts an app's receipts without a gap.
"""

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Final
from uuid import UUID

import msgspec

from appliance.delivery.app_keys import open_webhook_secret
from appliance.domain.clock import Clock
from appliance.domain.errors import CarillonError
from appliance.domain.receipt import SECRETS_OVERLAP, ReceiptState, next_receipt_try_at
from appliance.domain.retry_after import read_retry_after
from appliance.domain.secret import Secret
from appliance.hub.messages import format_instant
from appliance.security.outbound import OutboundFailed, OutboundRefused, Poster
from appliance.security.sealing import Sealer, SealError
from appliance.security.webhook_signing import sign_webhook
from appliance.storage.database import Database
from appliance.storage.receipts import (
    DueReceipt,
    ReceiptRow,
    Told,
    bury_receipts_job,
    claim_receipts_job,
    hand_back_receipts_job,
    list_apps_due,
    list_due,
    load_claimed,
    load_next_receipt_at,
    told_job,
)

logger = logging.getLogger(__name__)

MOST_AT_ONCE: Final = 256
"""Most receipts under way at once."""
PER_APP: Final = 4
"""Most receipts of one app under way at once, once its webhook has answered; before that it is one."""
BURY_EVERY: Final = timedelta(minutes=1)
BURY_PAGE: Final = 500
BURIAL_GRACE: Final = timedelta(minutes=10)
"""How long after its two days a receipt may still be under way or about to be."""
DEADLINE_S: Final = 15.0
LEASE: Final = timedelta(seconds=60)
LOOK_EVERY_S: Final = 1.0
"""How long a receipt that has just been written may wait to be noticed."""
PAUSE_AFTER_FAULT_S: Final = 2.0
_REST_FIRST_S: Final = 2.0
_REST_MOST_S: Final = 300.0
_GONE: Final = 410


@dataclass(slots=True)
class _Lane:
    """One app's webhook: how many are under way, and until when it rests after a failure."""

    under_way: int = 0
    failures: int = 0
    rests_until: float = 0.0
    has_answered: bool = False

    def room(self, now: float) -> int:
        """Tell how many more may begin: one until it has answered well, none while it rests."""
        if self.rests_until > now:
            return 0
        return (PER_APP if self.has_answered and not self.failures else 1) - self.under_way


class ReceiptSender:
    """Sends receipts. `run` is the one task."""

    def __init__(self, database: Database, poster: Poster, sealer: Sealer, clock: Clock, random: Random) -> None:
        self._database = database
        self._poster = poster
        self._sealer = sealer
        self._clock = clock
        self._random = random
        self._lanes: dict[UUID, _Lane] = {}
        self._under_way: dict[UUID, asyncio.Task[None]] = {}
        self._served: UUID | None = None
        self._buried_at: datetime | None = None
        self._wake = asyncio.Event()
        self._is_stopping = False

    @property
    def under_way(self) -> int:
        return len(self._under_way)

    def stop(self) -> None:
        """Ask `run` to end: claims are given back, nothing new begins."""
        self._is_stopping = True
        self._wake.set()

    def wake(self) -> None:
        """Look at once: receipts were written or sent again."""
        self._wake.set()

    async def run(self) -> None:
        """Run until `stop`. A fault of the database is logged and waited out; nothing is lost by it."""
        async with asyncio.TaskGroup() as group:
            while not self._is_stopping:
                self._wake.clear()
                try:
                    wait_s = await self._step(group)
                except CarillonError as refusal:
                    logger.warning("receipts_wait_for_storage", extra={"code": refusal.code})
                    wait_s = PAUSE_AFTER_FAULT_S
                except Exception:
                    logger.exception("receipts_step_failed")
                    wait_s = PAUSE_AFTER_FAULT_S
                await self._sleep(wait_s)
            await self._hand_back()

    async def _step(self, group: asyncio.TaskGroup) -> float:
        """Begin what is due and may begin; gives how long to wait for the next look."""
        now = self._clock.now()
        await self._bury(now)
        room = MOST_AT_ONCE - len(self._under_way)
        next_at = await load_next_receipt_at(self._database)
        if room <= 0 or next_at is None or next_at > now:
            return LOOK_EVERY_S
        chosen = await self._choose(now, room)
        if not chosen:
            return LOOK_EVERY_S
        claimed = await self._database.write(claim_receipts_job(chosen, now, now + LEASE))
        due = await load_claimed(self._database, claimed)
        for one in due:
            lane = self._lanes.setdefault(one.row.app_id, _Lane())
            lane.under_way += 1
            self._under_way[one.row.id] = group.create_task(self._tell(one, lane))
        orphans = set(claimed) - {one.row.id for one in due}
        if orphans:
            told = [Told(receipt_id, ReceiptState.DEAD, "The app has no webhook any more.") for receipt_id in orphans]
            await self._database.write(told_job(told, now))
        return LOOK_EVERY_S

    async def _choose(self, now: datetime, room: int) -> list[UUID]:
        """Choose app by app, beginning behind the one that was served last: none stands in another's way."""
        now_mono = self._clock.monotonic()
        # An app that is well and idle is forgotten: what it may do at once it has to earn again.
        self._lanes = {app_id: lane for app_id, lane in self._lanes.items() if lane.under_way or lane.failures}
        apps = await list_apps_due(self._database, now)
        later = [app_id for app_id in apps if self._served is not None and app_id <= self._served]
        chosen: list[UUID] = []
        for app_id in [app_id for app_id in apps if app_id not in later] + later:
            lane = self._lanes.get(app_id)
            may_begin = 1 if lane is None else min(lane.room(now_mono), room - len(chosen))
            if may_begin > 0:
                chosen += await list_due(self._database, app_id, now, may_begin)
                self._served = app_id
            if len(chosen) >= room:
                break
        return chosen

    async def _bury(self, now: datetime) -> None:
        """Give up what the two days have passed for while its app's webhook did not take anything."""
        if self._buried_at is not None and now < self._buried_at + BURY_EVERY:
            return
        page = BURY_PAGE
        while page == BURY_PAGE:
            page = await self._database.write(bury_receipts_job(now - BURIAL_GRACE, now, BURY_PAGE))
        self._buried_at = now

    async def _tell(self, due: DueReceipt, lane: _Lane) -> None:
        try:
            told = await self._post(due, lane)
            await self._database.write(told_job([told], self._clock.now()))
        except CarillonError as refusal:
            # The lease runs out and the receipt is repeated under the same id.
            logger.error("receipt_not_recorded", extra={"receipt": str(due.row.id), "code": refusal.code})
        except Exception:
            logger.exception("receipt_failed", extra={"receipt": str(due.row.id)})
        finally:
            lane.under_way -= 1
            self._under_way.pop(due.row.id, None)
            self._wake.set()

    async def _post(self, due: DueReceipt, lane: _Lane) -> Told:
        row = due.row
        try:
            secrets = self._open_secrets(due)
        except SealError:
            return self._failed(row, lane, "The webhook secret cannot be opened: SECRET_KEY has changed.", None)
        body = make_receipt_body(row)
        now = self._clock.now()
        headers = {
            "content-type": "application/json",
            **sign_webhook(body, message_id=str(row.id), sent_at=now, secrets=secrets),
        }
        try:
            reply = await self._poster.request("POST", due.url, headers=headers, body=body, deadline_s=DEADLINE_S)
        except OutboundRefused as refused:
            return self._failed(row, lane, str(refused), None)
        except OutboundFailed as failed:
            return self._failed(row, lane, str(failed), None)
        if 200 <= reply.status < 300:
            lane.failures, lane.rests_until, lane.has_answered = 0, 0.0, True
            return Told(row.id, ReceiptState.DONE, f"The webhook answered {reply.status}.")
        if reply.status == _GONE:
            # The receiver asks for no more of this: an admin may still send it again.
            self._rest(lane)
            return Told(row.id, ReceiptState.DEAD, "The webhook answered 410: it is gone for good.")
        retry_after = read_retry_after(
            reply.headers.get("retry-after"), self._clock.now(), sent_at=reply.headers.get("date")
        )
        return self._failed(row, lane, f"The webhook answered {reply.status} instead of 2xx.", retry_after)

    def _failed(self, row: ReceiptRow, lane: _Lane, answer: str, retry_after: timedelta | None) -> Told:
        self._rest(lane)
        at = next_receipt_try_at(
            tries=row.tries,
            tell_until=row.tell_until,
            now=self._clock.now(),
            random=self._random,
            retry_after=retry_after,
        )
        logger.info("receipt_not_taken", extra={"receipt": str(row.id), "app": str(row.app_id), "tries": row.tries})
        return Told(row.id, ReceiptState.DEAD if at is None else ReceiptState.PENDING, answer, at)

    def _rest(self, lane: _Lane) -> None:
        lane.failures += 1
        lane.has_answered = False
        rest_s = min(_REST_MOST_S, _REST_FIRST_S * 2 ** min(lane.failures - 1, 16))
        lane.rests_until = self._clock.monotonic() + rest_s

    def _open_secrets(self, due: DueReceipt) -> list[Secret]:
        secrets = [open_webhook_secret(self._sealer, due.secret_sealed)]
        is_overlapping = due.rotated_at is not None and self._clock.now() < due.rotated_at + SECRETS_OVERLAP
        if due.previous_secret_sealed is not None and is_overlapping:
            secrets.append(open_webhook_secret(self._sealer, due.previous_secret_sealed))
        return secrets

    async def _sleep(self, wait_s: float) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), wait_s)
        except TimeoutError:
            return

    async def _hand_back(self) -> None:
        held = dict(self._under_way)
        for task in held.values():
            task.cancel()
        if held:
            await asyncio.wait(held.values())
            await self._database.write(hand_back_receipts_job(list(held), self._clock.now()))


def make_receipt_body(row: ReceiptRow) -> bytes:
    """Give a receipt as the webhook gets it, the same bytes at each try: Keymaster's fields, and `number`."""
    return msgspec.json.encode(
        {
            "notification_id": row.notification_id,
            "user_id": row.user_id,
            "device_id": row.device_id,
            "app_id": row.app_id,
            "status": row.status.name.lower(),
            "error": row.error,
            "timestamp": format_instant(row.created_at),
            "number": row.number,
        }
    )
