"""Which other nodes are alive, and whether everything that they said to all was heard. Pure, told the time."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final
from uuid import UUID

SILENT_AFTER_S: Final = 3.5
"""A node that was not heard for so long counts as dead; each says something every second."""


class Heard(Enum):
    """What a frame tells besides its messages."""

    IN_TURN = auto()
    NEW = auto()
    """The first frame of a node that has not said anything before."""
    BEHIND_A_GAP = auto()
    """Frames before it were not heard, be it those that a node sent before it was known."""
    REPEATED = auto()


@dataclass(slots=True)
class _Peer:
    number: int
    heard_at: float


class Peers:
    """The other nodes. Each process is a node of its own: one that starts again is another one."""

    def __init__(self) -> None:
        self._peers: dict[UUID, _Peer] = {}

    def __len__(self) -> int:
        return len(self._peers)

    def hear(self, node: UUID, number: int, now_mono: float) -> Heard:
        """Note a frame that was sent to all."""
        peer = self._peers.get(node)
        if peer is None:
            self._peers[node] = _Peer(number, now_mono)
            return Heard.NEW if number == 1 else Heard.BEHIND_A_GAP
        if number <= peer.number:
            return Heard.REPEATED
        is_next = number == peer.number + 1
        peer.number, peer.heard_at = number, now_mono
        return Heard.IN_TURN if is_next else Heard.BEHIND_A_GAP

    def leave(self, node: UUID) -> None:
        """Forget a node that said goodbye."""
        self._peers.pop(node, None)

    def drop_silent(self, now_mono: float) -> list[UUID]:
        """Forget the nodes that were silent for too long, and give them."""
        silent = [node for node, peer in self._peers.items() if now_mono - peer.heard_at > SILENT_AFTER_S]
        for node in silent:
            del self._peers[node]
        return silent
