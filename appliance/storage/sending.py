"""Accepting, releasing and withdrawing notifications: the transactions behind a 202.

Each function makes a job for the writer. Everything that decides about a send — app, enrolment, quota, idempotency, the
devices of the moment — is read and written inside that one job, so that races are decided by the database.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from uuid import UUID

import msgspec

from appliance.domain.device import AddressKind
from appliance.domain.errors import (
    Conflict,
    Forbidden,
    IdempotencyMismatch,
    NotEnrolled,
    NotFound,
    PushDisabled,
    QuotaExceeded,
    not_enrolled,
)
from appliance.domain.identifier import make_id
from appliance.domain.ladder import DeliveryState, Event, sources
from appliance.domain.mailbox import EmailPolicy
from appliance.domain.notification import Content, NotificationState, Priority, read_data
from appliance.domain.quota import QuotaStanding, quota_day, quota_reset_at, seconds_to_reset
from appliance.storage.mailboxes import Mailable, MailRules, plan_mails
from appliance.storage.sql import Row, bytes_of, instant_of, marks, uuid_of
from appliance.storage.writer import Job, Transaction

logger = logging.getLogger(__name__)

IDEMPOTENCY_LIFETIME = timedelta(hours=24)
LIVE_ONLY_GRACE = timedelta(minutes=1)

Devices = Mapping[UUID, Sequence[tuple[UUID, AddressKind]]]
"""The live devices of each user who may be sent to."""


@dataclass(frozen=True, slots=True)
class Target:
    """One notification to accept. `send_at` in the future schedules it; `email` overrides the app's e-mail policy."""

    user_id: UUID
    content: Content
    send_at: datetime | None = None
    email: bool | None = None


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A sender's key for one request and the fingerprint of that request's body."""

    key: str
    body_fingerprint: bytes

    def row_id(self, app_id: UUID) -> str:
        return f"{app_id}|{sha256(self.key.encode()).hexdigest()}"


@dataclass(frozen=True, slots=True)
class PlannedDelivery:
    """A delivery that waits for the engine."""

    id: UUID
    device_id: UUID
    address_kind: AddressKind


@dataclass(frozen=True, slots=True)
class Released:
    """A notification that is committed and visible: what the engine needs to offer it at once.

    `mail_due_at` is when its delivery to a mailbox is first due, None where there is none.
    """

    id: UUID
    app_id: UUID
    user_id: UUID
    content: Content
    sequence: int
    released_at: datetime
    expires_at: datetime
    deliveries: tuple[PlannedDelivery, ...]
    mail_due_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the accepting transaction came to. `repeated`: an earlier request with the same key had done it."""

    notification_ids: tuple[UUID, ...]
    released: tuple[Released, ...]
    quota: QuotaStanding
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """How deliveries are due: which kinds of address have a remote channel now, and how long the hub goes first.

    `own_places` are the apps that have a channel of their own for a kind.
    """

    remote_kinds: frozenset[AddressKind]
    hub_first: timedelta
    own_places: frozenset[tuple[UUID, AddressKind]] = frozenset()

    def has_remote(self, app_id: UUID, kind: AddressKind) -> bool:
        """Tell whether this app reaches this kind of address in another way than the hub."""
        return kind in self.remote_kinds or (app_id, kind) in self.own_places


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """How many deliveries a withdrawal stopped, how many had been handed over before it, and the stopped ids."""

    withdrawn: int
    already_shown: int


def accept_job(
    app_id: UUID,
    targets: Sequence[Target],
    *,
    field: str,
    idempotency: IdempotencyKey | None,
    now: datetime,
    plan: Plan,
) -> Job[Accepted]:
    """Make the job that accepts a send whole or refuses it whole. `field` names the request's part with the targets.

    Raises `Forbidden`, `PushDisabled`, `NotEnrolled`, `InvalidTargets`, `QuotaExceeded`, `IdempotencyMismatch`,
    `Conflict`.
    """

    def job(transaction: Transaction) -> Accepted:
        push_enabled, daily_quota, mail_rules = _load_app(transaction, app_id)
        ids = [make_id(now) for _ in targets]
        if idempotency is not None:
            # The record comes first: whoever else holds the key, on this node or another, has committed it or has not.
            # A refusal further down undoes it together with all the rest.
            earlier = _keep_or_load_reply(transaction, app_id, idempotency, ids, now)
            if earlier is not None:
                # A repeated request gets its first reply even if push was switched off meanwhile.
                return Accepted(earlier, (), _load_standing(transaction, app_id, daily_quota, now), repeated=True)
        if not push_enabled:
            raise PushDisabled
        counts = Counter([target.user_id for target in targets])
        devices = _load_devices(transaction, app_id, list(counts))
        if len(devices) < len(counts):
            strangers = [index for index, target in enumerate(targets) if target.user_id not in devices]
            raise not_enrolled(strangers, count=len(targets), field=field)
        quota = _debit_quota(transaction, app_id, len(targets), daily_quota, now)
        scheduled = [target.send_at is not None and target.send_at > now for target in targets]
        live_counts = counts
        if any(scheduled):
            live_counts = Counter([t.user_id for t, later in zip(targets, scheduled, strict=True) if not later])
        newest = _take_sequences(transaction, live_counts)
        released: list[Released] = []
        rows: list[tuple[object, ...]] = []
        for notification_id, target, later in zip(ids, targets, scheduled, strict=True):
            starts_at = target.send_at if later and target.send_at is not None else now
            sequence = None
            if not later:
                newest[target.user_id] += 1
                sequence = newest[target.user_id]
                released.append(_plan(app_id, notification_id, target, sequence, now, devices))
            rows.append(_notification_row(app_id, notification_id, target, sequence, now, starts_at))
        _insert_notifications(transaction, rows)
        _insert_deliveries(transaction, released, plan)
        asked = {n: target.email for n, target in zip(ids, targets, strict=True) if target.email is not None}
        released = _plan_mails(transaction, mail_rules, released, asked, plan)
        _collapse(transaction, released, now)
        return Accepted(tuple(ids), tuple(released), quota)

    return job


def release_job(now: datetime, plan: Plan, limit: int) -> Job[tuple[Released, ...]]:
    """Make the job that releases scheduled notifications whose time has come, oldest first, at most `limit`.

    They get their place in the user's order and their devices now. One whose user or app was disabled, or whose user
    is no longer enrolled, is withdrawn instead. One whose time to live ended before this server could look at it has
    expired: showing it late is worse than not at all.
    """

    def job(transaction: Transaction) -> tuple[Released, ...]:
        rows = transaction.fetch_all(
            'SELECT n.id, n.app, n."user", n.title, n.body, n.data, n.type, n.priority, n.ttl_s, n.collapse_key, '
            'n.expires_at, (SELECT COUNT(*) FROM enrolment e JOIN account u ON u.id = e."user" '
            'JOIN app a ON a.id = e.app WHERE e."user" = n."user" AND e.app = n.app '
            "AND u.disabled_at IS NULL AND a.disabled_at IS NULL), n.email "
            "FROM notification n WHERE n.state = ? AND n.send_at <= ? ORDER BY n.send_at, n.id LIMIT ?",
            (NotificationState.SCHEDULED, now, limit),
        )
        released: list[Released] = []
        for row in rows:
            notification_id, app_id, user_id = uuid_of(row[0]), uuid_of(row[1]), uuid_of(row[2])
            becomes = _released_as(instant_of(row[10]), int(row[8]), now, is_allowed=bool(row[11]))
            is_released = becomes is NotificationState.RELEASED
            # The guard decides between two nodes that found the same one, and against a withdrawal that came first.
            taken = transaction.execute(
                "UPDATE notification SET state = ?, released_at = ?, withdrawn_at = ? WHERE id = ? AND state = ?",
                (
                    becomes,
                    now if is_released else None,
                    now if becomes is NotificationState.WITHDRAWN else None,
                    notification_id,
                    NotificationState.SCHEDULED,
                ),
            )
            if not (taken and is_released):
                continue
            sequence = _take_sequences(transaction, {user_id: 1})[user_id] + 1
            transaction.execute("UPDATE notification SET sequence = ? WHERE id = ?", (sequence, notification_id))
            devices = _load_devices(transaction, app_id, [user_id])
            one = Released(
                id=notification_id,
                app_id=app_id,
                user_id=user_id,
                content=content_of(row[3:10]),
                sequence=sequence,
                released_at=now,
                expires_at=instant_of(row[10]),
                deliveries=_plan_deliveries(devices.get(user_id, ()), now),
            )
            asked = {} if row[12] is None else {notification_id: bool(row[12])}
            mail_rules = _load_mail_rules(transaction, app_id, plan)
            released.extend(_plan_mails(transaction, mail_rules, [one], asked, plan))
        _insert_deliveries(transaction, released, plan)
        _collapse(transaction, released, now)
        return tuple(released)

    return job


def _released_as(expires_at: datetime, ttl_s: int, now: datetime, *, is_allowed: bool) -> NotificationState:
    if not is_allowed:
        return NotificationState.WITHDRAWN
    # Live only ends with its own instant; it is given the time that the engine may need to come to it.
    grace = LIVE_ONLY_GRACE if ttl_s == 0 else timedelta(0)
    return NotificationState.EXPIRED if expires_at + grace <= now else NotificationState.RELEASED


def withdraw_job(app_id: UUID, notification_id: UUID, now: datetime) -> Job[Withdrawn]:
    """Make the job that withdraws what has not been handed over. Repeating it is harmless. Raises `NotFound`."""

    def job(transaction: Transaction) -> Withdrawn:
        row = transaction.fetch_one("SELECT app FROM notification WHERE id = ?", (notification_id,))
        if row is None or uuid_of(row[0]) != app_id:
            raise NotFound("No notification with this id was sent by this app.")
        transaction.execute(
            "UPDATE notification SET state = ?, withdrawn_at = COALESCE(withdrawn_at, ?) WHERE id = ?",
            (NotificationState.WITHDRAWN, now, notification_id),
        )
        stoppable = sources(Event.WITHDRAW)
        transaction.execute(
            f"UPDATE delivery SET state = ?, settled_at = ?, due_at = NULL, lease_until = NULL "
            f"WHERE notification = ? AND state IN ({marks(len(stoppable))})",
            (DeliveryState.WITHDRAWN, now, notification_id, *stoppable),
        )
        counts: dict[int, int] = {
            int(state): count
            for state, count in transaction.fetch_all(
                "SELECT state, COUNT(*) FROM delivery WHERE notification = ? GROUP BY state", (notification_id,)
            )
        }
        shown = (DeliveryState.CLAIMED, DeliveryState.SENT, DeliveryState.CONFIRMED)
        return Withdrawn(
            withdrawn=counts.get(DeliveryState.WITHDRAWN, 0), already_shown=sum(counts.get(state, 0) for state in shown)
        )

    return job


def content_of(columns: Sequence[object]) -> Content:
    """Read stored content: title, body, data, type, priority, ttl_s, collapse_key."""
    title, body, data_json, kind, priority, ttl_s, collapse_key = columns
    data = stored_data(data_json)
    return Content(
        title=str(title),
        body=str(body),
        data=data,
        type=str(kind),
        priority=_PRIORITIES[int(str(priority))],
        ttl=timedelta(seconds=int(str(ttl_s))),
        collapse_key=None if collapse_key is None else str(collapse_key),
        data_json=str(data_json) if data else "{}",
    )


def stored_data(data_json: object) -> Mapping[str, object]:
    """Read stored `data`. What no layer could carry counts as empty, so that nothing that reads many rows stops at it.

    Every row that was accepted under the rules of today can be read.
    """
    data = read_data(str(data_json))
    if data is None:
        logger.warning("stored_data_unreadable")
        return {}
    return data


def _load_app(transaction: Transaction, app_id: UUID) -> tuple[bool, int, MailRules]:
    row = transaction.fetch_one(
        "SELECT push_enabled, daily_quota, disabled_at, notification_email, email_policy FROM app WHERE id = ?",
        (app_id,),
    )
    if row is None or row[2] is not None:
        raise Forbidden("This app does not exist any more or is disabled.")
    return bool(row[0]), int(row[1]), MailRules(row[3], _EMAIL_POLICIES[row[4]])


def _load_mail_rules(transaction: Transaction, app_id: UUID, plan: Plan) -> MailRules:
    row = None
    if AddressKind.MAILBOX in plan.remote_kinds:
        row = transaction.fetch_one("SELECT notification_email, email_policy FROM app WHERE id = ?", (app_id,))
    return MailRules(None, EmailPolicy.NEVER) if row is None else MailRules(row[0], _EMAIL_POLICIES[row[1]])


def _keep_or_load_reply(
    transaction: Transaction, app_id: UUID, idempotency: IdempotencyKey, ids: Sequence[UUID], now: datetime
) -> tuple[UUID, ...] | None:
    """Keep the reply under the key, or give the one that an earlier request has kept. Raises `IdempotencyMismatch`."""
    row_id = idempotency.row_id(app_id)
    if _keep_reply(transaction, row_id, idempotency, ids, now):
        return None
    row = transaction.fetch_one("SELECT body_fingerprint, reply, expires_at FROM idempotency WHERE id = ?", (row_id,))
    if row is not None and instant_of(row[2]) > now:
        if bytes_of(row[0]) != idempotency.body_fingerprint:
            raise IdempotencyMismatch
        return tuple(msgspec.json.decode(row[1], type=list[UUID]))
    transaction.execute("DELETE FROM idempotency WHERE id = ? AND expires_at <= ?", (row_id, now))
    if not _keep_reply(transaction, row_id, idempotency, ids, now):
        raise Conflict("A request with this Idempotency-Key is being accepted right now; repeat it in a moment.")
    return None


def _keep_reply(
    transaction: Transaction, row_id: str, idempotency: IdempotencyKey, ids: Sequence[UUID], now: datetime
) -> bool:
    added = transaction.execute(
        "INSERT INTO idempotency (id, body_fingerprint, status, reply, expires_at) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (id) DO NOTHING",
        (
            row_id,
            idempotency.body_fingerprint,
            202,
            msgspec.json.encode(ids).decode(),
            now + IDEMPOTENCY_LIFETIME,
        ),
    )
    return added == 1


def _debit_quota(transaction: Transaction, app_id: UUID, count: int, limit: int, now: datetime) -> QuotaStanding:
    day = quota_day(now)
    row = None
    if count <= limit:
        row = transaction.fetch_one(
            "INSERT INTO quota_day (id, app, day, used) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE "
            "SET used = quota_day.used + excluded.used WHERE quota_day.used + excluded.used <= ? RETURNING used",
            (f"{app_id}|{day}", app_id, day, count, limit),
        )
    if row is None:
        standing = _load_standing(transaction, app_id, limit, now)
        raise QuotaExceeded(
            limit=limit,
            used=standing.used,
            asked=count,
            reset_at=standing.reset_at,
            retry_after_s=seconds_to_reset(now),
        )
    return QuotaStanding(limit, int(row[0]), quota_reset_at(now))


def _load_standing(transaction: Transaction, app_id: UUID, limit: int, now: datetime) -> QuotaStanding:
    row = transaction.fetch_one("SELECT used FROM quota_day WHERE id = ?", (f"{app_id}|{quota_day(now)}",))
    return QuotaStanding(limit, int(row[0]) if row else 0, quota_reset_at(now))


def _take_sequences(transaction: Transaction, counts: Mapping[UUID, int]) -> dict[UUID, int]:
    """Reserve `counts[user]` numbers for each user; gives the newest number before them."""
    if len(counts) == 1:
        [(user_id, count)] = counts.items()
        return {user_id: _take_numbers(transaction, user_id, count)}
    before: dict[UUID, int] = {}
    ones = [user_id for user_id, count in counts.items() if count == 1]
    if ones:
        for row in transaction.fetch_all(
            f"UPDATE account SET last_sequence = last_sequence + 1 WHERE id IN ({marks(len(ones))}) "
            "RETURNING id, last_sequence",
            ones,
        ):
            before[uuid_of(row[0])] = int(row[1]) - 1
    for user_id, count in counts.items():
        if count > 1:
            before[user_id] = _take_numbers(transaction, user_id, count)
    return before


def _take_numbers(transaction: Transaction, user_id: UUID, count: int) -> int:
    row = transaction.fetch_one(
        "UPDATE account SET last_sequence = last_sequence + ? WHERE id = ? RETURNING last_sequence", (count, user_id)
    )
    if row is None:
        raise NotEnrolled
    return int(row[0]) - count


def _load_devices(transaction: Transaction, app_id: UUID, user_ids: Sequence[UUID]) -> Devices:
    """Give the live devices of those of the users who may be sent to: enrolled in the app, and not disabled."""
    rows = transaction.fetch_all(
        'SELECT u.id, v.id, v.address_kind FROM enrolment e JOIN account u ON u.id = e."user" '
        'LEFT JOIN device v ON v."user" = u.id AND v.retired_at IS NULL AND (v.app IS NULL OR v.app = ?) '
        f"WHERE e.id IN ({marks(len(user_ids))}) AND u.disabled_at IS NULL",
        (app_id, *[f"{user_id}|{app_id}" for user_id in user_ids]),
    )
    if len(user_ids) == 1 and rows:
        return {user_ids[0]: _devices_of(rows)}
    by_user: dict[UUID, list[Row]] = {}
    for row in rows:
        by_user.setdefault(uuid_of(row[0]), []).append(row)
    return {user_id: _devices_of(rows) for user_id, rows in by_user.items()}


def _devices_of(rows: Sequence[Row]) -> list[tuple[UUID, AddressKind]]:
    return [(uuid_of(row[1]), _ADDRESS_KINDS[row[2]]) for row in rows if row[1] is not None]


def _plan_deliveries(devices: Sequence[tuple[UUID, AddressKind]], now: datetime) -> tuple[PlannedDelivery, ...]:
    return tuple(PlannedDelivery(make_id(now), device_id, kind) for device_id, kind in devices)


def _plan(
    app_id: UUID,
    notification_id: UUID,
    target: Target,
    sequence: int,
    now: datetime,
    devices: Devices,
) -> Released:
    return Released(
        id=notification_id,
        app_id=app_id,
        user_id=target.user_id,
        content=target.content,
        sequence=sequence,
        released_at=now,
        expires_at=now + target.content.ttl,
        deliveries=_plan_deliveries(devices.get(target.user_id, ()), now),
    )


def _notification_row(
    app_id: UUID, notification_id: UUID, target: Target, sequence: int | None, now: datetime, starts_at: datetime
) -> tuple[object, ...]:
    content = target.content
    return (
        notification_id,
        app_id,
        target.user_id,
        content.title,
        content.body,
        content.data_json,
        content.type,
        content.priority,
        int(content.ttl.total_seconds()),
        content.collapse_key,
        NotificationState.SCHEDULED if sequence is None else NotificationState.RELEASED,
        sequence,
        now,
        starts_at if sequence is None else None,
        None if sequence is None else now,
        starts_at + content.ttl,
        target.email,
    )


def _insert_notifications(transaction: Transaction, rows: Sequence[tuple[object, ...]]) -> None:
    transaction.execute_many(
        'INSERT INTO notification (id, app, "user", title, body, data, type, priority, ttl_s, collapse_key, state, '
        "sequence, accepted_at, send_at, released_at, expires_at, email) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        rows,
    )


def _insert_deliveries(transaction: Transaction, released: Sequence[Released], plan: Plan) -> None:
    rows = [
        (
            delivery.id,
            notification.id,
            delivery.device_id,
            notification.user_id,
            DeliveryState.QUEUED,
            0,
            _first_due_at(notification, delivery, plan),
            notification.expires_at,
        )
        for notification in released
        for delivery in notification.deliveries
    ]
    if rows:
        transaction.execute_many(
            'INSERT INTO delivery (id, notification, device, "user", state, attempts, due_at, expires_at) '
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )


def _plan_mails(
    transaction: Transaction,
    rules: MailRules,
    released: list[Released],
    asked: Mapping[UUID, bool | None],
    plan: Plan,
) -> list[Released]:
    """Plan what is mailed of the notifications; gives them back with when that is due."""
    if AddressKind.MAILBOX not in plan.remote_kinds or (rules.policy is EmailPolicy.NEVER and not asked):
        return released
    mailables = [
        Mailable(one.id, one.user_id, one.released_at, one.expires_at, asked.get(one.id), bool(one.deliveries))
        for one in released
    ]
    due = plan_mails(transaction, rules, mailables)
    return [replace(one, mail_due_at=due[one.id]) if one.id in due else one for one in released]


def _collapse(transaction: Transaction, released: Sequence[Released], now: datetime) -> None:
    """Hold back what waits under the same collapse key of the same app and user: the newer one replaces it."""
    suppressible = sources(Event.SUPPRESS)
    for notification in released:
        if notification.content.collapse_key is not None:
            transaction.execute(
                "UPDATE delivery SET state = ?, settled_at = ?, due_at = NULL WHERE notification IN "
                '(SELECT id FROM notification WHERE "user" = ? AND collapse_key = ? AND app = ? AND sequence < ?) '
                f"AND state IN ({marks(len(suppressible))})",
                (
                    DeliveryState.SUPPRESSED,
                    now,
                    notification.user_id,
                    notification.content.collapse_key,
                    notification.app_id,
                    notification.sequence,
                    *suppressible,
                ),
            )


def _first_due_at(notification: Released, delivery: PlannedDelivery, plan: Plan) -> datetime:
    # Without a remote channel only the device's own connection can deliver it, and a connection asks for what it
    # missed; the engine need not look before it expires. With one, the engine takes over even after a crash.
    if notification.expires_at <= notification.released_at:
        # Live only: whoever is connected has one window to answer.
        return notification.released_at + plan.hub_first
    if not plan.has_remote(notification.app_id, delivery.address_kind):
        return notification.expires_at
    return min(notification.released_at + plan.hub_first, notification.expires_at)


_ADDRESS_KINDS = {int(kind): kind for kind in AddressKind}
_EMAIL_POLICIES = {int(policy): policy for policy in EmailPolicy}
_PRIORITIES = {int(priority): priority for priority in Priority}
