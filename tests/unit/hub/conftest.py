from collections.abc import AsyncIterator

import pytest

from tests.doubles.hub_house import House


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House()
    yield house
    for connection in house.opened:
        await connection.finish()
    house.core.deadlines.close()
