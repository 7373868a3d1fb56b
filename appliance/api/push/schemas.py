"""What goes in and out of the push API: the structs that are really decoded and encoded.

`Meta` only documents, as far as JSON Schema can say it; the rules themselves are in `domain`, for every way in.
"""

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from appliance.domain.device import MAX_ADDRESS_CHARS, MAX_LABEL_CHARS
from appliance.domain.errors import InvalidField
from appliance.domain.mailbox import MAX_ADDRESS_CHARS as MAX_EMAIL_CHARS
from appliance.domain.notification import (
    MAX_BODY_CHARS,
    MAX_DATA_BYTES,
    MAX_DATA_DEPTH,
    MAX_SCHEDULE_AHEAD,
    MAX_TITLE_CHARS,
    MAX_TTL,
    MAX_TYPE_CHARS,
)
from appliance.domain.quota import MAX_DAILY_QUOTA

# Written out, since \s means something else in every dialect: one character at least that is not white space, no NUL.
VISIBLE: Final = (
    r"^[^\u0000]*[^\u0000\u0009-\u000d\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
    r"[^\u0000]*$"
)
NO_NUL: Final = r"^[^\u0000]*$"
COLLAPSE_KEY: Final = r"^[ -~]{1,64}$"
LOCALE: Final = r"^[A-Za-z0-9_-]{1,20}$"
TOKEN: Final = r"^[!-z|}~][!-~]*$"  # noqa: S105 - a pattern
# RFC 3339 with the calendar in it: only days that there are, leap years too. No leap seconds.
_DAY: Final = (
    r"([0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
    r"|([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)"
)
INSTANT: Final = (
    rf"^{_DAY}[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{{1,9}})?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)
_PORT: Final = r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
WEBHOOK_URL: Final = (
    rf"^https?://[A-Za-z0-9]([A-Za-z0-9._-]{{0,251}}[A-Za-z0-9])?(:{_PORT})?([/?][!-\u0022$-~]{{0,1700}})?$"
)

# A little narrower than what is taken, in words that every dialect has: 62 characters, the @, labels of a domain.
_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,30}"
_LABEL: Final = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
EMAIL: Final = rf"^{_ATOM}(\.{_ATOM})?@{_LABEL}(\.{_LABEL}){{0,2}}$"


# A whole number is decoded as float, since 3600.0 is one too in JSON; `whole` checks it, the document says integer.
def whole(number: float, *, field: str) -> int:
    """Give a JSON number as int. Raises `InvalidField` for a fraction."""
    if number != int(number):
        raise InvalidField(field, f"Give {field} as a whole number.")
    return int(number)


def _says(**schema: Any) -> Meta:
    return Meta(extra_json_schema=schema)


Title = Annotated[
    str, _says(minLength=1, maxLength=MAX_TITLE_CHARS, pattern=VISIBLE, examples=["Your shift starts in 30 min"])
]
Body = Annotated[
    str, _says(minLength=1, maxLength=MAX_BODY_CHARS, pattern=VISIBLE, examples=["Open the app to view details."])
]
Data = Annotated[
    Annotated[dict[str, object], _says(propertyNames={"pattern": NO_NUL})] | None,
    Meta(
        description=f"At most {MAX_DATA_BYTES} bytes of compact UTF-8 JSON, {MAX_DATA_DEPTH} levels deep. "
        "Other values than texts reach phones JSON-encoded."
    ),
]
Ttl = Annotated[
    Annotated[float, _says(multipleOf=1, minimum=0, maximum=int(MAX_TTL.total_seconds()))] | None,
    Meta(description="Seconds for which it is worth delivering; 0 = live connections only. Default 86400."),
]
Kind = Annotated[
    Annotated[str, _says(minLength=1, maxLength=MAX_TYPE_CHARS, pattern=VISIBLE)] | None,
    Meta(description="What kind of notification it is, for the receiving app. Default `notification`."),
]
CollapseKey = Annotated[
    Annotated[str, _says(pattern=COLLAPSE_KEY)] | None,
    Meta(
        description="1 to 64 printable ASCII characters. On a device a newer notification with the same key replaces "
        "an older one."
    ),
]
SendAt = Annotated[
    Annotated[str, _says(pattern=INSTANT)] | None,
    Meta(
        description=f"When to send it, RFC 3339 with a zone, at most {MAX_SCHEDULE_AHEAD.days} days ahead. "
        "What is past is sent at once."
    ),
]
ByEmail = Annotated[
    bool | msgspec.UnsetType | None,
    Meta(
        description="true: mail it, too, whatever the app's e-mail policy says, to the app's notification e-mail, else "
        "to the user's verified address; where there is neither, or no mail server, nothing is mailed. false: do not "
        "mail it. Left out or null: as the policy says. With ttl 0 nothing is mailed."
    ),
]
PriorityName = Literal["low", "normal", "high"]
EmailPolicyName = Literal["always", "if_unconfirmed", "never"]


class _Options(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    title: Title
    body: Body
    data: Data = None
    ttl: Ttl = None
    type: Kind = None
    priority: PriorityName | None = None
    collapse_key: CollapseKey = None
    send_at: SendAt = None
    email: ByEmail = msgspec.UNSET


class Send(_Options, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One notification for one user of the calling app."""

    user_id: UUID


class SendBulk(_Options, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The same notification for many users, each named once."""

    user_ids: Annotated[list[UUID], _says(minItems=1, uniqueItems=True)]


class SendBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Different notifications in one call: all are accepted, or none."""

    notifications: Annotated[list[Send], _says(minItems=1)]


class Sent(msgspec.Struct, frozen=True):
    """It is kept and will be delivered or explained."""

    notification_id: UUID


class SentMany(msgspec.Struct, frozen=True):
    """All are kept; the ids are in the order of the targets."""

    notification_ids: list[UUID]


class PushConfigChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to change; what is left out stays as it is."""

    enabled: bool | msgspec.UnsetType = msgspec.UNSET
    webhook_url: Annotated[
        Annotated[str, _says(pattern=WEBHOOK_URL, maxLength=2048)] | msgspec.UnsetType | None,
        Meta(description="http or https address that gets delivery receipts; null for none."),
    ] = msgspec.UNSET
    daily_quota: Annotated[float, _says(multipleOf=1, minimum=0, maximum=MAX_DAILY_QUOTA)] | msgspec.UnsetType = (
        msgspec.UNSET
    )
    open_enrolment: Annotated[
        bool | msgspec.UnsetType, Meta(description="Whether registering a device enrols its user in the app.")
    ] = msgspec.UNSET
    notification_email: Annotated[
        Annotated[str, _says(pattern=EMAIL, maxLength=MAX_EMAIL_CHARS)] | msgspec.UnsetType | None,
        Meta(description="The address to which the app's notifications are mailed; null for none."),
    ] = msgspec.UNSET
    email_policy: Annotated[
        EmailPolicyName | msgspec.UnsetType,
        Meta(
            description="always: each notification is mailed to notification_email, whatever comes of the pushes. "
            "if_unconfirmed: mailed only where no device has it when all were tried, or after 5 minutes; without "
            "notification_email to the user's verified address. never: not mailed unless a send asks for it."
        ),
    ] = msgspec.UNSET


class PushConfigView(msgspec.Struct, frozen=True):
    """An app's push configuration and today's use (UTC). Secret and key exist once push was enabled."""

    enabled: bool
    webhook_url: str | None
    webhook_secret: str | None
    daily_quota: int
    device_count: int
    notifications_today: int
    vapid_public_key: str | None
    open_enrolment: bool
    notification_email: str | None
    email_policy: EmailPolicyName


PlatformName = Literal["android", "ios", "web", "hub"]


class DeviceView(msgspec.Struct, frozen=True):
    """A device that is registered with the app; `connected` tells whether it is on the live hub of this node now."""

    device_id: UUID
    user_id: UUID
    platform: PlatformName
    last_seen_at: datetime
    connected: bool


class DevicePage(msgspec.Struct, frozen=True):
    """Devices in the order of their registration; `next_cursor` is null on the last page, `total` counts all."""

    devices: list[DeviceView]
    total: int
    next_cursor: UUID | None


_SUBSCRIPTION: Final[dict[str, Any]] = {
    "description": "A browser's PushSubscription as its toJSON() gives it.",
    "properties": {
        "endpoint": {
            "type": "string",
            "pattern": r"^https://[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?(\.[a-z0-9]{1,20}){1,3}(/[A-Za-z0-9_:=.-]{0,300}){0,4}$",
        },
        "expirationTime": {"type": ["number", "null"]},
        "keys": {
            "type": "object",
            "properties": {
                "p256dh": {"type": "string", "pattern": "^[A-Za-z0-9_-]{87}$"},
                "auth": {"type": "string", "pattern": "^[A-Za-z0-9_-]{22}$"},
            },
            "required": ["p256dh", "auth"],
        },
    },
    "required": ["endpoint", "keys"],
}


class RegisterDevice(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A device of the calling user, for one app."""

    app_id: UUID
    platform: Literal["web", "ios", "android"]
    push_token: Annotated[
        Annotated[str, _says(pattern=TOKEN, maxLength=MAX_ADDRESS_CHARS)]
        | Annotated[dict[str, object], _says(**_SUBSCRIPTION)],
        Meta(
            description="The FCM token, the APNs token (hex), or the browser's push subscription "
            "(the object, or its JSON text)."
        ),
    ]
    label: Annotated[
        Annotated[str, _says(maxLength=MAX_LABEL_CHARS, pattern=NO_NUL)] | None,
        Meta(description="A name by which people know the device."),
    ] = None
    locale: Annotated[
        Annotated[str, _says(pattern=LOCALE)] | None, Meta(description="The device's language, like pl-PL.")
    ] = None


class DeviceRegistered(msgspec.Struct, frozen=True):
    """The device's id, by which it can be unregistered and by which it may say Hello to the hub."""

    device_id: UUID


class AttemptView(msgspec.Struct, frozen=True):
    """One try of one delivery, with its outcome in plain words."""

    number: int
    layer: str
    channel: str
    started_at: datetime
    latency_ms: int | None
    outcome: str
    code: str
    reason: str


class DeliveryView(msgspec.Struct, frozen=True):
    """The notification on its way to one device; `next_attempt_at` is null when nothing further is planned."""

    id: UUID
    device_id: UUID | None
    device_label: str
    platform: str | None
    state: str
    explanation: str
    next_attempt_at: datetime | None
    settled_at: datetime | None
    attempts: list[AttemptView]


class TimelineView(msgspec.Struct, frozen=True):
    """A notification's whole story; `explanation` sums it up in one sentence."""

    notification_id: UUID
    app_id: UUID
    user_id: UUID
    title: str
    type: str
    priority: PriorityName
    collapse_key: str | None
    state: str
    explanation: str
    sequence: int | None
    accepted_at: datetime
    send_at: datetime | None
    released_at: datetime | None
    expires_at: datetime
    withdrawn_at: datetime | None
    read_at: datetime | None
    deliveries: list[DeliveryView]


class Withdrawn(msgspec.Struct, frozen=True):
    """How many deliveries were stopped, and how many it came too late for."""

    withdrawn: int
    already_shown: int
