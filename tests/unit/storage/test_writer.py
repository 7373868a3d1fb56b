"""The group-commit writer: who shares a commit, who is told what, and what happens when the database says no."""

import asyncio
import sqlite3
import threading

import pytest

from appliance.domain.errors import Conflict, OutOfSpace, Unavailable
from appliance.storage.sqlite import SQLiteWriterConnection, connect
from appliance.storage.writer import Writer


class Gate:
    """A job that holds the writer's thread until the test lets it go, so that others must queue behind it."""

    def __init__(self):
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, transaction):
        self.entered.set()
        assert self.opened.wait(10)


class Connection(SQLiteWriterConnection):
    """The real connection, with faults that a test switches on."""

    def __init__(self, path):
        super().__init__(path)
        self.fail_commit = None
        self.fail_rollback = False
        self.fail_open = None
        self.commits = 0

    def open(self):
        if self.fail_open is not None:
            raise self.fail_open
        super().open()

    def commit(self):
        if self.fail_commit is not None:
            raise self.fail_commit
        super().commit()
        self.commits += 1

    def rollback(self):
        if self.fail_rollback:
            # As when the disk goes away: the driver's own connection breaks under the writer.
            self._connection.close()
        super().rollback()


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "w.sqlite"
    connection = connect(file)
    connection.execute("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE)")
    connection.close()
    return file


@pytest.fixture
def connection(path):
    return Connection(path)


@pytest.fixture
async def writer(connection):
    made = Writer(connection, max_group=8, max_waiting=20)
    await made.start()
    yield made
    await made.close()


def put(text):
    return lambda tx: tx.execute("INSERT INTO note (text) VALUES (?)", (text,))


def texts(path):
    with sqlite3.connect(path) as reader:
        return [row[0] for row in reader.execute("SELECT text FROM note ORDER BY id")]


async def hold(writer):
    """Keep the writer busy; give the gate and the task that waits for it."""
    gate = Gate()
    task = asyncio.create_task(writer.commit(gate))
    await asyncio.to_thread(gate.entered.wait, 10)
    return gate, task


async def queue(writer, *jobs, then=None):
    tasks = [asyncio.create_task(writer.commit(job, then)) for job in jobs]
    await asyncio.sleep(0)
    return tasks


def sqlite_error(kind, code):
    error = kind("made up by the test")
    error.sqlite_errorcode = code
    return error


async def test_callers_that_queue_during_a_commit_share_the_next_one(writer, connection, path):
    gate, held = await hold(writer)
    tasks = await queue(writer, *(put(f"n{number}") for number in range(5)))
    gate.opened.set()
    assert await asyncio.gather(held, *tasks) == [None, 1, 1, 1, 1, 1]
    assert connection.commits == 2
    assert writer.jobs == 6
    assert writer.groups == 2
    assert texts(path) == ["n0", "n1", "n2", "n3", "n4"]


async def test_a_group_is_never_larger_than_its_bound(writer, connection):
    gate, held = await hold(writer)
    tasks = await queue(writer, *(put(f"n{number}") for number in range(20)))
    gate.opened.set()
    await asyncio.gather(held, *tasks)
    assert connection.commits == 1 + 3


async def test_one_failing_job_harms_no_other_in_its_group(writer, connection, path):
    def two_rows_then_a_refusal(tx):
        put("lost")(tx)
        put("also lost")(tx)
        raise Conflict("no")

    gate, held = await hold(writer)
    tasks = await queue(writer, put("a"), two_rows_then_a_refusal, put("b"), put("a"), lambda tx: 1 // 0, put("c"))
    gate.opened.set()
    results = await asyncio.gather(held, *tasks, return_exceptions=True)
    assert connection.commits == 2
    assert [type(result) for result in results] == [
        *(type(None), int, Conflict, int, sqlite3.IntegrityError, ZeroDivisionError, int)
    ]
    assert texts(path) == ["a", "b", "c"]


async def test_jobs_run_in_the_order_of_the_calls_and_each_sees_what_came_before(writer):
    counts = await asyncio.gather(
        *(
            writer.commit(lambda tx, n=n: (put(f"n{n}")(tx), tx.fetch_one("SELECT COUNT(*) FROM note")[0])[1])
            for n in range(20)
        )
    )
    assert counts == list(range(1, 21))


async def test_callers_go_on_in_the_order_of_their_jobs(writer):
    finished = []

    async def call(number):
        await writer.commit(put(f"n{number}"))
        finished.append(number)

    await asyncio.gather(*(call(number) for number in range(20)))
    assert finished == list(range(20))


async def test_what_follows_a_commit_happens_in_order_before_any_caller_goes_on(writer):
    story = []

    async def call(number):
        await writer.commit(put(f"n{number}"), lambda _: story.append(("then", number)))
        story.append(("caller", number))

    gate, held = await hold(writer)
    tasks = [asyncio.create_task(call(number)) for number in range(3)]
    await asyncio.sleep(0)
    gate.opened.set()
    await asyncio.gather(held, *tasks)
    assert story == [("then", 0), ("then", 1), ("then", 2), ("caller", 0), ("caller", 1), ("caller", 2)]


async def test_a_caller_that_went_away_undoes_nothing_and_what_follows_still_happens(writer, path):
    heard: list[int] = []
    gate, held = await hold(writer)
    (gone,) = await queue(writer, put("kept"), then=heard.append)
    gone.cancel()
    gate.opened.set()
    await held
    await asyncio.gather(gone, return_exceptions=True)
    await writer.commit(put("later"))
    assert gone.cancelled()
    assert heard == [1]
    assert texts(path) == ["kept", "later"]


async def test_nothing_follows_a_job_that_was_refused(writer):
    heard: list[int] = []

    def refused(tx):
        raise Conflict("no")

    with pytest.raises(Conflict):
        await writer.commit(refused, heard.append)
    assert heard == []


async def test_a_fault_in_what_follows_reaches_no_caller(writer, caplog):
    def fault(_):
        raise RuntimeError("a bug")

    assert await writer.commit(put("a"), fault) == 1
    assert "writer_then_failed" in caplog.text


async def test_a_job_that_only_met_a_lock_is_run_again_and_counts_as_committed_after_the_others(
    writer, connection, path
):
    class Locked(Exception):
        pass

    connection.is_repeatable = lambda error: isinstance(error, Locked)
    refusals = iter([Locked(), Locked()])
    order: list[str] = []

    def unlucky(tx):
        put("unlucky")(tx)
        if (refusal := next(refusals, None)) is not None:
            raise refusal
        return "unlucky"

    def lucky(tx):
        put("lucky")(tx)
        return "lucky"

    gate, held = await hold(writer)
    tasks = await queue(writer, unlucky, lucky, then=order.append)
    gate.opened.set()
    assert await asyncio.gather(held, *tasks) == [None, "unlucky", "lucky"]
    assert texts(path) == ["lucky", "unlucky"]
    assert order == ["lucky", "unlucky"]


async def test_one_more_than_the_queue_holds_is_refused_at_once(writer, path):
    gate, held = await hold(writer)
    tasks = await queue(writer, *(put(f"n{number}") for number in range(20)))
    assert writer.waiting == 20
    with pytest.raises(Unavailable) as refusal:
        await writer.commit(put("too many"))
    assert refusal.value.retry_after_s >= 1
    gate.opened.set()
    await asyncio.gather(held, *tasks)
    assert "too many" not in texts(path)
    assert await writer.commit(put("room again")) == 1


@pytest.mark.parametrize(
    ("fault", "refusal"),
    [
        (sqlite_error(sqlite3.OperationalError, sqlite3.SQLITE_FULL), OutOfSpace),
        (sqlite_error(sqlite3.OperationalError, sqlite3.SQLITE_IOERR_FSYNC), Unavailable),
        (sqlite_error(sqlite3.OperationalError, sqlite3.SQLITE_BUSY), Unavailable),
        (RuntimeError("a bug"), Unavailable),
    ],
)
async def test_when_the_commit_fails_everybody_is_refused_and_nothing_is_kept(writer, connection, path, fault, refusal):
    heard: list[int] = []
    gate, held = await hold(writer)
    tasks = await queue(writer, put("a"), put("b"), then=heard.append)
    connection.fail_commit = fault
    gate.opened.set()
    results = await asyncio.gather(held, *tasks, return_exceptions=True)
    assert [type(result) for result in results] == [refusal] * 3
    assert texts(path) == []
    assert heard == []
    connection.fail_commit = None
    assert await writer.commit(put("a")) == 1
    assert texts(path) == ["a"]


async def test_a_connection_that_cannot_even_roll_back_is_replaced(writer, connection, path):
    connection.fail_commit = sqlite_error(sqlite3.OperationalError, sqlite3.SQLITE_IOERR_WRITE)
    connection.fail_rollback = True
    connection.fail_open = sqlite_error(sqlite3.OperationalError, sqlite3.SQLITE_CANTOPEN)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await writer.commit(put("a"))
    connection.fail_commit = connection.fail_open = None
    connection.fail_rollback = False
    assert await writer.commit(put("a")) == 1
    assert texts(path) == ["a"]


async def test_closing_finishes_what_queues_and_refuses_what_comes_later(connection, path):
    writer = Writer(connection)
    await writer.start()
    gate, held = await hold(writer)
    tasks = await queue(writer, put("a"), put("b"))
    closing = asyncio.create_task(writer.close())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await writer.commit(put("late"))
    gate.opened.set()
    await closing
    assert await asyncio.gather(held, *tasks) == [None, 1, 1]
    assert texts(path) == ["a", "b"]
    await writer.close()


async def test_nobody_waits_for_ever_when_the_thread_ends_by_a_fault(connection, caplog):
    class Impossible(BaseException):
        pass

    def impossible(tx):
        raise Impossible

    hook, threading.excepthook = threading.excepthook, lambda _: None
    try:
        writer = Writer(connection)
        await writer.start()
        gate, held = await hold(writer)
        tasks = await queue(writer, put("a"), impossible, put("b"))
        gate.opened.set()
        async with asyncio.timeout(10):
            results = await asyncio.gather(held, *tasks, return_exceptions=True)
        assert [type(result) for result in results] == [type(None), Unavailable, Unavailable, Unavailable]
        with pytest.raises(Unavailable):
            await writer.commit(put("c"))
        await writer.close()
    finally:
        threading.excepthook = hook
    assert "writer_ended" in caplog.text


async def test_starting_tells_why_the_database_cannot_be_opened(connection):
    connection.fail_open = sqlite_error(sqlite3.OperationalError, sqlite3.SQLITE_CANTOPEN)
    with pytest.raises(sqlite3.OperationalError):
        await Writer(connection).start()


async def test_a_write_is_fsynced_before_it_is_acknowledged(writer, path):
    assert await writer.commit(lambda tx: tx.fetch_one("PRAGMA synchronous")[0]) == 2
    assert await writer.commit(lambda tx: tx.fetch_one("PRAGMA journal_mode")[0]) == "wal"
