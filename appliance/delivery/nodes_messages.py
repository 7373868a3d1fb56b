"""What nodes say to each other: one versioned frame that holds any number of messages.

A frame is one byte, the version, and MessagePack behind it. A frame to all nodes carries a number that grows by one
with each, also with those that could not be sent: so whoever missed one can tell. A frame to one node has number 0.
A frame of another version, or one that cannot be read, is refused whole.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from math import isfinite
from typing import Final
from uuid import UUID

import msgspec

from appliance.domain.notification import Envelope, Priority

VERSION: Final = 1
MOST_FRAME_BYTES: Final = 1_048_576
"""Longest frame that is read."""
MOST_MESSAGE_BYTES: Final = 262_144
"""Longest message that is sent; what is longer counts as lost, and its sessions load it from the database."""
LONGEST_WINDOW_S: Final = 60.0
"""Longest time for which a node may let another one wait for a device's answer; hub.limits stays well below."""


class Unreadable(Exception):
    """A frame that means nothing to this version."""


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Anything that one node says to others."""


class Offer(Message, frozen=True, array_like=True, tag=1):
    """A released notification; who has sessions of these devices, or plain connections of the user, offers it."""

    id: UUID
    app_id: UUID
    user_id: UUID
    title: str
    body: str
    data_json: bytes
    kind: str
    priority: int
    sequence: int
    sent_at: datetime
    expires_at: datetime
    collapse_key: str | None
    device_ids: list[UUID]

    def envelope(self) -> Envelope:
        """Give the notification as it travels. Raises `Unreadable`."""
        try:
            return Envelope(
                id=self.id,
                app_id=self.app_id,
                user_id=self.user_id,
                title=self.title,
                body=self.body,
                data=msgspec.json.decode(self.data_json, type=dict[str, object]),
                type=self.kind,
                priority=Priority(self.priority),
                sequence=self.sequence,
                sent_at=self.sent_at.astimezone(UTC),
                expires_at=self.expires_at.astimezone(UTC),
                collapse_key=self.collapse_key,
            )
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise Unreadable from error


class Taken(Message, frozen=True, array_like=True, tag=2):
    """The answer to an offer: the device has a session here; see `hub.hub.Offered` for the rest."""

    device_id: UUID
    notification_id: UUID
    acknowledges: bool
    deadline_s: float

    def __post_init__(self) -> None:
        if not (isfinite(self.deadline_s) and 0 <= self.deadline_s <= LONGEST_WINDOW_S):
            raise ValueError("A window is not negative and has an end.")


class Acknowledged(Message, frozen=True, array_like=True, tag=3):
    """A device has answered what it was offered for another node."""

    device_id: UUID
    notification_id: UUID


class Cut(Message, frozen=True, array_like=True, tag=4):
    """These offers were taken, and will not be answered: they go to the next layer."""

    device_id: UUID
    notification_ids: list[UUID]
    code: str
    why: str


class Seated(Message, frozen=True, array_like=True, tag=5):
    """These devices speak here, each since the moment of its stamp; an older session elsewhere ends."""

    seats: list[tuple[UUID, int]]


class CloseDevice(Message, frozen=True, array_like=True, tag=6):
    """The device's session must end, wherever it is."""

    device_id: UUID
    reason: str
    allow_reconnect: bool


class Withdrawn(Message, frozen=True, array_like=True, tag=7):
    """The notification must not be offered any more."""

    notification_id: UUID


class Revoked(Message, frozen=True, array_like=True, tag=8):
    """Something was revoked: what it is stands in the database, and is to be looked up at once."""


class Leaving(Message, frozen=True, array_like=True, tag=9):
    """The node stops; nothing that it had to say is lost."""


AnyMessage = Offer | Taken | Acknowledged | Cut | Seated | CloseDevice | Withdrawn | Revoked | Leaving


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """What one node says at one time. Without messages it says that the node lives.

    `said_at_ms` is its wall clock, in milliseconds since 1970; 0 where it is not told.
    """

    node: UUID
    number: int
    messages: list[AnyMessage]
    said_at_ms: int = 0


class _RawFrame(msgspec.Struct, frozen=True, array_like=True):
    node: UUID
    number: int
    messages: list[msgspec.Raw]
    said_at_ms: int


_encoder: Final = msgspec.msgpack.Encoder(uuid_format="bytes")
_decoder: Final = msgspec.msgpack.Decoder(Frame)


def make_offer(envelope: Envelope, device_ids: Sequence[UUID]) -> Offer:
    """Make the message that offers a notification to all other nodes."""
    return Offer(
        id=envelope.id,
        app_id=envelope.app_id,
        user_id=envelope.user_id,
        title=envelope.title,
        body=envelope.body,
        data_json=msgspec.json.encode(envelope.data),
        kind=envelope.type,
        priority=int(envelope.priority),
        sequence=envelope.sequence,
        sent_at=envelope.sent_at,
        expires_at=envelope.expires_at,
        collapse_key=envelope.collapse_key,
        device_ids=list(device_ids),
    )


def encode_message(message: Message) -> bytes:
    """Encode one message, to be put into a frame."""
    return _encoder.encode(message)


def encode_frame(node: UUID, number: int, messages: Sequence[bytes], said_at_ms: int = 0) -> bytes:
    """Put encoded messages into a frame."""
    raw = _RawFrame(node, number, [msgspec.Raw(one) for one in messages], said_at_ms)
    return bytes([VERSION]) + _encoder.encode(raw)


def decode_frame(data: bytes) -> Frame:
    """Read a frame. Raises `Unreadable`."""
    if not 1 < len(data) <= MOST_FRAME_BYTES or data[0] != VERSION:
        raise Unreadable
    try:
        return _decoder.decode(memoryview(data)[1:])
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
        raise Unreadable from error
