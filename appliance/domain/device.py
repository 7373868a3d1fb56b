"""A device: one installation that can be reached, and what kinds of address it can have."""

import base64
import binascii
import re
from dataclasses import dataclass
from enum import IntEnum
from urllib.parse import urlsplit

import msgspec

from appliance.domain.errors import InvalidField

MAX_ADDRESS_CHARS = 4096
MAX_LABEL_CHARS = 100
REGISTRATIONS_PER_HOUR = 10


class Platform(IntEnum):
    """Where the installation runs. Stored as the number; 0 and 1 are OpenKSeF's wire numbers."""

    ANDROID = 0
    IOS = 1
    WEB = 2
    HUB = 3
    """Reached over the live hub only: a terminal, a desktop, or a phone without push services."""


class AddressKind(IntEnum):
    """What the address of a device is, and so which channels can use it. Stored as the number."""

    FCM_TOKEN = 0
    APNS_TOKEN = 1
    WEB_PUSH = 2
    HUB = 3
    MAILBOX = 4
    """An e-mail address: of an app or a user, never a device's."""


@dataclass(frozen=True, slots=True)
class Address:
    """A checked address. `text` is canonical: the same installation gives the same text."""

    kind: AddressKind
    text: str


class _SubscriptionKeys(msgspec.Struct):
    p256dh: str
    auth: str


class _Subscription(msgspec.Struct):
    endpoint: str
    keys: _SubscriptionKeys


_PLACEHOLDER = re.compile(r"device-[0-9a-f]{32}")
_APNS_TOKEN = re.compile(r"[0-9a-fA-F]{64,200}")


def parse_address(platform: Platform, push_token: str, *, field: str = "push_token") -> Address:
    """Tell what kind of address a registration gives.

    A Web Push subscription is recognised by its JSON, an APNs token by its hex on iOS, OpenKSeF's placeholder
    `device-<32 hex>` means hub only; everything else is an FCM token. At most 4096 characters. Raises `InvalidField`.
    """
    token = push_token.strip()
    if not token:
        raise InvalidField(field, f"Give {field}: the FCM or APNs token, or the browser's push subscription.")
    if len(token) > MAX_ADDRESS_CHARS:
        raise InvalidField(field, f"Shorten {field} to {MAX_ADDRESS_CHARS} characters; it has {len(token)}.")
    if token.startswith("{"):
        return Address(AddressKind.WEB_PUSH, _check_subscription(token, field=field))
    if not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidField(field, f"Give {field} as the provider gave it: printable ASCII without spaces.")
    if platform is Platform.HUB or _PLACEHOLDER.fullmatch(token):
        return Address(AddressKind.HUB, token)
    if platform is Platform.IOS and _APNS_TOKEN.fullmatch(token) and len(token) % 2 == 0:
        return Address(AddressKind.APNS_TOKEN, token.lower())
    return Address(AddressKind.FCM_TOKEN, token)


def _check_subscription(text: str, *, field: str) -> str:
    try:
        subscription = msgspec.json.decode(text, type=_Subscription)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidField(
            field, f"Give {field} as the browser's PushSubscription: endpoint, keys.p256dh, keys.auth."
        ) from error
    try:
        url = urlsplit(subscription.endpoint)
        secure = url.scheme == "https" and bool(url.hostname) and url.username is None and url.port != 0
    except ValueError:
        secure = False
    if not secure or not subscription.endpoint.isascii():
        raise InvalidField(f"{field}.endpoint", "Give the subscription's endpoint as an https URL.")
    if len(_decode_key(subscription.keys.p256dh, field=f"{field}.keys.p256dh")) != 65:
        raise InvalidField(f"{field}.keys.p256dh", "Give the uncompressed P-256 key of 65 bytes, base64url.")
    if len(_decode_key(subscription.keys.auth, field=f"{field}.keys.auth")) != 16:
        raise InvalidField(f"{field}.keys.auth", "Give the authentication secret of 16 bytes, base64url.")
    keys = {"p256dh": subscription.keys.p256dh.rstrip("="), "auth": subscription.keys.auth.rstrip("=")}
    return msgspec.json.encode({"endpoint": subscription.endpoint, "keys": keys}).decode()


def _decode_key(text: str, *, field: str) -> bytes:
    try:
        return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidField(field, f"Give {field} in base64url.") from error
