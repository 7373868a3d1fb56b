"""The client's side of the hub's protocol, fed by hand."""

import json
from typing import Any

import pytest

from appliance.client_hub_session import (
    HANDSHAKE,
    MAX_RECORD_CHARS,
    PING,
    Answered,
    Arrived,
    Ended,
    Event,
    Greeted,
    HubSession,
    Say,
)

SEPARATOR = "\x1e"
GREETING = {"deviceId": "d1", "cursor": 7, "complete": True, "missed": 1}
NOTIFICATION = {
    "id": "n1",
    "appId": "a1",
    "type": "notification",
    "title": "Hello",
    "body": "There",
    "data": {"route": "/x", "count": 2},
    "priority": "high",
    "sequence": 8,
    "sentAt": "2026-03-01T12:00:00.250Z",
    "expiresAt": "2026-03-02T12:00:00.250Z",
    "collapseKey": None,
}


def record(**message: Any) -> str:
    return json.dumps(message) + SEPARATOR


def notify(**changes: Any) -> str:
    return record(type=1, target="Notify", arguments=[{**NOTIFICATION, **changes}])


def a_session(cursor: int | None = 6) -> HubSession:
    return HubSession(device_id="kitchen", label="Kitchen", cursor=cursor, acknowledges=True, now=0.0)


def a_live_session() -> HubSession:
    session = a_session()
    list(session.receive("{}" + SEPARATOR, 0.0))
    (greeted,) = session.receive(record(type=3, invocationId="hello", result=GREETING), 0.0)
    assert isinstance(greeted, Greeted)
    return session


def feed(session: HubSession, *texts: str | bytes, now: float = 1.0) -> list[Event]:
    return [event for text in texts for event in session.receive(text, now)]


def test_it_shakes_hands_then_says_hello_with_its_cursor() -> None:
    session = a_session(cursor=6)
    assert session.open() == HANDSHAKE
    (say,) = feed(session, "{}" + SEPARATOR)
    assert isinstance(say, Say)
    hello = json.loads(say.text.rstrip(SEPARATOR))
    assert hello["target"] == "Hello"
    assert hello["arguments"] == [
        {"deviceId": "kitchen", "cursor": 6, "acknowledges": True, "label": "Kitchen", "platform": "hub"}
    ]
    (greeted,) = feed(session, record(type=3, invocationId=hello["invocationId"], result=GREETING))
    assert greeted == Greeted("d1", 7, True, 1)


def test_records_are_understood_whatever_the_cuts() -> None:
    stream = "{}" + SEPARATOR + record(type=3, invocationId="hello", result=GREETING) + notify() + notify(id="n2")
    for size in (1, 2, 7, 1_000):
        session = a_session()
        pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
        events = feed(session, *pieces)
        assert [event.notification.id for event in events if isinstance(event, Arrived)] == ["n1", "n2"]
    assert any(isinstance(event, Arrived) for event in feed(a_session(), stream.encode()))


def test_a_notification_keeps_all_its_fields() -> None:
    (arrived,) = feed(a_live_session(), notify())
    assert isinstance(arrived, Arrived)
    notification = arrived.notification
    assert (notification.app_id, notification.priority, notification.sequence) == ("a1", "high", 8)
    assert notification.data == {"route": "/x", "count": 2}
    assert notification.sent_at.isoformat() == "2026-03-01T12:00:00.250000+00:00"
    assert notification.collapse_key is None


def test_an_acknowledgement_wants_an_answer_only_when_asked() -> None:
    session = a_live_session()
    silent = json.loads(session.acknowledge("n1", 1.0, wants_answer=False).rstrip(SEPARATOR))
    assert silent == {"type": 1, "target": "Acknowledge", "arguments": ["n1"]}
    asked = json.loads(session.acknowledge("n1", 1.0, wants_answer=True).rstrip(SEPARATOR))
    assert asked["invocationId"] == "n1"
    assert feed(session, record(type=3, invocationId="n1", result=True)) == [Answered("n1", True)]
    assert feed(session, record(type=3, invocationId="n1", result=False)) == [Answered("n1", False)]
    assert feed(session, record(type=3, invocationId="n1", error="no")) == [Answered("n1", False)]


def test_it_pings_when_it_said_nothing_for_fifteen_seconds() -> None:
    session = a_live_session()
    assert session.next_deadline == 15.0
    assert session.pass_time(14.9) is None
    assert session.pass_time(15.0) == Say(PING)
    assert session.pass_time(15.0) is None
    session.acknowledge("n1", 20.0, wants_answer=False)
    feed(session, record(type=6), now=29.0)
    assert session.pass_time(34.9) is None
    assert session.pass_time(35.0) == Say(PING)


def test_a_server_that_is_silent_for_thirty_seconds_is_given_up() -> None:
    session = a_live_session()
    feed(session, record(type=6), now=10.0)
    assert session.pass_time(39.9) == Say(PING)
    ended = session.pass_time(40.0)
    assert isinstance(ended, Ended)
    assert ended.may_return
    assert feed(session, notify()) == []


def test_a_reader_that_paused_itself_does_not_blame_the_server() -> None:
    session = a_live_session()
    session.note_busy(100.0)
    assert session.pass_time(100.0) == Say(PING)
    assert session.pass_time(100.0) is None


def test_an_opening_that_is_not_answered_in_time_is_given_up() -> None:
    session = a_session()
    assert session.pass_time(14.9) is None
    assert isinstance(session.pass_time(15.0), Ended)


@pytest.mark.parametrize("may_return", [True, False])
def test_the_servers_goodbye_says_whether_to_come_back(may_return: bool) -> None:
    goodbye = record(type=7, error="The server is restarting.", allowReconnect=may_return)
    assert feed(a_live_session(), goodbye) == [Ended("The server is restarting.", may_return)]
    plain = feed(a_live_session(), record(type=7))
    assert isinstance(plain[0], Ended)
    assert not plain[0].may_return


@pytest.mark.parametrize(
    "opening",
    [
        record(error="The protocol is not supported."),
        "{}" + SEPARATOR + record(type=3, invocationId="hello", error="This device is not yours."),
        "{}" + SEPARATOR + record(type=3, invocationId="hello", result=None),
    ],
)
def test_a_hub_that_refuses_the_greeting_is_not_asked_again(opening: str) -> None:
    last = feed(a_session(), opening)[-1]
    assert isinstance(last, Ended)
    assert not last.may_return


@pytest.mark.parametrize(
    "text",
    [
        "not json" + SEPARATOR,
        "[" * 5_000 + SEPARATOR,
        b"\xff\xfe" + SEPARATOR.encode(),
        notify(sequence="eight"),
        record(type=1, target="Notify", arguments=[]),
        "x" * (MAX_RECORD_CHARS + 1),
    ],
    ids=["no json", "deep", "no utf-8", "wrong type", "no argument", "too long"],
)
def test_nonsense_ends_the_connection_and_may_return(text: str | bytes) -> None:
    events = feed(a_live_session(), text)
    assert len(events) == 1
    assert isinstance(events[0], Ended)
    assert events[0].may_return


def test_what_it_does_not_know_is_passed_over() -> None:
    unknown = [
        record(type=6),
        record(type=99),
        record(type=1, target="ReceiveNotification", arguments=[{"title": "t", "body": "b", "data": None}]),
        record(type=3, invocationId=None),
        record(type=8, sequenceId=3),
    ]
    assert feed(a_live_session(), *unknown) == []
    (arrived,) = feed(a_live_session(), notify(colour="red", priority="low"))
    assert isinstance(arrived, Arrived)
