"""History first, then what was held; nothing twice, nothing lost."""

from uuid import UUID

from appliance.hub.messages import EncodedNotification
from appliance.hub.replay import Replay
from tests.doubles.hub_backend import make_envelope

USER = UUID(int=1)


def one(sequence: int) -> EncodedNotification:
    return EncodedNotification(make_envelope(USER, sequence))


def take_all(replay: Replay) -> list[int]:
    taken = []
    while (held := replay.take_held()) is not None:
        taken.append(held.envelope.sequence)
    return taken


def send_all(replay: Replay, history: list[EncodedNotification], *, reached: int, has_more: bool = False) -> list[int]:
    fresh = replay.choose_fresh(history, reached, has_more=has_more)
    for notification in fresh:
        replay.note_sent(notification.id)
    return [notification.envelope.sequence for notification in fresh]


def test_an_offer_that_the_history_brought_is_not_sent_again() -> None:
    replay = Replay(10, cursor=None)
    assert replay.hold(one(2)) and replay.hold(one(3))
    send_all(replay, [one(1), one(2)], reached=2)
    assert take_all(replay) == [3]


def test_an_offer_that_the_history_passes_without_bringing_it_takes_its_place_there() -> None:
    """Live-only notifications are in no history. One that was held was once sent behind higher numbers."""
    replay = Replay(10, cursor=None)
    assert replay.hold(one(2)) and replay.hold(one(5))
    assert send_all(replay, [one(1), one(3)], reached=3) == [1, 2, 3]
    assert take_all(replay) == [5]
    assert replay.take_passed() == []


def test_an_offer_that_comes_after_its_place_was_passed_is_refused_and_told() -> None:
    replay = Replay(10, cursor=0)
    send_all(replay, [one(1), one(3)], reached=3)
    late = one(2)
    assert replay.hold(late) and replay.hold(one(4))
    assert take_all(replay) == [4]
    assert replay.take_passed() == [late.id]
    assert replay.take_passed() == []


def test_while_there_are_more_pages_another_round_is_owed_from_where_the_last_one_ended() -> None:
    replay = Replay(10, cursor=None)
    assert (replay.position, replay.is_open_only) == (0, True)
    replay.hold(one(4))
    assert send_all(replay, [one(1), one(2)], reached=2, has_more=True) == [1, 2]
    assert (replay.position, replay.is_open_only, replay.is_round_owed) == (2, True, True)
    replay.begin_round()
    assert send_all(replay, [one(3), one(4)], reached=4) == [3, 4]
    assert (replay.position, replay.is_open_only, replay.is_round_owed) == (4, False, False)
    assert take_all(replay) == []


def test_of_a_long_history_the_oldest_ids_are_forgotten_and_their_offers_refused() -> None:
    replay = Replay(10, cursor=0, most_remembered=2)
    history = [one(number) for number in (1, 2, 3)]
    send_all(replay, history, reached=3)
    for notification in history:
        replay.hold(notification)
    assert take_all(replay) == []
    assert replay.take_passed() == [history[0].id]
    assert len(replay.sent_ids) == 2


def test_a_full_list_refuses_the_offer_and_owes_a_round_from_where_the_last_one_ended() -> None:
    replay = Replay(1, cursor=4)
    send_all(replay, [one(5)], reached=5)
    assert replay.hold(one(6))
    assert not replay.hold(one(7))
    assert replay.is_round_owed
    assert replay.position == 5
    replay.begin_round()
    send_all(replay, [one(6), one(7)], reached=7)
    assert [take_all(replay), replay.is_round_owed] == [[], False]


def test_giving_up_tells_the_offers_that_were_not_sent_even_when_the_history_would_have_brought_them() -> None:
    replay = Replay(10, cursor=None)
    first, second, third = one(1), one(2), one(3)
    for notification in (first, second, third):
        replay.hold(notification)
    replay.choose_fresh([first, second], 2)
    replay.note_sent(first.id)
    assert replay.abandon() == [second.id, third.id]
    assert take_all(replay) == []


def test_a_cursor_from_a_database_that_is_no_more_does_not_hide_what_is_new() -> None:
    replay = Replay(1, cursor=500)
    replay.hold(one(2))
    assert send_all(replay, [one(1)], reached=1) == [1]
    assert (replay.position, take_all(replay)) == (1, [2])
