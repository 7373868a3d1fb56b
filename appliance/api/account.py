"""What users see of themselves: their devices, and their inbox."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
from litestar import Request, Router, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from appliance.api.operations import Access, Operation, Success, described
from appliance.api.paging import limit_parameter, read_limit, read_number, sequence_parameter
from appliance.api.push.access import user_of
from appliance.api.push.devices import Devices, unregister_own
from appliance.api.replies import empty_reply, json_reply
from appliance.storage.devices import list_user_devices
from appliance.storage.inbox import InboxEntry, InboxPage, load_after, load_newest, mark_read_job

PAGE: Final = 50
MAX_PAGE: Final = 200
_TAG: Final = "Account"


class OwnDevice(msgspec.Struct, frozen=True):
    """One of the user's devices; `connected` tells whether it is on the live hub of this node now."""

    device_id: UUID
    platform: Literal["android", "ios", "web", "hub"]
    label: str
    last_seen_at: datetime
    connected: bool


class OwnApp(msgspec.Struct, frozen=True):
    """The user's devices in one app; `app_id` is null for devices that serve all of the user's apps."""

    app_id: UUID | None
    name: str
    devices: list[OwnDevice]


class OwnDevices(msgspec.Struct, frozen=True):
    """All of the user's devices, grouped by app."""

    apps: list[OwnApp]


class InboxNotification(msgspec.Struct, frozen=True):
    """A notification as its user reads it; `sequence` numbers the user's notifications in the order of release."""

    id: UUID
    app_id: UUID
    app_name: str
    type: str
    title: str
    body: str
    data: Mapping[str, object]
    priority: Literal["low", "normal", "high"]
    sequence: int
    sent_at: datetime
    expires_at: datetime
    read_at: datetime | None


class Inbox(msgspec.Struct, frozen=True):
    """A page of the inbox; `complete` is false when something after the given cursor can no longer be read."""

    notifications: list[InboxNotification]
    cursor: int
    complete: bool


def account_router(devices: Devices) -> Router:
    """Give the routes of /account that are about devices and the inbox."""
    handlers = [_devices_handler(devices), _revoke_handler(devices), _inbox_handler(devices), _read_handler(devices)]
    return Router(path="/", route_handlers=handlers)


def _devices_handler(devices: Devices) -> HTTPRouteHandler:
    operation = Operation(
        tag=_TAG,
        summary="List your devices",
        access=(Access.USER,),
        success={200: Success("Your devices, grouped by app.", OwnDevices)},
    )

    @get("/account/devices", opt=described(operation))
    async def account_devices(request: Request[Any, Any, Any]) -> ASGIApp:
        """List the devices on which the calling user gets notifications."""
        groups = await list_user_devices(devices.database, user_of(request))
        apps = [
            OwnApp(
                group.app_id,
                group.name,
                [
                    OwnDevice(
                        row.id,
                        row.platform.name.lower(),  # type: ignore[arg-type]
                        row.label,
                        row.last_seen_at,
                        devices.live.is_connected(row.id),
                    )
                    for row in group.devices
                ],
            )
            for group in groups
        ]
        return json_reply(OwnDevices(apps))

    return account_devices


def _revoke_handler(devices: Devices) -> HTTPRouteHandler:
    operation = Operation(
        tag=_TAG,
        summary="Revoke one of your devices",
        access=(Access.USER,),
        success={204: Success("It gets nothing any more, until it is registered again.")},
        problems=(507,),
    )

    @delete("/account/devices/{device_id:uuid}", status_code=200, opt=described(operation))
    async def account_device_revoke(request: Request[Any, Any, Any], device_id: UUID) -> ASGIApp:
        """Revoke a device of the calling user; its live connection ends."""
        await unregister_own(devices, user_of(request), device_id)
        return empty_reply()

    return account_device_revoke


def _inbox_handler(devices: Devices) -> HTTPRouteHandler:
    operation = Operation(
        tag=_TAG,
        summary="Read your inbox",
        access=(Access.USER,),
        parameters=(
            limit_parameter(default=PAGE, most=MAX_PAGE),
            sequence_parameter("cursor", "Give what came after this sequence number, oldest first."),
            sequence_parameter("before", "Give what is older than this sequence number, newest first."),
        ),
        success={200: Success("A page of the inbox.", Inbox)},
    )

    @get("/account/notifications", opt=described(operation))
    async def account_notifications(request: Request[Any, Any, Any]) -> ASGIApp:
        """Read the inbox: the newest first; with `cursor` what came after it, oldest first."""
        user_id = user_of(request)
        limit = read_limit(request, default=PAGE, most=MAX_PAGE)
        cursor, before = read_number(request, "cursor"), read_number(request, "before")
        if cursor is not None:
            page = await load_after(devices.database, user_id, cursor=cursor, limit=limit)
        else:
            page = await load_newest(devices.database, user_id, before=before, limit=limit)
        return json_reply(_inbox(page))

    return account_notifications


def _read_handler(devices: Devices) -> HTTPRouteHandler:
    operation = Operation(
        tag=_TAG,
        summary="Mark a notification as read",
        access=(Access.USER,),
        success={204: Success("It is marked; the first time counts.")},
        problems=(507,),
    )

    @post("/account/notifications/{notification_id:uuid}/read", status_code=200, opt=described(operation))
    async def account_notification_read(request: Request[Any, Any, Any], notification_id: UUID) -> ASGIApp:
        """Mark a notification in the calling user's inbox as read."""
        await devices.database.write(mark_read_job(user_of(request), notification_id, devices.clock.now()))
        return empty_reply()

    return account_notification_read


def _inbox(page: InboxPage) -> Inbox:
    return Inbox([_notification(entry) for entry in page.entries], page.cursor, page.is_complete)


def _notification(entry: InboxEntry) -> InboxNotification:
    return InboxNotification(
        id=entry.id,
        app_id=entry.app_id,
        app_name=entry.app_name,
        type=entry.type,
        title=entry.title,
        body=entry.body,
        data=entry.data,
        priority=entry.priority.name.lower(),  # type: ignore[arg-type]
        sequence=entry.sequence,
        sent_at=entry.sent_at,
        expires_at=entry.expires_at,
        read_at=entry.read_at,
    )
