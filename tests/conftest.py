"""What tests of the whole program share: a running appliance, an admin to configure it, PostgreSQL and Redis."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NoReturn

import httpx
import pytest

from appliance.domain.principal import Role
from tests.doubles.appliance import RunningAppliance, TestApp, TestUser
from tests.doubles.postgresql import NoPostgresql, PostgresCluster, find_programs
from tests.doubles.redis import NoRedis, RedisServer, find_redis


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAppliance]:
    """The real program on a free port of the loopback interface, for the whole test run."""
    running = RunningAppliance(_folder(tmp_path_factory))
    running.start()
    yield running
    assert running.stop() == 0, running.output


@pytest.fixture
async def http(server: RunningAppliance) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the running appliance without any credential."""
    async with httpx.AsyncClient(base_url=server.base_url, timeout=20) as client:
        yield client


@pytest.fixture
async def admin(server: RunningAppliance) -> TestUser:
    """An admin."""
    return await server.make_user(role=Role.ADMIN)


@pytest.fixture
async def app(server: RunningAppliance, admin: TestUser) -> TestApp:
    """An app with push on."""
    return await server.make_app(admin)


@pytest.fixture
async def user(server: RunningAppliance, app: TestApp) -> TestUser:
    """A user who is enrolled in `app`."""
    return await server.make_user(app)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresCluster]:
    """A PostgreSQL server for the whole test run. Where there is none, its tests are skipped, but never in CI."""
    try:
        cluster = PostgresCluster(find_programs())
    except NoPostgresql as reason:
        _skip(str(reason))
    try:
        cluster.start()
    except NoPostgresql as reason:
        cluster.remove()
        _skip(str(reason))
    yield cluster
    cluster.remove()


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A Redis server of the test's own. Where there is none, its tests are skipped, but never in CI."""
    try:
        running = RedisServer(find_redis())
    except NoRedis as reason:
        _skip(str(reason))
    running.start()
    yield running
    running.remove()


def _skip(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"CI must run the tests that need PostgreSQL or Redis. {reason}")
    pytest.skip(reason)


def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("appliance") / "data"
