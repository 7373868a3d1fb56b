"""Spreads one notification over many connections without holding the event loop.

Small sets go out at once. Of a large set the rest goes out in batches, one batch a turn of the loop. A later send to a
target that still waits for its turn queues behind it, so every target sees the order of the submissions; a send to any
other target does not wait. What cannot be sent to one target keeps nothing from the others.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable
from itertools import islice
from typing import Final, Generic, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=Hashable)
P = TypeVar("P")
BATCH: Final = 64


class Fanout(Generic[T, P]):
    """Calls `send(target, parcel)` for every item. Bound: `most_pending` items; beyond it the oldest go out at once.

    A send that raises is logged, and `failed(target, parcel)` is told of it.
    """

    def __init__(
        self, send: Callable[[T, P], None], most_pending: int, *, failed: Callable[[T, P], None] | None = None
    ) -> None:
        self._try_send = send
        self._failed = failed
        self._most_pending = most_pending
        self._pending: deque[tuple[T, P]] = deque()
        # How often each target is in there. Counted from the first time that it matters until nothing is pending.
        self._waiting: dict[T, int] | None = None
        self._handle: asyncio.Handle | None = None

    def __len__(self) -> int:
        return len(self._pending)

    def submit(self, items: Iterable[tuple[T, P]]) -> None:
        """Send to all; up to a batch of those whose targets wait for nothing else before this call returns."""
        if self._pending:
            self._submit_behind(items)
        else:
            rest = iter(items)
            for target, parcel in islice(rest, BATCH):
                self._send(target, parcel)
            self._pending.extend(rest)
        while len(self._pending) > self._most_pending:
            self._send_oldest()
        self._schedule()

    def submit_one(self, target: T, parcel: P) -> None:
        """Send to one, at once unless it waits for something else."""
        if self._pending:
            self.submit(((target, parcel),))
        else:
            self._send(target, parcel)

    def run_out(self) -> None:
        """Send everything that is pending now."""
        while self._pending:
            self._send_oldest()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _send(self, target: T, parcel: P) -> None:
        try:
            self._try_send(target, parcel)
        except Exception:
            logger.exception("hub_send_failed")
            if self._failed is not None:
                self._failed(target, parcel)

    def _submit_behind(self, items: Iterable[tuple[T, P]]) -> None:
        waiting = self._waiting
        if waiting is None:
            waiting = self._waiting = Counter(target for target, _ in self._pending)
        left_at_once = BATCH
        for target, parcel in items:
            if left_at_once and target not in waiting:
                left_at_once -= 1
                self._send(target, parcel)
            else:
                self._pending.append((target, parcel))
                waiting[target] = waiting.get(target, 0) + 1

    def _send_oldest(self) -> None:
        target, parcel = self._pending.popleft()
        if self._waiting is not None:
            self._forget(self._waiting, target)
        self._send(target, parcel)

    def _forget(self, waiting: dict[T, int], target: T) -> None:
        if not self._pending:
            self._waiting = None
        elif waiting[target] > 1:
            waiting[target] -= 1
        else:
            del waiting[target]

    def _schedule(self) -> None:
        if self._pending and self._handle is None:
            self._handle = asyncio.get_running_loop().call_soon(self._run_batch)

    def _run_batch(self) -> None:
        self._handle = None
        for _ in range(min(BATCH, len(self._pending))):
            self._send_oldest()
        self._schedule()
