"""Sessions: one a device, acknowledgements, and readers that do not read."""

import asyncio
import json
from uuid import UUID

from appliance.hub import endings
from appliance.hub.encoding import Frame, HubEncoding
from appliance.hub.messages import Dialect, EncodedNotification
from tests.doubles.hub_house import USER, House, call, ending_of, sequences, settle


class TestOneSessionADevice:
    async def test_the_newest_wins_and_the_older_gets_a_goodbye_and_nothing_further(self, house: House) -> None:
        _, older_wire = await house.greet()
        older_wire.take()
        newer, newer_wire = await house.greet()
        newer_wire.take()
        assert older_wire.take() == [{"type": 7, "error": "This device connected again elsewhere."}]
        assert house.core.presence.find_device(house.device()) is newer
        house.offer(newer, house.backend.add_notification(USER))
        assert sequences(newer_wire.take()) == [1]
        assert older_wire.take() == []
        assert older_wire.interrupts == 1
        assert house.backend.notices == [
            ("connected", house.device(), True),
            ("disconnected", house.device(), "replaced"),
            ("connected", house.device(), True),
        ]

    async def test_what_waits_for_a_stalled_older_session_is_reported_at_once(self, house: House) -> None:
        older, older_wire = await house.greet()
        older_wire.is_stalled = True
        first, second = (house.backend.add_notification(USER) for _ in range(2))
        house.offer(older, first)
        house.offer(older, second)
        _, newer_wire = await house.greet(cursor=0)
        await settle()
        assert ("cut", house.device(), (second.id,), "replaced") in house.backend.notices
        assert sequences(newer_wire.take()) == [1, 2]
        await older.finish()
        await settle()
        assert ("cut", house.device(), (first.id,), "replaced") in house.backend.notices

    async def test_other_devices_of_the_user_are_left_alone(self, house: House) -> None:
        phone, _ = await house.greet("phone")
        await house.greet("tablet")
        assert ending_of(phone) is None


class TestOffersBehindTheHistory:
    """A notification is committed, a device says Hello and reads it from the disk, and only then it is offered.

    It was once sent a second time in that case, and behind ones with higher numbers.
    """

    async def test_an_offer_of_what_the_history_brought_is_kept_but_not_sent_again(self, house: House) -> None:
        notifications = [house.backend.add_notification(USER) for _ in range(3)]
        connection, wire = await house.greet(cursor=0)
        assert sequences(wire.take()) == [1, 2, 3]
        for notification in notifications:
            house.offer(connection, notification)
        await settle()
        assert wire.take() == []
        assert [notice[0] for notice in house.backend.notices] == ["connected"]

    async def test_offers_beyond_the_history_go_on_as_ever(self, house: House) -> None:
        house.backend.add_notification(USER)
        connection, wire = await house.greet(cursor=0)
        wire.take()
        for _ in range(2):
            house.offer(connection, house.backend.add_notification(USER))
        assert sequences(wire.take()) == [2, 3]

    async def test_what_the_history_left_out_is_not_sent_late_but_handed_on(self, house: House) -> None:
        left_out, _ = (house.backend.add_notification(USER) for _ in range(2))
        connection, wire = await house.greet(cursor=1)
        assert sequences(wire.take()) == [2]
        house.offer(connection, left_out)
        await settle()
        assert wire.take() == []
        assert house.backend.notices[-1] == ("cut", house.device(), (left_out.id,), "history_passed")

    async def test_a_cursor_from_lost_data_holds_no_offer_back(self, house: House) -> None:
        connection, wire = await house.greet(cursor=900)
        wire.take()
        house.offer(connection, house.backend.add_notification(USER))
        assert sequences(wire.take()) == [1]


class TestAcknowledgements:
    async def test_one_is_recorded_with_its_round_trip_and_answered_true(self, house: House) -> None:
        connection, wire = await house.greet()
        wire.take()
        notification = house.backend.add_notification(USER)
        house.offer(connection, notification)
        house.clock.pass_s(0.5)
        await call(connection, "Acknowledge", str(notification.id))
        await settle()
        assert wire.take()[-1] == {"type": 3, "invocationId": "1", "result": True}
        assert house.backend.acknowledged == [(house.device(), notification.id, 0.5)]
        assert house.core.counters.acknowledged == 1

    async def test_a_notification_never_given_to_the_device_is_answered_false(self, house: House) -> None:
        connection, wire = await house.greet()
        wire.take()
        await call(connection, "Acknowledge", str(UUID(int=99)))
        await settle()
        assert wire.take() == [{"type": 3, "invocationId": "1", "result": False}]

    async def test_they_do_not_wait_for_each_other_and_reading_stops_at_the_bound(self, house: House) -> None:
        house.limit(acknowledgements_in_flight=3)
        house.backend.acknowledge_gate = asyncio.Event()
        connection, wire = await house.greet()
        wire.take()
        message = json.dumps({"type": 1, "target": "Acknowledge", "arguments": [str(UUID(int=1))], "invocationId": "a"})
        reading = asyncio.ensure_future(connection.receive((message + "\x1e") * 5))
        await settle()
        assert connection.acknowledging.taken == 3
        assert not reading.done()
        house.backend.acknowledge_gate.set()
        await asyncio.wait_for(reading, 1)
        await settle()
        assert len(house.backend.acknowledged) == len(wire.take()) == 5
        assert connection.acknowledging.taken == 0

    async def test_one_under_way_is_recorded_even_when_the_socket_is_lost_meanwhile(self, house: House) -> None:
        house.backend.acknowledge_gate = asyncio.Event()
        connection, _ = await house.greet()
        await call(connection, "Acknowledge", str(UUID(int=1)))
        connection.end(endings.SOCKET_LOST)
        house.backend.acknowledge_gate.set()
        await connection.finish()
        assert len(house.backend.acknowledged) == 1

    async def test_of_too_many_unanswered_offers_the_oldest_is_not_measured(self, house: House) -> None:
        house.limit(offers_remembered=2)
        connection, _ = await house.greet()
        offers = [house.backend.add_notification(USER) for _ in range(3)]
        for notification in offers:
            house.offer(connection, notification)
        for notification in offers:
            await call(connection, "Acknowledge", str(notification.id))
        await settle()
        assert [round_trip_s for _, _, round_trip_s in house.backend.acknowledged] == [None, 0.0, 0.0]

    async def test_a_failure_above_is_an_error_completion(self, house: House) -> None:
        connection, wire = await house.greet()
        wire.take()
        house.backend.failure = ZeroDivisionError()
        await call(connection, "Acknowledge", str(UUID(int=1)))
        await settle()
        assert wire.take()[0]["error"] == "An unexpected error occurred invoking 'Acknowledge' on the server."
        assert ending_of(connection) is None

    async def test_the_result_of_a_notify_acknowledges_and_an_error_does_not(self, house: House) -> None:
        connection, wire = await house.greet(results=True)
        wire.take()
        first, second = (house.backend.add_notification(USER) for _ in range(2))
        house.offer(connection, first)
        house.offer(connection, second)
        ids = [record["invocationId"] for record in wire.take()]
        assert ids == [str(first.id), str(second.id)]
        await connection.receive(json.dumps({"type": 3, "invocationId": ids[0], "error": "no handler"}) + "\x1e")
        await connection.receive(json.dumps({"type": 3, "invocationId": ids[1], "result": None}) + "\x1e")
        await connection.receive('{"type":3,"invocationId":"unknown","result":1}\x1e')
        await settle()
        assert [acknowledged for _, acknowledged, _ in house.backend.acknowledged] == [second.id]
        assert wire.take() == []

    async def test_a_completion_from_a_client_that_was_not_asked_is_ignored(self, house: House) -> None:
        connection, _ = await house.greet()
        await connection.receive(json.dumps({"type": 3, "invocationId": str(UUID(int=1)), "result": 1}) + "\x1e")
        await settle()
        assert house.backend.acknowledged == []
        assert ending_of(connection) is None


class TestSlowReaders:
    async def test_a_reader_whose_outbox_is_full_is_cut_and_every_unwritten_offer_reported_once(
        self, house: House
    ) -> None:
        house.limit(outbox_bytes=1_500)
        connection, wire = await house.greet()
        wire.is_stalled = True
        offers = [house.backend.add_notification(USER) for _ in range(6)]
        for notification in offers:
            house.offer(connection, notification)
        assert ending_of(connection) == "slow_reader"
        assert wire.stuck[0].cancelled()
        await connection.finish()
        await settle()
        reported = [one for notice in house.backend.notices if notice[0] == "cut" for one in notice[2]]  # type: ignore[attr-defined]
        assert sorted(reported) == sorted(notification.id for notification in offers)
        assert house.core.counters.cut == 6
        assert house.core.presence.find_device(house.device()) is None

    async def test_a_write_that_takes_longer_than_10_seconds_cuts_the_connection(self, house: House) -> None:
        connection, wire = await house.greet()
        wire.is_stalled = True
        first, second = (house.backend.add_notification(USER) for _ in range(2))
        house.offer(connection, first)
        house.offer(connection, second)
        house.pass_s(9.9)
        assert ending_of(connection) is None
        house.pass_s(0.1)
        assert ending_of(connection) == "slow_reader"
        await settle()
        assert ("cut", house.device(), (first.id, second.id), "slow_reader") in house.backend.notices

    async def test_a_single_stuck_write_is_noticed_at_the_next_ping(self, house: House) -> None:
        connection, wire = await house.connect()
        wire.is_stalled = True
        connection.offer_plain(house.backend.add_notification(USER))
        house.pass_s(15)
        assert ending_of(connection) == "slow_reader"

    async def test_the_layers_above_never_hear_of_a_cut_before_they_have_the_answer_to_their_offer(
        self, house: House
    ) -> None:
        house.limit(outbox_bytes=0)
        connection, wire = await house.greet()
        wire.is_stalled = True
        before = list(house.backend.notices)
        house.offer(connection, house.backend.add_notification(USER))
        house.offer(connection, house.backend.add_notification(USER))
        assert connection.ending is not None
        assert house.backend.notices == before
        await settle()
        assert len(house.backend.notices) > len(before)


class Unwritable(EncodedNotification):
    """One that no encoder can write."""

    __slots__ = ()

    def frame(self, dialect: Dialect, encoding: HubEncoding) -> Frame:
        raise RecursionError


class TestFaultyReplays:
    """A replay that failed once left its connection open: it took every offer, and brought none."""

    async def test_a_notification_that_cannot_be_written_is_skipped_and_its_offer_reported(self, house: House) -> None:
        stored = [house.backend.add_notification(USER) for _ in range(3)]
        house.backend.notifications[USER][1] = Unwritable(stored[1].envelope)
        connection, wire = await house.greet(cursor=0)
        assert sequences(wire.take()) == [1, 3]
        assert ("cut", house.device(), (stored[1].id,), "internal_error") in house.backend.notices
        house.offer(connection, house.backend.add_notification(USER))
        assert sequences(wire.take()) == [4]

    async def test_any_fault_ends_the_connection_and_what_was_held_goes_to_the_next_layer(self, house: House) -> None:
        house.limit(replay_page=1)
        for _ in range(2):
            house.backend.add_notification(USER)
        connection, wire = await house.connect()
        wire.is_stalled = True
        await call(connection, "Hello", {"deviceId": "phone", "acknowledges": True, "cursor": 0})
        held = house.backend.add_notification(USER)
        house.offer(connection, held)
        house.backend.notifications[USER][1] = None  # type: ignore[call-overload]
        await settle()
        assert ending_of(connection) == "internal_error"
        assert ("cut", house.device(), (held.id,), "internal_error") in house.backend.notices
