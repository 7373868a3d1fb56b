"""Reading what a mail tells: its mailbox, its notifications, and the language of who reads it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from appliance.domain.notification import Content
from appliance.storage.database import Database
from appliance.storage.mail_claims import ClaimedMail
from appliance.storage.sending import content_of
from appliance.storage.sql import instant_of, marks, uuid_of


@dataclass(frozen=True, slots=True)
class MailedDelivery:
    """One notification of a mail."""

    id: UUID
    notification_id: UUID
    user_id: UUID
    app_id: UUID
    app_name: str
    content: Content
    sequence: int
    released_at: datetime
    expires_at: datetime
    attempts: int


@dataclass(frozen=True, slots=True)
class LetterRow:
    """A mail with all its notifications, oldest first; `locale` is that of the reader's newest device, if it told."""

    address: str
    locale: str | None
    deliveries: Sequence[MailedDelivery]


async def load_letter(database: Database, claimed: ClaimedMail) -> LetterRow | None:
    """Read what a claimed mail tells; None when it was deleted meanwhile."""
    mailbox = await database.read_one("SELECT address FROM mailbox WHERE id = ?", (claimed.mailbox_id,))
    rows = await database.read(
        'SELECT d.id, n.id, n."user", n.app, a.name, n.sequence, n.released_at, d.expires_at, d.attempts, n.title, '
        "n.body, n.data, n.type, n.priority, n.ttl_s, n.collapse_key FROM delivery d "
        "JOIN notification n ON n.id = d.notification JOIN app a ON a.id = n.app "
        f"WHERE d.id IN ({marks(len(claimed.delivery_ids))}) ORDER BY n.released_at, n.sequence",
        claimed.delivery_ids,
    )
    if mailbox is None or not rows:
        return None
    deliveries = [
        MailedDelivery(
            id=uuid_of(row[0]),
            notification_id=uuid_of(row[1]),
            user_id=uuid_of(row[2]),
            app_id=uuid_of(row[3]),
            app_name=str(row[4]),
            sequence=int(row[5]),
            released_at=instant_of(row[6]),
            expires_at=instant_of(row[7]),
            attempts=int(row[8]),
            content=content_of(row[9:16]),
        )
        for row in rows
    ]
    device = await database.read_one(
        "SELECT locale FROM device WHERE \"user\" = ? AND locale <> '' ORDER BY last_seen_at DESC LIMIT 1",
        (deliveries[-1].user_id,),
    )
    return LetterRow(str(mailbox[0]), None if device is None else str(device[0]), deliveries)
