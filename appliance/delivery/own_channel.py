"""The channel of an app's own credential: opened with its first push, closed when it was long not used, opened again.

It stands in its lane from the start, so that the engine can decide without waiting; the credential is read and unsealed
only when something is to be sent.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final
from uuid import UUID

from appliance.channels.contract import Channel, ChannelName, Diagnosis, Push
from appliance.domain.device import AddressKind
from appliance.domain.outcome import Outcome, Retry, reason_of

SLOTS: Final = 64
"""Fewer than the instance's own: a few that hang together must not take all tries that there are at once."""
DRAIN_S: Final = 22.0
"""A little longer than a try can take."""
_NAMES: Final = {AddressKind.FCM_TOKEN: ChannelName.FCM, AddressKind.APNS_TOKEN: ChannelName.APNS}

Open = Callable[["OwnChannel"], Awaitable[Channel | Outcome]]
"""Opens the real channel, or says why it cannot."""


class OwnChannel:
    """Sends with one app's credential for one kind of address."""

    slots = SLOTS
    has_one_lane = True

    def __init__(self, app_id: UUID, kind: AddressKind, version: UUID, open_channel: Open) -> None:
        self.app_id = app_id
        self.kind = kind
        self.version = version
        self.name = _NAMES[kind]
        self.address_kinds = frozenset({kind})
        self._open_channel = open_channel
        self._opening = asyncio.Lock()
        self._channel: Channel | None = None
        self._held = 0
        self.used_at = 0.0
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_closed = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return self._held == 0

    @property
    def is_open(self) -> bool:
        return self._channel is not None

    def lane_of(self, push: Push) -> str:
        """Give the one lane: the credential's weather is the same for all devices."""
        return "own"

    async def deliver(self, push: Push) -> Outcome:
        """Send one push, with the real channel opened first where it is not."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        with self._hold():
            try:
                async with asyncio.timeout(push.timeout_s):
                    channel = await self._open()
            except TimeoutError:
                return Retry("This app's own credential could not be read in time.", code="credential_timeout")
            if isinstance(channel, Outcome):
                return channel
            return await channel.deliver(replace(push, timeout_s=max(0.0, push.timeout_s - (loop.time() - began))))

    async def probe(self) -> Diagnosis:
        """Let the real channel ask its provider."""
        with self._hold():
            channel = await self._open()
            return Diagnosis(False, reason_of(channel)) if isinstance(channel, Outcome) else await channel.probe()

    async def close(self) -> None:
        """Begin nothing more; what is under way finishes, within the time that a try may take."""
        self._is_closed = True
        try:
            async with asyncio.timeout(DRAIN_S):
                await self._idle.wait()
        except TimeoutError:
            pass
        if self._channel is not None:
            await self._channel.close()

    def take_out(self) -> Channel | None:
        """Give the real channel away to be closed: the next push opens another one. Only while nothing is under way."""
        channel, self._channel = self._channel, None
        return channel

    async def _open(self) -> Channel | Outcome:
        if self._is_closed:
            return Retry("This app's own credential was changed at this moment.", code="credential_changed")
        if self._channel is not None:
            return self._channel
        async with self._opening:
            if self._channel is None:
                opened = await self._open_channel(self)
                if isinstance(opened, Outcome):
                    return opened
                self._channel = opened
            return self._channel

    @contextmanager
    def _hold(self) -> Iterator[None]:
        self._held += 1
        self.used_at = asyncio.get_running_loop().time()
        self._idle.clear()
        try:
            yield
        finally:
            self._held -= 1
            if self._held == 0:
                self._idle.set()
