"""To whom streams are not offered, and for how long."""

from uuid import UUID

from appliance.hub.distrust import DistrustedStreams
from tests.doubles.hand_clock import HandClock

ANNA, BARTEK = UUID(int=1), UUID(int=2)
HOME = "192.0.2.1"


def distrusted(clock: HandClock, *, most: int = 100) -> DistrustedStreams:
    return DistrustedStreams(clock, most=most, lifetime_s=600.0)


def test_two_in_a_row_count_and_only_for_this_user_at_this_address() -> None:
    streams = distrusted(HandClock())
    streams.note_unheard(ANNA, HOME)
    assert (ANNA, HOME) not in streams
    streams.note_unheard(ANNA, HOME)
    assert (ANNA, HOME) in streams
    assert (ANNA, "192.0.2.2") not in streams and (BARTEK, HOME) not in streams


def test_one_that_got_through_makes_up_for_all_before_it() -> None:
    streams = distrusted(HandClock())
    for _ in range(3):
        streams.note_unheard(ANNA, HOME)
    streams.note_heard(ANNA, HOME)
    streams.note_unheard(ANNA, HOME)
    assert (ANNA, HOME) not in streams


def test_it_is_forgotten_after_ten_minutes_the_first_one_too() -> None:
    clock = HandClock()
    streams = distrusted(clock)
    streams.note_unheard(ANNA, HOME)
    streams.note_unheard(ANNA, HOME)
    clock.pass_s(599.9)
    assert (ANNA, HOME) in streams
    clock.pass_s(0.1)
    assert (ANNA, HOME) not in streams and len(streams) == 0
    streams.note_unheard(ANNA, HOME)
    clock.pass_s(600.0)
    streams.note_unheard(ANNA, HOME)
    assert (ANNA, HOME) not in streams


def test_the_oldest_is_forgotten_for_the_newest() -> None:
    streams = distrusted(HandClock(), most=2)
    for address in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
        streams.note_unheard(ANNA, address)
        streams.note_unheard(ANNA, address)
    assert len(streams) == 2
    assert (ANNA, "192.0.2.1") not in streams and (ANNA, "192.0.2.3") in streams
