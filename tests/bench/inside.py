"""What the storage does without HTTP: SQLite's own limit, the bare writer, and `accept`; one measurement a process."""

import asyncio
import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import uvloop

from appliance.clock import SystemClock
from appliance.delivery.accept import Acceptor
from appliance.domain.identifier import make_id
from appliance.domain.notification import check_content
from appliance.storage.database import Database, open_database
from appliance.storage.sending import Plan, Target, accept_job
from appliance.storage.sqlite import SQLiteWriterConnection, connect
from appliance.storage.writer import Transaction, Writer

ROW = "r" * 300
PLAN = Plan(frozenset(), timedelta(seconds=10))
USERS = 100


class Sink:
    """An engine that takes what it is handed and does nothing: only accepting is measured."""

    plan = PLAN
    handed_over = 0

    def hand_over(self, released: Any) -> None:
        self.last: Any = released

    def wake(self) -> None:
        pass

    def forget(self, notification_id: UUID) -> None:
        pass


def _slow_down(writer: Writer, extra_s: float) -> None:
    """Let each commit of this writer take longer by so much, as on a disk that is slower to sync."""
    connection = writer._connection
    commit = connection.commit

    def slow_commit() -> None:
        commit()
        time.sleep(extra_s)

    if extra_s:
        connection.commit = slow_commit  # type: ignore[method-assign]


async def measure_bare_writer(folder: Path, callers: int, seconds: float, extra_s: float) -> float:
    """One INSERT of a 300-byte row per job through the group-commit writer."""
    path = folder / "bare.sqlite"
    with connect(path) as connection:
        connection.execute("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT)")
    connection.close()
    writer = Writer(SQLiteWriterConnection(path))
    _slow_down(writer, extra_s)
    await writer.start()

    def job(transaction: Transaction) -> None:
        transaction.execute("INSERT INTO note (text) VALUES (?)", (ROW,))

    try:
        return await _rate(lambda: writer.commit(job), callers, seconds)
    finally:
        await writer.close()


async def measure_accept(folder: Path, callers: int, seconds: float, extra_s: float) -> float:
    """`Acceptor.accept` of single sends, each to a user with one device: everything a 202 needs but the HTTP."""
    async with open_database(folder, None) as database:
        app_id, users = await _settle(database)
        _slow_down(database.writer, extra_s)
        acceptor = Acceptor(database, Sink(), SystemClock())
        content = check_content(title="Title", body="B" * 220)
        turn = iter(range(1 << 62))

        async def call() -> object:
            target = Target(users[next(turn) % USERS], content)
            return await acceptor.accept(app_id, [target], field="user_id")

        return await _rate(call, callers, seconds)


async def measure_raw_sqlite(folder: Path, callers: int, seconds: float, extra_s: float) -> float:
    """The statements of accepting, one thread, nobody waiting: `callers` sends in each transaction."""
    async with open_database(folder, None) as database:
        app_id, users = await _settle(database)
    connection = SQLiteWriterConnection(folder / "carillon.sqlite")
    connection.open()
    content = check_content(title="Title", body="B" * 220)
    count, begun = 0, time.perf_counter()
    while (took_s := time.perf_counter() - begun) < seconds:
        connection.begin()
        for _ in range(callers):
            target = Target(users[count % USERS], content)
            now = datetime.now(UTC)
            accept_job(app_id, [target], field="user_id", idempotency=None, now=now, plan=PLAN)(connection)
            count += 1
        connection.commit()
        time.sleep(extra_s)  # noqa: ASYNC251 - nothing else runs on this loop
    connection.close()
    return count / took_s


async def _rate(call: Callable[[], Awaitable[object]], callers: int, seconds: float) -> float:
    count = 0
    is_over = False

    async def run() -> None:
        nonlocal count
        while not is_over:
            await call()
            count += 1

    tasks = [asyncio.create_task(run()) for _ in range(callers)]
    await asyncio.sleep(min(1.0, seconds / 3))
    before, begun = count, time.perf_counter()
    await asyncio.sleep(seconds)
    rate = (count - before) / (time.perf_counter() - begun)
    is_over = True
    await asyncio.gather(*tasks)
    return rate


async def _settle(database: Database) -> tuple[UUID, list[UUID]]:
    now = datetime.now(UTC)
    app_id, users = make_id(now), [make_id(now) for _ in range(USERS)]

    def job(tx: Transaction) -> None:
        tx.execute(
            "INSERT INTO app (id, name, push_enabled, open_enrolment, daily_quota, email_policy, created_at) "
            "VALUES (?, 'Bench', ?, ?, 100000000, 0, ?)",
            (app_id, True, True, now),
        )
        for user_id in users:
            tx.execute(
                "INSERT INTO account (id, username, username_key, role, last_sequence, oldest_sequence, created_at) "
                "VALUES (?, ?, ?, 0, 0, 1, ?)",
                (user_id, str(user_id), str(user_id), now),
            )
            tx.execute(
                'INSERT INTO enrolment (id, "user", app, created_at) VALUES (?, ?, ?, ?)',
                (f"{user_id}|{app_id}", user_id, app_id, now),
            )
            tx.execute(
                'INSERT INTO device (id, "user", app, platform, address_kind, address_sealed, address_fingerprint, '
                "label, locale, created_at, last_seen_at) VALUES (?, ?, ?, 3, 3, ?, ?, '', '', ?, ?)",
                (make_id(now), user_id, app_id, b"sealed", user_id.bytes, now, now),
            )

    await database.write(job)
    return app_id, users


MEASURES = {"bare": measure_bare_writer, "accept": measure_accept, "raw": measure_raw_sqlite}


def main(kind: str, callers: str, seconds: str, extra_s: str, folder: str) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        rate = uvloop.run(MEASURES[kind](Path(place), int(callers), float(seconds), float(extra_s)))
    print(json.dumps({"per_s": rate, "sqlite": sqlite3.sqlite_version}))


if __name__ == "__main__":
    main(*sys.argv[1:])
