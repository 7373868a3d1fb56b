"""A notification as Apple takes it: the SDK's request type, and that request on the wire of our own sender."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec

from appliance.channels.contract import Presentation, Push
from appliance.channels.fitting import fit
from appliance.channels.http2_messages import Header, Http2Request
from appliance.domain.notification import Envelope, Priority

if TYPE_CHECKING:
    from aioapns import NotificationRequest

MOST_BYTES: Final = 4_096
MOST_VOIP_BYTES: Final = 5_120
_ALERT_PRIORITIES: Final = {Priority.LOW: 1, Priority.NORMAL: 5, Priority.HIGH: 10}


def make_request(push: Push, now: datetime, *, topic: str, voip_topic: str) -> "NotificationRequest":
    """Make the request for a push. Raises `DoesNotFit` when it is too large even without its data.

    Its `time_to_live` counts from `now`. Loads the SDK: call it first in a thread.
    """
    from aioapns import NotificationRequest, PushType

    envelope = push.envelope
    is_call = push.presentation is Presentation.CALL
    payload = fit(envelope, MOST_VOIP_BYTES if is_call else MOST_BYTES, _payload_encoder(push))
    priority, push_type = {
        Presentation.ALERT: (_ALERT_PRIORITIES[envelope.priority], PushType.ALERT),
        # Apple refuses 10 for what nobody sees.
        Presentation.DATA: (5, PushType.BACKGROUND),
        Presentation.CALL: (10, PushType.VOIP),
    }[push.presentation]
    return NotificationRequest(
        push.address.reveal(),
        msgspec.json.decode(payload),
        notification_id=str(envelope.id),
        time_to_live=int(max(envelope.expires_at - now, timedelta(0)).total_seconds()),
        priority=priority,
        # Without a collapse key its own id: a repetition then takes the place of the first copy.
        collapse_key=envelope.collapse_key or str(envelope.id),
        push_type=push_type,
        apns_topic=voip_topic if is_call else topic,
    )


def wire_request(request: "NotificationRequest", now: datetime, authorization: bytes | None) -> Http2Request:
    """Give the request as our sender takes it; `authorization` is for keys, certificates need none.

    A time to live of 0 is sent as such (deliver now or never), which the SDK's own sender cannot do.
    """
    headers: list[Header] = []
    if request.apns_topic is not None:
        headers.append((b"apns-topic", request.apns_topic.encode()))
    if request.push_type is not None:
        headers.append((b"apns-push-type", request.push_type.value.encode()))
    if request.priority is not None:
        headers.append((b"apns-priority", b"%d" % request.priority))
    fresh: list[Header] = [(b"apns-id", request.notification_id.encode())]
    if request.time_to_live is not None:
        expires = int(now.timestamp()) + request.time_to_live if request.time_to_live else 0
        fresh.append((b"apns-expiration", b"%d" % expires))
    if request.collapse_key is not None:
        fresh.append((b"apns-collapse-id", request.collapse_key.encode()))
    if authorization is not None:
        fresh.append((b"authorization", authorization))
    body = msgspec.json.encode(request.message)
    return Http2Request(f"/3/device/{request.device_token}".encode(), body, headers, fresh)


def _payload_encoder(push: Push) -> Any:
    envelope = push.envelope

    def encode(body: str, with_data: bool, is_truncated: bool) -> bytes:
        payload: dict[str, object] = {"aps": _aps(push, body)}
        if push.presentation is not Presentation.ALERT:
            payload |= {"title": envelope.title, "body": body}
        payload |= _facts(envelope)
        if with_data:
            payload["data"] = envelope.data
        if is_truncated:
            payload["truncated"] = True
        return msgspec.json.encode(payload)

    return encode


def _aps(push: Push, body: str) -> dict[str, object]:
    match push.presentation:
        case Presentation.ALERT:
            return {"alert": {"title": push.envelope.title, "body": body}, "sound": "default"}
        case Presentation.DATA:
            return {"content-available": 1}
        case Presentation.CALL:
            return {}


def _facts(envelope: Envelope) -> dict[str, object]:
    return {
        "notificationId": envelope.id,
        "appId": envelope.app_id,
        "type": envelope.type,
        "sequence": envelope.sequence,
    }
