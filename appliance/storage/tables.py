"""The tables of design.md section 5, as Piccolo sees them; the same for SQLite and PostgreSQL.

Ids are UUIDv7, instants are UTC and end in `_at`, enums are small integers declared in `domain`. Texts are checked for
length, NUL and surrogates before they come here, since SQLite checks none of it.
"""

from piccolo.columns import (
    UUID,
    BigInt,
    Boolean,
    Bytea,
    Date,
    Integer,
    SmallInt,
    Text,
    Timestamptz,
    Varchar,
)
from piccolo.table import Table


class App(Table, tablename="app"):
    """A sender: `id` is its OAuth client id."""

    id = UUID(primary_key=True, default=None)
    name = Varchar(length=100)
    secret_hash = Bytea(null=True, default=None)
    push_enabled = Boolean(default=False)
    open_enrolment = Boolean(default=True)
    webhook_url = Text(null=True, default=None)
    webhook_secret_sealed = Bytea(null=True, default=None)
    webhook_secret_previous_sealed = Bytea(null=True, default=None)
    webhook_secret_rotated_at = Timestamptz(null=True, default=None)
    last_receipt = BigInt(default=0)
    daily_quota = Integer(default=10_000)
    vapid_public_key = Text(null=True, default=None)
    vapid_private_key_sealed = Bytea(null=True, default=None)
    notification_email = Text(null=True, default=None)
    email_policy = SmallInt(default=0)
    delivery_mode = SmallInt(null=True, default=None)
    created_at = Timestamptz(default=None)
    secret_rotated_at = Timestamptz(null=True, default=None)
    disabled_at = Timestamptz(null=True, default=None)


class AppCredential(Table, tablename="app_credential"):
    """An app's own credential for a push service, sealed; `id` is `app|address kind`, `facts` hold no secret."""

    id = Varchar(length=50, primary_key=True, default="")
    app = UUID(default=None)
    address_kind = SmallInt(default=0)
    version = UUID(default=None)
    credential_sealed = Bytea(default=b"")
    facts = Text(default="")
    changed_at = Timestamptz(default=None)


class User(Table, tablename="account"):
    """A person with an account. `username_key` is the casefolded username; `external_subject` is `issuer|sub`."""

    id = UUID(primary_key=True, default=None)
    username = Varchar(length=150)
    username_key = Varchar(length=300, unique=True)
    password_hash = Text(null=True, default=None)
    role = SmallInt(default=0)
    email = Text(null=True, default=None)
    email_verified_at = Timestamptz(null=True, default=None)
    external_subject = Text(null=True, default=None, unique=True)
    last_sequence = BigInt(default=0)
    oldest_sequence = BigInt(default=1)
    created_at = Timestamptz(default=None)
    tokens_valid_from = Timestamptz(null=True, default=None)
    disabled_at = Timestamptz(null=True, default=None)


class Enrolment(Table, tablename="enrolment"):
    """A user's membership in an app; `id` is `user|app`, which makes it unique on both databases."""

    id = Varchar(length=80, primary_key=True, default="")
    user = UUID(default=None, index=True)
    app = UUID(default=None, index=True)
    created_at = Timestamptz(default=None)


class WebSession(Table, tablename="web_session"):
    """A browser's signed-in session; `id` is the keyed hash of the cookie's value, in hex."""

    id = Varchar(length=64, primary_key=True, default="")
    user = UUID(default=None, index=True)
    created_at = Timestamptz(default=None)
    last_seen_at = Timestamptz(default=None)
    expires_at = Timestamptz(default=None, index=True)
    user_agent = Varchar(length=200, default="")


class RefreshToken(Table, tablename="refresh_token"):
    """One refresh token of a rotating family; `id` is its keyed hash, in hex. `used_at` tells a reuse."""

    id = Varchar(length=64, primary_key=True, default="")
    family = UUID(default=None, index=True)
    user = UUID(default=None, index=True)
    app = UUID(null=True, default=None)
    created_at = Timestamptz(default=None)
    expires_at = Timestamptz(default=None, index=True)
    used_at = Timestamptz(null=True, default=None)
    revoked_at = Timestamptz(null=True, default=None)


class SigningKeyRow(Table, tablename="signing_key"):
    """A key that signs access tokens; the newest signs, older ones verify until `retire_at`."""

    id = Varchar(length=64, primary_key=True, default="")
    private_key_sealed = Bytea(default=b"")
    created_at = Timestamptz(default=None)
    retire_at = Timestamptz(null=True, default=None)


class Device(Table, tablename="device"):
    """One installation that can be reached. `address_fingerprint` is unique: one token belongs to one user."""

    id = UUID(primary_key=True, default=None)
    user = UUID(default=None, index=True)
    app = UUID(null=True, default=None, index=True)
    platform = SmallInt(default=0)
    address_kind = SmallInt(default=0)
    address_sealed = Bytea(default=b"")
    address_fingerprint = Bytea(default=b"", unique=True)
    label = Varchar(length=100, default="")
    locale = Varchar(length=20, default="")
    created_at = Timestamptz(default=None)
    registered_at = Timestamptz(null=True, default=None)
    last_seen_at = Timestamptz(default=None)
    last_delivered_at = Timestamptz(null=True, default=None)
    retired_at = Timestamptz(null=True, default=None)
    retired_reason = Text(null=True, default=None)


class Registration(Table, tablename="registration"):
    """One registration call of a user, kept for an hour: the rate limit of ten survives a restart."""

    id = UUID(primary_key=True, default=None)
    user = UUID(default=None, index=True)
    registered_at = Timestamptz(default=None, index=True)


class Notification(Table, tablename="notification"):
    """What was asked. `sequence` numbers a user's notifications from their release; a scheduled one has none yet."""

    id = UUID(primary_key=True, default=None)
    app = UUID(default=None)
    user = UUID(default=None)
    title = Text(default="")
    body = Text(default="")
    data = Text(default="{}")
    type = Varchar(length=64, default="notification")
    priority = SmallInt(default=1)
    ttl_s = Integer(default=86_400)
    collapse_key = Varchar(length=64, null=True, default=None)
    state = SmallInt(default=1)
    sequence = BigInt(null=True, default=None)
    accepted_at = Timestamptz(default=None)
    send_at = Timestamptz(null=True, default=None)
    released_at = Timestamptz(null=True, default=None)
    expires_at = Timestamptz(default=None)
    withdrawn_at = Timestamptz(null=True, default=None)
    read_at = Timestamptz(null=True, default=None)
    email = Boolean(null=True, default=None)


class Delivery(Table, tablename="delivery"):
    """One notification to one device or mailbox. `due_at` is when the engine must next look at it.

    Mailed deliveries of one `digest` go out together. `if_unconfirmed`: only where no device has it.
    """

    id = UUID(primary_key=True, default=None)
    notification = UUID(default=None, index=True)
    device = UUID(null=True, default=None)
    user = UUID(default=None)
    state = SmallInt(default=0)
    channel = SmallInt(null=True, default=None)
    attempts = Integer(default=0)
    due_at = Timestamptz(null=True, default=None)
    lease_until = Timestamptz(null=True, default=None)
    expires_at = Timestamptz(default=None)
    provider_id = Text(null=True, default=None)
    settled_at = Timestamptz(null=True, default=None)
    mailbox = UUID(null=True, default=None)
    digest = UUID(null=True, default=None)
    if_unconfirmed = Boolean(default=False)


class Mailbox(Table, tablename="mailbox"):
    """An e-mail address that is written to. `digest` is what is being gathered for it, `gathered` how many that are."""

    id = UUID(primary_key=True, default=None)
    address = Text(unique=True, default="")
    digest = UUID(null=True, default=None)
    gathered = Integer(default=0)
    created_at = Timestamptz(default=None)


class Mail(Table, tablename="mail"):
    """A mail that was begun lately: one delivery or one digest, by whose id it is known. They count towards a storm."""

    id = UUID(primary_key=True, default=None)
    mailbox = UUID(default=None)
    begun_at = Timestamptz(default=None)


class MailboxMute(Table, tablename="mailbox_mute"):
    """Whoever reads a mailbox wants no e-mail of an app; `id` is `mailbox|app`."""

    id = Varchar(length=80, primary_key=True, default="")
    muted_at = Timestamptz(default=None)


class Attempt(Table, tablename="attempt"):
    """One try of one delivery over one channel; `code` and `reason` hold no payload and no secret."""

    id = UUID(primary_key=True, default=None)
    delivery = UUID(default=None, index=True)
    number = Integer(default=1)
    channel = SmallInt(default=0)
    started_at = Timestamptz(default=None)
    latency_ms = Integer(null=True, default=None)
    outcome = SmallInt(default=0)
    code = Varchar(length=100, default="")
    reason = Text(default="")


class Receipt(Table, tablename="receipt"):
    """What an app's webhook is told of a delivery, once for each status; dead letters stay and can be sent again."""

    id = UUID(primary_key=True, default=None)
    app = UUID(default=None)
    delivery = UUID(default=None)
    notification = UUID(default=None)
    user = UUID(default=None)
    device = UUID(null=True, default=None)
    number = BigInt(default=0)
    status = SmallInt(default=0)
    error = Text(null=True, default=None)
    state = SmallInt(default=0)
    tries = Integer(default=0)
    next_try_at = Timestamptz(null=True, default=None)
    lease_until = Timestamptz(null=True, default=None)
    tell_until = Timestamptz(default=None)
    created_at = Timestamptz(default=None)
    settled_at = Timestamptz(null=True, default=None)
    answer = Text(null=True, default=None)


class Idempotency(Table, tablename="idempotency"):
    """The reply to a send with an Idempotency-Key; `id` is `app|sha256(key)`."""

    id = Varchar(length=110, primary_key=True, default="")
    body_fingerprint = Bytea(default=b"")
    status = SmallInt(default=202)
    reply = Text(default="")
    expires_at = Timestamptz(default=None, index=True)


class QuotaDay(Table, tablename="quota_day"):
    """How much of its daily quota an app has used; `id` is `app|day`."""

    id = Varchar(length=60, primary_key=True, default="")
    app = UUID(default=None, index=True)
    day = Date(default=None)
    used = Integer(default=0)


class Claim(Table, tablename="claim"):
    """The one-time claim code of a new appliance: only its keyed hash, burned when used."""

    id = Varchar(length=64, primary_key=True, default="")
    created_at = Timestamptz(default=None)
    expires_at = Timestamptz(default=None)
    used_at = Timestamptz(null=True, default=None)


class Audit(Table, tablename="audit"):
    """Who changed what, when, from where."""

    id = UUID(primary_key=True, default=None)
    at = Timestamptz(default=None, index=True)
    actor = Varchar(length=80, default="")
    action = Varchar(length=80, default="")
    target = Text(default="")
    address = Varchar(length=64, default="")


TABLES: list[type[Table]] = [
    App,
    AppCredential,
    User,
    Enrolment,
    WebSession,
    RefreshToken,
    SigningKeyRow,
    Device,
    Registration,
    Notification,
    Delivery,
    Mailbox,
    Mail,
    MailboxMute,
    Attempt,
    Receipt,
    Idempotency,
    QuotaDay,
    Claim,
    Audit,
]
