"""What a connection asks of the transport that carries it."""

from typing import Protocol

from appliance.hub.outbox import WriteFuture


class Pipe(Protocol):
    """The way out that a transport lends to its connection."""

    @property
    def is_write_bounded(self) -> bool:
        """Whether a write that takes longer than the write deadline means a reader that does not read.

        False where a write waits for the client's next request, and the transport has a deadline of its own.
        """
        ...

    def start_write(self, payload: str | bytes) -> WriteFuture:
        """Begin to write one frame; never called while an earlier write is unfinished."""
        ...

    def interrupt(self) -> None:
        """Make the transport look at the connection: it has ended and is to be closed, or it has another pipe."""
        ...
