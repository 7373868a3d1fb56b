"""Two peers over a line that is cut anywhere: nothing is lost, nothing comes twice, and the order is kept."""

from collections import deque
from itertools import islice

from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.hub.encoding import Frame, HubEncoding
from appliance.hub.encoding_json import JsonEncoding
from appliance.hub.encoding_messagepack import MessagePackEncoding
from appliance.hub.protocol import AckDue, AckReceived, InvocationReceived, LiveProtocol, ProtocolTimes
from appliance.hub.resume import Unacknowledged

TIMES = ProtocolTimes(acknowledge_after_s=1.0, keep_alive_s=1e9, client_timeout_s=1e9)


class Peer:
    """One end: the real sending and receiving half, and the bytes that are on their way from it."""

    def __init__(self, encoding: HubEncoding) -> None:
        self.encoding = encoding
        self.live = LiveProtocol(encoding, TIMES, 0.0, is_stateful=True)
        self.sent = Unacknowledged(1_000_000)
        self.taken: list[str] = []
        self.said = 0
        self.line: deque[int] | None = deque()

    def say(self, now: float) -> None:
        frame = self.encoding.encode_invocation(str(self.said), None)
        self.said += 1
        assert self.sent.push(frame, None, now)
        self.write(frame)

    def write(self, frame: Frame) -> None:
        if self.line is not None:
            payload = frame.payload
            self.line.extend(payload.encode() if isinstance(payload, str) else payload)

    def begin_socket(self, now: float) -> None:
        self.line = deque()
        self.live.begin_socket(now)
        self.sent.begin_socket(now)
        self.write(self.encoding.encode_sequence(self.sent.first_id))
        for frame, _ in self.sent.kept:
            self.write(frame)

    def read(self, data: bytes, now: float) -> None:
        for event in self.live.receive(data, now):
            match event:
                case InvocationReceived(target):
                    self.taken.append(target)
                case AckReceived(sequence_id):
                    self.sent.acknowledge(sequence_id, now)
                case _:
                    raise AssertionError(event)

    def pass_time(self, now: float) -> None:
        due = self.live.pass_time(now)
        if isinstance(due, AckDue):
            self.write(self.encoding.encode_ack(due.sequence_id))


def carry(sender: Peer, receiver: Peer, most: int, now: float) -> None:
    if sender.line is not None:
        data = bytes(islice(sender.line, most))
        for _ in data:
            sender.line.popleft()
        receiver.read(data, now)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(0, 1), st.integers(1, 4)),
        st.tuples(st.just("carry"), st.integers(0, 1), st.integers(1, 400)),
        st.tuples(st.just("wait"), st.just(0), st.integers(1, 2)),
        st.tuples(st.just("cut"), st.just(0), st.just(0)),
        st.tuples(st.just("resume"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=400)
@given(st.sampled_from([JsonEncoding(), MessagePackEncoding()]), steps)
def test_two_peers_lose_nothing_repeat_nothing_and_keep_the_order(
    encoding: HubEncoding, story: list[tuple[str, int, int]]
) -> None:
    peers = Peer(encoding), Peer(encoding)
    now = 0.0
    for step, who, amount in story:
        match step:
            case "say":
                for _ in range(amount):
                    peers[who].say(now)
            case "carry":
                carry(peers[who], peers[1 - who], amount, now)
            case "wait":
                now += amount
                for peer in peers:
                    peer.pass_time(now)
            case "cut":
                for peer in peers:
                    peer.line = None
            case "resume":
                for peer in peers:
                    peer.begin_socket(now)
    for peer in peers:
        peer.begin_socket(now)
    # Once more everything gets through, there and back, acknowledgements included.
    for _ in range(3):
        for one, other in (peers, peers[::-1]):
            carry(one, other, 1_000_000, now)
        now += 1.0
        for peer in peers:
            peer.pass_time(now)
    for one, other in (peers, peers[::-1]):
        assert one.taken == [str(number) for number in range(other.said)]
        assert one.sent.size_bytes == 0
