"""Identity over a real database, with a clock under the test's control and cheap password hashing."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from appliance.api.identity.service import Identity, open_identity
from appliance.domain.secret import Secret
from appliance.security.passwords import Argon2Cost, PasswordHasher
from appliance.settings import Settings
from appliance.storage.database import Database, open_database
from tests.doubles.hand_clock import HandClock

PASSWORD = Secret("a long enough password")

OpenIdentity = Callable[[], AbstractAsyncContextManager[Identity]]


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, secret_key=Secret("k" * 43), secret_key_previous=Secret(""))


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    """Everything about identity is tested on both databases."""
    url = None if request.param == "sqlite" else Secret(request.getfixturevalue("postgresql").make_database())
    async with open_database(tmp_path, url) as opened:
        yield opened


@pytest.fixture
async def open_another(database: Database, settings: Settings, clock: HandClock) -> AsyncIterator[OpenIdentity]:
    """Opens one more identity over the same data, as another process has it."""
    passwords = PasswordHasher(Argon2Cost(memory_kib=8, passes=1, lanes=1))
    yield lambda: open_identity(database, settings, clock, passwords=passwords, is_server=False)
    passwords.close()


@pytest.fixture
async def identity(open_another: OpenIdentity) -> AsyncIterator[Identity]:
    async with open_another() as opened:
        yield opened
