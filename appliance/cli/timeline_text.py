"""A notification's timeline in plain words."""

from collections.abc import Iterator
from typing import Final

from appliance.cli.screen import clock_time, day_and_time, one_line
from appliance.client_timeline import Attempt, Delivery, Timeline

_STATES: Final = {
    "queued": "waiting",
    "offered": "offered on the live connection",
    "claimed": "being handed to the provider",
    "sent": "handed to the provider",
    "confirmed": "received",
    "failed": "failed",
    "gone": "the device is gone",
    "expired": "too late",
    "withdrawn": "withdrawn",
    "suppressed": "held back",
}
_CHANNELS: Final = {
    "hub": "the live hub",
    "fcm": "FCM (Google)",
    "apns": "APNs (Apple)",
    "web_push": "Web Push",
    "relay": "the relay",
    "email": "e-mail",
}


def describe(timeline: Timeline) -> str:
    """Tell the whole story: what was asked, each device, each attempt, what happens next."""
    return "\n".join(_lines(timeline))


def _lines(timeline: Timeline) -> Iterator[str]:
    yield f"{one_line(timeline.title)}"
    yield f"  {timeline.state.replace('_', ' ')}: {one_line(timeline.explanation)}"
    yield f"  accepted {day_and_time(timeline.accepted_at)}, worth delivering until {day_and_time(timeline.expires_at)}"
    if timeline.withdrawn_at is not None:
        yield f"  withdrawn {day_and_time(timeline.withdrawn_at)}"
    if timeline.read_at is not None:
        yield f"  read {day_and_time(timeline.read_at)}"
    for delivery in timeline.deliveries:
        yield ""
        yield from _delivery_lines(delivery)


def _delivery_lines(delivery: Delivery) -> Iterator[str]:
    name = one_line(delivery.device_label) or (f"device {delivery.device_id}" if delivery.device_id else "mailbox")
    platform = f" ({delivery.platform})" if delivery.platform else ""
    yield f"  {name}{platform}: {_STATES.get(delivery.state, delivery.state)}"
    yield f"    {one_line(delivery.explanation)}"
    for attempt in delivery.attempts:
        yield f"    {attempt.number}. {_attempt(attempt)}"
    if delivery.settled_at is not None:
        yield f"    settled {day_and_time(delivery.settled_at)}; nothing further happens"
    elif delivery.next_attempt_at is not None:
        yield f"    next try {day_and_time(delivery.next_attempt_at)}"


def _attempt(attempt: Attempt) -> str:
    took = "" if attempt.latency_ms is None else f", {attempt.latency_ms} ms"
    over = _CHANNELS.get(attempt.channel, attempt.channel)
    code = f" [{one_line(attempt.code)}]" if attempt.code else ""
    return f"{clock_time(attempt.started_at)} over {over}{took}: {one_line(attempt.reason)}{code}"
