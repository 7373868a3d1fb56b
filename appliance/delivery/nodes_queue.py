"""What this node has to say and has not said yet: bounded, and put into frames only when one can leave.

What comes while the last frame is on its way goes out together in the next one, as the storage writer does it.
"""

from collections import deque
from typing import Final, NamedTuple
from uuid import UUID

from appliance.delivery.nodes_messages import MOST_MESSAGE_BYTES, Message, encode_frame, encode_message

MOST_BYTES: Final = 16 * 1024 * 1024
FRAME_BYTES: Final = 131_072
FRAME_MESSAGES: Final = 256
"""Whoever hears a frame obeys all of it in one turn of its loop."""


class Outgoing(NamedTuple):
    """A frame that is to leave; to all nodes where `to` is None."""

    to: UUID | None
    data: bytes


class FrameQueue:
    """Messages of `node` in their order, those to all apart from those to each other node.

    Bound: `most_bytes` in all. Overflow rule: the newest is dropped. A message to all that is dropped uses up a frame's
    number, so that the others know that they missed something and ask the database.
    """

    def __init__(self, node: UUID, *, most_bytes: int = MOST_BYTES) -> None:
        self._node = node
        self._most_bytes = most_bytes
        self._waiting: dict[UUID | None, deque[bytes]] = {}
        self._bytes = 0
        self._number = 0
        self._is_beat_due = False
        self.dropped = 0

    def put(self, message: Message, to: UUID | None = None) -> None:
        """Say this to all nodes, or to one."""
        encoded = encode_message(message)
        if len(encoded) > MOST_MESSAGE_BYTES or self._bytes + len(encoded) > self._most_bytes:
            self.skip(to)
            return
        self._waiting.setdefault(to, deque()).append(encoded)
        self._bytes += len(encoded)

    def put_beat(self) -> None:
        """Say that this node lives, by a frame to all if there is none anyway."""
        self._is_beat_due = True

    def skip(self, to: UUID | None = None) -> None:
        """Something could not be said."""
        self.dropped += 1
        if to is None:
            self._number += 1

    def clear(self) -> None:
        """Give up all that waits."""
        for to, messages in self._waiting.items():
            for _ in messages:
                self.skip(to)
        self._waiting.clear()
        self._bytes = 0
        self._is_beat_due = False

    def take(self, now_ms: int = 0) -> Outgoing | None:
        """Give the next frame, None when there is nothing to say; `now_ms` is told with it (wall clock)."""
        if not self._waiting:
            return self._make(None, [], now_ms) if self._is_beat_due else None
        # Each in its turn: whoever has much to hear does not keep the others waiting.
        to = next(iter(self._waiting))
        queue = self._waiting.pop(to)
        messages: list[bytes] = []
        size = 0
        while queue and len(messages) < FRAME_MESSAGES and size < FRAME_BYTES:
            messages.append(queue.popleft())
            size += len(messages[-1])
        if queue:
            self._waiting[to] = queue
        self._bytes -= size
        return self._make(to, messages, now_ms)

    def _make(self, to: UUID | None, messages: list[bytes], now_ms: int) -> Outgoing:
        if to is not None:
            return Outgoing(to, encode_frame(self._node, 0, messages))
        self._is_beat_due = False
        self._number += 1
        return Outgoing(None, encode_frame(self._node, self._number, messages, now_ms))
