"""Pushes as the engine hands them to a channel."""

import uuid
from datetime import timedelta

from appliance.channels.contract import Presentation, Push
from appliance.domain.device import Platform
from appliance.domain.notification import Envelope, Priority
from appliance.domain.secret import Secret

APP = uuid.UUID(int=9)
_DAY = timedelta(days=1)


def make_push(
    address,
    now,
    *,
    number=1,
    title="Invoice",
    body="It has come.",
    data=None,
    type="invoice",
    priority=Priority.NORMAL,
    ttl=_DAY,
    collapse_key=None,
    platform=Platform.ANDROID,
    presentation=Presentation.ALERT,
    registered_at=None,
    timeout_s=10.0,
):
    """Make a push to this address at this time; the number is the notification's id."""
    envelope = Envelope(
        id=uuid.UUID(int=number),
        app_id=APP,
        user_id=uuid.UUID(int=3),
        title=title,
        body=body,
        data={"invoice": "17"} if data is None else data,
        type=type,
        priority=priority,
        sequence=4,
        sent_at=now,
        expires_at=now + ttl,
        collapse_key=collapse_key,
    )
    return Push(
        envelope=envelope,
        app_id=APP,
        device_id=uuid.UUID(int=5),
        platform=platform,
        address=Secret(address),
        timeout_s=timeout_s,
        registered_at=registered_at or now - _DAY,
        presentation=presentation,
    )
