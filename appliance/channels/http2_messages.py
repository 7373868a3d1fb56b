"""What goes into the HTTP/2 sender and what comes out of it: one request, and one of three answers.

The three answers are what a sender of pushes must tell apart, because only one of them may be repeated freely:

    Answered    the server said something; what it means is the channel's affair
    NotSent     the server has not acted on it and never will: send it again whenever you like
    Ambiguous   it left, and no answer came back: the server may have acted, so repeat it only under the same id
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

Header: TypeAlias = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Http2Request:
    """One POST. Header names are lower case and hold no pseudo-headers and no content-length.

    `headers` are the same in many requests and may stay in the compression table. `fresh_headers` differ every time or
    are secrets: they, like the path, are marked as never to be indexed (RFC 7541, section 7.1.3).
    """

    path: bytes
    body: bytes
    headers: Sequence[Header] = ()
    fresh_headers: Sequence[Header] = ()


class Failure(StrEnum):
    """Why there is no answer."""

    BUSY = "busy"
    CLOSED = "closed"
    NAME = "name_not_resolved"
    CONNECT = "not_connected"
    TLS = "tls_failed"
    PROTOCOL = "not_http2"
    TIMEOUT = "timed_out"
    REFUSED = "refused"
    GOING_AWAY = "going_away"
    BROKEN = "connection_broken"


@dataclass(frozen=True, slots=True)
class Answered:
    """The server's answer. `is_cut` tells that the body was longer than what is read, or ended early."""

    status: int
    headers: Sequence[Header]
    body: bytes
    is_cut: bool = False

    def header(self, name: bytes) -> str | None:
        """Give the first header of that lower-case name as text, None when there is none."""
        for found, value in self.headers:
            if found == name:
                return value.decode("latin-1")
        return None


@dataclass(frozen=True, slots=True)
class NotSent:
    """The server has not acted on the request. `detail` says why in plain words, without secrets."""

    reason: Failure
    detail: str


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """The request left whole and no answer came: the server may or may not have acted on it."""

    reason: Failure
    detail: str


Answer: TypeAlias = Answered | NotSent | Ambiguous


@dataclass(frozen=True, slots=True)
class Http2Limits:
    """Every bound and every time (in seconds) of one sender."""

    connections: int = 4
    """Most connections that take requests; those that only finish what they hold are not counted."""
    streams: int = 500
    """Most requests at once on one connection, when the server allows more."""
    queued: int = 2_000
    """Most requests that wait for a connection; one more is `NotSent(BUSY)`."""
    body_bytes: int = 64 * 1024
    """What is read of an answer's body; the rest is cancelled."""
    header_bytes: int = 16 * 1024
    """Most bytes of an answer's headers; more ends the connection, because the compression state is lost."""
    connect_s: float = 10.0
    """For name, TCP, TLS and the server's first SETTINGS together."""
    silence_s: float = 5.0
    """After so long without a byte while requests are under way, the server is asked for a sign of life (PING)."""
    ping_s: float = 5.0
    """How long the answer to a PING may take before the connection counts as lost."""
    trust_s: float = 60.0
    """A connection that was silent for longer proves itself with a PING before it carries a request."""
    idle_ping_s: float = 1_800.0
    """How often an unused connection is asked for a sign of life."""
    resends: int = 3
    """How often one request that the server certainly did not act on is sent again, within its deadline."""
    backoff_first_s: float = 0.5
    backoff_most_s: float = 60.0
    """The pause after the first failed connection in a row, and the longest; each is drawn from its upper half."""
    failures_told: int = 2
    """From so many failed connections in a row on, what waits is told at once instead of at its deadline."""
    timeouts_borne: int = 16
    """After so many time-outs in a row without an answer, a connection is replaced."""
