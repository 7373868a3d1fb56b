from collections.abc import AsyncIterator, Iterator

import pytest

from tests.doubles.hub_server import LISTENERS, HubServer, listening_with, run_hub


@pytest.fixture(params=LISTENERS, autouse=True)
def listener(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test of this folder runs on every listener that the program has."""
    name: str = request.param
    with listening_with(name):
        yield name


@pytest.fixture
async def server(listener: str) -> AsyncIterator[HubServer]:
    async with run_hub() as running:
        yield running
