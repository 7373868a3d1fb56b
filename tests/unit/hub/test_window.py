"""The adaptive acknowledgement window."""

import pytest

from appliance.hub.window import AcknowledgementWindow


def make_window() -> AcknowledgementWindow:
    return AcknowledgementWindow(first_s=4.0, least_s=2.0, most_s=10.0)


def test_it_starts_in_the_middle() -> None:
    assert make_window().seconds == 4.0


def test_a_fast_client_gets_the_shortest_window() -> None:
    window = make_window()
    for _ in range(10):
        window.learn(0.05)
    assert window.seconds == 2.0


def test_a_slow_client_gets_more_but_never_more_than_the_longest() -> None:
    window = make_window()
    window.learn(1.0)
    assert window.seconds == pytest.approx(3.0)
    for _ in range(10):
        window.learn(60.0)
    assert window.seconds == 10.0


def test_steady_round_trips_bring_it_down_again() -> None:
    window = make_window()
    window.learn(3.0)
    assert window.seconds == pytest.approx(9.0)
    for _ in range(60):
        window.learn(0.2)
    assert window.seconds == 2.0
