"""The bounds of the lean listener."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LeanLimits:
    """What one TCP connection may cost before the hub knows it, and below the hub afterwards."""

    head_bytes: int = 32_768
    """Request line and headers of one request. Beyond it: 431, and the connection is closed."""
    head_deadline_s: float = 10.0
    """Longest time from the connection, or from a request's first byte, to the end of its head. Then: closed. With TLS
    the connection counts from the end of its handshake."""
    idle_s: int = 5
    """Longest pause between two requests on one connection. Then: closed."""
    pipelined: int = 16
    """Requests waiting behind one that is not answered yet. Beyond it: 400, and the connection is closed."""
    http_connections: int = 4_096
    """HTTP connections that are not the hub's: before a handshake, a head, an upgrade or the next request."""
    http_connections_per_address: int = 1_024
    """The same, from one address (an IPv6 /64) that is no trusted proxy. Beyond either the one that has waited longest
    for its client is closed; where none waits, 503."""
    tls_handshake_s: float = 10.0
    """Longest time from the connection to the end of its TLS handshake. Then: closed."""
    linger_s: float = 2.0
    """How long the rest of a request is thrown away that was answered before it had arrived. Then: closed."""
    retry_after_s: int = 5
    """What a client is told that is answered 503 before its request has reached the hub."""

    frame_bytes: int = 131_072
    """One WebSocket message, which may hold several messages of the hub. Beyond it: close code 1009."""
    slice_bytes: int = 8_192
    """How much of what arrived is read before others get a turn."""
    unsent_bytes: int = 65_536
    """What the kernel holds of one connection beyond what is on its way; then a write counts as unfinished."""
    close_wait_s: float = 5.0
    """Longest wait for the peer's close frame. Then the connection is dropped."""
    unacknowledged_s: float = 30.0
    """A peer that has not confirmed what was sent to it for so long is gone (half-open TCP)."""
    stop_wait_s: float = 2.0
    """Longest wait for what is open when the listener stops."""
