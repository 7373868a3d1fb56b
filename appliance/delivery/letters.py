"""Writing a claimed mail as a push for the e-mail channel: one notification, or a digest of several."""

from typing import Final

from appliance.channels.contract import Letter, LetterEntry, Push
from appliance.delivery.envelope import make_envelope
from appliance.delivery.unsubscribing import UnsubscribeLinks
from appliance.domain.language import language_of
from appliance.domain.secret import Secret
from appliance.storage.letters import LetterRow, MailedDelivery
from appliance.storage.mail_claims import ClaimedMail

MOST_ENTRIES: Final = 50
"""Notifications that a digest tells in words; the others are counted."""


def make_mail(claimed: ClaimedMail, row: LetterRow, links: UnsubscribeLinks | None, *, timeout_s: float) -> Push:
    """Give the push of a claimed mail. A digest that came down to one notification is a mail like any other."""
    newest = row.deliveries[-1]
    is_digest = len(row.deliveries) > 1
    app_ids = tuple(dict.fromkeys(one.app_id for one in row.deliveries))
    letter = Letter(
        id=claimed.id if is_digest else newest.notification_id,
        language=language_of(row.locale),
        entries=tuple(_entry(one) for one in row.deliveries[:MOST_ENTRIES]),
        count=len(row.deliveries),
        unsubscribe_url=None if links is None else links.make_url(claimed.mailbox_id, app_ids),
    )
    return Push(
        envelope=make_envelope(
            id=newest.notification_id,
            app_id=newest.app_id,
            user_id=newest.user_id,
            content=newest.content,
            sequence=newest.sequence,
            released_at=newest.released_at,
            expires_at=newest.expires_at,
        ),
        app_id=newest.app_id,
        device_id=None,
        platform=None,
        address=Secret(row.address),
        timeout_s=timeout_s,
        registered_at=newest.released_at,
        letter=letter,
    )


def _entry(one: MailedDelivery) -> LetterEntry:
    return LetterEntry(one.app_name, one.content.title, one.content.body, one.released_at)
