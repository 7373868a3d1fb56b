"""The channels that there are. A new one is one file in this package and one line in `BUILDERS`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from appliance.channels.apns import ApnsChannel
from appliance.channels.apns_credential import ApnsCertificate, ApnsKey, SharedProviderTokens
from appliance.channels.contract import Channel
from appliance.channels.email import EmailChannel
from appliance.channels.fcm import FcmChannel
from appliance.channels.relay import RelayChannel
from appliance.channels.webpush import VapidKeys, WebPushChannel
from appliance.domain.clock import Clock
from appliance.domain.device import AddressKind
from appliance.security.outbound import Poster, make_tls_context
from appliance.settings import DeliveryMode, Settings


@dataclass(frozen=True, slots=True)
class ChannelParts:
    """What channels are made of; the layers above implement what they need of storage.

    `outbound` leads to hosts that users name. The operator named the relay: `to_relay` is the way there, apart from the
    other so that nobody's hosts can hold its connections; None shares.
    """

    settings: Settings
    clock: Clock
    outbound: Poster
    vapid_keys: VapidKeys
    to_relay: Poster | None = None
    provider_tokens: SharedProviderTokens = field(default_factory=SharedProviderTokens)


Builder = Callable[[ChannelParts], Channel | None]
"""Makes a channel, or None when it is not configured or the delivery mode does not use it."""


def _build_web_push(parts: ChannelParts) -> Channel | None:
    # No third party's account is needed, so it is direct in every mode but the one in which nothing leaves.
    if parts.settings.delivery_mode is DeliveryMode.LOCAL:
        return None
    subject = parts.settings.vapid_subject or parts.settings.public_url
    return WebPushChannel(parts.outbound, parts.vapid_keys, parts.clock, subject=subject)


def _build_relay(parts: ChannelParts) -> Channel | None:
    settings = parts.settings
    # Unsigned nothing is sent: without a key there is no relay yet.
    if settings.delivery_mode is not DeliveryMode.RELAY or not settings.push_relay_api_key.reveal():
        return None
    return RelayChannel(
        parts.to_relay or parts.outbound,
        parts.clock,
        url=settings.push_relay_url,
        api_key=settings.push_relay_api_key,
        instance_id=settings.push_relay_instance_id,
    )


def _build_fcm(parts: ChannelParts) -> Channel | None:
    settings = parts.settings
    if settings.delivery_mode is not DeliveryMode.FIREBASE or not settings.firebase_credentials_json:
        return None
    return FcmChannel(
        settings.firebase_credentials_json,
        parts.clock,
        make_tls_context,
        base_url=settings.fcm_base_url,
        android_channel=settings.fcm_android_channel or None,
    )


def _build_apns(parts: ChannelParts) -> Channel | None:
    settings = parts.settings
    credential: ApnsKey | ApnsCertificate
    if settings.apns_certificate:
        credential = ApnsCertificate(settings.apns_certificate, settings.apns_certificate_key)
    else:
        credential = ApnsKey(settings.apns_auth_key_p8, settings.apns_key_id, settings.apns_team_id)
        if not credential.p8:
            return None
    if settings.delivery_mode is not DeliveryMode.FIREBASE:
        return None
    return ApnsChannel(
        credential,
        parts.clock,
        make_tls_context,
        topic=settings.apns_bundle_id,
        voip_topic=settings.apns_voip_topic or None,
        base_url=settings.apns_base_url,
        tokens=parts.provider_tokens.find(credential, parts.clock),
    )


def _build_email(parts: ChannelParts) -> Channel | None:
    # In every mode: the admin has named the mail server, so nothing leaves unasked.
    return EmailChannel(parts.settings, parts.clock) if parts.settings.smtp_host else None


BUILDERS: tuple[Builder, ...] = (_build_relay, _build_fcm, _build_apns, _build_web_push, _build_email)


class OwnChannels(Protocol):
    """The channels of apps that have credentials of their own; implemented above, where storage can be read."""

    @property
    def places(self) -> frozenset[tuple[UUID, AddressKind]]:
        """Which apps have their own, for which kinds of address."""
        ...

    def channel_for(self, kind: AddressKind, app_id: UUID) -> Channel | None: ...

    def watch(self, on_gone: Callable[[Channel], None]) -> None:
        """Tell when a channel is no more: nothing new begins on it, what it holds finishes."""
        ...

    async def keep_fresh(self) -> None:
        """Take note of what was changed elsewhere, when the last look is some time ago."""
        ...

    async def close(self) -> None: ...


class ChannelSet:
    """The channels of one configuration: an app's own come first, then the first that takes the kind of address."""

    def __init__(self, channels: Sequence[Channel], own: OwnChannels | None = None) -> None:
        """`channels` are the instance's."""
        self.channels = tuple(channels)
        self._own = own
        self._by_kind: dict[AddressKind, Channel] = {}
        for channel in channels:
            for kind in channel.address_kinds:
                self._by_kind.setdefault(kind, channel)

    def channel_for(self, kind: AddressKind, app_id: UUID | None = None) -> Channel | None:
        """Give the channel that reaches this kind of address for the app, or None: then only the hub does."""
        if self._own is not None and app_id is not None:
            own = self._own.channel_for(kind, app_id)
            if own is not None:
                return own
        return self._by_kind.get(kind)

    @property
    def remote_kinds(self) -> frozenset[AddressKind]:
        """The kinds of address that the instance's channels reach, for every app."""
        return frozenset(self._by_kind)

    @property
    def own_places(self) -> frozenset[tuple[UUID, AddressKind]]:
        """Which apps reach a kind of address with a credential of their own."""
        return frozenset() if self._own is None else self._own.places

    def watch(self, on_gone: Callable[[Channel], None]) -> None:
        """Tell when an app's own channel is no more."""
        if self._own is not None:
            self._own.watch(on_gone)

    async def keep_fresh(self) -> None:
        """Take note of credentials of apps that were changed elsewhere; mostly it does nothing."""
        if self._own is not None:
            await self._own.keep_fresh()

    async def close(self) -> None:
        """Close all channels, in order."""
        for channel in self.channels:
            await channel.close()
        if self._own is not None:
            await self._own.close()


def build_channels(parts: ChannelParts, own: OwnChannels | None = None) -> ChannelSet:
    """Make the channels that the settings ask for. Local-only mode has no other than e-mail, where that is set up."""
    built = (builder(parts) for builder in BUILDERS)
    return ChannelSet([channel for channel in built if channel is not None], own)
