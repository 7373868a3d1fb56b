"""For whom Server-Sent Events do not get through, so that they are not offered again for a while.

Some proxies hold a response back until it ends. A client behind one never sees the stream open, or never gets the
answer to its handshake; it cannot tell the server, and official clients fall back to long polling only when the stream
is refused. What the server can see is a stream on which nobody shakes hands, or whose client goes away after the
patience of clients without a word beyond its handshake (official clients that got the answer send a ping before that).
Such a client's next negotiation leaves the transport out.
"""

from uuid import UUID

from appliance.domain.clock import Clock


class DistrustedStreams:
    """Users at addresses to whom streams did not get through. Bound: `most` of them, the oldest forgotten first."""

    def __init__(self, clock: Clock, *, most: int, lifetime_s: float) -> None:
        self._clock = clock
        self._most = most
        self._lifetime_s = lifetime_s
        self._until: dict[tuple[UUID, str], float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def add(self, user_id: UUID, address: str) -> None:
        """A stream to this user at this address did not get through."""
        self._until.pop((user_id, address), None)
        while len(self._until) >= self._most:
            del self._until[next(iter(self._until))]
        self._until[user_id, address] = self._clock.monotonic() + self._lifetime_s

    def __contains__(self, whom: tuple[UUID, str]) -> bool:
        until = self._until.get(whom)
        if until is None:
            return False
        if self._clock.monotonic() < until:
            return True
        del self._until[whom]
        return False
