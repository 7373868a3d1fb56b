"""E-mail: which addresses can be written to, when an app's notifications are mailed, and what a storm is."""

import re
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Final

from appliance.domain.errors import InvalidField

MAX_ADDRESS_CHARS: Final = 254
"""RFC 5321 section 4.5.3.1.3, without the brackets."""
MOST_MAILS: Final = 10
"""Mails to one mailbox within `STORM_SPAN`; what is beyond is gathered into a digest."""
STORM_SPAN: Final = timedelta(minutes=10)
CONFIRM_GRACE: Final = timedelta(minutes=5)
"""How long devices may take before `if_unconfirmed` mails in spite of what is still open."""
FIRST_LOOK: Final = timedelta(seconds=15)
"""When it is first asked whether a device has it: a little after the hub's own windows."""

_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_ADDRESS: Final = re.compile(rf"(?=.{{1,64}}@){_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*")


class EmailPolicy(IntEnum):
    """When an app's notifications are mailed. Stored as the number."""

    ALWAYS = 0
    """Whatever comes of the pushes, where the app has a notification e-mail."""
    IF_UNCONFIRMED = 1
    """Where no device has it after all were tried, or after `CONFIRM_GRACE`."""
    NEVER = 2


def is_mailable(text: str) -> bool:
    """Tell whether the text is an address that every mail server takes: ASCII, without quotes and comments."""
    return len(text) <= MAX_ADDRESS_CHARS and _ADDRESS.fullmatch(text) is not None


def check_email(text: str, *, field: str) -> str:
    """Give the address with its domain in lower case, which makes it one mailbox. Raises `InvalidField`."""
    if not is_mailable(text):
        raise InvalidField(
            field,
            f"Give {field} as one plain address like roster@example.org, at most {MAX_ADDRESS_CHARS} ASCII characters.",
        )
    return mailbox_key(text)


def mailbox_key(address: str) -> str:
    """Give the form under which addresses of the same mailbox are equal: RFC 5321 leaves the local part alone."""
    local, _, domain = address.rpartition("@")
    return f"{local}@{domain.lower()}"


def next_look_at(released_at: datetime, now: datetime) -> datetime:
    """Give when to ask next whether a device has it: after twice the time that has passed, at the latest after all."""
    passed = now - released_at
    return released_at + min(max(FIRST_LOOK, 2 * passed), CONFIRM_GRACE)
