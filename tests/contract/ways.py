"""Every way in which the official client can be connected: transport × protocol, as far as they go together."""

from dataclasses import dataclass
from typing import Final

import pytest

_CLIENT_NAMES: Final = {
    "WebSockets": "WebSocket",
    "ServerSentEvents": "ServerSentEvents",
    "LongPolling": "LongPolling",
}


@dataclass(frozen=True, slots=True)
class Way:
    """One transport and one protocol; WebSockets may come without a negotiation."""

    transport: str
    protocol: str
    skips_negotiation: bool = False

    @property
    def settings(self) -> dict[str, object]:
        """What `run_signalr_client` needs in order to go this way and no other."""
        return {
            "transports": [self.transport],
            "protocol": self.protocol,
            "skipNegotiation": self.skips_negotiation,
        }

    @property
    def client_name(self) -> str:
        """What the client calls the transport once it is connected."""
        return _CLIENT_NAMES[self.transport]

    def __str__(self) -> str:
        return f"{self.transport}{' at once' if self.skips_negotiation else ''} {self.protocol}"


WAYS: Final = (
    Way("WebSockets", "json"),
    Way("WebSockets", "json", skips_negotiation=True),
    Way("WebSockets", "messagepack"),
    Way("WebSockets", "messagepack", skips_negotiation=True),
    Way("ServerSentEvents", "json"),
    Way("LongPolling", "json"),
    Way("LongPolling", "messagepack"),
)
NEGOTIATED_WAYS: Final = tuple(way for way in WAYS if not way.skips_negotiation)

every_way = pytest.mark.parametrize("way", WAYS, ids=str)
every_negotiated_way = pytest.mark.parametrize("way", NEGOTIATED_WAYS, ids=str)
