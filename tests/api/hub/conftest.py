from collections.abc import AsyncIterator

import pytest

from tests.doubles.hub_server import HubServer, run_hub


@pytest.fixture
async def server() -> AsyncIterator[HubServer]:
    async with run_hub() as running:
        yield running
