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


def test_an_offer_that_the_history_brought_is_not_sent_again() -> None:
    replay = Replay(10, cursor=None)
    assert replay.hold(one(2)) and replay.hold(one(3))
    for notification in replay.choose_fresh([one(1), one(2)], cursor=2):
        replay.note_sent(notification.id)
    assert take_all(replay) == [3]


def test_an_offer_older_than_the_history_is_still_sent() -> None:
    replay = Replay(10, cursor=None)
    replay.hold(one(1))
    for notification in replay.choose_fresh([one(2)], cursor=2):
        replay.note_sent(notification.id)
    assert take_all(replay) == [1]


def test_a_full_list_refuses_the_offer_and_owes_a_round_from_where_the_last_one_ended() -> None:
    replay = Replay(1, cursor=4)
    replay.choose_fresh([one(5)], cursor=5)
    assert replay.hold(one(6))
    assert not replay.hold(one(7))
    assert replay.is_round_owed
    assert replay.cursor == 5
    replay.begin_round()
    for notification in replay.choose_fresh([one(6), one(7)], cursor=7):
        replay.note_sent(notification.id)
    assert [take_all(replay), replay.is_round_owed] == [[], False]


def test_giving_up_tells_the_offers_that_were_not_sent_even_when_the_history_would_have_brought_them() -> None:
    replay = Replay(10, cursor=None)
    first, second, third = one(1), one(2), one(3)
    for notification in (first, second, third):
        replay.hold(notification)
    replay.choose_fresh([first, second], cursor=2)
    replay.note_sent(first.id)
    assert replay.abandon() == [second.id, third.id]
    assert take_all(replay) == []


def test_a_cursor_from_a_database_that_is_no_more_does_not_hide_what_is_new() -> None:
    replay = Replay(1, cursor=500)
    replay.choose_fresh([one(1)], cursor=1)
    assert replay.cursor == 1
