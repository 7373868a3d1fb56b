"""Putting a stored notification into the envelope that travels through every layer."""

from datetime import datetime
from uuid import UUID

from appliance.domain.notification import Content, Envelope


def make_envelope(
    *,
    id: UUID,
    app_id: UUID,
    user_id: UUID,
    content: Content,
    sequence: int,
    released_at: datetime,
    expires_at: datetime,
) -> Envelope:
    """Give the notification as it travels; the same id and sequence whichever way it goes."""
    return Envelope(
        id=id,
        app_id=app_id,
        user_id=user_id,
        title=content.title,
        body=content.body,
        data=content.data,
        type=content.type,
        priority=content.priority,
        sequence=sequence,
        sent_at=released_at,
        expires_at=expires_at,
        collapse_key=content.collapse_key,
    )
