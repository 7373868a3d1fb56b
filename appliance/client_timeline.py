"""What became of a notification, as the server tells it. Fields that a newer server adds are passed over."""

from datetime import datetime

import msgspec

from appliance.client_call import Reply


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One try of one delivery: over which layer, when, how long it took, what came of it in plain words."""

    number: int
    layer: str
    channel: str
    started_at: datetime
    latency_ms: int | None = None
    outcome: str
    code: str = ""
    reason: str = ""


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """The notification on its way to one device; `next_attempt_at` is None when nothing further is planned."""

    id: str
    device_id: str | None = None
    device_label: str = ""
    platform: str | None = None
    state: str
    explanation: str
    next_attempt_at: datetime | None = None
    settled_at: datetime | None = None
    attempts: tuple[Attempt, ...] = ()


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """A notification's whole story; `explanation` sums it up in one sentence."""

    notification_id: str
    app_id: str
    user_id: str
    title: str
    type: str = ""
    priority: str = "normal"
    state: str
    explanation: str
    accepted_at: datetime
    send_at: datetime | None = None
    released_at: datetime | None = None
    expires_at: datetime
    withdrawn_at: datetime | None = None
    read_at: datetime | None = None
    deliveries: tuple[Delivery, ...] = ()

    @property
    def is_settled(self) -> bool:
        """Whether nothing further will happen to any delivery by itself."""
        if self.state == "scheduled":
            return False
        return all(delivery.settled_at is not None for delivery in self.deliveries)


class Withdrawal(msgspec.Struct, frozen=True, kw_only=True):
    """How many deliveries were stopped, and how many had been shown already."""

    withdrawn: int = 0
    already_shown: int = 0


def read_timeline(reply: Reply) -> Timeline:
    return msgspec.json.decode(reply.content, type=Timeline)


def read_withdrawal(reply: Reply) -> Withdrawal:
    return msgspec.json.decode(reply.content, type=Withdrawal) if reply.content else Withdrawal()
