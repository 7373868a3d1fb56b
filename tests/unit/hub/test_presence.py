"""Who is here."""

from uuid import UUID

from appliance.hub.presence import Presence

USER, OTHER, DEVICE = UUID(int=1), UUID(int=2), UUID(int=3)


def test_a_device_has_one_session_the_newest() -> None:
    presence: Presence[str] = Presence()
    assert presence.seat("old", DEVICE) is None
    assert presence.seat("new", DEVICE) == "old"
    assert not presence.unseat("old", DEVICE)
    assert presence.find_device(DEVICE) == "new"
    assert presence.unseat("new", DEVICE)
    assert presence.find_device(DEVICE) is None


def test_connections_are_found_by_user_and_by_credential_until_they_are_removed() -> None:
    presence: Presence[str] = Presence()
    presence.add("a", USER, "t1")
    presence.add("b", USER, "t2")
    presence.add("c", OTHER, "t2")
    presence.add_plain("a", USER)
    assert presence.list_user(USER) == ["a", "b"]
    assert presence.list_token("t2") == ["b", "c"]
    assert presence.list_plain(USER) == ["a"]
    presence.remove("a", USER, "t1")
    presence.remove("a", USER, "t1")
    assert (presence.connections, presence.plain_connections) == (2, 0)
    assert presence.list_user(USER) == ["b"]
    assert presence.list_token("t1") == []


def test_nothing_is_left_behind_when_all_are_gone() -> None:
    presence: Presence[str] = Presence()
    for name in "abc":
        presence.add(name, USER, "t")
        presence.add_plain(name, USER)
    for name in "abc":
        presence.remove(name, USER, "t")
    assert presence.list_all() == []
    assert (presence.count_user(USER), presence.plain_connections, presence.list_plain(USER)) == (0, 0, [])
