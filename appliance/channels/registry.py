"""The channels that there are. A new one is one file in this package and one line in `BUILDERS`."""

from collections.abc import Callable, Sequence

from appliance.channels.contract import Channel
from appliance.domain.device import AddressKind
from appliance.settings import Settings

Builder = Callable[[Settings], Channel | None]
"""Makes a channel from the settings, or None when it is not configured or the delivery mode does not use it."""

BUILDERS: tuple[Builder, ...] = ()


class ChannelSet:
    """The channels of one configuration. The first that takes a kind of address serves it."""

    def __init__(self, channels: Sequence[Channel]) -> None:
        self.channels = tuple(channels)
        self._by_kind: dict[AddressKind, Channel] = {}
        for channel in channels:
            for kind in channel.address_kinds:
                self._by_kind.setdefault(kind, channel)

    def channel_for(self, kind: AddressKind) -> Channel | None:
        """Give the channel that reaches this kind of address, or None: then only the hub does."""
        return self._by_kind.get(kind)

    @property
    def remote_kinds(self) -> frozenset[AddressKind]:
        return frozenset(self._by_kind)

    async def close(self) -> None:
        """Close all channels, in order."""
        for channel in self.channels:
            await channel.close()


def build_channels(settings: Settings) -> ChannelSet:
    """Make the channels that the settings ask for. Local-only mode has none: nothing leaves the house."""
    built = (builder(settings) for builder in BUILDERS)
    return ChannelSet([channel for channel in built if channel is not None])
