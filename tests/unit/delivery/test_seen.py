"""When devices were last seen: noted in memory, kept in one transaction, and kept at the end."""

import asyncio

from appliance.delivery.addresses import Installations
from appliance.delivery.seen import SeenDevices
from appliance.domain.identifier import make_id
from appliance.domain.secret import Secret
from appliance.security.sealing import Sealer
from appliance.storage.database import Database, open_database
from tests.doubles.hand_clock import HandClock


async def _last_seen(database: Database) -> object:
    row = await database.read_one("SELECT last_seen_at FROM device")
    assert row is not None
    return row[0]


async def test_a_client_that_comes_back_costs_no_write_until_the_flush(tmp_path):
    clock = HandClock()
    async with open_database(tmp_path, None) as database:
        seen = SeenDevices(database, clock)
        installations = Installations(database, Sealer(Secret("k" * 43)), clock, seen)
        user_id = make_id(clock.now())
        device_id = await installations.bind(user_id, "terminal")
        before, written = await _last_seen(database), database.writer.jobs
        clock.pass_s(60)
        # Under the id that the client made up, and under the id that the server gave it.
        for name in ("terminal", str(device_id)):
            assert await installations.bind(user_id, name) == device_id
        assert database.writer.jobs == written
        assert await _last_seen(database) == before
        await seen.flush()
        assert await _last_seen(database) != before


async def test_stopping_keeps_what_was_noted(tmp_path):
    clock = HandClock()
    async with open_database(tmp_path, None) as database:
        seen = SeenDevices(database, clock)
        installations = Installations(database, Sealer(Secret("k" * 43)), clock, seen)
        user_id = make_id(clock.now())
        await installations.bind(user_id, "terminal")
        before = await _last_seen(database)
        clock.pass_s(60)
        await installations.bind(user_id, "terminal")
        running = asyncio.create_task(seen.run())
        seen.stop()
        await asyncio.wait_for(running, 5)
        assert await _last_seen(database) != before
