"""What a mail server's answers mean. Sources: RFC 5321 section 4.2, RFC 4954 section 6, RFC 3463.

4xx is weather. 5xx is for good: about the recipient or the mail it concerns this mail alone, everything else is ours to
set right. What the server says is shown only where it is short and plain; of a sign-in nothing is shown.
"""

import re
import ssl
from enum import Enum, auto
from typing import Final

from aiosmtplib import SMTPResponseException

from appliance.channels.plain_words import shown
from appliance.domain.outcome import Misconfigured, Outcome, Rejected, Retry

_CLOSING: Final = 421
_TOO_LARGE: Final = 552
_NEEDS_SIGN_IN: Final = 530
_LOST: Final = "connection_lost"
_STATUS: Final = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}")


class Stage(Enum):
    """How far a mail had come when the server refused."""

    GREETING = auto()
    TLS = auto()
    SIGN_IN = auto()
    SENDER = auto()
    RECIPIENT = auto()
    CONTENT = auto()


class Closed(Exception):
    """There is no connection to send over; `outcome` says why."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.code)
        self.outcome = outcome


def of_refusal(stage: Stage, refusal: SMTPResponseException) -> Outcome:
    """Give what a refusing answer means."""
    code = refusal.code
    if not 500 <= code <= 599:
        return _weather(stage, refusal)
    said = _said(refusal)
    if stage is Stage.SIGN_IN:
        return Misconfigured(
            "The mail server does not accept SMTP_USER with SMTP_PASSWORD. Check both; some providers want a password "
            "of its own for each program.",
            code=str(code),
        )
    if stage is Stage.GREETING:
        return Misconfigured(f"The mail server does not serve this machine{said}. Check SMTP_HOST.", code=str(code))
    if stage is Stage.TLS:
        return Misconfigured(f"The mail server refuses STARTTLS{said}. Check SMTP_SECURITY.", code=str(code))
    if code == _NEEDS_SIGN_IN or "relay" in refusal.message.lower():
        return Misconfigured(
            f"The mail server wants to know who sends{said}. Set SMTP_USER and SMTP_PASSWORD, and SMTP_FROM to an "
            "address of that account.",
            code=str(code),
        )
    if stage is Stage.RECIPIENT:
        return Rejected(f"The mail server refuses this recipient{said}.", code=str(code))
    if stage is Stage.SENDER and code != _TOO_LARGE:
        return Misconfigured(f"The mail server refuses SMTP_FROM as the sender{said}.", code=str(code))
    return Rejected(f"The mail server refuses this e-mail{said}.", code=str(code))


def is_closing(outcome: Outcome) -> bool:
    """Tell whether the server hung up, or said that it does, before the mail was handed over."""
    return outcome.code in (str(_CLOSING), _LOST)


def of_lost_connection(*, is_sent: bool) -> Outcome:
    """The connection broke in the middle."""
    if is_sent:
        return Retry(
            "The connection to the mail server was lost before it answered; the e-mail is sent again under the same "
            "Message-ID.",
            code="answer_lost",
        )
    return Retry("The connection to the mail server was lost.", code=_LOST)


def of_unreachable() -> Outcome:
    """No connection came about."""
    return Retry("The mail server cannot be reached. Check SMTP_HOST and SMTP_PORT if it lasts.", code="unreachable")


def of_certificate(error: ssl.SSLError) -> Outcome:
    """TLS did not come about: a certificate that is not trusted, or no TLS at all on this port."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = shown(error.verify_message or "")
        return Misconfigured(
            f"The mail server's certificate is not trusted{f' ({why})' if why else ''}. Check SMTP_HOST, or make its "
            "authority known by SSL_CERT_FILE.",
            code="certificate",
        )
    return Misconfigured(
        "The mail server does not speak TLS on this port. Check SMTP_SECURITY and SMTP_PORT: tls is usual on 465, "
        "starttls on 587.",
        code="tls",
    )


def of_unsupported(extension: str) -> Outcome:
    """The server does not offer what the settings ask for; nothing was sent in clear."""
    if extension == "starttls":
        return Misconfigured(
            "The mail server does not offer STARTTLS, so nothing was sent. Set SMTP_SECURITY=tls or another SMTP_PORT.",
            code="no_starttls",
        )
    return Misconfigured(
        "The mail server offers no way to sign in that is known here. Leave SMTP_USER out, or check SMTP_PORT.",
        code="no_auth",
    )


def _weather(stage: Stage, refusal: SMTPResponseException) -> Outcome:
    code = refusal.code
    if not 400 <= code <= 499:
        return Retry("The mail server answered with something that is no SMTP.", code="no_smtp")
    said = "" if stage is Stage.SIGN_IN else _said(refusal)
    # Greylisting, a full mailbox: the server works, and holds only this recipient back.
    is_about_recipient = stage is Stage.RECIPIENT and code != _CLOSING
    what = "this recipient" if is_about_recipient else "the e-mail"
    return Retry(f"The mail server puts {what} off{said}.", code=str(code), is_about_device=is_about_recipient)


def _said(refusal: SMTPResponseException) -> str:
    first, *_ = refusal.message.splitlines() or [""]
    # Where the text names the recipient, or is no text, the status code of RFC 3463 still tells the kind of trouble.
    status = _STATUS.match(first)
    text = shown(first) or (status.group() if status else "")
    return f" ({refusal.code}: {text})" if text else f" ({refusal.code})"
