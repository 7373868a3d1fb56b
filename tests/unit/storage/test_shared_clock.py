"""One time for all nodes: that of the database."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from appliance.clock import SystemClock
from appliance.domain.errors import Unavailable
from appliance.domain.secret import Secret
from appliance.storage.database import open_database
from appliance.storage.shared_clock import LONGEST_TRIP_S, SharedClock
from tests.doubles.hand_clock import HandClock

A_LITTLE = timedelta(seconds=5)


@pytest.fixture
async def database(tmp_path, postgresql):
    async with open_database(tmp_path, Secret(postgresql.make_database())) as opened:
        yield opened


async def test_nodes_whose_clocks_are_wrong_tell_the_same_time(database, caplog):
    ahead, behind = HandClock(), HandClock()
    ahead.wall = datetime.now(UTC) + timedelta(hours=5)
    behind.wall = datetime.now(UTC) - timedelta(days=400)
    clocks = [SharedClock(own, database) for own in (ahead, behind, SystemClock())]
    for clock in clocks:
        await clock.measure()
        await clock.measure()
    told = [clock.now() for clock in clocks]
    assert max(told) - min(told) < A_LITTLE
    assert abs(told[0] - datetime.now(UTC)) < A_LITTLE
    assert [one.getMessage() for one in caplog.records].count("clock_differs_from_database") == 2, "once each"


async def test_an_answer_that_took_long_and_one_that_did_not_come_change_nothing(database):
    own = HandClock()

    class Slow:
        async def read_one(self, sql):
            own.ticks += LONGEST_TRIP_S + 0.1
            return await database.read_one(sql)

    class Away:
        async def read_one(self, sql):
            raise Unavailable("The database does not answer.")

    for source in (Slow(), Away()):
        clock = SharedClock(own, source)  # type: ignore[arg-type]
        await clock.measure()
        assert clock.now() == own.now()


async def test_it_stops_when_it_is_asked_to(database):
    clock = SharedClock(SystemClock(), database)
    running = asyncio.create_task(clock.run())
    await asyncio.sleep(0)
    clock.stop()
    await asyncio.wait_for(running, 5)
