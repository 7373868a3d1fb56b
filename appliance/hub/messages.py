"""What the hub says to a client about a notification: encoded once, shared by every connection that sends it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import IntEnum
from functools import lru_cache
from typing import Final
from uuid import UUID

import msgspec

from appliance.domain.notification import Envelope, Priority
from appliance.hub.encoding import Frame, HubEncoding

PLAIN_TARGET: Final = "ReceiveNotification"
FULL_TARGET: Final = "Notify"
NOTIFICATION_ID_KEY: Final = "notificationId"
_PRIORITIES: Final = tuple(priority.name.lower() for priority in sorted(Priority))


class Dialect(IntEnum):
    """How a connection wants to be told."""

    PLAIN = 0
    FULL = 1
    FULL_WITH_RESULT = 2


class EncodedNotification:
    """One notification on its way to any number of connections.

    Each (dialect, encoding) is encoded at most once, when first asked for. With `FULL_WITH_RESULT` the invocation id is
    the notification's id, so that even a message that asks for an answer is the same bytes on every connection.
    """

    __slots__ = ("_frames", "envelope")

    def __init__(self, envelope: Envelope) -> None:
        self.envelope = envelope
        # By encoding, and then by dialect: a place in a list is found without a hash.
        self._frames: dict[str, list[Frame | None]] = {}

    @property
    def id(self) -> UUID:
        return self.envelope.id

    def frame(self, dialect: Dialect, encoding: HubEncoding) -> Frame:
        """Give the whole message in that dialect and encoding."""
        frames = self._frames.get(encoding.name)
        if frames is None:
            frames = self._frames[encoding.name] = [None] * len(Dialect)
        frame = frames[dialect]
        if frame is None:
            frame = frames[dialect] = self._encode(dialect, encoding)
        return frame

    def _encode(self, dialect: Dialect, encoding: HubEncoding) -> Frame:
        if dialect is Dialect.PLAIN:
            return encoding.encode_invocation(PLAIN_TARGET, make_plain_payload(self.envelope))
        invocation_id = str(self.envelope.id) if dialect is Dialect.FULL_WITH_RESULT else None
        return encoding.encode_invocation(FULL_TARGET, make_full_payload(self.envelope), invocation_id)


def make_plain_payload(envelope: Envelope) -> dict[str, object]:
    """Give the one argument of `ReceiveNotification`: exactly title, body and data, data holding strings only.

    Source: OpenKSeF's hub contract, whose client binds `data` as string to string and fails on anything else.
    """
    data = {key: value if isinstance(value, str) else _compact_json(value) for key, value in envelope.data.items()}
    data[NOTIFICATION_ID_KEY] = str(envelope.id)
    return {"title": envelope.title, "body": envelope.body, "data": data}


def make_full_payload(envelope: Envelope) -> Mapping[str, object]:
    """Give the one argument of `Notify`: the whole envelope, data as it was sent."""
    data = envelope.data
    return {
        # The encoders write them as text, and much faster than `str` does.
        "id": envelope.id,
        "appId": envelope.app_id,
        "type": envelope.type,
        "title": envelope.title,
        "body": envelope.body,
        "data": data if isinstance(data, dict) else dict(data),
        "priority": _PRIORITIES[envelope.priority],
        # What stands beside the user's order has no place in it, and is no cursor.
        "sequence": envelope.sequence or None,
        "sentAt": format_instant(envelope.sent_at),
        "expiresAt": format_instant(envelope.expires_at),
        "collapseKey": envelope.collapse_key,
    }


@lru_cache(maxsize=64)
def format_instant(instant: datetime) -> str:
    """Write an aware instant as RFC 3339 in UTC with milliseconds, for instance `2026-01-31T09:05:00.250Z`."""
    # Remembered because all notifications of one bulk send carry the same instants.
    return f"{instant.astimezone(UTC).isoformat(timespec='milliseconds')[:-6]}Z"


def _compact_json(value: object) -> str:
    return msgspec.json.encode(value).decode()
