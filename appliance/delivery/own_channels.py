"""The channels of all apps that have a credential of their own: which there are, and that they follow what is stored.

Which app has one is known in memory (an id and a version each, no secret) and read again twice a minute, so that what
another node changed is followed within a minute. The channels themselves are opened when first used; the longest unused
ones are closed where there are many.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Final
from uuid import UUID

from appliance.channels.contract import Channel
from appliance.channels.own_credential import OwnParts, make_own_channel
from appliance.delivery.own_channel import OwnChannel
from appliance.domain.device import AddressKind
from appliance.domain.errors import CarillonError
from appliance.domain.outcome import Misconfigured, Outcome, Retry
from appliance.security.sealing import Sealer, SealError
from appliance.settings import DeliveryMode
from appliance.storage.app_credentials import Slot, load_credential, load_versions
from appliance.storage.database import Database

logger = logging.getLogger(__name__)

PURPOSE: Final = "app-credential"
"""What credentials of apps are sealed for."""
FRESH_S: Final = 25.0
MOST_OPEN: Final = 64
"""Channels kept open; of more, the longest unused one is closed, unless something is under way on it."""


class StoredOwnChannels:
    """Implements `channels.registry.OwnChannels` over the database. In mode local there are none."""

    def __init__(self, database: Database, sealer: Sealer, parts: OwnParts, *, most_open: int = MOST_OPEN) -> None:
        self._database = database
        self._sealer = sealer
        self._parts = parts
        self._most_open = most_open
        self._is_local = parts.settings.delivery_mode is DeliveryMode.LOCAL
        self._channels: dict[Slot, OwnChannel] = {}
        self._places: frozenset[Slot] = frozenset()
        self._open_ones: set[OwnChannel] = set()
        self._on_gone: list[Callable[[Channel], None]] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._reading = asyncio.Lock()
        self._read_at: float | None = None

    @property
    def places(self) -> frozenset[Slot]:
        """Which apps have their own, for which kinds of address."""
        return self._places

    def channel_for(self, kind: AddressKind, app_id: UUID) -> Channel | None:
        """Give the app's own channel; it may have to be opened yet."""
        return self._channels.get((app_id, kind))

    def watch(self, on_gone: Callable[[Channel], None]) -> None:
        """Tell when a channel is no more."""
        self._on_gone.append(on_gone)

    async def keep_fresh(self) -> None:
        """Read again what there is when that is longer ago than `FRESH_S`. Raises what reading raises."""
        now = self._parts.clock.monotonic()
        if not self._is_local and (self._read_at is None or now - self._read_at >= FRESH_S):
            await self.refresh()

    async def refresh(self) -> None:
        """Read what there is now; changed channels are replaced. Raises what reading raises."""
        if self._is_local:
            return
        async with self._reading:
            versions = await load_versions(self._database)
            self._read_at = self._parts.clock.monotonic()
            for slot, channel in list(self._channels.items()):
                if versions.get(slot) != channel.version:
                    del self._channels[slot]
                    self._drop(channel)
            for slot, version in versions.items():
                if slot not in self._channels:
                    app_id, kind = slot
                    self._channels[slot] = OwnChannel(app_id, kind, version, self._open)
            if self._places != versions.keys():
                self._places = frozenset(versions)

    async def close(self) -> None:
        """Close every channel; what is under way finishes."""
        for channel in self._channels.values():
            self._drop(channel)
        self._channels, self._places = {}, frozenset()
        while self._closing:
            await asyncio.wait(self._closing)

    def _drop(self, channel: OwnChannel) -> None:
        self._open_ones.discard(channel)
        for on_gone in self._on_gone:
            on_gone(channel)
        self._close_later(channel.close())

    async def _open(self, channel: OwnChannel) -> Channel | Outcome:
        try:
            stored = await load_credential(self._database, channel.app_id, channel.kind)
        except CarillonError:
            return Retry("This app's own credential could not be read from the database.", code="credential_unread")
        if stored is None:
            return Retry("This app's own credential was taken away at this moment.", code="credential_changed")
        try:
            document = self._sealer.unseal(stored.sealed, purpose=PURPOSE)
        except SealError:
            return Misconfigured(
                "This app's own credential cannot be opened: SECRET_KEY is not the one it was sealed with.",
                code="sealed",
            )
        opened = await asyncio.to_thread(make_own_channel, channel.kind, document, self._parts)
        self._note_opened(channel)
        return opened

    def _note_opened(self, channel: OwnChannel) -> None:
        if self._channels.get((channel.app_id, channel.kind)) is not channel:
            # Replaced while it was being opened: it closes itself with what it holds.
            return
        self._open_ones.add(channel)
        for longest_unused in sorted(self._open_ones, key=lambda one: one.used_at):
            if len(self._open_ones) <= self._most_open:
                return
            if longest_unused.is_idle:
                self._open_ones.discard(longest_unused)
                real = longest_unused.take_out()
                if real is not None:
                    self._close_later(real.close())

    def _close_later(self, closing: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(_closed(closing))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _closed(closing: Coroutine[None, None, None]) -> None:
    try:
        await closing
    except Exception:
        logger.exception("channel_not_closed")
