"""What a test push advises: the next step for each way in which it can end."""

from typing import Final

from appliance.channels.contract import ChannelName
from appliance.domain.device import AddressKind
from appliance.settings import DeliveryMode

NOT_CONFIGURED: Final = "Nothing is configured for this kind of address."

NEXT_STEPS: Final[dict[str, str]] = {
    "retry": (
        "Nothing is to be changed: notifications are tried again by themselves. If it lasts, check this server's way "
        "to the internet."
    ),
    "gone": "Open the app on the device and let it register again; the next notification would retire this address.",
    "rejected": "Let the device register again. If that does not help, the provider's code tells more.",
    "misconfigured": (
        "Correct what is said here in the settings. What waits goes out by itself within some minutes after that."
    ),
    "silent": "Open the app on the device. Until it answers, notifications go the next way.",
    "probe": "Correct what is said here, then test again.",
}

_FIREBASE: Final = "set FIREBASE_CREDENTIALS_JSON to the key file of a Firebase service account"
_APPLE: Final = "set APNS_AUTH_KEY_P8 with its ids, or APNS_CERTIFICATE"
_RELAY: Final = "register with the relay and set PUSH_RELAY_API_KEY"
_CHOOSE: Final = "Choose how remote pushes leave: DELIVERY_MODE firebase (your own credentials) or relay."
_WEB: Final = "Choose DELIVERY_MODE firebase or relay: in local mode nothing leaves, not even to browsers."
_MAIL: Final = "Set SMTP_HOST and SMTP_FROM."


def missing_channel(sought: ChannelName | AddressKind, mode: DeliveryMode) -> str:
    """Give what an admin can do so that there is a channel of this name, or for this kind of address."""
    # Enumerations of different kinds have equal numbers, so they are told apart by what they are.
    if sought is ChannelName.WEB_PUSH or sought is AddressKind.WEB_PUSH:
        return _WEB
    if sought is ChannelName.EMAIL or sought is AddressKind.MAILBOX:
        return _MAIL
    own = _FIREBASE if sought is ChannelName.FCM or sought is AddressKind.FCM_TOKEN else _APPLE
    if sought is ChannelName.RELAY:
        return f"Set DELIVERY_MODE to relay, then {_RELAY}."
    match mode:
        case DeliveryMode.LOCAL:
            return _CHOOSE
        case DeliveryMode.RELAY if isinstance(sought, AddressKind):
            return f"In DELIVERY_MODE relay: {_RELAY}."
        case DeliveryMode.RELAY:
            return f"The mode is relay, which does not use it. For your own: set DELIVERY_MODE to firebase and {own}."
    return f"In DELIVERY_MODE firebase: {own}."
