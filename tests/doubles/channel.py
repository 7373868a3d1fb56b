"""A channel that answers as a test tells it; it obeys the channel contract."""

import asyncio

from appliance.channels.contract import ChannelName, Diagnosis
from appliance.domain.device import AddressKind
from appliance.domain.outcome import Accepted


class ScriptedChannel:
    """Answers each push with the next outcome of its script, then with `Accepted`."""

    name = ChannelName.FCM
    address_kinds = frozenset({AddressKind.FCM_TOKEN})

    def __init__(self, *outcomes, slots=4):
        self.script = list(outcomes)
        self.slots = slots
        self.pushes = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.most_at_once = 0
        self._at_once = 0

    has_one_lane = True

    def lane_of(self, push):
        return "only"

    async def deliver(self, push):
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        self.pushes.append(push)
        try:
            await self.gate.wait()
            outcome = self.script.pop(0) if self.script else Accepted(f"fcm/{len(self.pushes)}")
        finally:
            self._at_once -= 1
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def probe(self):
        return Diagnosis(True, "It answers.")

    async def close(self):
        pass
