"""Apps: their secrets, under one key and the next."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest

from appliance.api.identity.service import Identity, open_identity
from appliance.domain.secret import Secret
from appliance.settings import Settings
from appliance.storage.database import Database
from appliance.storage.writer import Transaction
from tests.doubles.hand_clock import HandClock
from tests.doubles.hub_server import wait_until

T = TypeVar("T")


@pytest.fixture
async def rotated_key(database: Database, settings: Settings, clock: HandClock) -> AsyncIterator[Identity]:
    """Identity over the same data after SECRET_KEY was changed: every app's hash is renewed when the app comes."""
    changed = Settings(data_dir=settings.data_dir, secret_key=Secret("n" * 43), secret_key_previous=settings.secret_key)
    async with open_identity(database, changed, clock, is_server=False) as opened:
        yield opened


@asynccontextmanager
async def held_writer(database: Database) -> AsyncIterator[None]:
    """Holds back every write until the end of the block; reads go on and see what is committed."""
    held, release = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def hold(_: Transaction) -> None:
        loop.call_soon_threadsafe(held.set)
        release.wait(10)

    holding = asyncio.create_task(database.write(hold))
    try:
        await held.wait()
        yield
    finally:
        release.set()
        await holding


async def queued(database: Database, count: int, work: Awaitable[T]) -> "asyncio.Future[T]":
    """Start the work and come back when the writer has that many jobs waiting."""
    task = asyncio.ensure_future(work)
    await wait_until(lambda: database.writer.waiting >= count)
    return task


async def test_renewing_a_hash_does_not_undo_a_rotation_that_came_first(
    identity: Identity, rotated_key: Identity, database: Database
):
    # The story: after a change of SECRET_KEY an app came with its old secret while an admin rotated it. The hash of the
    # old secret, renewed, was written over the new one: the leaked secret worked again and the new one did not.
    made = await identity.create_app("Shop")
    client_id = str(made.app.id)
    async with held_writer(database):
        rotation = await queued(database, 1, rotated_key.rotate_secret(made.app.id))
        renewal = await queued(database, 2, rotated_key.apps.authenticate_app(client_id, made.client_secret))
    fresh = await rotation
    assert await renewal is None
    assert await rotated_key.apps.authenticate_app(client_id, made.client_secret) is None
    assert await rotated_key.apps.authenticate_app(client_id, fresh.client_secret) is not None


async def test_two_requests_that_both_renew_a_hash_are_both_let_in(
    identity: Identity, rotated_key: Identity, database: Database
):
    made = await identity.create_app("Shop")
    async with held_writer(database):
        first = await queued(database, 1, rotated_key.apps.authenticate_app(str(made.app.id), made.client_secret))
        second = await queued(database, 2, rotated_key.apps.authenticate_app(str(made.app.id), made.client_secret))
    assert await first is not None and await second is not None
    again = await rotated_key.apps.authenticate_app(str(made.app.id), made.client_secret)
    assert again is not None and again.secret_hash != made.app.secret_hash
