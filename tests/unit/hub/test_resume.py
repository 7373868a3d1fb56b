"""The rules of stateful reconnect, message by message."""

from uuid import UUID

from appliance.hub.encoding import Frame
from appliance.hub.encoding_json import JsonEncoding
from appliance.hub.handshake import AwaitingHandshake, HandshakeAccepted
from appliance.hub.protocol import (
    AckDue,
    AckReceived,
    ClientTimedOut,
    CloseReceived,
    LiveProtocol,
    PingDue,
    ProtocolTimes,
    ProtocolViolation,
)
from appliance.hub.resume import Received, Unacknowledged

TIMES = ProtocolTimes()
PING = '{"type":6}\x1e'


def keep(unacknowledged: Unacknowledged, *texts: str) -> list[bool]:
    return [unacknowledged.push(Frame(text, len(text)), None, 0.0) for text in texts]


def texts(unacknowledged: Unacknowledged) -> list[str | bytes]:
    return [frame.payload for frame, _ in unacknowledged.kept]


def go_live() -> LiveProtocol:
    return LiveProtocol(JsonEncoding(), TIMES, 0.0, is_stateful=True)


def call(name: str) -> str:
    return f'{{"type":1,"target":"{name}","arguments":[]}}\x1e'


def sequence(sequence_id: int) -> str:
    return f'{{"type":9,"sequenceId":{sequence_id}}}\x1e'


def read(live: LiveProtocol, data: str, now: float = 0.0) -> list[object]:
    return [getattr(event, "target", event) for event in live.receive(data, now)]


class TestUnacknowledged:
    def test_messages_are_numbered_from_1_and_kept_until_they_are_acknowledged(self) -> None:
        sent = Unacknowledged(100)
        assert sent.first_id == 1
        keep(sent, "a", "bb", "ccc")
        assert (sent.first_id, sent.size_bytes) == (1, 6)
        sent.acknowledge(2, 0.0)
        assert (sent.first_id, sent.size_bytes, texts(sent)) == (3, 3, ["ccc"])
        sent.acknowledge(3, 0.0)
        assert (sent.first_id, sent.size_bytes, texts(sent)) == (4, 0, [])

    def test_an_acknowledgement_of_the_past_or_of_the_future_does_no_harm(self) -> None:
        sent = Unacknowledged(100)
        keep(sent, "a", "b")
        sent.acknowledge(1, 0.0)
        sent.acknowledge(1, 0.0)
        sent.acknowledge(0, 0.0)
        assert texts(sent) == ["b"]
        sent.acknowledge(2**62, 0.0)
        assert sent.first_id == 3
        keep(sent, "c")
        assert (sent.first_id, texts(sent)) == (3, ["c"])

    def test_a_message_beyond_the_bound_is_not_numbered(self) -> None:
        sent = Unacknowledged(3)
        assert keep(sent, "ab", "cd", "e") == [True, False, True]
        assert texts(sent) == ["ab", "e"]
        sent.acknowledge(1, 0.0)
        assert keep(sent, "cd") == [True]

    def test_it_tells_which_notifications_may_not_have_arrived(self) -> None:
        sent = Unacknowledged(100)
        for number, notification_id in enumerate([UUID(int=1), None, UUID(int=3)]):
            sent.push(Frame(str(number), 1), notification_id, 0.0)
        sent.acknowledge(1, 0.0)
        assert sent.notification_ids == [UUID(int=3)]

    def test_it_tells_since_when_the_peer_owes_an_acknowledgement(self) -> None:
        sent = Unacknowledged(100)
        told = [sent.waiting_since]
        sent.push(Frame("a", 1), None, 10.0)
        sent.push(Frame("b", 1), None, 20.0)
        told.append(sent.waiting_since)
        sent.acknowledge(0, 30.0)
        told.append(sent.waiting_since)
        sent.acknowledge(1, 30.0)
        told.append(sent.waiting_since)
        sent.begin_socket(40.0)
        told.append(sent.waiting_since)
        sent.acknowledge(2, 50.0)
        told.append(sent.waiting_since)
        sent.begin_socket(60.0)
        told.append(sent.waiting_since)
        assert told == [None, 10.0, 10.0, 30.0, 40.0, None, None]


class TestReceived:
    def test_what_came_before_is_dropped_by_its_number(self) -> None:
        received = Received()
        assert [received.count() for _ in range(3)] == [True] * 3
        received.begin_socket()
        assert received.is_waiting
        assert received.begin_at(2)
        assert [received.count() for _ in range(3)] == [False, False, True]
        assert received.latest_id == 4

    def test_a_gap_is_not_bridged(self) -> None:
        received = Received()
        received.count()
        received.begin_socket()
        assert not received.begin_at(3)
        assert not received.begin_at(0)
        assert received.begin_at(2)

    def test_an_acknowledgement_that_overtakes_what_is_repeated_is_no_gap(self) -> None:
        """The peer repeats 1 to 3, of which 1 arrives; the acknowledgement of 3 arrives there; the socket dies again.

        The peer has nothing to repeat then and goes on with 4, although only 1 was seen on the socket before.
        """
        received = Received()
        for _ in range(3):
            received.count()
        received.begin_socket()
        assert received.begin_at(1)
        assert not received.count()
        received.begin_socket()
        assert received.begin_at(4)
        assert received.count()


class TestAgreement:
    def agree(self, version: int, *, is_granted: bool) -> bool:
        handshake = AwaitingHandshake({"json": JsonEncoding()}, TIMES, 0.0, is_stateful=is_granted)
        outcome = handshake.receive(f'{{"protocol":"json","version":{version}}}\x1e', 0.0)
        assert isinstance(outcome, HandshakeAccepted)
        return outcome.live.is_stateful

    def test_it_takes_the_grant_and_version_2(self) -> None:
        assert self.agree(2, is_granted=True)
        assert not self.agree(1, is_granted=True)
        assert not self.agree(2, is_granted=False)

    def test_without_it_nothing_is_counted_or_acknowledged(self) -> None:
        live = LiveProtocol(JsonEncoding(), TIMES, 0.0)
        assert read(live, call("a") + sequence(99) + '{"type":8,"sequenceId":7}\x1e' + call("b")) == ["a", "b"]
        assert live.next_deadline == TIMES.keep_alive_s
        assert live.pass_time(TIMES.keep_alive_s) == PingDue()


class TestReadingOnAnotherSocket:
    def test_everything_but_a_goodbye_is_skipped_until_the_sequence(self) -> None:
        live = go_live()
        assert read(live, call("a") + call("b")) == ["a", "b"]
        live.begin_socket(0.0)
        assert read(live, call("x") + PING + '{"type":8,"sequenceId":1}\x1e' + sequence(2) + call("b")) == []
        assert read(live, call("c") + '{"type":8,"sequenceId":1}\x1e') == ["c", AckReceived(1)]
        live.begin_socket(0.0)
        assert read(live, '{"type":7}\x1e' + sequence(4)) == [CloseReceived()]

    def test_half_a_message_of_the_socket_before_is_forgotten(self) -> None:
        live = go_live()
        read(live, call("a")[:20])
        live.begin_socket(0.0)
        assert read(live, sequence(1) + call("a") + call("b")) == ["a", "b"]

    def test_all_numbered_types_are_counted_and_no_others(self) -> None:
        live = go_live()
        counted = (
            call("a"),
            '{"type":2,"invocationId":"1","item":1}\x1e',
            '{"type":3,"invocationId":"1"}\x1e',
            '{"type":4,"invocationId":"2","target":"s","arguments":[]}\x1e',
            '{"type":5,"invocationId":"2"}\x1e',
        )
        read(live, "".join(counted) + PING + '{"type":8,"sequenceId":0}\x1e{"type":99}\x1e')
        assert live.pass_time(1.0) == AckDue(5)

    def test_a_sequence_ahead_of_what_was_received_ends_the_connection(self) -> None:
        live = go_live()
        read(live, call("a"))
        live.begin_socket(0.0)
        (violation,) = read(live, sequence(3) + call("b"))
        assert isinstance(violation, ProtocolViolation)
        assert live.has_ended

    def test_a_client_that_never_says_where_it_goes_on_is_timed_out_whether_it_pings_or_not(self) -> None:
        live = go_live()
        live.begin_socket(10.0)
        assert read(live, call("a") * 5, 39.0) == []
        assert live.next_deadline <= 40.0
        live.note_sent(39.0)
        assert live.pass_time(39.9) is None
        assert live.pass_time(40.0) == ClientTimedOut()


class TestAcknowledging:
    def test_one_is_due_within_a_second_of_the_first_message_and_speaks_for_all(self) -> None:
        live = go_live()
        read(live, call("a"), 10.0)
        assert live.next_deadline <= 11.0
        read(live, call("b") + PING, 10.5)
        assert live.pass_time(10.8) is None
        assert live.pass_time(10.9) == AckDue(2)
        assert live.pass_time(12.0) is None
        read(live, call("c"), 13.0)
        assert live.pass_time(13.9) == AckDue(3)

    def test_pings_and_acknowledgements_are_not_acknowledged(self) -> None:
        live = go_live()
        read(live, PING + '{"type":8,"sequenceId":0}\x1e', 1.0)
        assert live.next_deadline == TIMES.keep_alive_s

    def test_it_is_repeated_on_another_socket_but_not_before_the_client_has_repeated_its_own(self) -> None:
        live = go_live()
        read(live, call("a"), 1.0)
        live.begin_socket(1.5)
        assert live.pass_time(5.0) is None
        read(live, sequence(1) + call("a"), 5.0)
        assert live.pass_time(5.8) is None
        assert live.pass_time(5.9) == AckDue(1)
