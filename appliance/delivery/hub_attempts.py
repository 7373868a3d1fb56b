"""What the engine records of offers on the hub, in the words of the timeline."""

from datetime import datetime

from appliance.channels.contract import ChannelName
from appliance.delivery.windows import Window
from appliance.domain.outcome import OutcomeKind
from appliance.storage.deliveries import AttemptRow


def taken_attempt(offered_at: datetime) -> AttemptRow:
    """The offer was written to a client that does not acknowledge."""
    return AttemptRow(
        channel=ChannelName.HUB,
        started_at=offered_at,
        latency_ms=None,
        outcome=OutcomeKind.OFFERED,
        code="offered",
        reason="Written to the device's live connection, which does not acknowledge.",
    )


def unanswered_attempt(window: Window, now_mono: float, *, code: str, why: str) -> AttemptRow:
    """Nobody answered the offer, for the reason `why`."""
    return AttemptRow(
        channel=ChannelName.HUB,
        started_at=window.offered_at,
        latency_ms=round((now_mono - window.offered_mono) * 1000),
        outcome=OutcomeKind.UNANSWERED,
        code=code,
        reason=why,
    )


def retired_attempt(now: datetime) -> AttemptRow:
    """The device is none any more."""
    return AttemptRow(
        channel=ChannelName.HUB,
        started_at=now,
        latency_ms=None,
        outcome=OutcomeKind.GONE,
        code="device_retired",
        reason="The device was retired before this could be delivered: its push address is dead.",
    )
