"""A connection that outlives its socket: what it keeps, what ends it, and what its client sees on the next socket."""

import asyncio
import json
from collections import defaultdict
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from appliance.hub import endings
from appliance.hub.connection import Connection
from appliance.hub.resume import Received
from tests.doubles.hub_house import PING, USER, House, Wire, call, ending_of, sequences, settle

ACK_AFTER_S = 0.9


def lose(connection: Connection) -> Wire:
    """Lose the socket; the pipe given back is what the connection has while its client is away."""
    absence = Wire()
    absence.is_stalled = True
    assert connection.lose_socket(absence)
    return absence


async def come_back(connection: Connection, *, sequence: int | None = None) -> Wire:
    """Resume on a new socket; the client says where it goes on, unless that is left out."""
    wire = Wire()
    assert connection.resume(wire, connection.principal)
    if sequence is not None:
        await connection.receive(record(9, sequenceId=sequence))
    return wire


def record(type_: int, **fields: object) -> str:
    return json.dumps({"type": type_} | fields) + "\x1e"


def give(house: House, connection: Connection, count: int = 1) -> list[UUID]:
    notifications = [house.backend.add_notification(USER) for _ in range(count)]
    for notification in notifications:
        house.offer(connection, notification)
    return [notification.id for notification in notifications]


def take_new(client: Received, wire: Wire) -> list[int]:
    """Take what a client takes of this: Sequence and numbers are heeded, what came before is dropped."""
    taken = []
    for told in wire.take():
        if told["type"] == 9:
            assert client.begin_at(told["sequenceId"])
        elif told["type"] in (1, 3) and client.count():
            taken.append(told)
    return sequences(taken)


EXPIRES = defaultdict(lambda: timedelta(hours=1), expired=timedelta(seconds=40))


async def end_by(house: House, connection: Connection, way: str) -> None:
    """Let the connection end in one of the ways that are not its client's own."""
    if way == "replaced":
        await house.greet(acknowledges=False)
    if way == "stopped":
        connection.end(endings.SERVER_STOPPING)
    for second in range(1, 200):
        if connection.ending is not None:
            return
        house.pass_s(1)
        if way == "lost late" and second == 59:
            lose(connection)
        elif way != "silent" and not connection.is_away:
            await connection.receive(PING)
        await settle()


def types(records: list[dict[str, Any]]) -> list[int]:
    return [record["type"] for record in records]


class TestAway:
    async def test_without_the_agreement_a_lost_socket_is_not_waited_for(self, house: House) -> None:
        granted_but_version_1, _ = house.let_in(is_stateful=True)
        await granted_but_version_1.receive('{"protocol":"json","version":1}\x1e')
        not_granted, _ = house.let_in()
        await not_granted.receive('{"protocol":"json","version":2}\x1e')
        no_handshake, _ = house.let_in(is_stateful=True)
        for connection in (granted_but_version_1, not_granted, no_handshake):
            assert not connection.is_resumable
            assert not connection.lose_socket(Wire())
            assert not connection.resume(Wire(), connection.principal)

    async def test_the_user_stays_present_and_the_device_seated_for_15_seconds(self, house: House) -> None:
        connection, _ = await house.greet_stateful()
        absence = lose(connection)
        house.pass_s(14.9)
        presence = house.core.presence
        assert (presence.connections, presence.count_user(USER), connection.is_away) == (1, 1, True)
        assert presence.find_device(house.device()) is connection
        ids = give(house, connection, 2)
        house.pass_s(0.1)
        assert ending_of(connection) == "socket_lost"
        assert (presence.connections, presence.devices) == (0, 0)
        assert absence.interrupts == 1
        await connection.finish()
        await settle()
        assert house.backend.notices[-2:] == [
            ("disconnected", house.device(), "socket_lost"),
            ("cut", house.device(), tuple(ids), "socket_lost"),
        ]

    async def test_what_was_written_and_not_acknowledged_goes_to_the_next_layer_with_the_rest(
        self, house: House
    ) -> None:
        connection, _ = await house.greet_stateful()
        acknowledged, written = give(house, connection, 2)
        # The answer to Hello has number 1.
        await connection.receive(record(8, sequenceId=2))
        lose(connection)
        (kept,) = give(house, connection)
        house.pass_s(15)
        await settle()
        assert ("cut", house.device(), (written, kept), "socket_lost") in house.backend.notices
        assert acknowledged not in (written, kept)

    async def test_nothing_is_written_to_the_lost_socket(self, house: House) -> None:
        connection, wire = await house.greet_stateful()
        wire.take()
        wire.is_stalled = True
        give(house, connection, 3)
        (in_flight,) = wire.stuck
        lose(connection)
        assert in_flight.cancelled()
        wire.is_stalled = False
        give(house, connection, 3)
        house.pass_s(14)
        await settle()
        assert wire.take() == []

    async def test_an_offer_to_one_that_never_acknowledges_is_not_taken_for_delivered_before_it_can_be_lost(
        self, house: House
    ) -> None:
        stateful, _ = await house.greet_stateful("silent", acknowledges=False)
        plain, _ = await house.greet("also silent", acknowledges=False)
        answering, _ = await house.greet_stateful()
        waits = [one.session.window_s(10.0) for one in (stateful, plain, answering) if one.session is not None]
        assert waits == [85.0, 4.0, 4.0]

    @pytest.mark.parametrize("way", ["silent", "not acknowledging", "lost late", "expired", "replaced", "stopped"])
    async def test_what_it_did_not_acknowledge_by_number_is_reported_in_time_however_it_ends(
        self, house: House, way: str
    ) -> None:
        # The story: one whose line died without a word was taken for served after 25 s, and lost after 30 or more.
        connection, _ = await house.greet_stateful(acknowledges=False, token_lives=EXPIRES[way])
        await connection.receive(PING)
        assert connection.session is not None
        window_s = connection.session.window_s(10.0)
        given_at = house.clock.monotonic()
        ids = give(house, connection, 2)
        await end_by(house, connection, way)
        await connection.finish()
        await settle()
        assert connection.ending is not None
        assert house.clock.monotonic() - given_at < window_s
        cut = [id_ for notice in house.backend.notices if notice[0] == "cut" for id_ in notice[2]]  # type: ignore[attr-defined]
        assert cut == ids

    async def test_after_its_own_goodbye_what_was_written_is_not_reported(self, house: House) -> None:
        connection, _ = await house.greet_stateful(acknowledges=False)
        give(house, connection)
        await connection.receive(record(7))
        await connection.finish()
        await settle()
        assert ending_of(connection) == "client_closed"
        assert "cut" not in [notice[0] for notice in house.backend.notices]

    async def test_a_client_that_is_away_is_neither_pinged_nor_timed_out(self, house: House) -> None:
        house.limit(disconnect_timeout_s=100.0)
        connection, _ = await house.connect(is_stateful=True)
        await connection.receive(PING)
        absence = lose(connection)
        house.pass_s(60)
        assert ending_of(connection) is None
        assert absence.stuck == []
        wire = await come_back(connection, sequence=1)
        house.pass_s(14)
        assert ending_of(connection) is None
        assert 6 not in types(wire.take())

    async def test_a_token_that_expires_meanwhile_ends_it(self, house: House) -> None:
        connection, _ = await house.connect(is_stateful=True, token_lives=timedelta(seconds=5))
        absence = lose(connection)
        house.pass_s(5)
        assert ending_of(connection) == "token_expired"
        assert absence.interrupts == 1
        assert not connection.resume(Wire(), connection.principal)

    async def test_a_revocation_ends_it(self, house: House) -> None:
        connection, _ = await house.connect(is_stateful=True)
        absence = lose(connection)
        connection.end(endings.make_revocation("gone"))
        assert absence.interrupts == 1
        assert absence.stuck == []
        assert house.core.presence.connections == 0

    async def test_the_devices_newest_hello_wins_over_it(self, house: House) -> None:
        older, _ = await house.greet_stateful(cursor=0)
        lose(older)
        (kept,) = give(house, older)
        newer, wire = await house.greet(cursor=0)
        assert ending_of(older) == "replaced"
        assert house.core.presence.find_device(house.device()) is newer
        assert sequences(wire.take()) == [1]
        await settle()
        assert ("cut", house.device(), (kept,), "replaced") in house.backend.notices

    async def test_too_much_for_one_that_is_away_ends_it_and_all_of_it_is_reported(self, house: House) -> None:
        house.limit(unacknowledged_bytes=1_500)
        connection, _ = await house.greet_stateful()
        absence = lose(connection)
        ids = give(house, connection, 10)
        assert ending_of(connection) == "slow_reader"
        assert absence.interrupts == 1
        await connection.finish()
        await settle()
        cut = [id_ for notice in house.backend.notices if notice[0] == "cut" for id_ in notice[2]]  # type: ignore[attr-defined]
        assert sorted(cut) == sorted(ids)


class TestComingBack:
    async def test_the_sequence_comes_first_then_what_was_not_acknowledged_then_what_is_new(self, house: House) -> None:
        connection, wire = await house.greet_stateful()
        give(house, connection, 4)
        await connection.receive(record(8, sequenceId=3))
        assert sequences(wire.take()) == [1, 2, 3, 4]
        lose(connection)
        give(house, connection, 2)
        wire = await come_back(connection, sequence=2)
        give(house, connection)
        told = wire.take()
        assert told[0] == {"type": 9, "sequenceId": 4}
        assert sequences(told[1:]) == [3, 4, 5, 6, 7]
        assert len(told) == 6
        assert house.core.counters.resumed == 1
        assert not connection.is_away

    async def test_with_nothing_to_repeat_the_sequence_announces_the_next_number(self, house: House) -> None:
        connection, _ = await house.greet_stateful()
        await connection.receive(record(8, sequenceId=1))
        lose(connection)
        wire = await come_back(connection)
        assert wire.take() == [{"type": 9, "sequenceId": 2}]

    async def test_the_sequence_and_what_is_repeated_are_one_frame(self, house: House) -> None:
        connection, _ = await house.greet_stateful()
        give(house, connection, 3)
        lose(connection)
        wire = Wire()
        wire.is_stalled = True
        assert connection.resume(wire, connection.principal)
        assert len(wire.stuck) == 1
        wire.stuck[0].set_result(None)
        await settle()
        assert len(wire.stuck) == 1

    async def test_no_ping_goes_before_the_sequence(self, house: House) -> None:
        connection, _ = await house.connect(is_stateful=True)
        house.pass_s(10)
        lose(connection)
        house.pass_s(14)
        wire = await come_back(connection)
        house.pass_s(1)
        assert types(wire.take()) == [9]

    async def test_the_newest_socket_wins_over_one_that_is_not_known_to_be_lost(self, house: House) -> None:
        connection, first = await house.greet_stateful()
        first.take()
        second = await come_back(connection)
        third = await come_back(connection, sequence=2)
        assert (first.interrupts, second.interrupts, third.interrupts) == (1, 1, 0)
        assert connection.is_carried_by(third) and not connection.is_carried_by(first)
        second.take()
        third.take()
        give(house, connection)
        house.pass_s(20)
        assert first.take() == second.take() == []
        assert sequences(third.take()) == [1]

    async def test_what_the_older_socket_still_brings_is_not_read(self, house: House) -> None:
        connection, first = await house.greet_stateful()
        second = await come_back(connection, sequence=2)
        second.take()
        await connection.receive(record(1, target="X", arguments=[], invocationId="9"), first)
        assert second.take() == []

    async def test_a_call_that_was_under_way_is_answered_once_on_the_next_socket(self, house: House) -> None:
        """The client cannot know that its call was taken, so it repeats it; it must not be served again."""
        connection, first = await house.greet_stateful()
        (notification_id,) = give(house, connection)
        house.backend.acknowledge_gate = asyncio.Event()
        await call(connection, "Acknowledge", str(notification_id), call_id="2")
        lose(connection)
        first.take()
        wire = await come_back(connection, sequence=2)
        await call(connection, "Acknowledge", str(notification_id), call_id="2")
        house.backend.acknowledge_gate.set()
        await settle()
        answers = [told for told in wire.take() if told.get("invocationId") == "2"]
        assert answers == [{"type": 3, "invocationId": "2", "result": True}]
        assert len(house.backend.acknowledged) == 1
        assert first.take() == []

    async def test_a_hello_that_the_older_socket_brought_is_served_to_its_end_before_anything_else(
        self, house: House
    ) -> None:
        """A message that was counted never comes again, so it may not be given up with the socket that brought it."""
        house.backend.hello_gate = asyncio.Event()
        connection, first = await house.connect(is_stateful=True)
        saying = asyncio.ensure_future(
            connection.receive(
                record(1, target="Hello", arguments=[{"deviceId": "phone"}], invocationId="1")
                + record(1, target="X", arguments=[], invocationId="2"),
                first,
            )
        )
        await settle()
        wire = Wire()
        assert connection.resume(wire, connection.principal)
        assert first.interrupts == 0
        going_on = asyncio.ensure_future(
            connection.receive(
                record(9, sequenceId=2) + record(1, target="X", arguments=[], invocationId="2"),
                wire,
            )
        )
        await settle()
        assert types(wire.take()) == [9]
        house.backend.hello_gate.set()
        await asyncio.gather(saying, going_on)
        await settle()
        told = wire.take()
        assert [one["invocationId"] for one in told if one["type"] == 3] == ["1", "2"]
        assert house.core.presence.find_device(house.device()) is connection

    async def test_half_a_message_of_the_lost_socket_is_forgotten(self, house: House) -> None:
        connection, _ = await house.connect(is_stateful=True)
        await connection.receive('{"type":1,"target":"X","argum')
        lose(connection)
        wire = await come_back(connection, sequence=1)
        await connection.receive(record(1, target="X", arguments=[], invocationId="1"))
        assert [one["invocationId"] for one in wire.take() if one["type"] == 3] == ["1"]

    async def test_messages_that_are_missing_for_good_end_the_connection(self, house: House) -> None:
        connection, _ = await house.connect(is_stateful=True)
        lose(connection)
        wire = await come_back(connection, sequence=2)
        assert ending_of(connection) == "protocol_violation"
        assert types(wire.take()) == [9, 7]

    async def test_a_client_that_comes_back_and_says_nothing_is_timed_out(self, house: House) -> None:
        connection, _ = await house.connect(is_stateful=True)
        lose(connection)
        await come_back(connection)
        for _ in range(3):
            await connection.receive(PING)
            house.pass_s(10)
        assert ending_of(connection) == "client_timed_out"

    async def test_a_renewed_token_is_taken_over(self, house: House) -> None:
        connection, _ = await house.connect(is_stateful=True, token_lives=timedelta(seconds=10))
        lose(connection)
        renewed = house.backend.add_user("alice again", USER, expires_at=house.clock.now() + timedelta(hours=1))
        assert connection.resume(Wire(), renewed)
        await connection.receive(record(9, sequenceId=1))
        house.pass_s(11)
        assert ending_of(connection) is None
        assert house.core.presence.list_token(renewed.token_id) == [connection]

    async def test_the_time_away_does_not_count_as_a_round_trip(self, house: House) -> None:
        connection, _ = await house.greet_stateful()
        before, during = give(house, connection)[0], None
        lose(connection)
        (during,) = give(house, connection)
        house.pass_s(9)
        await come_back(connection, sequence=2)
        for notification_id in (before, during):
            await call(connection, "Acknowledge", str(notification_id))
        await settle()
        assert [round_trip_s for _, _, round_trip_s in house.backend.acknowledged] == [None, None]
        assert connection.session is not None
        assert connection.session.window_s(10.0) == house.limits.window_first_s

    async def test_the_plain_dialect_is_kept_and_repeated_too(self, house: House) -> None:
        connection, _ = await house.connect(is_stateful=True)
        lose(connection)
        connection.offer_plain(house.backend.add_notification(USER))
        wire = await come_back(connection)
        assert [one.get("target") for one in wire.take()] == [None, "ReceiveNotification"]

    async def test_many_losses_in_a_row_lose_and_double_nothing(self, house: House) -> None:
        connection, wire = await house.greet_stateful()
        client, got = Received(), list[int]()
        for _ in range(20):
            got += take_new(client, wire)
            await connection.receive(record(8, sequenceId=client.latest_id))
            give(house, connection, 3)
            if len(got) % 2:
                got += take_new(client, wire)
            lose(connection)
            give(house, connection, 2)
            wire = await come_back(connection, sequence=2)
        assert got + take_new(client, wire) == list(range(1, 101))


class TestAcknowledging:
    async def test_the_client_is_acknowledged_within_a_second_and_not_each_time(self, house: House) -> None:
        connection, wire = await house.connect(is_stateful=True)
        for number in range(5):
            await call(connection, "X", call_id=str(number))
        wire.take()
        house.pass_s(ACK_AFTER_S)
        assert wire.take() == [{"type": 8, "sequenceId": 5}]
        house.pass_s(5)
        assert wire.take() == []

    async def test_who_did_not_agree_is_never_acknowledged(self, house: House) -> None:
        connection, wire = await house.connect()
        await call(connection, "X")
        wire.take()
        house.pass_s(5)
        assert wire.take() == []

    async def test_a_client_that_reads_but_does_not_acknowledge_is_cut_and_may_come_back(self, house: House) -> None:
        house.limit(unacknowledged_bytes=2_000)
        connection, wire = await house.greet_stateful()
        wire.take()
        give(house, connection, 10)
        assert ending_of(connection) == "slow_reader"
        told = wire.take()
        assert told[-1] == {"type": 7, "error": "Too much was not acknowledged.", "allowReconnect": True}
        assert sequences(told) == list(range(1, len(told)))
        await settle()
        (*_, cut) = [notice for notice in house.backend.notices if notice[0] == "cut"]
        assert len(cut[2]) == 1  # type: ignore[arg-type]

    async def test_one_that_never_acknowledges_is_cut_after_a_minute(self, house: House) -> None:
        connection, _ = await house.greet_stateful()
        for _ in range(4):
            house.pass_s(14.9)
        assert ending_of(connection) is None
        house.pass_s(0.4)
        assert ending_of(connection) == "slow_reader"

    async def test_a_stalled_reader_is_cut_without_a_goodbye(self, house: House) -> None:
        connection, wire = await house.greet_stateful()
        wire.is_stalled = True
        ids = give(house, connection, 3)
        house.pass_s(10)
        assert ending_of(connection) == "slow_reader"
        await settle()
        assert ("cut", house.device(), tuple(ids), "slow_reader") in house.backend.notices

    async def test_a_replay_waits_for_acknowledgements_and_for_the_client_to_come_back(self, house: House) -> None:
        house.limit(unacknowledged_bytes=4_000)
        for _ in range(30):
            house.backend.add_notification(USER)
        connection, wire = await house.connect(is_stateful=True)
        await call(connection, "Hello", {"deviceId": "phone", "cursor": 0})
        await settle()
        got = sequences(wire.take())
        assert got and len(got) < 30
        lose(connection)
        await settle()
        wire = await come_back(connection, sequence=2)
        told, received = wire.take(), 1 + len(got)
        assert sequences(told) == got
        for _ in range(30):
            await connection.receive(record(8, sequenceId=received))
            await settle()
            fresh = wire.take()
            received += len(fresh)
            got += sequences(fresh)
        assert got == list(range(1, 31))
        assert ("connected", house.device(), False) in house.backend.notices
