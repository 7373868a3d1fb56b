"""The story of one notification: every attempt in plain words, and what happens next. "Why did it not arrive?"."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from appliance.channels.contract import ChannelName
from appliance.domain.device import Platform
from appliance.domain.ladder import DeliveryState
from appliance.domain.notification import NotificationState
from appliance.storage.database import Database
from appliance.storage.timeline import (
    NotificationRow,
    StoredAttempt,
    StoredDelivery,
    load_deliveries,
    load_notification,
)

IsOffered = Callable[[UUID, UUID], bool]

_MAIL_LABEL = "e-mail"
LAYERS = {
    ChannelName.HUB: "hub",
    ChannelName.FCM: "direct",
    ChannelName.APNS: "direct",
    ChannelName.WEB_PUSH: "direct",
    ChannelName.RELAY: "relay",
    ChannelName.EMAIL: "e-mail",
}


@dataclass(frozen=True, slots=True)
class AttemptStory:
    """One attempt: layer, channel, when, how long, what came of it."""

    number: int
    layer: str
    channel: str
    started_at: datetime
    latency_ms: int | None
    outcome: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class DeliveryStory:
    """One delivery: its state, why in plain words, what happens next, its attempts."""

    id: UUID
    device_id: UUID | None
    device_label: str
    platform: str | None
    state: str
    explanation: str
    next_attempt_at: datetime | None
    settled_at: datetime | None
    attempts: Sequence[AttemptStory]


@dataclass(frozen=True, slots=True)
class Timeline:
    """A notification with all its deliveries; `explanation` sums it up in one sentence."""

    notification: NotificationRow
    state: str
    explanation: str
    deliveries: Sequence[DeliveryStory]


async def load_timeline(
    database: Database,
    notification_id: UUID,
    *,
    app_id: UUID | None = None,
    user_id: UUID | None = None,
    is_offered: IsOffered | None = None,
) -> Timeline | None:
    """Read the story, or None when there is no such notification — or it is not this app's or this user's."""
    notification = await load_notification(database, notification_id)
    if notification is None:
        return None
    if app_id is not None and notification.app_id != app_id:
        return None
    if user_id is not None and notification.user_id != user_id:
        return None
    deliveries = [
        _tell(delivery, notification, is_offered) for delivery in await load_deliveries(database, notification_id)
    ]
    state, explanation = _sum_up(notification, deliveries)
    return Timeline(notification, state, explanation, deliveries)


def _tell(delivery: StoredDelivery, notification: NotificationRow, is_offered: IsOffered | None) -> DeliveryStory:
    state = delivery.state
    if (
        state is DeliveryState.QUEUED
        and is_offered is not None
        and delivery.device_id is not None
        and is_offered(delivery.device_id, notification.id)
    ):
        state = DeliveryState.OFFERED
    has_next = (
        state is DeliveryState.QUEUED and delivery.due_at is not None and delivery.due_at < notification.expires_at
    )
    return DeliveryStory(
        id=delivery.id,
        device_id=delivery.device_id,
        device_label=_MAIL_LABEL if delivery.device_id is None else delivery.device_label,
        platform=None if delivery.platform is None else Platform(delivery.platform).name.lower(),
        state=state.name.lower(),
        explanation=_explain(state, delivery, notification, has_next=has_next),
        next_attempt_at=delivery.due_at if has_next else None,
        settled_at=delivery.settled_at,
        attempts=[_tell_attempt(attempt) for attempt in delivery.attempts],
    )


def _tell_attempt(attempt: StoredAttempt) -> AttemptStory:
    channel = ChannelName(attempt.channel)
    return AttemptStory(
        number=attempt.number,
        layer=LAYERS[channel],
        channel=channel.name.lower(),
        started_at=attempt.started_at,
        latency_ms=attempt.latency_ms,
        outcome=attempt.outcome.name.lower(),
        code=attempt.code,
        reason=attempt.reason,
    )


def _explain(state: DeliveryState, delivery: StoredDelivery, notification: NotificationRow, *, has_next: bool) -> str:
    last = delivery.attempts[-1] if delivery.attempts else None
    if delivery.device_id is None and (told := _explain_mail(state, last, delivery, has_next=has_next)) is not None:
        return told
    match state:
        case DeliveryState.QUEUED if has_next and last is not None:
            return f"{last.reason} It will be tried again."
        case DeliveryState.QUEUED if has_next:
            return "It waits for its turn."
        case DeliveryState.QUEUED if last is not None:
            return f"{last.reason} It waits for the device to connect again, until it expires."
        case DeliveryState.QUEUED:
            return "The device is not connected and no other way reaches it; it waits for the device to connect."
        case DeliveryState.OFFERED:
            return "It was written to the device's live connection and waits for its answer or the end of its window."
        case DeliveryState.CLAIMED:
            return "It is being handed to the provider right now."
        case DeliveryState.SENT:
            return last.reason if last is not None else "It was handed over."
        case DeliveryState.CONFIRMED:
            return "The device confirmed that it has it."
        case DeliveryState.FAILED | DeliveryState.GONE:
            return last.reason if last is not None else "It could not be delivered."
        case DeliveryState.EXPIRED if notification.content.ttl.total_seconds() == 0:
            return "Its time to live was 0 (live only) and the device was not connected."
        case DeliveryState.EXPIRED:
            why = f" The last try: {last.reason}" if last is not None else " The device did not connect in that time."
            return f"Its time to live ran out before it could be delivered.{why}"
        case DeliveryState.WITHDRAWN:
            return "The sender withdrew it before it was shown."
        case DeliveryState.SUPPRESSED if _is_since(delivery.settled_at, notification.user_disabled_at):
            return "It was held back: the user was disabled before it was delivered."
        case DeliveryState.SUPPRESSED if _is_since(delivery.settled_at, notification.app_disabled_at):
            return "It was held back: the app was disabled before it was delivered."
        case DeliveryState.SUPPRESSED if notification.content.collapse_key is not None:
            return "A newer notification with the same collapse key replaced it before it was shown."
        case DeliveryState.SUPPRESSED:
            return "It was held back: the device was handed to another user or muted."


def _explain_mail(
    state: DeliveryState, last: StoredAttempt | None, delivery: StoredDelivery, *, has_next: bool
) -> str | None:
    """Tell what is different where it goes to a mailbox; None where nothing is."""
    match state:
        case DeliveryState.QUEUED if last is not None:
            return None if has_next else f"{last.reason} It will not be tried again."
        case DeliveryState.QUEUED if not has_next:
            return "E-mail is not set up on this server any more."
        case DeliveryState.QUEUED if delivery.is_gathered:
            return (
                "Many e-mails went to this mailbox within a few minutes: the next one tells of this and others at once."
            )
        case DeliveryState.QUEUED if delivery.waits_for_devices:
            return "It is mailed if no device gets it."
        case DeliveryState.SUPPRESSED if last is not None:
            return last.reason
        case DeliveryState.EXPIRED if last is None:
            return "Its time to live ran out before it could be mailed."
        case _:
            return None


def _is_since(settled_at: datetime | None, disabled_at: datetime | None) -> bool:
    return settled_at is not None and disabled_at is not None and settled_at >= disabled_at


def _sum_up(notification: NotificationRow, deliveries: Sequence[DeliveryStory]) -> tuple[str, str]:
    if notification.state is NotificationState.SCHEDULED and notification.send_at is not None:
        return "scheduled", f"It is scheduled for {notification.send_at:%Y-%m-%d %H:%M:%S} UTC and can be withdrawn."
    if notification.state is NotificationState.WITHDRAWN:
        if not deliveries:
            return "withdrawn", "The sender withdrew it before it was sent to anybody."
        return "withdrawn", _count(deliveries, "The sender withdrew it; ")
    if notification.state is NotificationState.EXPIRED:
        return "expired", "Its time to live ended before the server could send it: the server was not running then."
    # That no e-mail was needed, or wanted, is no failure.
    deliveries = [one for one in deliveries if one.device_id is not None or one.state != "suppressed"]
    if not deliveries:
        return "released", "The user has no device for this app: it can be read in the inbox and on live connections."
    reached = sum(delivery.state in ("confirmed", "sent") for delivery in deliveries)
    if reached == len(deliveries):
        return "delivered", _count(deliveries)
    if any(delivery.settled_at is None for delivery in deliveries):
        return "delivering", _count(deliveries)
    return ("partly_delivered" if reached else "failed"), _count(deliveries)


def _count(deliveries: Sequence[DeliveryStory], lead: str = "") -> str:
    counts: dict[str, int] = {}
    for delivery in deliveries:
        counts[delivery.state] = counts.get(delivery.state, 0) + 1
    parts = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    return f"{lead}{len(deliveries)} deliveries: {parts}." if len(deliveries) != 1 else f"{lead}1 delivery: {parts}."
