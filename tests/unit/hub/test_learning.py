"""What the hub learns from acknowledgements: the window of a device, across its sessions, and counts of round trips."""

from uuid import UUID

import pytest

from appliance.hub import endings
from appliance.hub.connection import Connection
from appliance.hub.round_trips import BOUNDS_S, RoundTrips
from appliance.hub.window import LearnedWindows
from tests.doubles.hub_house import USER, House, call, ending_of, settle


def window_of(connection: Connection) -> float:
    assert connection.session is not None
    return connection.session.window_s(99.0)


async def acknowledge_after(house: House, connection: Connection, seconds: float, device: str = "phone") -> None:
    notification = house.backend.add_notification(USER)
    house.offer(connection, notification, device)
    house.pass_s(seconds)
    await call(connection, "Acknowledge", str(notification.id))
    await settle()


class TestTheWindow:
    async def test_it_grows_with_slow_answers_and_survives_a_reconnect_of_the_device(self, house: House) -> None:
        connection, _ = await house.greet()
        assert window_of(connection) == house.limits.window_first_s
        for _ in range(4):
            await acknowledge_after(house, connection, 3.0)
        learned = window_of(connection)
        assert learned > house.limits.window_first_s
        connection.end(endings.SOCKET_LOST)
        again, _ = await house.greet()
        assert window_of(again) == learned

    async def test_another_device_begins_anew(self, house: House) -> None:
        connection, _ = await house.greet()
        await acknowledge_after(house, connection, 0.1)
        other, _ = await house.greet("tablet")
        assert window_of(other) == house.limits.window_first_s

    async def test_a_late_answer_is_recorded_counted_and_does_no_harm(self, house: House) -> None:
        connection, wire = await house.greet()
        await acknowledge_after(house, connection, 0.5)
        assert house.core.counters.acknowledged_late == 0
        await acknowledge_after(house, connection, 9.0)
        assert house.core.counters.acknowledged_late == 1
        assert len(house.backend.late) == 1
        assert house.core.counters.acknowledged == 2
        assert [round_trip_s for _, _, round_trip_s in house.backend.acknowledged] == [0.5, 9.0]
        assert ending_of(connection) is None
        assert window_of(connection) <= house.limits.window_most_s
        assert [record["result"] for record in wire.take() if record.get("type") == 3] == [
            {"deviceId": str(house.device()), "cursor": 0, "complete": True, "missed": 0},
            True,
            True,
        ]

    def test_the_device_that_came_longest_ago_is_forgotten_first(self) -> None:
        windows = LearnedWindows(first_s=4.0, least_s=2.0, most_s=10.0, most=2)
        first, second, third = (UUID(int=number) for number in range(3))
        windows.recall(first).learn(9.0)
        windows.recall(second).learn(9.0)
        windows.recall(first)
        windows.recall(third)
        assert len(windows) == 2
        assert windows.recall(first).seconds == 10.0
        assert windows.recall(second).seconds == 4.0


class TestRoundTrips:
    def test_each_counts_at_its_bound_and_at_all_larger_ones(self) -> None:
        trips = RoundTrips()
        for round_trip_s in (0.0, BOUNDS_S[0], 0.3, 1_000.0):
            trips.add(round_trip_s)
        counts = dict(trips)
        assert (counts[BOUNDS_S[0]], counts[0.25], counts[0.5], counts[30.0], counts[float("inf")]) == (2, 2, 3, 3, 4)
        assert trips.count == 4
        assert trips.sum_s == pytest.approx(1_000.31)
