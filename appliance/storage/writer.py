"""The single writer: every hot-path write is a job, jobs are committed in groups, and each caller then gets its answer.

Theory of operation
-------------------
One thread owns the one writing connection. It takes the jobs that queued up while the last commit was under way (no
lingering: the commit itself is the window), runs them in one transaction, each under a savepoint of its own, commits
once — with `synchronous=FULL` that is one fsync for the whole group — and only then completes all callers with a single
hop back to the event loop.

What must follow a commit, whoever is still waiting for it, is given with the job as `then`: it runs on the event loop
in the order of the jobs, before any caller goes on. A caller that went away meanwhile changes nothing about it.

A job is a plain function of the transaction. If it raises, only its own savepoint is rolled back and its caller gets
the exception; the others are not disturbed. If the commit fails, everybody in the group gets `Unavailable` or
`OutOfSpace`: nobody is told yes before the data is safe.

Bounds: at most `max_waiting` jobs queue (one more gets `Unavailable` at once), at most `max_group` share a commit. If
the thread itself should ever end by a fault, whoever waits or comes later gets `Unavailable`, and none waits for ever.
"""

import asyncio
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from appliance.domain.errors import CarillonError, Unavailable
from appliance.storage.sql import Row

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_GROUP = 256
MAX_WAITING = 20_000
REFUSALS_LOGGED_EVERY_S = 10.0
MOST_REPEATS = 6
REPEAT_PAUSE_S = 0.05


class Transaction(Protocol):
    """What a job may do. Synchronous: it runs on the writer's own thread."""

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run a statement and give the number of rows it changed."""

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement once for each row of parameters."""

    def fetch_one(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        """Run a statement and give its first row."""

    def fetch_all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run a statement and give all its rows."""


class WriterConnection(Transaction, Protocol):
    """A database connection as the writer drives it; one implementation for each database."""

    def open(self) -> None: ...

    def begin(self) -> None:
        """Begin a transaction, on a new connection where the old one was lost."""

    def begin_job(self) -> None: ...

    def keep_job(self) -> None: ...

    def undo_job(self) -> bool:
        """Roll the current job back. False: the whole group is lost, the database has ended the transaction."""

    def commit(self) -> None: ...

    def rollback(self) -> None:
        """End the transaction without keeping anything. Raises nothing: a connection that cannot do it is given up."""

    def close(self) -> None: ...

    def translate(self, error: Exception) -> CarillonError | None:
        """Give the refusal that a driver's error means (full disk, locked, connection lost), or None for a bug."""

    def is_repeatable(self, error: Exception) -> bool:
        """Tell whether the job only met another node's locks, nothing of it is kept, and it may simply be run again."""


Job = Callable[[Transaction], T]
Then = Callable[[T], None]


@dataclass(slots=True, eq=False)
class _Pending:
    """A job that waits, and after its commit what came of it."""

    job: Job[Any]
    future: asyncio.Future[Any]
    then: Then[Any] | None = None
    result: Any = None
    error: BaseException | None = None
    may_repeat: bool = False


class Writer:
    """Commits jobs in groups. Make it in the running event loop; `start` and `close` bracket its thread."""

    def __init__(self, connection: WriterConnection, *, max_group: int = MAX_GROUP, max_waiting: int = MAX_WAITING):
        self._connection = connection
        self._max_group = max_group
        self._max_waiting = max_waiting
        self._waiting: deque[_Pending] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._refused_jobs = 0
        self._refusal_logged_at = -REFUSALS_LOGGED_EVERY_S
        self.groups = 0
        self.jobs = 0

    @property
    def waiting(self) -> int:
        """How many jobs queue right now."""
        return len(self._waiting)

    async def start(self) -> None:
        """Open the connection on the writer's thread; raises what opening raises."""
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[Any] = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._run, args=(self._loop, opened), name="carillon-writer", daemon=True
        )
        self._thread.start()
        await opened

    async def commit(self, job: Job[T], then: Then[T] | None = None) -> T:
        """Run the job, commit it and give its result; `then` is told the result first.

        Raises what the job raised (then nothing of it is kept), `Unavailable` when the queue is full or the database
        did not answer, `OutOfSpace` when the disk is full. Jobs run in the order of the calls. A cancelled caller does
        not undo its job, and `then` runs nevertheless.
        """
        loop = self._loop
        if loop is None or self._closing:
            raise Unavailable("The server is stopping; try again in a moment.")
        if len(self._waiting) >= self._max_waiting:
            raise Unavailable("The server has too many writes waiting; nothing was accepted.", retry_after_s=2)
        pending = _Pending(job, loop.create_future(), then)
        with self._wake:
            self._waiting.append(pending)
            self._wake.notify()
        result: T = await pending.future
        return result

    async def close(self) -> None:
        """Finish what queues, then close the connection."""
        thread = self._thread
        if thread is None:
            return
        with self._wake:
            self._closing = True
            self._wake.notify()
        await asyncio.to_thread(thread.join)
        self._thread = None

    def _run(self, loop: asyncio.AbstractEventLoop, opened: asyncio.Future[Any]) -> None:
        try:
            self._connection.open()
        except Exception as error:
            _tell(loop, [_Pending(_nothing, opened, error=error)])
            return
        _tell(loop, [_Pending(_nothing, opened)])
        group: list[_Pending] = []
        try:
            while group := self._take():
                self._commit_group(group)
                self.groups += 1
                self.jobs += len(group)
                if not _tell(loop, group):
                    break
        except BaseException:
            logger.exception("writer_ended")
            raise
        finally:
            self._refuse_all(loop, group)
            self._connection.close()

    def _take(self) -> list[_Pending]:
        with self._wake:
            while not self._waiting and not self._closing:
                self._wake.wait()
            count = min(len(self._waiting), self._max_group)
            return [self._waiting.popleft() for _ in range(count)]

    def _commit_group(self, group: list[_Pending]) -> None:
        """Commit the jobs together and note in each what came of it. Raises nothing that an `Exception` is.

        A job that met the locks of somebody else than this program's nodes (a deadlock, a lock that was not given) has
        changed nothing; it is run again, alone, and then stands behind the others in the group: its commit was later.
        """
        self._try_group(group)
        repeated = [pending for pending in group if pending.may_repeat]
        if repeated:
            group[:] = [pending for pending in group if not pending.may_repeat] + repeated
        for pending in repeated:
            for attempt in range(MOST_REPEATS):
                pending.error, pending.may_repeat = None, False
                self._try_group([pending])
                if not pending.may_repeat:
                    break
                # Not in step with the other node.
                time.sleep(random.random() * REPEAT_PAUSE_S * (attempt + 1))  # noqa: S311 - jitter

    def _try_group(self, group: list[_Pending]) -> None:
        connection = self._connection
        try:
            connection.begin()
            for pending in group:
                connection.begin_job()
                try:
                    pending.result = pending.job(connection)
                except Exception as error:
                    if not connection.undo_job():
                        raise
                    pending.error = connection.translate(error) or error
                    pending.may_repeat = connection.is_repeatable(error)
                else:
                    connection.keep_job()
            connection.commit()
        except Exception as error:
            refusal = connection.translate(error)
            if refusal is None:
                logger.exception("writer_group_failed")
                refusal = Unavailable("The database refused the write; nothing was accepted.")
            else:
                self._log_refusal(refusal, len(group))
            connection.rollback()
            may_repeat = connection.is_repeatable(error)
            for pending in group:
                pending.error, pending.may_repeat = refusal, may_repeat

    def _log_refusal(self, refusal: CarillonError, jobs: int) -> None:
        # A full disk refuses every group: telling each of them would flood the log, which may be on that very disk.
        self._refused_jobs += jobs
        now = time.monotonic()
        if now - self._refusal_logged_at >= REFUSALS_LOGGED_EVERY_S:
            logger.error("writer_group_refused", extra={"code": refusal.code, "jobs": self._refused_jobs})
            self._refusal_logged_at, self._refused_jobs = now, 0

    def _refuse_all(self, loop: asyncio.AbstractEventLoop, unfinished: list[_Pending]) -> None:
        with self._wake:
            self._closing = True
            left = [*unfinished, *self._waiting]
            self._waiting.clear()
        for pending in left:
            pending.error = Unavailable("The server is stopping; nothing was accepted.")
        if left:
            _tell(loop, left)


def _nothing(_: Transaction) -> None:
    """The job of somebody who only waits for the connection."""


def _tell(loop: asyncio.AbstractEventLoop, settled: list[_Pending]) -> bool:
    """Complete the callers on their loop. False: the loop is gone and with it the callers; what is committed stays."""
    try:
        loop.call_soon_threadsafe(_settle, settled)
    except RuntimeError:
        return False
    return True


def _settle(settled: list[_Pending]) -> None:
    for pending in settled:
        if pending.error is None and pending.then is not None:
            try:
                pending.then(pending.result)
            except Exception:
                logger.exception("writer_then_failed")
    for pending in settled:
        if pending.future.done():
            continue
        if pending.error is None:
            pending.future.set_result(pending.result)
        else:
            pending.future.set_exception(pending.error)
