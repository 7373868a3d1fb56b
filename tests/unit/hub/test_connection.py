"""The clock and the end of a connection."""

import asyncio
import gc
import weakref
from datetime import timedelta
from uuid import UUID

import pytest

from appliance.hub import endings
from appliance.hub.encoding import Frame
from appliance.hub.transport_websocket import WebSocketPipe
from tests.doubles.hub_house import PING, USER, House, call, ending_of, settle


class TestTime:
    async def test_an_idle_connection_gets_a_ping_within_every_15_seconds(self, house: House) -> None:
        _, wire = await house.connect()
        for _ in range(3):
            house.pass_s(14.4)
            assert wire.take() == []
            house.pass_s(0.1)
            assert wire.take() == [{"type": 6}]

    async def test_a_connection_that_was_sent_something_gets_its_ping_later(self, house: House) -> None:
        connection, wire = await house.connect()
        house.pass_s(10)
        connection.offer_plain(house.backend.add_notification(USER))
        wire.take()
        house.pass_s(14)
        assert wire.take() == []
        house.pass_s(1)
        assert wire.take() == [{"type": 6}]

    async def test_a_client_that_pinged_and_went_silent_may_come_back_after_30_seconds(self, house: House) -> None:
        connection, wire = await house.connect()
        await connection.receive(PING)
        house.pass_s(15)
        house.pass_s(14.9)
        assert ending_of(connection) is None
        wire.take()
        house.pass_s(0.1)
        assert wire.take() == [{"type": 7, "error": "The client was silent for too long.", "allowReconnect": True}]

    async def test_a_flood_of_pings_gives_way_to_others(self, house: House) -> None:
        connection, _ = await house.connect()
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        running = asyncio.ensure_future(others())
        await connection.receive(PING * 20_000)
        running.cancel()
        assert turns >= len(PING) * 20_000 // 16_384

    async def test_a_ping_is_not_answered(self, house: House) -> None:
        connection, wire = await house.connect()
        await connection.receive(PING * 100)
        assert wire.take() == []

    async def test_no_handshake_for_15_seconds_is_refused_and_counted_no_more(self, house: House) -> None:
        connection, wire = house.let_in()
        assert house.core.handshakes_pending == 1
        house.pass_s(15)
        assert wire.take() == [{"error": "Handshake was canceled."}]
        assert ending_of(connection) == "handshake_timed_out"
        assert house.core.handshakes_pending == 0

    async def test_an_expired_token_ends_the_connection_which_may_come_back(self, house: House) -> None:
        connection, wire = await house.connect(token_lives=timedelta(seconds=7))
        house.pass_s(6.9)
        assert ending_of(connection) is None
        house.pass_s(0.1)
        assert wire.take() == [{"type": 7, "error": "The access token has expired.", "allowReconnect": True}]

    async def test_a_client_whose_calls_keep_the_server_busy_is_not_timed_out(self, house: House) -> None:
        house.backend.hello_gate = asyncio.Event()
        connection, _ = await house.connect()
        await connection.receive(PING)
        saying = asyncio.ensure_future(call(connection, "Hello", {"deviceId": "phone"}))
        await settle()
        for _ in range(4):
            house.pass_s(15)
        assert ending_of(connection) is None
        house.backend.hello_gate.set()
        await saying


class TestEnding:
    async def test_a_violation_ends_with_an_error_and_leave_to_come_back(self, house: House) -> None:
        connection, wire = await house.connect()
        await connection.receive("{}\x1e")
        assert wire.take() == [{"type": 7, "error": "Connection closed with an error.", "allowReconnect": True}]
        assert house.core.presence.connections == 0

    async def test_a_goodbye_is_answered_with_a_plain_goodbye(self, house: House) -> None:
        connection, wire = await house.connect()
        await connection.receive('{"type":7}\x1e')
        assert wire.take() == [{"type": 7}]
        assert ending_of(connection) == "client_closed"

    async def test_a_session_that_ends_during_its_replay_is_never_announced(self, house: House) -> None:
        house.limit(outbox_bytes=1_000)
        for _ in range(20):
            house.backend.add_notification(USER)
        connection, wire = await house.connect()
        wire.is_stalled = True
        await call(connection, "Hello", {"deviceId": "phone"})
        await settle()
        held = house.backend.add_notification(USER)
        house.offer(connection, held)
        connection.end(endings.SOCKET_LOST)
        await connection.finish()
        await settle()
        assert [notice[0] for notice in house.backend.notices] == ["cut", "cut"]
        assert house.backend.notices[0] == ("cut", house.device(), (held.id,), "socket_lost")

    async def test_an_offer_to_a_connection_that_is_gone_is_reported(self, house: House) -> None:
        connection, _ = await house.greet()
        connection.end(endings.SOCKET_LOST)
        notification = house.backend.add_notification(USER)
        house.offer(connection, notification)
        await settle()
        assert house.backend.notices[-1] == ("cut", house.device(), (notification.id,), "disconnected")

    async def test_a_fault_in_a_notice_harms_nobody(self, house: House, caplog: pytest.LogCaptureFixture) -> None:
        def fail(user_id: UUID, device_id: UUID, acknowledges: bool) -> None:
            raise ZeroDivisionError

        house.backend.device_connected = fail  # type: ignore[method-assign]
        connection, _ = await house.greet()
        assert ending_of(connection) is None
        assert [record.message for record in caplog.records] == ["hub_notice_failed"]

    async def test_nothing_is_left_behind(self, house: House) -> None:
        for device in ("a", "b"):
            await house.greet(device)
        await house.connect()
        for connection in house.opened:
            await connection.finish()
        presence = house.core.presence
        assert (presence.connections, presence.plain_connections, presence.devices) == (0, 0, 0)
        assert house.core.handshakes_pending == 0
        house.pass_s(60)
        assert len(house.core.deadlines) == 0


@pytest.mark.parametrize("is_stateful", [False, True], ids=["without", "with stateful reconnect"])
async def test_a_connection_that_has_ended_is_free_at_once_without_a_collection_of_cycles(
    house: House, is_stateful: bool
) -> None:
    """Thousands that came and went stayed in memory: the program lets cycles be collected very rarely."""
    connection, wire = await house.connect(is_stateful=is_stateful)
    await connection.finish()
    house.opened.clear()
    # Its wire belongs to it; itself it takes no weak reference.
    held = weakref.ref(wire)
    house.core.deadlines.close()
    gc.disable()
    try:
        del connection, wire
        assert held() is None
    finally:
        gc.enable()


async def test_the_pipe_to_a_server_that_takes_events_is_free_at_once_too() -> None:
    async def send(event: object) -> None:
        raise AssertionError("nothing is sent")

    held = weakref.ref(send)
    pipe = WebSocketPipe(send)
    gc.disable()
    try:
        del pipe, send
        assert held() is None
    finally:
        gc.enable()


async def test_an_ending_whose_goodbye_has_no_room_is_abrupt(house: House) -> None:
    """Nobody waits for a goodbye that was never written."""
    house.limit(outbox_bytes=100)
    connection, wire = await house.connect()
    wire.is_stalled = True
    connection.push(Frame("x" * 10, 10))
    connection.push(Frame("x" * 90, 90))
    connection.end(endings.make_revocation("The account was disabled."))
    assert connection.ending is not None
    assert (connection.ending.reason, connection.ending.is_abrupt) == ("revoked", True)
    assert wire.stuck[0].cancelled()
