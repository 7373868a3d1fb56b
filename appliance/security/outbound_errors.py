"""Why an outbound request came to nothing.

OutboundError
├── OutboundRefused   we do not connect there; the same text whatever the reason
└── OutboundFailed    weather or a sick peer; `reason` says which, trying again may help
"""

from enum import StrEnum


class OutboundError(Exception):
    """An outbound request came to nothing; the text names neither address nor secret."""


class OutboundRefused(OutboundError):
    """The target may not be contacted. The text never tells why, or it would map the inside for a stranger."""

    def __init__(self) -> None:
        super().__init__("This address may not be contacted. An operator can allow a private one with OUTBOUND_ALLOW.")


class FailureReason(StrEnum):
    """What went wrong on the way."""

    NAME = "name_not_resolved"
    CONNECT = "not_connected"
    TLS = "tls_failed"
    TIMEOUT = "timed_out"
    BROKEN = "connection_broken"
    PROTOCOL = "not_http"
    TOO_LARGE = "reply_too_large"


_TEXTS = {
    FailureReason.NAME: "The host name could not be resolved.",
    FailureReason.CONNECT: "No connection could be made.",
    FailureReason.TLS: "The TLS handshake failed, or the certificate does not fit the name.",
    FailureReason.TIMEOUT: "The peer did not answer in time.",
    FailureReason.BROKEN: "The connection broke before the reply was whole.",
    FailureReason.PROTOCOL: "The peer closed early or does not speak HTTP as it should.",
    FailureReason.TOO_LARGE: "The reply is larger than what is read.",
}


class OutboundFailed(OutboundError):
    """The request was allowed but there is no whole reply; `reason` classifies it."""

    def __init__(self, reason: FailureReason) -> None:
        super().__init__(_TEXTS[reason])
        self.reason = reason
