"""The ways out over HTTP, each with connections of its own: what hangs on one leaves the others theirs."""

from dataclasses import dataclass
from typing import Final

from appliance.security.outbound import OutboundClient
from appliance.security.outbound_rules import OutboundRules
from appliance.settings import Settings

BROWSER_CONNECTIONS: Final = 512
"""More than pushes to browsers are ever tried at once: none waits for a connection that somebody's host holds."""
WEBHOOK_CONNECTIONS: Final = 320
"""More than receipts are ever told at once, for the same reason."""
BROWSER_PER_ORIGIN: Final = 32
RELAY_PER_ORIGIN: Final = 16


@dataclass(frozen=True, slots=True)
class WaysOut:
    """Clients by who chose the target: the operator (the relay), users (push services), apps (webhooks)."""

    to_relay: OutboundClient
    to_browsers: OutboundClient
    to_webhooks: OutboundClient

    async def close(self) -> None:
        """Close every connection."""
        for client in (self.to_relay, self.to_browsers, self.to_webhooks):
            await client.close()


def open_ways_out(settings: Settings) -> WaysOut:
    """Make the clients. None of them connects to this program's own ports, whatever OUTBOUND_ALLOW says."""
    rules = OutboundRules(settings.outbound_allow)
    own = {port for port in (settings.port, settings.hub_port) if port}
    return WaysOut(
        to_relay=OutboundClient(rules, is_own_listener=own.__contains__, per_origin=RELAY_PER_ORIGIN),
        to_browsers=OutboundClient(
            rules,
            is_own_listener=own.__contains__,
            connections=BROWSER_CONNECTIONS,
            per_origin=BROWSER_PER_ORIGIN,
        ),
        to_webhooks=OutboundClient(rules, is_own_listener=own.__contains__, connections=WEBHOOK_CONNECTIONS),
    )
