"""Sessions of one node among several: offers from elsewhere come late, out of order or never."""

import asyncio
from datetime import timedelta
from random import Random
from uuid import uuid4

import pytest

from appliance.hub import endings
from appliance.hub.backend import DeviceLost
from appliance.hub.connection import Connection
from appliance.hub.hub import Hub
from appliance.hub.messages import EncodedNotification
from appliance.hub.negotiate import WEBSOCKETS
from appliance.hub.order import Place, SentOrder
from appliance.hub.resync import resync
from appliance.hub.seats import SeatClock
from tests.doubles.hand_clock import HandClock
from tests.doubles.hub_backend import MemoryBackend, make_envelope
from tests.doubles.hub_house import HANDSHAKE, USER, House, Wire, call, ending_of, sequences, settle


@pytest.fixture
async def node(house: House) -> House:
    """A hub that is one of many."""
    house.core.seats = SeatClock(house.clock)
    return house


def add(house: House, count: int) -> list[EncodedNotification]:
    return [house.backend.add_notification(USER) for _ in range(count)]


async def test_what_comes_in_turn_is_sent_without_a_look_at_the_database(node):
    phone, wire = await node.greet()
    loads = len(node.backend.loads)
    for notification in add(node, 3):
        node.offer(phone, notification)
    assert sequences(wire.take()) == [1, 2, 3]
    assert len(node.backend.loads) == loads


async def test_what_never_came_is_loaded_before_the_next_one_is_sent(node):
    phone, wire = await node.greet()
    one, *_, four = add(node, 4)
    node.offer(phone, one)
    node.offer(phone, four)
    await settle()
    assert sequences(wire.take()) == [1, 2, 3, 4]
    assert node.core.counters.caught_up == 1
    node.offer(phone, add(node, 1)[0])
    assert sequences(wire.take()) == [5]
    assert node.core.counters.caught_up == 1


async def test_what_was_overtaken_comes_first_and_only_once(node):
    phone, wire = await node.greet()
    one, two, three = add(node, 3)
    for notification in (two, three, one, two):
        node.offer(phone, notification)
    await settle()
    node.offer(phone, one)
    node.offer(phone, three)
    assert sequences(wire.take()) == [1, 2, 3]
    assert not [notice for notice in node.backend.notices if notice[0] == "cut" and notice[3] != "history_passed"]


async def test_offers_that_come_out_of_order_while_the_database_is_asked_wait_for_their_turn(node):
    phone, wire = await node.greet()
    node.backend.load_gate = asyncio.Event()
    _, two = add(node, 2)
    node.offer(phone, two)
    await settle()
    three, four, five = add(node, 3)
    for notification in (five, three, four):
        node.offer(phone, notification)
    node.backend.load_gate.set()
    await settle()
    assert sequences(wire.take()) == [1, 2, 3, 4, 5]


async def test_a_live_only_offer_that_comes_too_late_goes_to_the_next_layer(node):
    phone, wire = await node.greet()
    one, two = add(node, 2)
    node.backend.left_out.add(one.id)
    node.offer(phone, two)
    await settle()
    node.offer(phone, one)
    await settle()
    assert sequences(wire.take()) == [2]
    assert node.backend.notices[-1] == ("cut", node.device(), (one.id,), "history_passed")


async def test_a_repeated_offer_is_neither_sent_again_nor_given_to_the_next_layer(node):
    phone, wire = await node.greet()
    [one] = add(node, 1)
    node.offer(phone, one)
    node.offer(phone, one)
    await settle()
    assert sequences(wire.take()) == [1]
    assert "cut" not in [notice[0] for notice in node.backend.notices]


async def test_catching_up_tells_the_layers_above_of_no_second_connection(node):
    phone, _ = await node.greet()
    _, two = add(node, 2)
    node.offer(phone, two)
    await settle()
    assert [notice[0] for notice in node.backend.notices] == ["seated", "connected"]
    phone.end(endings.CLIENT_GONE)
    await settle()
    assert node.backend.notices[-1][0] == "disconnected"


async def test_a_connection_that_ends_while_it_catches_up_gives_back_what_it_held(node):
    phone, _ = await node.greet()
    node.backend.load_gate = asyncio.Event()
    _, two = add(node, 2)
    node.offer(phone, two)
    await settle()
    phone.end(endings.CLIENT_GONE)
    await settle()
    assert ("cut", node.device(), (two.id,), "client_closed") in node.backend.notices


async def test_a_resync_asks_only_for_sessions_that_lag_behind(node):
    phone, phone_wire = await node.greet("phone")
    _, tablet_wire = await node.greet("tablet")
    one, _ = add(node, 2)
    node.offer(phone, one)
    loads = len(node.backend.loads)
    assert await resync(node.core) == 2
    await settle()
    assert sequences(phone_wire.take()) == [1, 2]
    assert sequences(tablet_wire.take()) == [1, 2]
    assert len(node.backend.loads) == loads + 2
    assert await resync(node.core) == 0
    await settle()
    assert len(node.backend.loads) == loads + 2


async def test_a_resync_ends_the_session_of_a_device_that_was_revoked_elsewhere(node):
    phone, _ = await node.greet()
    node.backend.lost = DeviceLost("This device was unregistered.")
    assert await resync(node.core) == 1
    await settle()
    assert ending_of(phone) == "revoked"


async def test_a_resync_during_a_replay_makes_it_load_once_more(node):
    node.backend.load_gate = asyncio.Event()
    connection, wire = await node.connect()
    greeting = asyncio.create_task(call(connection, "Hello", {"deviceId": "phone", "acknowledges": True}))
    await settle()
    add(node, 2)
    await resync(node.core)
    node.backend.load_gate.set()
    await greeting
    await settle()
    assert sequences(wire.take()) == [1, 2]


async def test_only_so_many_sessions_catch_up_at_once(house):
    house.core.seats = SeatClock(house.clock)
    house.core.catching_up = asyncio.Semaphore(2)
    for number in range(6):
        await house.greet(f"phone-{number}")
    add(house, 1)
    house.backend.load_gate = asyncio.Event()
    loads = len(house.backend.loads)
    await resync(house.core)
    await settle()
    assert len(house.backend.loads) == loads + 2
    house.backend.load_gate.set()
    await settle()
    assert len(house.backend.loads) == loads + 6


async def test_clients_that_are_away_do_not_keep_others_from_catching_up(house):
    """A turn was held until all that was loaded was sent: as many clients without a socket held all of them."""
    house.core.seats = SeatClock(house.clock)
    house.core.catching_up = asyncio.Semaphore(2)
    away = [(await house.greet_stateful(f"away-{number}"))[0] for number in range(3)]
    _, wire = await house.greet("well")
    for connection in away:
        assert connection.lose_socket(Wire())
    add(house, 1)
    assert await resync(house.core) == 4
    await settle()
    assert sequences(wire.take()) == [1]


@pytest.mark.parametrize("seed", range(30))
async def test_whatever_is_lost_doubled_or_shuffled_comes_once_and_in_order(node, seed):
    random = Random(seed)
    phone, wire = await node.greet()
    waiting: list[EncodedNotification] = []
    for _ in range(60):
        waiting += add(node, random.randrange(4))
        for _ in range(random.randrange(4)):
            if not waiting:
                break
            notification = waiting.pop(random.randrange(len(waiting)))
            if random.random() < 0.8:
                node.offer(phone, notification)
            if random.random() < 0.2:
                waiting.append(notification)
        if random.random() < 0.5:
            await asyncio.sleep(0)
    await settle()
    await resync(node.core)
    await settle()
    assert sequences(wire.take()) == list(range(1, len(node.backend.notifications[USER]) + 1))


def test_the_place_of_an_offer():
    order = SentOrder(most=2)
    ids = [uuid4() for _ in range(5)]
    assert order.place(1, ids[1]) is Place.NEXT
    assert order.place(2, ids[2]) is Place.GAP
    order.note_sent(1, ids[1])
    assert order.place(1, ids[1]) is Place.SENT
    assert order.place(1, ids[0]) is Place.PASSED
    order.pass_over(3)
    assert order.reached == 1
    order.pass_over(2)
    order.go_on(4, ids[3:5])
    assert order.reached == 4
    assert order.place(1, ids[1]) is Place.PASSED, "only so many are remembered"


def test_the_seat_that_was_told_of_is_older_than_the_next_one_however_wrong_the_clocks_are():
    fast, slow = HandClock(), HandClock()
    fast.pass_s(3600)
    here, there = SeatClock(fast), SeatClock(slow)
    first = here.stamp()
    there.learn(first)
    assert there.stamp() > first
    assert here.stamp() > first


def test_a_stamp_from_days_ahead_spoils_no_clock():
    clock = SeatClock(HandClock())
    clock.learn(2**63)
    assert clock.stamp() < 2**62


def test_a_seat_of_a_clock_that_was_days_ahead_does_not_win_for_ever():
    """Whoever came later lost against it, and was told not to come back."""
    clock = HandClock()
    clock.pass_s(3 * 86_400)
    here, there = SeatClock(clock), SeatClock(HandClock())
    old, new = here.stamp(), there.stamp()
    assert there.is_newer(new, old) and not there.is_newer(old, new)
    clock.pass_s(-3 * 86_400)
    assert here.is_newer(new, old), "once its clock is right again"
    assert there.is_newer(here.stamp(), old), "and what it gives out then is believed"
    later = there.stamp()
    assert there.is_newer(later, new) and not there.is_newer(new, later) and not there.is_newer(new, new)


class _Node:
    """A whole hub, one of many, with connections that a test opens in it."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.backend = MemoryBackend()
        self.hub = Hub(self.backend, self.clock, is_one_of_many=True)
        self.opened: list[Connection] = []

    async def greet(self, device: str) -> tuple[Connection, Wire]:
        principal = self.backend.add_user("alice", USER, expires_at=self.clock.now() + timedelta(hours=1))
        wire = Wire()
        connection = Connection(self.hub._core, principal, USER, wire, WEBSOCKETS)
        self.opened.append(connection)
        await connection.receive(HANDSHAKE)
        await call(connection, "Hello", {"deviceId": device, "acknowledges": True})
        await settle()
        wire.take()
        return connection, wire


@pytest.fixture
async def whole():
    node = _Node()
    yield node
    for connection in node.opened:
        await connection.finish()
    await node.hub.drain(1.0)


async def test_a_number_that_went_to_another_device_of_the_user_leaves_no_gap(whole):
    _, wire = await whole.greet("phone")
    phone = whole.backend.device_of(USER, "phone")
    for notification in [whole.backend.add_notification(USER) for _ in range(3)]:
        whole.hub.offer(notification, [phone] if notification.envelope.sequence != 2 else [uuid4()])
    assert sequences(wire.take()) == [1, 3]
    assert whole.hub.stats().caught_up == 0


async def test_a_device_gives_way_to_a_newer_seat_and_not_to_an_older_one(whole):
    connection, _ = await whole.greet("phone")
    phone = whole.backend.device_of(USER, "phone")
    [(device_id, ours)] = whole.hub.list_seats()
    assert device_id == phone
    assert whole.hub.give_way(phone, ours - 1) == ours
    assert connection.ending is None
    assert whole.hub.give_way(phone, ours + 1) is None
    assert ending_of(connection) == "replaced"
    assert whole.hub.give_way(phone, ours + 2) is None


async def test_one_node_alone_stamps_no_seat_and_keeps_no_order():
    backend = MemoryBackend()
    hub = Hub(backend, HandClock())
    principal = backend.add_user("alice", USER, expires_at=HandClock().now() + timedelta(hours=1))
    connection = Connection(hub._core, principal, USER, Wire(), WEBSOCKETS)
    await connection.receive(HANDSHAKE)
    await call(connection, "Hello", {"deviceId": "phone"})
    await settle()
    assert connection.session is not None and connection.session.order is None
    assert [notice[0] for notice in backend.notices] == ["connected"]
    hub.offer(EncodedNotification(make_envelope(USER, 7)), [backend.device_of(USER, "phone")])
    assert hub.stats().caught_up == 0
    await connection.finish()
    await hub.drain(1.0)
