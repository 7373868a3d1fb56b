"""A notification as FCM HTTP v1 takes it, checked and encoded by the SDK.

All data values are strings there, so what is not one is JSON. Beside the app's data it carries `notificationId`,
`appId`, `type` (unless the app's data has one) and `sequence`, by which a client knows what the hub or the inbox
showed it already. On the device a repetition replaces the first copy: Android by the tag, Apple by the collapse id,
browsers by the topic.
"""

import base64
import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from appliance.channels.contract import Presentation, Push
from appliance.channels.fitting import fit
from appliance.domain.device import Platform
from appliance.domain.notification import Envelope, Priority

MOST_BYTES: Final = 4_096
"""Notification and data together. Source: firebase.google.com, "Message types"."""
MOST_TTL: Final = timedelta(days=28)
_RESERVED: Final = frozenset({"from", "message_type", "collapse_key", "notification"})
_RESERVED_BEGINNINGS: Final = ("google", "gcm")
_PREFIX: Final = "app_"
_URGENCIES: Final = {Priority.LOW: "low", Priority.NORMAL: "normal", Priority.HIGH: "high"}
_TOPIC_CHARS: Final = 32


def encode_message(push: Push, now: datetime, *, android_channel: str | None = None) -> bytes:
    """Give the request's body. Raises `DoesNotFit` when it is too large even without its data.

    Loads the SDK: call it first in a thread.
    """
    from firebase_admin import messaging  # type: ignore[import-untyped]

    content = msgspec.json.decode(
        fit(push.envelope, MOST_BYTES, _content_encoder(push)), type=dict[str, dict[str, str]]
    )
    notification = content.get("notification")
    message = messaging.Message(
        data=content["data"],
        notification=messaging.Notification(**notification) if notification else None,
        android=_android(messaging, push, now, android_channel) if push.platform is Platform.ANDROID else None,
        apns=_apple(messaging, push, now) if push.platform is Platform.IOS else None,
        webpush=_browser(messaging, push, now) if push.platform is Platform.WEB else None,
    )
    # Not by the constructor, which warns about every token; the wire's name for it is still the same.
    message.token = push.address.reveal()
    return f'{{"message":{message}}}'.encode()


def _content_encoder(push: Push) -> Any:
    envelope = push.envelope
    is_alert = push.presentation is Presentation.ALERT

    def encode(body: str, with_data: bool, is_truncated: bool) -> bytes:
        data = _text_values(envelope.data) if with_data else {}
        data.setdefault("type", envelope.type)
        data["notificationId"] = str(envelope.id)
        data["appId"] = str(envelope.app_id)
        data["sequence"] = str(envelope.sequence)
        if is_truncated:
            data["truncated"] = "true"
        shown = {"title": envelope.title, "body": body}
        if is_alert:
            return msgspec.json.encode({"notification": shown, "data": data})
        return msgspec.json.encode({"data": shown | data})

    return encode


def _text_values(data: Mapping[str, object]) -> dict[str, str]:
    texts = {}
    for key, value in data.items():
        is_reserved = key in _RESERVED or key.startswith(_RESERVED_BEGINNINGS)
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        texts[f"{_PREFIX}{key}" if is_reserved else key] = text
    return texts


def _android(messaging: Any, push: Push, now: datetime, channel: str | None) -> Any:
    envelope = push.envelope
    notification = None
    if push.presentation is Presentation.ALERT:
        notification = messaging.AndroidNotification(tag=_replaces(envelope), channel_id=channel)
    return messaging.AndroidConfig(
        priority="high" if _is_urgent(push) else "normal",
        ttl=_left(envelope, now),
        # Only where the app wants it: a phone that is off keeps no more than four different ones.
        collapse_key=envelope.collapse_key,
        notification=notification,
    )


def _apple(messaging: Any, push: Push, now: datetime) -> Any:
    is_alert = push.presentation is Presentation.ALERT
    headers = {
        "apns-priority": "10" if _is_urgent(push) and is_alert else "5",
        "apns-expiration": str(int((now + _left(push.envelope, now)).timestamp())),
        "apns-collapse-id": _replaces(push.envelope),
        "apns-push-type": "alert" if is_alert else "background",
    }
    aps = messaging.Aps(sound="default") if is_alert else messaging.Aps(content_available=True)
    return messaging.APNSConfig(headers=headers, payload=messaging.APNSPayload(aps=aps))


def _browser(messaging: Any, push: Push, now: datetime) -> Any:
    topic = base64.urlsafe_b64encode(hashlib.sha256(_replaces(push.envelope).encode()).digest()).decode()
    headers = {
        "TTL": str(int(_left(push.envelope, now).total_seconds())),
        "Urgency": _URGENCIES[push.envelope.priority],
        "Topic": topic[:_TOPIC_CHARS],
    }
    return messaging.WebpushConfig(headers=headers)


def _is_urgent(push: Push) -> bool:
    return push.envelope.priority is Priority.HIGH or push.presentation is Presentation.CALL


def _replaces(envelope: Envelope) -> str:
    """Give what a newer push must share with an older one to take its place; without a collapse key, its own id."""
    return envelope.collapse_key or str(envelope.id)


def _left(envelope: Envelope, now: datetime) -> timedelta:
    return timedelta(seconds=int(min(max(envelope.expires_at - now, timedelta(0)), MOST_TTL).total_seconds()))
