"""Claiming what is mailed: who still needs it, what a storm gathers, and which mails begin now.

Theory of operation
-------------------
A mailed delivery waits as any other. When it is due, one job decides, in the order in which they are due:

1. Whoever reads the mailbox has switched the app's e-mail off: suppressed.
2. It is for the unconfirmed only: suppressed when a device has it; looked at again later while devices are still open
   and `CONFIRM_GRACE` has not passed.
3. Fewer than `MOST_MAILS` mails to the mailbox were begun within `STORM_SPAN`: it is claimed and mailed.
4. Else it joins the mailbox's digest, which is due when the oldest of those mails has had its span. While a digest is
   being gathered all else joins it, too, so that nothing overtakes what waits.

A digest is nothing but its deliveries, which carry its id: they are claimed together, mailed as one, and settled or
retried together, under the same Message-ID. Once begun it takes up no others. A mail counts once, however often it is
tried. All this stands in the database, so a restart or another node goes on where it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from appliance.domain.identifier import make_id
from appliance.domain.ladder import OPEN, DeliveryState, Event
from appliance.domain.mailbox import CONFIRM_GRACE, MOST_MAILS, STORM_SPAN, next_look_at
from appliance.domain.notification import NotificationState
from appliance.domain.outcome import OutcomeKind
from appliance.storage.database import Database
from appliance.storage.deliveries import AttemptRow, Move, apply_move
from appliance.storage.mailboxes import mute_id
from appliance.storage.sql import Row, instant_of, marks, optional_uuid_of, uuid_of
from appliance.storage.writer import Job, Transaction

MOST_IN_DIGEST: Final = 2_000
"""Notifications of one digest; a storm beyond it makes a second one."""
_OPEN: Final = tuple(sorted(OPEN))
_UNSUBSCRIBED: Final = "Whoever reads this mailbox has switched the app's e-mail off."
_HAVE: Final = (DeliveryState.SENT, DeliveryState.CONFIRMED)


@dataclass(frozen=True, slots=True)
class DueMail:
    """A mailed delivery that must be looked at."""

    id: UUID
    mailbox_id: UUID
    digest: UUID | None


@dataclass(frozen=True, slots=True)
class ClaimedMail:
    """A mail that begins: one delivery, or all of a digest. `id` is the digest's, or that of the delivery."""

    id: UUID
    mailbox_id: UUID
    delivery_ids: tuple[UUID, ...]


@dataclass(slots=True)
class MailClaims:
    """What a look came to: mails that begin, and how many deliveries were moved without one."""

    claimed: list[ClaimedMail] = field(default_factory=list)
    moved: int = 0


async def load_due_mails(database: Database, now: datetime, limit: int) -> list[DueMail]:
    """Read the mailed deliveries that are due, oldest first."""
    rows = await database.read(
        "SELECT d.id, d.mailbox, d.digest FROM delivery d JOIN notification n ON n.id = d.notification "
        "WHERE d.mailbox IS NOT NULL AND d.due_at IS NOT NULL AND d.due_at <= ? AND d.state = ? "
        "ORDER BY d.due_at, n.released_at, n.sequence LIMIT ?",
        (now, DeliveryState.QUEUED, limit),
    )
    return [DueMail(uuid_of(row[0]), uuid_of(row[1]), optional_uuid_of(row[2])) for row in rows]


def put_mails_off_job(due: Sequence[DueMail]) -> Job[int]:
    """Make the job for a server without e-mail: what was planned before waits for its end."""

    def job(transaction: Transaction) -> int:
        return transaction.execute(
            f"UPDATE delivery SET due_at = expires_at WHERE id IN ({marks(len(due))}) AND state = ?",
            (*(one.id for one in due), DeliveryState.QUEUED),
        )

    return job


def claim_mails_job(
    due: Sequence[DueMail], now: datetime, lease_until: datetime, *, room: int, channel: int
) -> Job[MailClaims]:
    """Make the job that decides what becomes of these deliveries and claims at most `room` mails of them.

    `channel` is the number under which the channel's attempts are kept.
    """

    def job(transaction: Transaction) -> MailClaims:
        look = _Look(transaction, now, lease_until, room, channel)
        if not due:
            return look.claims
        rows = transaction.fetch_all(
            "SELECT d.id, d.notification, d.mailbox, d.digest, d.if_unconfirmed, d.attempts, n.app, n.released_at, "
            "d.expires_at, n.state FROM delivery d JOIN notification n ON n.id = d.notification "
            f"WHERE d.id IN ({marks(len(due))}) AND d.state = ? "
            "ORDER BY d.due_at, n.released_at, n.sequence",
            (*(one.id for one in due), DeliveryState.QUEUED),
        )
        for row in rows:
            look.at(_Waiting.of(row))
        return look.claims

    return job


@dataclass(frozen=True, slots=True)
class _Waiting:
    id: UUID
    notification_id: UUID
    mailbox_id: UUID
    digest: UUID | None
    if_unconfirmed: bool
    attempts: int
    app_id: UUID
    released_at: datetime
    expires_at: datetime
    is_withdrawn: bool

    @classmethod
    def of(cls, row: Row) -> "_Waiting":
        return cls(
            id=uuid_of(row[0]),
            notification_id=uuid_of(row[1]),
            mailbox_id=uuid_of(row[2]),
            digest=optional_uuid_of(row[3]),
            if_unconfirmed=bool(row[4]),
            attempts=int(row[5]),
            app_id=uuid_of(row[6]),
            released_at=instant_of(row[7]),
            expires_at=instant_of(row[8]),
            is_withdrawn=int(row[9]) == NotificationState.WITHDRAWN,
        )


class _Look:
    """One look at what is due, within its transaction."""

    def __init__(self, transaction: Transaction, now: datetime, lease_until: datetime, room: int, channel: int) -> None:
        self.claims = MailClaims()
        self._transaction = transaction
        self._now = now
        self._lease_until = lease_until
        self._room = room
        self._channel = channel
        self._digests: set[UUID] = set()

    def at(self, one: _Waiting) -> None:
        if one.digest is not None:
            if one.digest not in self._digests:
                self._digests.add(one.digest)
                self._at_digest(one.digest, one.mailbox_id)
            return
        if one.is_withdrawn:
            self._withdraw(one.id)
            return
        if self._is_muted(one.mailbox_id, one.app_id):
            self._suppress(one.id, "unsubscribed", _UNSUBSCRIBED)
            return
        if one.if_unconfirmed and self._is_settled_by_devices(one):
            return
        gathering, gathered = self._gathering(one.mailbox_id)
        free_at = self._free_at(one.mailbox_id, one.id)
        if one.attempts:
            # Begun as a mail of its own and perhaps taken as such: it stays one.
            if free_at is None:
                self._claim(one.id, one.mailbox_id, "id = ?", one.id)
            else:
                self._put_off(one, free_at)
        elif gathering is not None or free_at is not None:
            self._gather(one, gathering if gathered < MOST_IN_DIGEST else None, free_at or self._now)
        else:
            self._claim(one.id, one.mailbox_id, "id = ?", one.id)

    def _at_digest(self, digest: UUID, mailbox_id: UUID) -> None:
        self._leave_out_of(digest, mailbox_id)
        free_at = self._free_at(mailbox_id, digest)
        if free_at is None:
            self._claim(digest, mailbox_id, "digest = ?", digest)
            return
        self.claims.moved += self._transaction.execute(
            "UPDATE delivery SET due_at = CASE WHEN expires_at < ? THEN expires_at ELSE ? END "
            "WHERE digest = ? AND state = ?",
            (free_at, free_at, digest, DeliveryState.QUEUED),
        )

    def _leave_out_of(self, digest: UUID, mailbox_id: UUID) -> None:
        """While it waited, some may have been withdrawn, or shown by a device, or their app's e-mail switched off."""
        transaction = self._transaction
        waiting = (digest, DeliveryState.QUEUED)
        withdrawn = transaction.fetch_all(
            "SELECT d.id FROM delivery d JOIN notification n ON n.id = d.notification "
            "WHERE d.digest = ? AND d.state = ? AND n.state = ?",
            (*waiting, NotificationState.WITHDRAWN),
        )
        for row in withdrawn:
            self._withdraw(uuid_of(row[0]))
        apps = transaction.fetch_all(
            "SELECT DISTINCT n.app FROM delivery d JOIN notification n ON n.id = d.notification "
            "WHERE d.digest = ? AND d.state = ?",
            waiting,
        )
        for row in apps:
            app_id = uuid_of(row[0])
            if self._is_muted(mailbox_id, app_id):
                members = transaction.fetch_all(
                    "SELECT d.id FROM delivery d JOIN notification n ON n.id = d.notification "
                    "WHERE d.digest = ? AND d.state = ? AND n.app = ?",
                    (*waiting, app_id),
                )
                for member in members:
                    self._suppress(uuid_of(member[0]), "unsubscribed", _UNSUBSCRIBED)
        shown = transaction.fetch_all(
            "SELECT d.id FROM delivery d WHERE d.digest = ? AND d.state = ? AND d.if_unconfirmed = ? AND EXISTS "
            "(SELECT 1 FROM delivery o WHERE o.notification = d.notification AND o.device IS NOT NULL "
            f"AND o.state IN ({marks(len(_HAVE))}))",
            (*waiting, True, *_HAVE),
        )
        for row in shown:
            self._suppress_shown(uuid_of(row[0]))

    def _is_settled_by_devices(self, one: _Waiting) -> bool:
        """Tell whether it is not mailed, or not yet: a device has it, or may still get it."""
        rows = self._transaction.fetch_all(
            "SELECT state, COUNT(*) FROM delivery WHERE notification = ? AND device IS NOT NULL GROUP BY state",
            (one.notification_id,),
        )
        counts = {DeliveryState(row[0]): int(row[1]) for row in rows}
        if any(counts.get(state) for state in _HAVE):
            self._suppress_shown(one.id)
            return True
        is_open = any(counts.get(state) for state in _OPEN)
        if is_open and not one.attempts and self._now < one.released_at + CONFIRM_GRACE:
            self._put_off(one, next_look_at(one.released_at, self._now))
            return True
        return False

    def _gathering(self, mailbox_id: UUID) -> tuple[UUID | None, int]:
        row = self._transaction.fetch_one("SELECT digest, gathered FROM mailbox WHERE id = ?", (mailbox_id,))
        return (None, 0) if row is None else (optional_uuid_of(row[0]), int(row[1]))

    def _gather(self, one: _Waiting, digest: UUID | None, due_at: datetime) -> None:
        transaction = self._transaction
        if digest is None:
            digest = make_id(self._now)
            transaction.execute("UPDATE mailbox SET digest = ?, gathered = 0 WHERE id = ?", (digest, one.mailbox_id))
        transaction.execute("UPDATE mailbox SET gathered = gathered + 1 WHERE id = ?", (one.mailbox_id,))
        transaction.execute(
            "UPDATE delivery SET digest = ?, due_at = ? WHERE id = ?", (digest, min(due_at, one.expires_at), one.id)
        )
        self.claims.moved += 1

    def _free_at(self, mailbox_id: UUID, mail_id: UUID) -> datetime | None:
        """Tell when one more mail may begin, None for now; a mail that was begun already has its place."""
        transaction = self._transaction
        transaction.execute(
            "DELETE FROM mail WHERE mailbox = ? AND begun_at <= ?", (mailbox_id, self._now - STORM_SPAN)
        )
        rows = transaction.fetch_all("SELECT id, begun_at FROM mail WHERE mailbox = ? ORDER BY begun_at", (mailbox_id,))
        others = [instant_of(row[1]) for row in rows if uuid_of(row[0]) != mail_id]
        return None if len(others) < MOST_MAILS else others[-MOST_MAILS] + STORM_SPAN

    def _claim(self, mail_id: UUID, mailbox_id: UUID, which: str, key: UUID) -> None:
        if self._room <= 0:
            return
        transaction = self._transaction
        rows = transaction.fetch_all(
            f"UPDATE delivery SET state = ?, attempts = attempts + 1, lease_until = ?, due_at = ? WHERE {which} "
            "AND state = ? AND expires_at > ? AND EXISTS "
            "(SELECT 1 FROM notification n WHERE n.id = delivery.notification AND n.state = ?) RETURNING id",
            (
                DeliveryState.CLAIMED,
                self._lease_until,
                self._lease_until,
                key,
                DeliveryState.QUEUED,
                self._now,
                NotificationState.RELEASED,
            ),
        )
        if not rows:
            return
        self._room -= 1
        transaction.execute(
            "INSERT INTO mail (id, mailbox, begun_at) VALUES (?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET begun_at = excluded.begun_at",
            (mail_id, mailbox_id, self._now),
        )
        # From its first try on a digest is what it is; what comes now makes the next one.
        transaction.execute(
            "UPDATE mailbox SET digest = NULL, gathered = 0 WHERE id = ? AND digest = ?", (mailbox_id, mail_id)
        )
        self.claims.claimed.append(ClaimedMail(mail_id, mailbox_id, tuple(sorted(uuid_of(row[0]) for row in rows))))

    def _is_muted(self, mailbox_id: UUID, app_id: UUID) -> bool:
        sql = "SELECT 1 FROM mailbox_mute WHERE id = ?"
        return self._transaction.fetch_one(sql, (mute_id(mailbox_id, app_id),)) is not None

    def _put_off(self, one: _Waiting, at: datetime) -> None:
        self._transaction.execute("UPDATE delivery SET due_at = ? WHERE id = ?", (min(at, one.expires_at), one.id))
        self.claims.moved += 1

    def _withdraw(self, delivery_id: UUID) -> None:
        """It was withdrawn while an earlier try was under way."""
        apply_move(self._transaction, Move(delivery_id, Event.WITHDRAW), self._now)
        self.claims.moved += 1

    def _suppress_shown(self, delivery_id: UUID) -> None:
        self._suppress(delivery_id, "not_needed", "A device has it, so no e-mail was needed.")

    def _suppress(self, delivery_id: UUID, code: str, why: str) -> None:
        attempt = AttemptRow(
            channel=self._channel,
            started_at=self._now,
            latency_ms=None,
            outcome=OutcomeKind.SKIPPED,
            code=code,
            reason=why,
        )
        apply_move(self._transaction, Move(delivery_id, Event.SUPPRESS, attempt), self._now)
        self.claims.moved += 1
