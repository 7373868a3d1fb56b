"""Spreads one notification over many connections without holding the event loop.

Small sets go out at once. A large one goes out in batches, one batch a turn of the loop, and later sends queue behind
it, so that every connection sees the same order.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

T = TypeVar("T")
BATCH: Final = 64


class Fanout(Generic[T]):
    """Calls `send` for every item, in order. Bound: `most_pending` items; beyond it the oldest go out at once."""

    def __init__(self, send: Callable[[T], None], most_pending: int) -> None:
        self._send = send
        self._most_pending = most_pending
        self._pending: deque[T] = deque()
        self._handle: asyncio.Handle | None = None

    def __len__(self) -> int:
        return len(self._pending)

    def submit(self, items: Sequence[T]) -> None:
        """Send to all items; up to a batch of them before this call returns, unless others are still waiting."""
        if not self._pending:
            for item in items[:BATCH]:
                self._send(item)
            items = items[BATCH:]
        self._pending.extend(items)
        while len(self._pending) > self._most_pending:
            self._send(self._pending.popleft())
        self._schedule()

    def close(self) -> None:
        """Drop what is pending."""
        self._pending.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _schedule(self) -> None:
        if self._pending and self._handle is None:
            self._handle = asyncio.get_running_loop().call_soon(self._run_batch)

    def _run_batch(self) -> None:
        self._handle = None
        for _ in range(min(BATCH, len(self._pending))):
            self._send(self._pending.popleft())
        self._schedule()
