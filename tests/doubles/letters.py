"""Letters as the engine hands them to the e-mail channel, and settings that lead to a mail server on loopback."""

import uuid
from dataclasses import replace
from pathlib import Path

from appliance.channels.contract import Letter, LetterEntry
from appliance.domain.language import Language
from appliance.domain.secret import Secret
from appliance.settings import Settings
from tests.doubles.pushes import make_push
from tests.doubles.smtp_server import PASSWORD, USER


def make_letter(address, now, *, language=Language.ENGLISH, app_name="Roster", unsubscribe_url=None, **content):
    """Make a push of one notification to a mailbox."""
    push = make_push(address, now, **content)
    entry = LetterEntry(app_name, push.envelope.title, push.envelope.body, push.envelope.sent_at)
    letter = Letter(push.envelope.id, language, (entry,), 1, unsubscribe_url)
    return replace(push, device_id=None, platform=None, letter=letter)


def make_digest(address, now, titles, *, count=None, language=Language.ENGLISH, app_names=("Roster",)):
    """Make a push of a digest; the apps take turns."""
    push = make_push(address, now)
    entries = tuple(
        LetterEntry(app_names[number % len(app_names)], title, f"Body of {title}", now)
        for number, title in enumerate(titles)
    )
    letter = Letter(uuid.UUID(int=77), language, entries, count or len(entries))
    return replace(push, device_id=None, platform=None, letter=letter)


def mail_settings(port, *, security="none", signs_in=False, **others):
    """Give settings that lead to the server on this port."""
    user, password = (USER, PASSWORD) if signs_in else ("", "")
    return Settings(
        data_dir=Path("/nonexistent"),
        secret_key=Secret("k" * 40),
        secret_key_previous=Secret(""),
        smtp_host="localhost",
        smtp_port=port,
        smtp_security=security,
        smtp_user=user,
        smtp_password=Secret(password),
        smtp_from="Carillon <carillon@example.org>",
        **others,
    )
