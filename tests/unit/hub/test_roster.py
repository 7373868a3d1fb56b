"""Who is connected, as people see it."""

from datetime import timedelta
from uuid import UUID, uuid4

from appliance.hub import endings
from appliance.hub.negotiate import LONG_POLLING, WEBSOCKETS
from appliance.hub.origin import make_origin
from appliance.hub.roster import Roster
from tests.doubles.hub_house import USER, House

OTHER = UUID(int=2)


async def test_a_connection_is_described_from_its_beginning_on(house: House) -> None:
    roster = Roster(house.core)
    connection, wire = house.let_in()
    connection.origin = make_origin("192.0.2.7", "app/1")
    house.pass_s(5.0)
    ((before,), _) = roster.list(None, limit=10, after=None)
    assert (before.encoding, before.dialect, before.device_id, before.window_s) == (None, None, None, None)
    assert before.connected_at == house.clock.now() - timedelta(seconds=5)
    await connection.receive('{"protocol":"json","version":1}\x1e')
    ((plain,), _) = roster.list(USER, limit=10, after=None)
    assert (plain.id, plain.encoding, plain.dialect, plain.transport) == (before.id, "json", "plain", "WebSockets")
    assert (plain.address, plain.user_agent) == ("192.0.2.7", "app/1")
    wire.is_stalled = True
    connection.push(house.core.encodings["json"].ping)
    connection.push(house.core.encodings["json"].ping)
    house.pass_s(3.0)
    facts = roster.describe(before.id)
    assert facts is not None
    assert facts.queued_bytes == house.core.encodings["json"].ping.size_bytes
    assert facts.last_heard_at == house.clock.now() - timedelta(seconds=3)


async def test_pages_go_on_where_the_last_one_ended_though_connections_come_and_go(house: House) -> None:
    roster = Roster(house.core)
    connections = [(await house.connect())[0] for _ in range(5)]
    first, cursor = roster.list(None, limit=2, after=None)
    connections[0].end(endings.CLIENT_CLOSED)
    connections[3].end(endings.CLIENT_CLOSED)
    await house.connect()
    second, cursor = roster.list(None, limit=2, after=cursor)
    third, none = roster.list(None, limit=2, after=cursor)
    numbers = [roster.find(facts.id) for facts in (*first[1:], *second, *third)]
    assert numbers == [connections[1], connections[2], connections[4], house.opened[5]]
    assert (roster.find(first[0].id), none) == (None, None)


async def test_another_user_is_not_in_the_list(house: House) -> None:
    await house.connect()
    assert Roster(house.core).list(OTHER, limit=10, after=None) == ([], None)


async def test_ids_of_another_start_name_nobody(house: House) -> None:
    connection, _ = await house.connect()
    roster, earlier = Roster(house.core), Roster(house.core)
    ((facts,), _) = earlier.list(None, limit=1, after=None)
    assert earlier.find(facts.id) is connection
    assert roster.find(facts.id) is None
    assert roster.find(uuid4()) is None


async def test_the_census_counts_by_kind(house: House) -> None:
    roster = Roster(house.core)
    await house.greet()
    await house.connect()
    polled, _ = house.let_in()
    polled.transport = LONG_POLLING
    census = roster.take_census()
    assert census.transports == {WEBSOCKETS.name: 2, LONG_POLLING.name: 1}
    assert census.encodings == {"json": 2, "none": 1}
    assert census.dialects == {"full": 1, "plain": 1, "none": 1}
    assert census.away == 0
