"""What was asked: a notification's content, its limits, and the envelope that travels through every layer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from uuid import UUID

import msgspec

from appliance.domain.errors import InvalidField, PayloadTooLarge

MAX_TITLE_CHARS = 256
MAX_BODY_CHARS = 4096
MAX_DATA_BYTES = 4096
MAX_DATA_DEPTH = 32
"""Levels of objects and arrays in `data`, itself included: encoders and decoders recurse, and give up far deeper."""
MAX_TYPE_CHARS = 64
MAX_COLLAPSE_KEY_BYTES = 64
DEFAULT_TTL = timedelta(hours=24)
MAX_TTL = timedelta(days=28)
MAX_SCHEDULE_AHEAD = timedelta(days=28)
DEFAULT_TYPE = "notification"


class Priority(IntEnum):
    """How urgent it is. Stored as the number; `normal` may wait for a phone to wake up, `high` may not."""

    LOW = 0
    NORMAL = 1
    HIGH = 2


class NotificationState(IntEnum):
    """Where a notification stands as a whole. Stored as the number."""

    SCHEDULED = 0
    RELEASED = 1
    WITHDRAWN = 2
    EXPIRED = 3


@dataclass(frozen=True, slots=True)
class Content:
    """The checked content of a notification: within Keymaster's limits, fit for every store and every layer."""

    title: str
    body: str
    data: Mapping[str, object]
    type: str = DEFAULT_TYPE
    priority: Priority = Priority.NORMAL
    ttl: timedelta = DEFAULT_TTL
    collapse_key: str | None = None
    data_json: str = "{}"


@dataclass(frozen=True, slots=True)
class Envelope:
    """A released notification as it travels: the same id through hub, FCM, APNs, Web Push and mail.

    `sequence` numbers a user's notifications 1, 2, 3… in the order of their release, without regard to the app.
    """

    id: UUID
    app_id: UUID
    user_id: UUID
    title: str
    body: str
    data: Mapping[str, object]
    type: str
    priority: Priority
    sequence: int
    sent_at: datetime
    expires_at: datetime
    collapse_key: str | None = None


def check_content(
    *,
    title: str,
    body: str,
    data: Mapping[str, object] | None = None,
    type: str | None = None,
    priority: Priority = Priority.NORMAL,
    ttl_s: int | None = None,
    collapse_key: str | None = None,
    path: str = "",
) -> Content:
    """Check one notification's content and give it back in its stored form.

    Limits: title 1-256 characters, body 1-4096 characters, data 4096 bytes as compact UTF-8 JSON in
    32 levels of nesting, ttl 0 s to 28 days.
    Raises `InvalidField` (the field's name begins with `path`) or `PayloadTooLarge`, which tells the bytes.
    """
    _check_text(title, field=f"{path}title", most=MAX_TITLE_CHARS)
    _check_text(body, field=f"{path}body", most=MAX_BODY_CHARS)
    data = data or {}
    data_json = _encode_data(data, field=f"{path}data")
    if type is not None:
        _check_text(type, field=f"{path}type", most=MAX_TYPE_CHARS)
    if collapse_key is not None:
        _check_collapse_key(collapse_key, field=f"{path}collapse_key")
    return Content(
        title=title,
        body=body,
        data=data,
        type=type or DEFAULT_TYPE,
        priority=priority,
        ttl=_check_ttl(ttl_s, field=f"{path}ttl"),
        collapse_key=collapse_key,
        data_json=data_json,
    )


def read_data(text: str | bytes) -> Mapping[str, object] | None:
    """Read `data` as it was stored or sent on; None where it is no JSON object or nests deeper than it may."""
    try:
        data = msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return None if nests_too_deep(data) else data


def is_storable_text(text: str) -> bool:
    """Tell whether every store and every wire can hold the text: valid Unicode without NUL or lone surrogates."""
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_text(text: str, *, field: str, most: int) -> None:
    if not text.strip():
        raise InvalidField(field, f"Give {field} at least 1 visible character.")
    if len(text) > most:
        raise InvalidField(field, f"Shorten {field} to {most} characters; it has {len(text)}.")
    if not is_storable_text(text):
        raise InvalidField(field, f"Remove NUL characters and unpaired surrogates from {field}.")


def _check_collapse_key(key: str, *, field: str) -> None:
    if not key or not is_storable_text(key):
        raise InvalidField(field, f"Give {field} 1 to {MAX_COLLAPSE_KEY_BYTES} bytes of text, or leave it out.")
    size = len(key.encode())
    if size > MAX_COLLAPSE_KEY_BYTES:
        raise InvalidField(field, f"Shorten {field} to {MAX_COLLAPSE_KEY_BYTES} bytes of UTF-8; it has {size}.")


def _check_ttl(ttl_s: int | None, *, field: str) -> timedelta:
    if ttl_s is None:
        return DEFAULT_TTL
    most = int(MAX_TTL.total_seconds())
    if not 0 <= ttl_s <= most:
        raise InvalidField(field, f"Give {field} in seconds from 0 (live only) to {most} (28 days).")
    return timedelta(seconds=ttl_s)


def _encode_data(data: Mapping[str, object], *, field: str) -> str:
    if nests_too_deep(data):
        raise InvalidField(field, f"Nest the objects and arrays of {field} at most {MAX_DATA_DEPTH} levels deep.")
    try:
        encoded = msgspec.json.encode(data)
        text = encoded.decode()
    except (msgspec.MsgspecError, UnicodeError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidField(field, f"Give {field} as a JSON object of valid Unicode text.") from error
    # The same letters stand for an escaped backslash with "u0000" behind it, so only the values can tell.
    if "\\u0000" in text and _holds_nul(data):
        raise InvalidField(field, f"Remove NUL characters from {field}.")
    if len(encoded) > MAX_DATA_BYTES:
        raise PayloadTooLarge(field, limit_bytes=MAX_DATA_BYTES, actual_bytes=len(encoded))
    return text


def nests_too_deep(data: Mapping[str, object]) -> bool:
    """Tell whether JSON data has more than `MAX_DATA_DEPTH` levels; looks no deeper, and nothing recurses."""
    level: list[object] = [data]
    for _ in range(MAX_DATA_DEPTH):
        level = [inner for value in level for inner in _members_of(value) if isinstance(inner, Mapping | list | tuple)]
        if not level:
            return False
    return True


def _members_of(value: object) -> Iterable[object]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def _holds_nul(data: Mapping[str, object]) -> bool:
    """Tell whether a text or a key anywhere in JSON data has a NUL; however deep it nests, nothing recurses."""
    waiting: list[object] = [data]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            if "\0" in value:
                return True
        elif isinstance(value, Mapping):
            waiting.extend(value)
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)
    return False
