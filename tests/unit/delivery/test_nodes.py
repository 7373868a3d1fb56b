"""Several nodes over one database: what one accepts reaches the sessions of the others, whatever the bus does."""

import asyncio
import struct
from contextlib import AsyncExitStack
from dataclasses import replace as replace_fields
from datetime import timedelta
from random import Random
from uuid import UUID, uuid4

import pytest
from msgspec.structs import replace

from appliance.channels.contract import ChannelName
from appliance.delivery import nodes_messages as said
from appliance.delivery.accept import Acceptor
from appliance.delivery.engine import LONGEST_SLEEP_S, DeliveryEngine
from appliance.delivery.nodes import ASK_S, Nodes
from appliance.delivery.nodes_peers import SILENT_AFTER_S
from appliance.delivery.remote import LEASE
from appliance.domain.ladder import event_of
from appliance.domain.outcome import Accepted, Rejected, Retry, kind_of
from appliance.hub.messages import EncodedNotification
from appliance.storage.database import open_database
from appliance.storage.deliveries import AttemptRow, Move, claim_job, hand_back_job, lapse_job, move_job
from appliance.storage.sql import instant_of, uuid_of
from tests.doubles.channel import ScriptedChannel
from tests.doubles.hand_clock import HandClock
from tests.doubles.hub_backend import make_envelope
from tests.doubles.hub_stand_in import HubStandIn
from tests.doubles.memory_bus import MemoryBus, MemoryWire
from tests.unit.delivery.conftest import House


class NodeHouse(House):
    """A house that is one of several."""

    def __init__(self, database, clock, channels):
        super().__init__(database, clock, channels)
        self.bus = MemoryBus()
        self.looked_up = 0
        self.nodes = Nodes(self.bus, self.hub, clock, self._look_up, Random(1))
        self.engine = DeliveryEngine(database, self.hub, self.channels, self.remote, clock, self.nodes)
        self.nodes.attach(self.engine)
        self.acceptor = Acceptor(database, self.engine, clock)
        self.backend.attach(self.engine, self.nodes)

    async def _look_up(self):
        self.looked_up += 1

    async def rest(self):
        await asyncio.sleep(0.002)

    @property
    def wants_resync(self):
        return self.nodes._resync_wanted.is_set()

    def calm_down(self):
        self.nodes._resync_wanted.clear()


class Street:
    """Two or three houses, the wire between them, an app and its user with a phone that can be pushed to."""

    def __init__(self, houses, channel, clock):
        self.wire = MemoryWire()
        self.houses = houses
        self.channel = channel
        self.clock = clock
        for house in houses:
            self.wire.join(house.nodes)
        for house in houses:
            house.nodes.beat()
        self.wire.carry()
        for house in houses:
            house.calm_down()

    async def settle_people(self):
        self.app = await self.houses[0].add_app()
        self.user = await self.houses[0].add_user(self.app)
        self.phone = await self.houses[0].add_device(self.user, self.app, "token-of-the-phone")

    async def settle(self, rounds=6):
        for _ in range(rounds):
            for house in self.houses:
                await house.settle(rounds=5)
            self.wire.carry()

    async def pass_s(self, seconds):
        await self.settle()
        self.clock.pass_s(seconds)
        await self.settle()

    async def until(self, holds):
        """Settle until it holds: a busy machine may need more rounds for it than an idle one."""
        async with asyncio.timeout(20):
            while not holds():
                await self.settle(rounds=1)

    async def unprompted_until(self, holds):
        """Wait until it holds, without waking any engine."""
        async with asyncio.timeout(20):
            while not holds():
                await self.houses[0].rest()

    async def until_offered(self, house, count=1):
        await self.until(lambda: len(house.hub.offers) == count)

    async def until_pushed(self, count=1):
        await self.until(lambda: len(self.channel.pushes) == count)


@pytest.fixture
async def street(tmp_path, clock, database_url):
    channel = ScriptedChannel()
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(tmp_path, database_url))
        houses = [NodeHouse(database, clock, [channel]) for _ in range(2)]
        for house in houses:
            await stack.enter_async_context(house.running())
        street = Street(houses, channel, clock)
        await street.settle_people()
        yield street


async def test_a_device_on_another_node_is_offered_and_its_acknowledgement_closes_the_window_here(street):
    here, there = street.houses
    there.hub.connect(street.phone)
    sent = await here.send(street.app, street.user)
    await street.until(lambda: here.engine.is_offered(street.phone, sent))
    await street.until_offered(there)
    assert [envelope.id for _, envelope in there.hub.offers] == [sent]
    assert await here.state(sent) == ["offered"]
    assert await there.backend.acknowledge(street.phone, sent, 0.01)
    street.wire.carry()
    assert here.engine.offers_open == 0
    assert await here.state(sent) == ["confirmed"]
    await street.pass_s(60)
    assert street.channel.pushes == []


async def test_the_envelope_arrives_as_it_was_sent(street):
    here, there = street.houses
    there.hub.connect(street.phone)
    data = {"route": "/s", "n": 2**60, "deep": {"list": [1.5, None, True, "ä"]}}
    await here.send(street.app, street.user, data=data, type="alarm", collapse_key="k", ttl_s=60)
    await street.until_offered(there)
    here.hub.connect(street.phone)
    await here.send(street.app, street.user, data=data, type="alarm", collapse_key="k", ttl_s=60)
    await street.until_offered(there, 2)
    envelopes = [envelope for _, envelope in there.hub.offers]
    [(_, ours)] = here.hub.offers
    assert [envelope.data for envelope in envelopes] == [data, data]
    assert envelopes[1] == ours


async def test_with_nobody_who_has_the_device_the_next_layer_is_on_after_a_short_while(street):
    here, _ = street.houses
    sent = await here.send(street.app, street.user)
    await street.until(lambda: here.engine.offers_open == 1)
    assert street.channel.pushes == []
    await street.pass_s(ASK_S + 0.01)
    await street.until_pushed()
    assert [push.envelope.id for push in street.channel.pushes] == [sent]


async def test_with_no_other_node_alive_nobody_is_asked(street):
    here, _ = street.houses
    street.wire.cut()
    await here.send(street.app, street.user)
    await street.settle()
    await street.until_pushed()
    assert len(street.channel.pushes) == 1


@pytest.mark.parametrize("how", ["cut", "disconnected"])
async def test_an_offer_that_is_lost_on_another_node_goes_to_the_next_layer_at_once(street, how):
    here, there = street.houses
    there.hub.connect(street.phone)
    sent = await here.send(street.app, street.user)
    await street.until(lambda: here.engine.is_offered(street.phone, sent))
    if how == "cut":
        there.backend.offer_cut(street.phone, [sent], "slow_reader")
    else:
        there.backend.device_disconnected(street.user, street.phone, "socket_lost")
    await street.settle()
    await street.until_pushed()
    assert [push.envelope.id for push in street.channel.pushes] == [sent]
    codes = [attempt.code for attempt in (await here.story(sent)).deliveries[0].attempts]
    assert codes[0] == ("slow_reader" if how == "cut" else "connection_lost")


async def test_a_node_that_dies_with_the_offer_lets_the_window_pass_and_the_next_layer_is_on(street):
    here, there = street.houses
    there.hub.connect(street.phone, window_s=3.0)
    sent = await here.send(street.app, street.user)
    await street.until(lambda: here.engine.is_offered(street.phone, sent))
    street.wire.users.remove(there.nodes)
    await street.pass_s(2)
    assert street.channel.pushes == []
    await street.pass_s(2)
    await street.until_pushed()
    assert [push.envelope.id for push in street.channel.pushes] == [sent]


async def test_what_a_dead_node_had_claimed_is_taken_over_when_its_lease_has_run_out(street):
    here, _ = street.houses
    await here.send(street.app, street.user)
    [(delivery_id,)] = await here.database.read("SELECT id FROM delivery")
    claimed = await here.database.write(claim_job([uuid_of(delivery_id)], street.clock.now() + LEASE))
    assert len(claimed) == 1
    for _ in range(5):
        await street.pass_s(10)
    assert street.channel.pushes == []
    await street.pass_s(31)
    await street.until_pushed()
    assert len(street.channel.pushes) == 1


async def test_a_node_that_is_never_idle_delivers_what_a_dead_one_accepted(street):
    """A node that was woken more often than every half minute never looked into the database again."""
    here, there = street.houses
    here.hub.connect(street.phone)
    other = await here.add_user(street.app)
    await here.add_device(other, street.app, "token-of-the-other")
    await street.settle()
    lost = await _accept_and_die(there, street.app, other)
    for _ in range(round(LONGEST_SLEEP_S) + 2):
        street.clock.pass_s(1)
        sent = await here.send(street.app, street.user)
        await street.unprompted_until(lambda sent=sent: here.engine.is_offered(street.phone, sent))
        assert await here.backend.acknowledge(street.phone, sent, 0.01)
    await street.unprompted_until(lambda: street.channel.pushes)
    assert [push.envelope.id for push in street.channel.pushes] == [lost]


async def _accept_and_die(house, app, user):
    """Accept as a node whose engine does nothing any more."""
    engine = DeliveryEngine(house.database, house.hub, house.channels, house.remote, house.clock)
    house.acceptor = Acceptor(house.database, engine, house.clock)
    return await house.send(app, user)


@pytest.mark.parametrize("outcome", [Retry("down"), Rejected("no"), Accepted("late")], ids=["retry", "no", "yes"])
async def test_the_late_result_of_a_node_that_hung_does_not_move_the_claim_of_another(street, outcome):
    here, _ = street.houses
    now = street.clock.now()
    sent = await _accept_and_die(here, street.app, street.user)
    [(row,)] = await here.database.read("SELECT id FROM delivery")
    delivery = uuid_of(row)
    hung, other = now + LEASE, now + 2 * LEASE
    await here.database.write(claim_job([delivery], hung))
    await here.database.write(lapse_job(hung))
    await here.database.write(claim_job([delivery], other))
    attempt = AttemptRow(ChannelName.FCM, now, 1, kind_of(outcome), "code", "reason")
    late = Move(delivery, event_of(outcome), attempt, due_at=now, lease_until=hung)
    assert await here.database.write(move_job([late], now)) == [False]
    assert await here.database.write(hand_back_job({hung: [delivery]}, now)) == 0
    await here.database.write(move_job([Move(delivery, None, due_at=now + 9 * LEASE)], now))
    [(due_at,)] = await here.database.read("SELECT due_at FROM delivery")
    assert instant_of(due_at) == other
    assert await here.state(sent) == ["claimed"]
    assert await here.database.write(move_job([replace_fields(late, lease_until=other)], now)) == [True]


async def test_a_client_that_cannot_acknowledge_is_offered_there_and_pushed_in_parallel(street):
    here, there = street.houses
    there.hub.connect(street.phone, acknowledges=False)
    await here.send(street.app, street.user)
    await street.settle()
    await street.until_pushed()
    await street.until_pushed()
    assert len(there.hub.offers) == len(street.channel.pushes) == 1


async def test_a_client_that_cannot_acknowledge_and_is_away_on_another_node_is_waited_for_as_long_as_there(street):
    """It was settled as sent when the hub's turn was over, though there is no other layer and it never got it."""
    here, there = street.houses
    tablet = await here.add_hub_device(street.user, "tablet")
    there.hub.connect(street.phone)
    there.hub.connect(tablet, acknowledges=False, window_s=25.0)
    sent = await here.send(street.app, street.user)
    await street.until(lambda: here.engine.is_offered(tablet, sent))
    await there.backend.acknowledge(street.phone, sent, 0.01)
    await street.pass_s(15)
    there.backend.offer_cut(tablet, [sent], "socket_lost")
    await street.settle()
    assert sorted(await here.state(sent)) == ["confirmed", "queued"]


async def test_a_client_that_cannot_acknowledge_has_taken_what_was_not_cut_in_its_whole_window(street):
    here, there = street.houses
    tablet = await here.add_hub_device(street.user, "tablet")
    there.hub.connect(street.phone)
    there.hub.connect(tablet, acknowledges=False, window_s=25.0)
    sent = await here.send(street.app, street.user)
    await street.until(lambda: here.engine.is_offered(tablet, sent))
    await there.backend.acknowledge(street.phone, sent, 0.01)
    await street.pass_s(26)
    await street.until(lambda: here.engine.offers_open == 0)
    await street.settle()
    assert sorted(await here.state(sent)) == ["confirmed", "sent"]


async def test_plain_connections_are_served_on_every_node(street):
    here, there = street.houses
    sent = await here.send(street.app, street.user)
    await street.until(lambda: here.hub.plain_offers and there.hub.plain_offers)
    for house in (here, there):
        assert [envelope.id for _, envelope in house.hub.plain_offers] == [sent]


async def test_a_scheduled_send_is_offered_by_the_node_that_did_not_release_it(street):
    here, there = street.houses
    there.hub.connect(street.phone)
    at = street.clock.now().replace(microsecond=0)
    street.clock.pass_s(-60)
    sent = await here.send(street.app, street.user, send_at=at)
    await street.pass_s(61)
    await street.until_offered(there)
    assert [envelope.id for _, envelope in there.hub.offers] == [sent]
    assert len([frame for frame in street.wire.log if b"token-of" in frame.data]) == 0


async def test_what_is_withdrawn_on_another_node_is_not_waited_for_here(street):
    here, there = street.houses
    there.hub.connect(street.phone)
    sent = await here.send(street.app, street.user)
    await street.until(lambda: here.engine.is_offered(street.phone, sent))
    await there.acceptor.withdraw(street.app, sent)
    street.wire.carry()
    assert here.engine.offers_open == 0
    await street.pass_s(60)
    assert street.channel.pushes == []


async def test_an_offer_that_its_withdrawal_has_overtaken_is_not_made(street):
    here, there = street.houses
    there.hub.connect(street.phone)
    envelope = make_envelope(street.user, 1)
    there.engine.forget(envelope.id)
    here.nodes.ask(EncodedNotification(envelope), [street.phone])
    street.wire.carry()
    assert there.hub.offers == []


async def test_clocks_that_differ_are_told_once_and_no_longer_when_they_agree_again(street, caplog):
    here, there = street.houses
    skewed = HandClock()
    skewed.wall = street.clock.wall + timedelta(seconds=11)
    there.nodes._clock = skewed

    def beat(times):
        for _ in range(times):
            there.nodes.beat()
            street.wire.carry()

    beat(20)
    assert here.nodes.clock_difference_s == pytest.approx(11, abs=0.01)
    assert "differ by 11 s" in here.nodes.describe()
    assert [one.getMessage() for one in caplog.records].count("node_clock_differs") == 1
    skewed.wall = street.clock.wall
    beat(1)
    assert here.nodes.clock_difference_s < 2
    assert "differ" not in here.nodes.describe()


async def test_a_beat_that_comes_late_says_nothing_of_a_clock(street):
    here, there = street.houses
    for _ in range(4):
        there.nodes.beat()
        frame = there.nodes.take()
        street.clock.pass_s(3)
        here.nodes.hear(frame.data)
        there.nodes.beat()
        street.wire.carry()
    assert here.nodes.clock_difference_s < 2


async def test_an_answer_after_the_next_layer_is_on_opens_no_window(street):
    here, there = street.houses
    there.hub.connect(street.phone)
    sent = await here.send(street.app, street.user)
    async with asyncio.timeout(20):
        while here.engine.offers_open == 0:
            await here.settle(rounds=1)
        street.clock.pass_s(ASK_S + 0.1)
        while not street.channel.pushes:
            await here.settle(rounds=1)
    street.wire.carry()
    assert here.engine.offers_open == 0
    await street.until_pushed()
    assert len(street.channel.pushes) == 1
    assert await there.backend.acknowledge(street.phone, sent, 0.1)
    assert await here.state(sent) == ["confirmed"]


async def test_a_session_that_moved_to_another_node_does_not_lose_the_window_by_its_old_one(street):
    here, there = street.houses
    there.hub.connect(street.phone)
    sent = await here.send(street.app, street.user)
    await street.until(lambda: here.engine.is_offered(street.phone, sent))
    here.backend.device_disconnected(street.user, street.phone, "replaced")
    here.backend.offer_cut(street.phone, [sent], "replaced")
    await street.settle()
    assert here.engine.is_offered(street.phone, sent)
    assert street.channel.pushes == []


async def test_whoever_misses_a_frame_resyncs_and_nobody_else(street):
    here, there = street.houses
    gaps = there.nodes.counters.gaps
    street.wire.lose = 1
    here.nodes.beat()
    street.wire.carry()
    here.nodes.beat()
    street.wire.carry()
    assert there.wants_resync
    assert there.nodes.counters.gaps == gaps + 1
    there.calm_down()
    here.nodes.beat()
    street.wire.carry()
    assert not there.wants_resync


async def test_what_could_not_be_said_is_missed_by_the_others(street):
    here, there = street.houses
    here.nodes._queue._most_bytes = 10
    here.nodes.ask(EncodedNotification(make_envelope(street.user, 1)), [street.phone])
    here.nodes.beat()
    street.wire.carry()
    assert here.nodes.dropped == 1
    assert there.wants_resync


async def test_a_message_that_is_too_long_is_missed_by_the_others(street):
    here, there = street.houses
    here.nodes.ask(EncodedNotification(make_envelope(street.user, 1, body="x" * 300_000)), [street.phone])
    here.nodes.beat()
    street.wire.carry()
    assert there.hub.offers == [] and there.wants_resync


async def test_when_a_node_falls_silent_the_others_look_up_what_it_accepted_last(street):
    here, there = street.houses
    street.wire.users.remove(there.nodes)
    for _ in range(4):
        street.clock.pass_s(1)
        here.nodes.beat()
        street.wire.carry()
    assert here.nodes.others == 0
    assert here.wants_resync


async def test_a_node_that_says_goodbye_is_not_missed(street):
    here, there = street.houses
    there.nodes._say(said.Leaving())
    street.wire.carry()
    assert here.nodes.others == 0
    assert not here.wants_resync


async def test_nodes_that_were_cut_off_resync_and_tell_where_devices_sit(street):
    here, there = street.houses
    street.wire.cut()
    assert not here.nodes.is_up and here.nodes.others == 0
    here.hub.seats[street.phone] = 5
    there.hub.seats[street.phone] = 9
    street.wire.mend()
    assert here.nodes.is_up and there.nodes.is_up
    assert here.wants_resync and there.wants_resync
    for house in street.houses:
        house.nodes.beat()
    street.wire.carry()
    assert here.hub.seats == {}
    assert there.hub.seats == {street.phone: 9}
    assert here.nodes.others == there.nodes.others == 1


async def test_a_node_that_is_cut_off_looks_now_and_then_for_what_others_accepted(street):
    here, _ = street.houses
    street.wire.cut()
    looks = []
    for _ in range(25):
        street.clock.pass_s(1)
        here.nodes.beat()
        looks.append(here.wants_resync)
        here.calm_down()
    assert looks.count(True) == 2


async def test_the_newer_seat_ends_the_older_one_and_answers_a_claim_that_comes_late(street):
    here, there = street.houses
    here.hub.seats[street.phone] = 5
    there.hub.seats[street.phone] = 9
    here.backend.device_seated(street.user, street.phone, 5)
    street.wire.carry()
    assert there.hub.seats == {street.phone: 9}
    assert here.hub.seats == {}


async def test_a_revocation_is_looked_up_at_once_on_the_other_nodes(street):
    here, there = street.houses
    for told in (
        lambda: here.nodes.close_user(street.user, "Signed out."),
        lambda: here.nodes.close_app(street.app, "Disabled."),
        lambda: here.nodes.close_token("token", "Signed out."),
    ):
        there.nodes._revoked.clear()
        told()
        street.wire.carry()
        assert there.nodes._revoked.is_set()


async def test_a_device_is_closed_wherever_it_is(street):
    here, there = street.houses
    here.nodes.close_device(street.phone, "This device was unregistered.")
    street.wire.carry()
    assert here.hub.closed == there.hub.closed == [(street.phone, False)]


async def test_a_connection_that_carries_nothing_is_given_up(street):
    here, _ = street.houses
    street.wire.users.clear()
    here.nodes.beat()
    assert here.bus.reopened == 0
    street.clock.pass_s(SILENT_AFTER_S + 0.1)
    here.nodes.beat()
    assert here.bus.reopened == 1


def _frame(*messages, number=0, node=None):
    return said.encode_frame(node or uuid4(), number, [said.encode_message(message) for message in messages])


async def test_garbage_and_other_versions_are_counted_and_do_nothing(street):
    here, _ = street.houses
    good = _frame(said.CloseDevice(street.phone, "x", False))
    strange = [
        b"",
        b"\x01",
        b"\x02" + good[1:],
        good[:-1],
        b"\x01\xc1",
        b"\x01" + b"\x91" * 100_000,
        b"\x01" + b"x" * 2_000_000,
    ]
    for data in strange:
        here.nodes.hear(data)
    assert here.nodes.counters.frames_unreadable == len(strange)
    assert here.hub.closed == []
    here.nodes.hear(good)
    assert here.hub.closed == [(street.phone, False)]


@pytest.mark.parametrize("deadline_s", [float("nan"), float("inf"), float("-inf"), -0.1, 1e9])
async def test_a_window_without_an_end_is_not_believed(street, deadline_s):
    """One that is not a number stood on top of the heap for ever, and no window behind it passed any more."""
    here, _ = street.houses
    sent = await here.send(street.app, street.user)
    await street.until(lambda: here.engine.offers_open == 1)
    taken = _frame(said.Taken(street.phone, sent, True, 1.5))
    here.nodes.hear(taken.replace(struct.pack(">d", 1.5), struct.pack(">d", deadline_s)))
    assert here.nodes.counters.frames_unreadable == 1
    assert not here.engine.is_offered(street.phone, sent)
    here.nodes.hear(taken)
    assert here.engine.is_offered(street.phone, sent)


async def test_an_offer_with_data_that_is_no_json_is_counted_and_the_rest_of_its_frame_obeyed(street):
    here, _ = street.houses
    offer = said.make_offer(make_envelope(street.user, 1), [street.phone])
    broken = replace(offer, data_json=b"[" * 9_999)
    here.nodes.hear(_frame(broken, said.CloseDevice(street.phone, "x", False)))
    assert here.nodes.counters.frames_unreadable == 1
    assert here.hub.offers == [] and here.hub.closed


async def test_a_frame_that_is_heard_twice_is_obeyed_once(street):
    here, _ = street.houses
    frame = _frame(said.CloseDevice(street.phone, "x", False), number=1)
    here.nodes.hear(frame)
    here.nodes.hear(frame)
    assert len(here.hub.closed) == 1


async def test_many_sends_go_out_in_few_frames_and_in_their_order(street):
    here, there = street.houses
    there.hub.connect(street.phone)
    before = here.nodes.counters.frames_sent
    for number in range(1, 301):
        here.nodes.ask(EncodedNotification(make_envelope(street.user, number)), [street.phone])
    street.wire.carry()
    assert [envelope.sequence for _, envelope in there.hub.offers] == list(range(1, 301))
    assert here.nodes.counters.frames_sent - before <= 3


async def test_forgotten_offers_of_another_node_do_not_pile_up(street):
    _, there = street.houses
    taken = there.nodes._taken
    for _ in range(50):
        taken.add(uuid4(), uuid4(), UUID(int=1), street.clock.monotonic())
    street.clock.pass_s(60)
    taken.add(uuid4(), uuid4(), UUID(int=1), street.clock.monotonic())
    assert len(taken) == 1
    assert len(taken._by_device) == 1


async def test_what_was_handed_over_is_offered_to_the_other_nodes_before_the_engine_ends(street):
    """A stopping engine dropped it, while its node said goodbye as if nothing were missing."""
    here, there = street.houses
    tablet = await here.add_hub_device(street.user, "tablet")
    there.hub.connect(tablet)
    here.acceptor = Acceptor(here.database, StoppedByIt(here.engine), here.clock)  # type: ignore[arg-type]
    sent = await here.send(street.app, street.user)
    await street.unprompted_until(lambda: not here.engine.is_running)
    assert here.engine.handed_over == 0
    street.wire.carry()
    assert [envelope.id for _, envelope in there.hub.offers] == [sent]


class StoppedByIt:
    """An engine that is asked to stop in the moment in which something is handed over."""

    def __init__(self, engine):
        self.engine = engine

    handed_over = 0

    @property
    def plan(self):
        return self.engine.plan

    def hand_over(self, released):
        self.engine.hand_over(released)
        self.engine.stop()


@pytest.mark.parametrize(("untold", "last_words"), [(0, [said.Leaving()]), (1, [])])
async def test_a_node_says_goodbye_only_when_it_has_told_everything(clock, untold, last_words):
    class Engine:
        handed_over = untold

    bus = HeldBus()
    nodes = Nodes(bus, HubStandIn(), clock, bus.stopped.wait, Random(1))
    nodes.attach(Engine())  # type: ignore[arg-type]
    running = asyncio.create_task(nodes.run())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    nodes.stop()
    await asyncio.wait_for(running, 2)
    assert said.decode_frame(bus.last.data).messages == last_words


class HeldBus(MemoryBus):
    """A bus that runs until it is stopped, and keeps the last frame."""

    def __init__(self):
        super().__init__()
        self.stopped = asyncio.Event()

    async def run(self, user):
        user.opened()
        await self.stopped.wait()
        self.last = user.take()

    def stop(self):
        self.stopped.set()


async def test_run_ends_all_its_tasks_when_it_is_stopped(clock):
    bus = HeldBus()
    nodes = Nodes(bus, HubStandIn(), clock, bus.stopped.wait, Random(1))
    running = asyncio.create_task(nodes.run())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    nodes.stop()
    await asyncio.wait_for(running, 2)
    assert said.decode_frame(bus.last.data).messages == [said.Leaving()]
    assert {task for task in asyncio.all_tasks() if task.get_name().startswith("nodes")} == set()
