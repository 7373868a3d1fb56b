"""For whom Server-Sent Events do not get through, so that they are not offered again for a while.

Some proxies hold a response back until it ends. A client behind one never sees the stream open, so it never shakes
hands; it cannot tell the server, and official clients fall back to long polling only when the stream fails. What the
server can see is a stream on which nobody ever shook hands, in all the time that there is for it. Anything else is no
evidence: who has shaken hands may leave when and how he likes. One such stream may be a client that was put to sleep,
so it takes two in a row. Then the next negotiations leave the transport out; the others are offered as ever.
"""

from uuid import UUID

from appliance.domain.clock import Clock

Whom = tuple[UUID, str]


class DistrustedStreams:
    """Users at addresses to whom streams did not get through. Bound: `most` of them, the oldest forgotten first.

    Both what is held against somebody and what follows from it are forgotten after `lifetime_s`.
    """

    def __init__(self, clock: Clock, *, most: int, lifetime_s: float, enough: int = 2) -> None:
        self._clock = clock
        self._most = most
        self._lifetime_s = lifetime_s
        self._enough = enough
        self._unheard: dict[Whom, tuple[int, float]] = {}

    def __len__(self) -> int:
        return len(self._unheard)

    def note_unheard(self, user_id: UUID, address: str) -> None:
        """Nobody shook hands on a stream to this user at this address."""
        count, _ = self._find((user_id, address))
        self._unheard.pop((user_id, address), None)
        if len(self._unheard) >= self._most:
            del self._unheard[next(iter(self._unheard))]
        self._unheard[user_id, address] = (count + 1, self._clock.monotonic() + self._lifetime_s)

    def note_heard(self, user_id: UUID, address: str) -> None:
        """A stream to this user at this address got through."""
        self._unheard.pop((user_id, address), None)

    def __contains__(self, whom: Whom) -> bool:
        count, _ = self._find(whom)
        return count >= self._enough

    def _find(self, whom: Whom) -> tuple[int, float]:
        count, until = self._unheard.get(whom, (0, 0.0))
        if count and self._clock.monotonic() >= until:
            del self._unheard[whom]
            return 0, 0.0
        return count, until
