"""An app's push configuration, for admins: GET and PATCH /push/config/{app_id}."""

import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
from litestar import Request, get, patch
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from appliance.api.authentication import address_of
from appliance.api.identity.changes import user_target
from appliance.api.json_body import JsonBody
from appliance.api.operations import Access, Operation, Success, described
from appliance.api.push.access import admin_of
from appliance.api.push.schemas import EmailPolicyName, PushConfigChange, PushConfigView, whole
from appliance.api.replies import json_reply
from appliance.delivery.app_keys import make_app_keys, open_webhook_secret
from appliance.domain.clock import Clock
from appliance.domain.errors import InvalidField
from appliance.domain.mailbox import EmailPolicy, check_email
from appliance.domain.principal import Principal
from appliance.domain.quota import MAX_DAILY_QUOTA
from appliance.security.sealing import Sealer
from appliance.storage.app_config import ConfigChange, PushConfig, change_push_config_job, load_push_config
from appliance.storage.database import Database

MAX_URL_CHARS: Final = 2048
_POLICIES: Final[dict[EmailPolicyName, EmailPolicy]] = {
    "always": EmailPolicy.ALWAYS,
    "if_unconfirmed": EmailPolicy.IF_UNCONFIRMED,
    "never": EmailPolicy.NEVER,
}
_POLICY_NAMES: Final[dict[EmailPolicy, EmailPolicyName]] = {policy: name for name, policy in _POLICIES.items()}
_LIMIT_BYTES: Final = 64 * 1024
_PRINTABLE: Final = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class Configuring:
    """What the calls need."""

    database: Database
    sealer: Sealer
    clock: Clock


def config_handlers(configuring: Configuring) -> list[HTTPRouteHandler]:
    """Give the handlers of GET and PATCH /push/config/{app_id}."""
    return [_get_handler(configuring), _patch_handler(configuring)]


def _get_handler(configuring: Configuring) -> HTTPRouteHandler:
    operation = Operation(
        tag="Push",
        summary="Read an app's push configuration",
        access=(Access.ADMIN,),
        success={200: Success("The configuration and today's use.", PushConfigView)},
    )

    @get("/push/config/{app_id:uuid}", opt=described(operation))
    async def push_config(request: Request[Any, Any, Any], app_id: UUID) -> ASGIApp:
        """Read whether push is on, where receipts and e-mail go, the quota and how much of it is used today."""
        admin_of(request)
        config = await load_push_config(configuring.database, app_id, configuring.clock.now())
        return json_reply(_view(configuring, config))

    return push_config


def _patch_handler(configuring: Configuring) -> HTTPRouteHandler:
    read = JsonBody(PushConfigChange, limit_bytes=_LIMIT_BYTES, unknown_status=400).read
    operation = Operation(
        tag="Push",
        summary="Change an app's push configuration",
        access=(Access.ADMIN,),
        body=PushConfigChange,
        success={200: Success("The whole configuration after the change.", PushConfigView)},
        problems=(507,),
    )

    @patch("/push/config/{app_id:uuid}", opt=described(operation))
    async def push_config_change(request: Request[Any, Any, Any], app_id: UUID) -> ASGIApp:
        """Change what is named. Enabling push for the first time makes the webhook secret and the VAPID key pair."""
        admin = admin_of(request)
        change = await read(request)
        _check(change)
        config = await _change(configuring, request, admin, app_id, change)
        return json_reply(_view(configuring, config))

    return push_config_change


async def _change(
    configuring: Configuring,
    request: Request[Any, Any, Any],
    admin: Principal,
    app_id: UUID,
    change: PushConfigChange,
) -> PushConfig:
    now = configuring.clock.now()
    known = await load_push_config(configuring.database, app_id, now)
    needs_keys = change.enabled is True and (known.webhook_secret_sealed is None or known.vapid_public_key is None)
    named = {
        "push_enabled": change.enabled,
        "webhook_url": change.webhook_url,
        "daily_quota": change.daily_quota if change.daily_quota is msgspec.UNSET else int(change.daily_quota),
        "open_enrolment": change.open_enrolment,
        "notification_email": _email_of(change),
        "email_policy": msgspec.UNSET if change.email_policy is msgspec.UNSET else _POLICIES[change.email_policy],
    }
    values = [(column, value) for column, value in named.items() if value is not msgspec.UNSET]
    return await configuring.database.write(
        change_push_config_job(
            app_id,
            ConfigChange(values, make_app_keys(configuring.sealer) if needs_keys else None),
            actor=user_target(admin.user_id) if admin.user_id is not None else "",
            address=address_of(request),
            now=now,
        )
    )


def _check(change: PushConfigChange) -> None:
    if isinstance(change.webhook_url, str):
        _check_webhook_url(change.webhook_url)
    quota = change.daily_quota
    if quota is not msgspec.UNSET and not 0 <= whole(quota, field="daily_quota") <= MAX_DAILY_QUOTA:
        raise InvalidField("daily_quota", f"Give daily_quota from 0 (nothing may be sent) to {MAX_DAILY_QUOTA}.")


def _email_of(change: PushConfigChange) -> str | msgspec.UnsetType | None:
    email = change.notification_email
    return check_email(email, field="notification_email") if isinstance(email, str) else email


def _check_webhook_url(text: str) -> None:
    """Check the form only: whether the address may be reached is decided at each connection, not here."""
    try:
        url = urlsplit(text)
        is_good = (
            len(text) <= MAX_URL_CHARS
            and _PRINTABLE.fullmatch(text) is not None
            and url.scheme in ("http", "https")
            and bool(url.hostname)
            and "@" not in url.netloc
            and not url.fragment
            and "#" not in text
            and url.port != 0
        )
    except ValueError:
        is_good = False
    if not is_good:
        raise InvalidField(
            "webhook_url",
            f"Give webhook_url as an http or https address without user name and fragment, at most {MAX_URL_CHARS} "
            "characters, or null for none.",
        )


def _view(configuring: Configuring, config: PushConfig) -> PushConfigView:
    sealed = config.webhook_secret_sealed
    return PushConfigView(
        enabled=config.is_enabled,
        webhook_url=config.webhook_url,
        webhook_secret=None if sealed is None else open_webhook_secret(configuring.sealer, sealed).reveal(),
        daily_quota=config.daily_quota,
        device_count=config.device_count,
        notifications_today=config.notifications_today,
        vapid_public_key=config.vapid_public_key,
        open_enrolment=config.is_enrolment_open,
        notification_email=config.notification_email,
        email_policy=_POLICY_NAMES[config.email_policy],
    )
