"""Another program that holds the SQLite file: a backup tool, a shell, a second copy of the data folder's owner."""

import asyncio
import sqlite3

import pytest

from appliance.domain.errors import Unavailable
from appliance.storage.database import DATABASE_FILE, open_database


@pytest.fixture
def foreign(tmp_path):
    """The other program's connection. Made when asked for, after the database exists."""
    connection = sqlite3.connect(tmp_path / DATABASE_FILE, isolation_level=None, check_same_thread=False)
    yield connection
    connection.close()


@pytest.fixture
async def database(tmp_path):
    async with open_database(tmp_path, None, busy_timeout_s=0.05) as opened:
        yield opened


def count_job(transaction):
    return transaction.execute("UPDATE account SET last_sequence = 0")


async def test_a_lock_held_longer_than_the_time_out_is_a_refusal_and_not_an_error(database, foreign):
    foreign.execute("BEGIN IMMEDIATE")
    results = await asyncio.gather(*(database.write(count_job) for _ in range(5)), return_exceptions=True)
    assert all(isinstance(result, Unavailable) and result.retry_after_s >= 1 for result in results), results


async def test_reads_go_on_while_another_program_writes(database, foreign):
    foreign.execute("BEGIN IMMEDIATE")
    assert await database.read("SELECT COUNT(*) FROM account") == [(0,)]


async def test_writing_goes_on_by_itself_when_the_lock_is_gone(database, foreign):
    foreign.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable):
        await database.write(count_job)
    foreign.execute("ROLLBACK")
    assert await database.write(count_job) == 0


async def test_a_lock_that_is_given_up_in_time_is_waited_for(tmp_path):
    async with open_database(tmp_path, None, busy_timeout_s=10) as database:
        foreign = sqlite3.connect(tmp_path / DATABASE_FILE, isolation_level=None, check_same_thread=False)
        foreign.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(database.write(count_job))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        foreign.execute("ROLLBACK")
        assert await waiting == 0
        foreign.close()
