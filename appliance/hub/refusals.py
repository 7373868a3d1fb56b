"""How the hub turns a request down."""

from typing import Final

NO_ID: Final = "Connection ID required"
UNKNOWN_ID: Final = "No Connection with that ID"
ID_IN_USE: Final = "The connection is open already"
OTHER_TRANSPORT: Final = "Cannot change transports mid-connection"


class Refusal(Exception):
    """An HTTP answer that lets nobody in. Its text holds nothing of the request; `cause` is a name for counting."""

    def __init__(self, status: int, text: str, headers: tuple[tuple[str, str], ...] = (), *, cause: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers
        self.cause = cause
