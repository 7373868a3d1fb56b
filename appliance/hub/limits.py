"""The hub's bounds, all in one place."""

from dataclasses import dataclass, field

from appliance.hub.protocol import ProtocolTimes


@dataclass(frozen=True, slots=True)
class HubLimits:
    """Every bound of the hub; what happens at each is said beside it."""

    protocol: ProtocolTimes = field(default_factory=ProtocolTimes)

    connections: int = 10_000
    """Open connections in all. Beyond it: 503 with a jittered Retry-After."""
    connections_per_user: int = 2_000
    """Open connections of one user. Beyond it: 503."""
    connections_per_address: int = 2_000
    """Open connections from one network address (`Origin.site`). Beyond it: 503."""
    handshakes_pending: int = 2_000
    """Connections that have not finished their handshake. Beyond it: 503."""
    handshakes_pending_per_address: int = 1_000
    """Those of one network address. Beyond it: 503."""
    negotiations_pending: int = 10_000
    """Ids given out and not opened yet. Beyond it: 503."""
    negotiations_pending_per_user: int = 2_000
    """Ids given out to one user and not opened yet. Beyond it: 503."""
    negotiations_pending_per_address: int = 4_000
    """Ids given out to one network address and not opened yet. Beyond it: 503."""
    negotiation_lifetime_s: float = 15.0
    """An id that was not opened for so long is forgotten (404)."""

    outbox_bytes: int = 262_144
    """Bytes waiting behind a write that has not finished. Beyond it the connection is cut: `slow_reader`."""
    write_deadline_s: float = 10.0
    """Longest single write. Beyond it the connection is cut: `slow_reader`."""
    unacknowledged_bytes: int = 262_144
    """Bytes that a client with stateful reconnect has not acknowledged. Beyond it the connection is cut: `slow_reader`.

    As much as may wait for one without it; clients acknowledge once a second, so a replay takes half of it a second.
    """
    unacknowledged_deadline_s: float = 60.0
    """Longest wait for such an acknowledgement. Beyond it the connection is cut: `slow_reader`."""
    close_deadline_s: float = 5.0
    """Longest wait for the last frames and for the peer's close frame; then the socket is dropped."""

    disconnect_timeout_s: float = 15.0
    """A long-polling client that does not poll for so long is lost, and so is one with stateful reconnect that lost its
    socket and does not come back with another one."""
    poll_timeout_s: float = 90.0
    """A poll with nothing to bring is answered empty after so long; clients give it up after 100 s."""
    ended_polls: int = 1_024
    """Ended long-polling connections whose clients are still to be told. Beyond it the oldest gets 404 for 204."""
    post_bytes: int = 262_144
    """Largest body of a POST, which may join several messages. Beyond it: 413."""
    posted_early_bytes: int = 1_024
    """Bytes that may be posted to an id before its transport opens: a handshake. Beyond it: 413."""
    posted_early_deadline_s: float = 15.0
    """Longest time for such a body to arrive, about as long as the id lives. Beyond it: 408."""
    posts_arriving: int = 2_000
    """POSTs whose body is still arriving or waits for its turn, in all. Beyond it: 503."""
    posts_arriving_per_user: int = 256
    """Those of one user, but never more than `connections_per_user`. Beyond it: 503."""
    posts_arriving_per_address: int = 512
    """Those of one network address, but never more than `connections_per_address`. Beyond it: 503."""
    post_deadline_s: float = 30.0
    """Longest time for a POST's turn to come (503), and then for its body to arrive (408)."""
    posts_waiting: int = 8
    """POSTs of one connection that wait for the one before them; official clients send none. Beyond it: 503."""
    stream_distrust_s: float = 600.0
    """To whom streams did not get through (`hub.distrust`), they are not offered again for so long."""
    streams_distrusted: int = 4_096
    """Users at addresses that are remembered for that. Beyond it the oldest is forgotten."""

    acknowledgements_in_flight: int = 256
    """`Acknowledge` calls of one connection that wait for the disk. At the bound the connection is not read."""
    offers_remembered: int = 1_024
    """Offers of one session whose round trip is measured; the oldest is forgotten first."""
    replay_page: int = 200
    """Notifications that a replay loads at once. What is more follows in further pages, all of it."""
    replay_pending: int = 1_024
    """Live offers held back while a replay runs. Beyond it offers are refused and another page fetches them."""
    replay_remembered: int = 4_096
    """Ids of what a replay sent. Beyond it the oldest is forgotten, and an offer of it goes to the next layer."""
    order_remembered: int = 128
    """Ids of what one session was sent last, on one node among several. Beyond it the oldest is forgotten."""
    catch_ups_at_once: int = 16
    """Sessions that load at once what other nodes accepted and this one did not hear; further ones wait their turn."""
    fanout_pending: int = 100_000
    """Sends waiting for their turn in a large fan-out. Beyond it the fan-out runs on without giving way."""

    backend_deadline_s: float = 10.0
    """Longest wait for the layers above. Beyond it the call fails, the connection stays."""
    window_first_s: float = 4.0
    """Acknowledgement window of a session that was not measured yet."""
    window_least_s: float = 2.0
    window_most_s: float = 10.0
    windows_remembered: int = 20_000
    """Devices whose window is kept for their next session; the one that came longest ago is forgotten first."""

    resumes_per_s: float = 1.0
    """Sockets that go on with one connection (stateful reconnect), on average. Beyond it: 503."""
    resumes_at_once: int = 10
    """Those that may come faster than that. Beyond it: 503."""
    sockets_left: int = 1
    """Sockets of one connection that were replaced and have not ended yet. Beyond it: 503."""

    retry_after_least_s: int = 1
    retry_after_most_s: int = 10

    @property
    def silent_window_s(self) -> float:
        """When a client with stateful reconnect that never acknowledges offers is certain to have them.

        Later than the last moment at which it can be known as lost: by its silence, its missing acknowledgement of what
        it was sent or TCP's (as long as that, a minute), and then by not coming back.
        """
        noticed_s = max(self.protocol.client_timeout_s, self.unacknowledged_deadline_s)
        return noticed_s + self.disconnect_timeout_s + self.window_most_s
