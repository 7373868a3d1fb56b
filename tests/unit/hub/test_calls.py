"""What a client may call, and what it is answered: the plain dialect, Hello and the replay behind it."""

import asyncio
import json
from typing import cast
from uuid import UUID

import pytest

from appliance.domain.errors import Unavailable
from appliance.hub import endings
from appliance.hub.backend import DeviceLost
from tests.doubles.hub_house import HANDSHAKE, USER, House, call, ending_of, sequences, settle


class TestPlainDialect:
    async def test_a_notification_right_after_the_handshake_follows_its_answer(self, house: House) -> None:
        connection, wire = house.let_in()
        connection.offer_plain(house.backend.add_notification(USER))
        assert wire.take() == []
        await connection.receive(HANDSHAKE)
        assert house.core.presence.list_plain(USER) == [connection]
        connection.offer_plain(house.backend.add_notification(USER))
        answer, told = wire.take()
        assert answer == {}
        assert told["target"] == "ReceiveNotification" and told["arguments"][0]["title"] == "Title 2"

    async def test_a_client_that_said_hello_gets_no_plain_notifications_any_more(self, house: House) -> None:
        connection, wire = await house.greet()
        wire.take()
        assert house.core.presence.list_plain(USER) == []
        connection.offer_plain(house.backend.add_notification(USER))
        assert wire.take() == []

    async def test_acknowledging_before_hello_is_an_error_and_changes_nothing(self, house: House) -> None:
        connection, wire = await house.connect()
        await call(connection, "Acknowledge", str(UUID(int=5)))
        assert wire.take() == [{"type": 3, "invocationId": "1", "error": "Say Hello first."}]
        assert house.backend.acknowledged == []


class TestCalls:
    async def test_an_unknown_method_is_answered_with_its_name_as_sent_and_the_connection_stays(
        self, house: House
    ) -> None:
        connection, wire = await house.connect()
        await call(connection, "DoIt")
        assert wire.take() == [{"type": 3, "invocationId": "1", "error": "Unknown hub method 'DoIt'"}]
        await call(connection, "DoIt", call_id=None)
        assert wire.take() == []
        assert ending_of(connection) is None

    async def test_streaming_is_refused_for_known_and_unknown_methods(self, house: House) -> None:
        connection, wire = await house.connect()
        for target in ("Hello", "X"):
            message: dict[str, object] = {"type": 4, "target": target, "arguments": [], "invocationId": target}
            await connection.receive(json.dumps(message) + "\x1e")
        assert [record["error"] for record in wire.take()] == [
            "'Hello' is not a streaming method.",
            "Unknown hub method 'X'",
        ]

    async def test_calls_are_answered_in_order_each_once(self, house: House) -> None:
        connection, wire = await house.connect()
        calls = "".join(
            json.dumps({"type": 1, "target": f"m{i}", "arguments": [], "invocationId": str(i)}) + "\x1e"
            for i in range(300)
        )
        await connection.receive(calls)
        assert [record["invocationId"] for record in wire.take()] == [str(i) for i in range(300)]

    @pytest.mark.parametrize(
        "arguments",
        [
            (),
            ("phone",),
            ({"deviceId": "a"}, 1),
            ({},),
            ({"deviceId": ""},),
            ({"deviceId": "x" * 129},),
            ({"deviceId": 5},),
            ({"deviceId": "a\0b"},),
            ({"deviceId": "a", "cursor": -1},),
            ({"deviceId": "a", "cursor": 2**63},),
            ({"deviceId": "a", "cursor": "5"},),
            ({"deviceId": "a", "acknowledges": "yes"},),
            (None,),
        ],
    )
    async def test_a_hello_that_means_nothing_is_an_error_and_may_be_tried_again(
        self, house: House, arguments: tuple[object, ...]
    ) -> None:
        connection, wire = await house.connect()
        await call(connection, "Hello", *arguments)
        (answer,) = wire.take()
        assert answer["error"].startswith(("Give Hello", "Remove NUL"))
        assert house.backend.hellos == []
        await call(connection, "hELLO", {"deviceId": "a"})
        assert wire.take()[0]["result"]["complete"] is True

    @pytest.mark.parametrize("argument", ["", "x", 5, None, "0" * 36, "0" * 32, ["a"]])
    async def test_an_acknowledgement_of_a_malformed_id_is_an_error(self, house: House, argument: object) -> None:
        connection, wire = await house.greet()
        wire.take()
        await call(connection, "Acknowledge", argument)
        assert wire.take()[0]["error"] == "Give Acknowledge exactly one notification id."


class TestHello:
    async def test_the_answer_comes_first_then_what_was_missed_then_what_is_new(self, house: House) -> None:
        for _ in range(3):
            house.backend.add_notification(USER)
        connection, wire = await house.greet(cursor=1)
        answer, *rest = wire.take()
        assert answer["result"] == {
            "deviceId": str(house.device()),
            "cursor": 1,
            "complete": True,
            "missed": 2,
        }
        house.offer(connection, house.backend.add_notification(USER))
        assert sequences(rest + wire.take()) == [2, 3, 4]

    async def test_the_cursor_in_the_answer_claims_nothing_that_has_not_arrived_yet(self, house: House) -> None:
        for _ in range(3):
            house.backend.add_notification(USER)
        _, wire = await house.greet(cursor=1)
        first, *missed = wire.take()
        assert first["result"]["cursor"] == 1
        _, wire = await house.greet(cursor=sequences(missed)[-1])
        assert wire.take()[0]["result"]["cursor"] == 3

    async def test_a_history_of_many_pages_comes_whole_in_order_and_is_counted_in_the_answer(
        self, house: House
    ) -> None:
        """Of 1500 missed only the newest 1000 came; the next cursor then confirmed the 500 that were never sent."""
        house.limit(replay_page=2)
        for _ in range(7):
            house.backend.add_notification(USER)
        _, wire = await house.greet(cursor=1)
        answer, *rest = wire.take()
        assert answer["result"] | {"deviceId": ""} == {"deviceId": "", "cursor": 1, "complete": True, "missed": 6}
        assert sequences(rest) == [2, 3, 4, 5, 6, 7]
        assert house.backend.loads == [(1, False), (3, False), (5, False)]
        assert house.backend.notices == [("connected", house.device(), True)]

    async def test_a_device_without_a_cursor_gets_all_pages_of_what_is_open_for_it(self, house: House) -> None:
        house.limit(replay_page=2)
        ids = [house.backend.add_notification(USER).id for _ in range(6)]
        house.backend.acknowledged = [(house.device(), ids[number], None) for number in (1, 3)]
        _, wire = await house.greet()
        answer, *rest = wire.take()
        assert (answer["result"]["missed"], answer["result"]["cursor"]) == (4, 0)
        assert sequences(rest) == [1, 3, 5, 6]
        assert house.backend.loads == [(0, True), (3, True)]

    async def test_offers_between_two_pages_keep_their_place_and_come_once(self, house: House) -> None:
        house.limit(replay_page=2)
        for _ in range(4):
            house.backend.add_notification(USER)
        live_only = house.backend.add_notification(USER)
        house.backend.left_out = {live_only.id}
        house.backend.load_gate = asyncio.Event()
        connection, wire = await house.connect()
        saying = asyncio.ensure_future(call(connection, "Hello", {"deviceId": "phone", "cursor": 0}))
        await settle()
        house.offer(connection, live_only)
        house.offer(connection, house.backend.add_notification(USER))
        house.backend.load_gate.set()
        await saying
        await settle()
        house.offer(connection, house.backend.add_notification(USER))
        assert sequences(wire.take()) == [1, 2, 3, 4, 5, 6, 7]
        assert [notice[0] for notice in house.backend.notices] == ["connected"]

    async def test_a_reader_that_pauses_is_loaded_no_further_page_meanwhile(self, house: House) -> None:
        house.limit(replay_page=10, outbox_bytes=4_096)
        for _ in range(100):
            house.backend.add_notification(USER)
        connection, wire = await house.connect()
        wire.is_stalled = True
        await call(connection, "Hello", {"deviceId": "phone", "cursor": 0})
        await settle()
        assert len(house.backend.loads) <= 2
        wire.is_stalled = False
        wire.stuck[0].set_result(None)
        for _ in range(10):
            await settle()
        assert sequences(wire.take()) == list(range(1, 101))

    async def test_a_held_offer_whose_place_was_passed_goes_to_the_next_layer(self, house: House) -> None:
        house.limit(replay_page=2)
        notifications = [house.backend.add_notification(USER) for _ in range(4)]
        house.backend.left_out = {notifications[0].id}
        connection, wire = await house.connect()
        wire.is_stalled = True
        house.limit(outbox_bytes=400)
        await call(connection, "Hello", {"deviceId": "phone", "cursor": 0})
        await settle()
        house.offer(connection, notifications[0])
        wire.is_stalled = False
        wire.stuck[0].set_result(None)
        for _ in range(5):
            await settle()
        assert sequences(wire.take()) == [2, 3, 4]
        assert ("cut", house.device(), (notifications[0].id,), "history_passed") in house.backend.notices

    async def test_a_device_that_was_revoked_while_it_said_hello_is_closed_with_the_reason(self, house: House) -> None:
        """The Hello waited for its write while the revocation was committed, and so the revoked device was seated."""
        house.backend.add_notification(USER)
        house.backend.lost = DeviceLost("This device was revoked. Register it again.")
        connection, wire = await house.greet()
        assert wire.take() == [{"type": 7, "error": "This device was revoked. Register it again."}]
        assert ending_of(connection) == "revoked"
        assert house.core.presence.find_device(house.device()) is None
        assert house.backend.notices == []

    async def test_a_device_that_is_retired_between_two_pages_ends_and_may_come_back_if_it_was_not_revoked(
        self, house: House
    ) -> None:
        house.limit(replay_page=1)
        for _ in range(2):
            house.backend.add_notification(USER)
        house.backend.load_gate = asyncio.Event()
        connection, wire = await house.connect()
        saying = asyncio.ensure_future(call(connection, "Hello", {"deviceId": "phone", "cursor": 0}))
        await settle()
        house.backend.lost = DeviceLost("This device was retired. Connect again.", may_return=True)
        house.backend.load_gate.set()
        await saying
        await settle()
        answer, first, goodbye = wire.take()
        assert (answer["result"]["missed"], sequences([first])) == (2, [1])
        assert goodbye == {"type": 7, "error": "This device was retired. Connect again.", "allowReconnect": True}

    async def test_an_incomplete_history_is_told_plainly(self, house: House) -> None:
        house.backend.complete = False
        house.backend.add_notification(USER)
        _, wire = await house.greet(cursor=0)
        assert wire.take()[0]["result"] | {"deviceId": ""} == {
            "deviceId": "",
            "cursor": 0,
            "complete": False,
            "missed": 1,
        }

    async def test_the_layers_above_hear_of_the_device_only_after_the_replay(self, house: House) -> None:
        house.backend.add_notification(USER)
        house.backend.load_gate = asyncio.Event()
        connection, _ = await house.connect()
        saying = asyncio.ensure_future(call(connection, "Hello", {"deviceId": "phone", "acknowledges": True}))
        await settle()
        assert house.backend.notices == []
        house.backend.load_gate.set()
        await saying
        await settle()
        assert house.backend.notices == [("connected", house.device(), True)]

    @pytest.mark.parametrize("is_committed_first", [True, False])
    async def test_a_notification_in_the_gap_between_seat_and_history_comes_once(
        self, house: House, is_committed_first: bool
    ) -> None:
        """A device that connects while a notification is being accepted must get it once, whichever came first."""
        house.backend.load_gate = asyncio.Event()
        connection, wire = await house.connect()
        notification = house.backend.add_notification(USER) if is_committed_first else None
        saying = asyncio.ensure_future(call(connection, "Hello", {"deviceId": "phone"}))
        await settle()
        house.offer(connection, notification or house.backend.add_notification(USER))
        house.backend.load_gate.set()
        await saying
        await settle()
        assert sequences(wire.take()) == [1]

    async def test_offers_during_the_replay_wait_behind_it(self, house: House) -> None:
        for _ in range(3):
            house.backend.add_notification(USER)
        house.backend.load_gate = asyncio.Event()
        connection, wire = await house.connect()
        saying = asyncio.ensure_future(call(connection, "Hello", {"deviceId": "phone"}))
        await settle()
        for _ in range(2):
            house.offer(connection, house.backend.add_notification(USER))
        house.backend.load_gate.set()
        await saying
        await settle()
        assert sequences(wire.take()) == [1, 2, 3, 4, 5]

    async def test_more_offers_than_can_be_held_are_fetched_by_another_round(self, house: House) -> None:
        house.limit(replay_pending=2)
        house.backend.load_gate = asyncio.Event()
        connection, wire = await house.connect()
        saying = asyncio.ensure_future(call(connection, "Hello", {"deviceId": "phone"}))
        await settle()
        offers = [house.backend.add_notification(USER) for _ in range(5)]
        for notification in offers:
            house.offer(connection, notification)
        house.backend.load_gate.set()
        await saying
        await settle()
        assert sequences(wire.take()) == [1, 2, 3, 4, 5]
        refused = tuple(notification.id for notification in offers[2:])
        cuts = [notice for notice in house.backend.notices if notice[0] == "cut"]
        assert cuts == [("cut", house.device(), (one,), "replay_overflow") for one in refused]

    async def test_a_history_that_becomes_incomplete_later_ends_the_connection(self, house: House) -> None:
        house.limit(replay_pending=1)
        house.backend.load_gate = asyncio.Event()
        connection, _ = await house.connect()
        saying = asyncio.ensure_future(call(connection, "Hello", {"deviceId": "phone"}))
        await settle()
        for _ in range(2):
            house.offer(connection, house.backend.add_notification(USER))
        house.backend.complete = False
        house.backend.load_gate.set()
        await saying
        await settle()
        assert ending_of(connection) == "history_incomplete"

    async def test_a_long_replay_to_a_reader_that_pauses_waits_and_loses_nothing(self, house: House) -> None:
        house.limit(outbox_bytes=4_096)
        for _ in range(100):
            house.backend.add_notification(USER)
        connection, wire = await house.connect()
        wire.is_stalled = True
        await call(connection, "Hello", {"deviceId": "phone"})
        await settle()
        assert ending_of(connection) is None
        assert house.backend.notices == []
        wire.is_stalled = False
        wire.stuck[0].set_result(None)
        for _ in range(10):
            await settle()
        assert sequences(wire.take()) == list(range(1, 101))
        assert house.backend.notices == [("connected", house.device(), False)]

    async def test_a_refused_hello_leaves_a_plain_connection(self, house: House) -> None:
        house.backend.refusal = "This device belongs to somebody else."
        connection, wire = await house.greet()
        assert wire.take()[0]["error"] == "This device belongs to somebody else."
        assert house.core.presence.list_plain(USER) == [connection]

    @pytest.mark.parametrize(
        ("failure", "text"),
        [
            (ZeroDivisionError("secret"), "An unexpected error occurred invoking 'Hello' on the server."),
            (Unavailable("The disk is busy."), "The disk is busy."),
        ],
    )
    async def test_a_failure_above_is_an_error_without_its_details(
        self, house: House, failure: Exception, text: str
    ) -> None:
        house.backend.failure = failure
        _, wire = await house.greet()
        assert wire.take()[0]["error"] == text

    async def test_a_history_that_cannot_be_loaded_leaves_a_plain_connection_that_may_try_again(
        self, house: House
    ) -> None:
        house.limit(backend_deadline_s=0.01)
        house.backend.load_gate = asyncio.Event()
        connection, wire = await house.connect()
        saying = asyncio.ensure_future(call(connection, "Hello", {"deviceId": "phone"}))
        await settle()
        held = house.backend.add_notification(USER)
        house.offer(connection, held)
        await saying
        assert "busy" in wire.take()[0]["error"]
        assert house.core.presence.find_device(house.device()) is None
        assert house.core.presence.list_plain(USER) == [connection]
        await settle()
        assert house.backend.notices == [("cut", house.device(), (held.id,), "hello_failed")]
        house.backend.load_gate.set()
        await call(connection, "Hello", {"deviceId": "phone"})
        await settle()
        assert sequences(wire.take()) == [1]

    async def test_a_second_hello_is_an_error(self, house: House) -> None:
        connection, wire = await house.greet()
        wire.take()
        await call(connection, "Hello", {"deviceId": "other"})
        assert wire.take()[0]["error"] == "This connection has said Hello already."
        assert len(house.backend.hellos) == 1

    async def test_a_connection_that_ends_during_its_hello_is_never_seated(self, house: House) -> None:
        house.backend.hello_gate = asyncio.Event()
        connection, _ = await house.connect()
        saying = asyncio.ensure_future(call(connection, "Hello", {"deviceId": "phone"}))
        await settle()
        connection.end(endings.SOCKET_LOST)
        house.backend.hello_gate.set()
        await saying
        assert house.core.presence.find_device(house.device()) is None

    async def test_a_replay_ends_with_its_connection_even_when_the_history_does_not_come(self, house: House) -> None:
        house.limit(replay_pending=0, backend_deadline_s=60.0)
        connection, _ = await house.connect()
        house.backend.load_gate = asyncio.Event()
        saying = asyncio.ensure_future(call(connection, "Hello", {"deviceId": "phone"}))
        await settle()
        house.offer(connection, house.backend.add_notification(USER))
        house.backend.load_gate.set()
        house.backend.load_gate = asyncio.Event()
        await saying
        await settle()
        assert len(house.backend.loads) == 2
        connection.end(endings.SOCKET_LOST)
        await asyncio.wait_for(connection.finish(), 1.0)

    async def test_a_reader_that_is_cut_during_its_replay_is_reported_once_for_what_was_tried(
        self, house: House
    ) -> None:
        house.limit(outbox_bytes=100)
        missed = [house.backend.add_notification(USER) for _ in range(20)]
        connection, wire = await house.connect()
        wire.is_stalled = True
        await call(connection, "Hello", {"deviceId": "phone"})
        await settle()
        assert ending_of(connection) == "slow_reader"
        cut = [one for notice in house.backend.notices for one in cast(tuple[UUID, ...], notice[2])]
        assert cut == [missed[0].id]
