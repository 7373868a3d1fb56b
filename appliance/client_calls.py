"""What can be asked of Carillon as a backend: each call as a request, and its answer as a value."""

import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, TypedDict
from uuid import UUID

import msgspec

from appliance.client_call import Call, Reply

PriorityName = Literal["low", "normal", "high"]
SEND: Final = "/push/send"
BULK: Final = "/push/send/bulk"
BATCH: Final = "/push/send/batch"
NOTIFICATIONS: Final = "/push/notifications"
INBOX: Final = "/account/notifications"


class Push(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One notification of a batch. `ttl` is in seconds, `send_at` RFC 3339; the rest may be left out."""

    user_id: str
    title: str
    body: str
    data: Mapping[str, object] | None = None
    type: str | None = None
    priority: PriorityName | None = None
    ttl: int | None = None
    collapse_key: str | None = None
    send_at: str | None = None
    email: bool | None = None


class Quota(msgspec.Struct, frozen=True):
    """Where the app's daily quota stands after the call."""

    limit: int
    remaining: int
    reset_at: str | None


class Sent(msgspec.Struct, frozen=True):
    """The server keeps the notification: it will be delivered or explained."""

    notification_id: str
    quota: Quota | None = None


class SentMany(msgspec.Struct, frozen=True):
    """The server keeps all notifications; the ids are in the order of the targets."""

    notification_ids: tuple[str, ...]
    quota: Quota | None = None


class InboxEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A notification as its user reads it in the inbox; `sequence` counts the user's notifications."""

    id: str
    app_id: str
    app_name: str
    type: str
    title: str
    body: str
    data: dict[str, object]
    priority: PriorityName
    sequence: int
    sent_at: datetime
    expires_at: datetime
    read_at: datetime | None = None


class _Inbox(msgspec.Struct, frozen=True):
    notifications: tuple[InboxEntry, ...]


class PushOptions(TypedDict, total=False):
    """What may be said about a notification beyond its text. What is left out is the server's default.

    `ttl` is how long it is worth delivering, in seconds (0 = live only); `send_at` needs a time zone; a newer
    notification with the same `collapse_key` replaces an older one; `email` overrides the app's e-mail policy. Give
    `idempotency_key` where your own code may call twice for one event.
    """

    type: str
    priority: PriorityName
    ttl: int | timedelta
    collapse_key: str
    send_at: datetime
    email: bool
    idempotency_key: str


def send_call(
    user_id: str | UUID, title: str, body: str, data: Mapping[str, object] | None, options: PushOptions
) -> Call:
    """Raises `ValueError` for an instant without a zone, `TypeError` for an option that does not exist."""
    fields = _fields(title, body, data, options)
    return Call("POST", SEND, {"user_id": str(user_id), **fields}, _key(options))


def bulk_call(
    user_ids: Iterable[str | UUID], title: str, body: str, data: Mapping[str, object] | None, options: PushOptions
) -> Call:
    fields = _fields(title, body, data, options)
    return Call("POST", BULK, {"user_ids": [str(user_id) for user_id in user_ids], **fields}, _key(options))


def batch_call(notifications: Iterable[Push | Mapping[str, object]], idempotency_key: str | None) -> Call:
    return Call("POST", BATCH, {"notifications": list(notifications)}, idempotency_key or make_idempotency_key())


def timeline_call(notification_id: str | UUID) -> Call:
    return Call("GET", f"{NOTIFICATIONS}/{_id(notification_id)}")


def withdraw_call(notification_id: str | UUID) -> Call:
    return Call("DELETE", f"{NOTIFICATIONS}/{_id(notification_id)}")


def inbox_call(limit: int) -> Call:
    return Call("GET", f"{INBOX}?limit={limit}")


def read_sent(reply: Reply) -> Sent:
    sent = msgspec.json.decode(reply.content, type=Sent)
    return msgspec.structs.replace(sent, quota=_quota(reply))


def read_sent_many(reply: Reply) -> SentMany:
    sent = msgspec.json.decode(reply.content, type=SentMany)
    return msgspec.structs.replace(sent, quota=_quota(reply))


def read_inbox(reply: Reply) -> tuple[InboxEntry, ...]:
    return msgspec.json.decode(reply.content, type=_Inbox).notifications


def make_idempotency_key() -> str:
    """Make a key that no other call has; all tries of one call share it."""
    return str(uuid.uuid4())


def _fields(title: str, body: str, data: Mapping[str, object] | None, options: PushOptions) -> dict[str, object]:
    unknown = options.keys() - PushOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"no such option of a notification: {', '.join(sorted(unknown))}")
    fields: dict[str, object] = {"title": title, "body": body}
    if data is not None:
        fields["data"] = data
    for name, value in options.items():
        if value is None or name == "idempotency_key":
            continue
        if isinstance(value, datetime):
            value = _instant(value)
        elif isinstance(value, timedelta):
            value = int(value.total_seconds())
        fields[name] = value
    return fields


def _key(options: PushOptions) -> str:
    return options.get("idempotency_key") or make_idempotency_key()


def _quota(reply: Reply) -> Quota | None:
    limit, remaining = reply.headers.get("x-quota-limit", ""), reply.headers.get("x-quota-remaining", "")
    if not (limit.isdigit() and remaining.isdigit()):
        return None
    return Quota(int(limit), int(remaining), reply.headers.get("x-quota-reset"))


def _instant(at: datetime) -> str:
    if at.tzinfo is None:
        raise ValueError("send_at has no time zone: use datetime.now(UTC) or .astimezone().")
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _id(notification_id: str | UUID) -> str:
    # Checked here so that no text can become part of another path.
    return str(notification_id if isinstance(notification_id, UUID) else UUID(notification_id))
