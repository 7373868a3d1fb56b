"""How a connection ends, and what its client is told: the `allow_reconnect` of each is the rule for coming back."""

from dataclasses import dataclass
from typing import Final

_NORMAL: Final = 1000
_GOING_AWAY: Final = 1001
_INTERNAL_ERROR: Final = 1011


@dataclass(frozen=True, slots=True)
class Ending:
    """One way for a connection to end.

    `reason` is a stable name for logs, notices and counters; `error` is what the client is shown, None for a plain
    goodbye; `code` closes the WebSocket. An abrupt ending writes nothing: there is nobody who reads.
    """

    reason: str
    error: str | None = None
    allow_reconnect: bool = False
    code: int = _NORMAL
    is_abrupt: bool = False
    drops_queue: bool = False


CLIENT_CLOSED: Final = Ending("client_closed")
# The client closed its socket properly, with or without a goodbye in the hub protocol.
CLIENT_GONE: Final = Ending("client_closed", is_abrupt=True)
HANDSHAKE_REFUSED: Final = Ending("handshake_refused")
HANDSHAKE_TIMED_OUT: Final = Ending("handshake_timed_out")
# Nothing of the stream arrived, it seems: a proxy holds it back. Were it to end in order, or with an answer, the proxy
# would pass its head and its end on together, which the official client in Node cannot catch: its whole process ends.
STREAM_UNHEARD: Final = Ending("handshake_timed_out", is_abrupt=True)
CLIENT_TIMED_OUT: Final = Ending("client_timed_out", "The client was silent for too long.", allow_reconnect=True)
PROTOCOL_VIOLATION: Final = Ending("protocol_violation", "Connection closed with an error.", allow_reconnect=True)
TOKEN_EXPIRED: Final = Ending("token_expired", "The access token has expired.", allow_reconnect=True)
HISTORY_INCOMPLETE: Final = Ending(
    "history_incomplete", "The history became incomplete during the replay. Connect again.", allow_reconnect=True
)
SERVER_STOPPING: Final = Ending("server_stopping", "The server is restarting.", allow_reconnect=True, code=_GOING_AWAY)
INTERNAL_ERROR: Final = Ending(
    "internal_error", "Connection closed with an error.", allow_reconnect=True, code=_INTERNAL_ERROR
)
# What waits for the older session is part of the newer one's history, so it is not written twice.
REPLACED: Final = Ending("replaced", "This device connected again elsewhere.", drops_queue=True)
DISCONNECTED: Final = Ending("disconnected", "An administrator ended this connection.", allow_reconnect=True)
SLOW_READER: Final = Ending("slow_reader", is_abrupt=True)
# It reads, but does not say so as stateful reconnect has it, and what might have to be repeated is bounded.
NOT_ACKNOWLEDGED: Final = Ending(
    "slow_reader", "Too much was not acknowledged.", allow_reconnect=True, drops_queue=True
)
SOCKET_LOST: Final = Ending("socket_lost", is_abrupt=True)


def make_revocation(text: str, *, allow_reconnect: bool = False) -> Ending:
    """Make the ending of a connection whose right to be here has changed; `text` is shown to the client."""
    return Ending("revoked", text, allow_reconnect=allow_reconnect)
