"""Devices of an app: list, register, unregister."""

from dataclasses import dataclass
from typing import Any, Final, Protocol
from uuid import UUID

import msgspec
from litestar import Request, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from appliance.api.authentication import principal_of
from appliance.api.json_body import JsonBody
from appliance.api.operations import Access, Operation, Parameter, Success, described
from appliance.api.paging import limit_parameter, read_id, read_limit
from appliance.api.push.access import user_of
from appliance.api.push.schemas import LOCALE, DevicePage, DeviceRegistered, DeviceView, RegisterDevice
from appliance.api.replies import NO_STORE, empty_reply, json_reply
from appliance.delivery.addresses import seal_address
from appliance.domain.clock import Clock
from appliance.domain.device import MAX_LABEL_CHARS, Platform, parse_address
from appliance.domain.errors import Forbidden, InvalidField, NotFound
from appliance.domain.notification import is_storable_text
from appliance.domain.principal import Principal, PrincipalKind
from appliance.security.sealing import Sealer
from appliance.storage.apps import load_app
from appliance.storage.database import Database
from appliance.storage.devices import (
    Registered,
    Registration,
    list_app_devices,
    register_job,
    unregister_by_app_job,
    unregister_by_user_job,
)
from appliance.storage.writer import Job

PAGE: Final = 100
MAX_PAGE: Final = 500
_LIMIT_BYTES: Final = 64 * 1024
_UNREGISTER: Final = {"push_devices_unregister": {"id": "$response.body#/device_id"}}
_PLATFORMS: Final = {"web": Platform.WEB, "ios": Platform.IOS, "android": Platform.ANDROID}
_LOCALE_CHARS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
MAX_LOCALE_CHARS: Final = 20


class LiveDevices(Protocol):
    """The live connections: whether a device has one, and ending it when the device stops being somebody's."""

    def is_connected(self, device_id: UUID) -> bool: ...

    def close_device(self, device_id: UUID, reason: str) -> object: ...


@dataclass(frozen=True, slots=True)
class Devices:
    """What the calls need."""

    database: Database
    sealer: Sealer
    clock: Clock
    live: LiveDevices


def device_handlers(devices: Devices) -> list[HTTPRouteHandler]:
    """Give the handlers of the routes below /push/devices."""
    # An app's list and a device share their path, so the document must have one name for both ids.
    return [_list_handler(devices), _register_handler(devices), _unregister_handler(devices)]


def _list_handler(devices: Devices) -> HTTPRouteHandler:
    operation = Operation(
        tag="Push",
        summary="List an app's devices",
        access=(Access.ADMIN, Access.APP),
        parameters=(
            limit_parameter(default=PAGE, most=MAX_PAGE),
            Parameter("cursor", {"type": "string", "format": "uuid"}, "The `next_cursor` of the page before."),
        ),
        success={200: Success("A page of devices.", DevicePage)},
    )

    @get("/push/devices/{id:uuid}", opt=described(operation))
    async def push_devices(request: Request[Any, Any, Any], id: UUID) -> ASGIApp:
        """List the devices of the app with this id, for an admin or for the app itself."""
        await _check_may_list(devices, principal_of(request), id)
        limit = read_limit(request, default=PAGE, most=MAX_PAGE)
        rows, total = await list_app_devices(devices.database, id, after=read_id(request, "cursor"), limit=limit + 1)
        page = [
            DeviceView(
                row.id,
                row.user_id,
                row.platform.name.lower(),  # type: ignore[arg-type]
                row.last_seen_at,
                devices.live.is_connected(row.id),
            )
            for row in rows[:limit]
        ]
        return json_reply(DevicePage(page, total, page[-1].device_id if len(rows) > limit else None))

    return push_devices


def _register_handler(devices: Devices) -> HTTPRouteHandler:
    read = JsonBody(RegisterDevice, limit_bytes=_LIMIT_BYTES).read
    operation = Operation(
        tag="Push",
        summary="Register a device",
        access=(Access.USER,),
        body=RegisterDevice,
        success={
            201: Success("The device is new.", DeviceRegistered, links=_UNREGISTER),
            200: Success(
                "The token was known: the device keeps its id and is this user's now.",
                DeviceRegistered,
                links=_UNREGISTER,
            ),
        },
        problems=(404, 429, 507),
    )

    @post("/push/devices/register", status_code=201, opt=described(operation))
    async def push_devices_register(request: Request[Any, Any, Any]) -> ASGIApp:
        """Register a device of the calling user with an app. At most 10 registrations per user and hour."""
        user_id = user_of(request)
        registered = await _register(devices, user_id, await read(request))
        if registered.former_user_id is not None:
            devices.live.close_device(registered.device_id, "This device belongs to another user now.")
        status = 201 if registered.is_new else 200
        return json_reply(DeviceRegistered(registered.device_id), status=status, headers=(NO_STORE,))

    return push_devices_register


def _unregister_handler(devices: Devices) -> HTTPRouteHandler:
    operation = Operation(
        tag="Push",
        summary="Unregister a device",
        access=(Access.APP, Access.USER),
        success={204: Success("It gets nothing any more, until it is registered again.")},
        problems=(507,),
    )

    @delete("/push/devices/{id:uuid}", status_code=200, opt=described(operation))
    async def push_devices_unregister(request: Request[Any, Any, Any], id: UUID) -> ASGIApp:
        """Unregister the device with this id: its user their own, an app one that is registered with it."""
        await unregister(devices, principal_of(request), id)
        return empty_reply()

    return push_devices_unregister


async def unregister(devices: Devices, principal: Principal, device_id: UUID) -> None:
    """Retire a device of the caller, a user or an app, and end its live connection. Raises `NotFound`, `Forbidden`."""
    if principal.kind is PrincipalKind.USER and principal.user_id is not None:
        await unregister_own(devices, principal.user_id, device_id)
    elif principal.may_send and principal.app_id is not None:
        await _retire(devices, unregister_by_app_job(device_id, principal.app_id, devices.clock.now()), device_id)
    else:
        raise Forbidden("Use a user's token, or an app's token with scope push:send.")


async def unregister_own(devices: Devices, user_id: UUID, device_id: UUID) -> None:
    """Retire a device of this user and end its live connection. Raises `NotFound`."""
    await _retire(devices, unregister_by_user_job(device_id, user_id, devices.clock.now()), device_id)


async def _retire(devices: Devices, job: Job[None], device_id: UUID) -> None:
    await devices.database.write(job)
    devices.live.close_device(device_id, "This device was unregistered.")


async def _check_may_list(devices: Devices, principal: Principal, app_id: UUID) -> None:
    is_own_app = principal.may_send and principal.app_id == app_id
    if not (principal.is_admin or is_own_app):
        raise Forbidden("Only an admin, or the app itself with scope push:send, may list its devices.")
    if await load_app(devices.database, app_id) is None:
        raise NotFound("There is no app with this id.")


async def _register(devices: Devices, user_id: UUID, body: RegisterDevice) -> Registered:
    platform = _PLATFORMS[body.platform]
    address = parse_address(platform, _token_text(body.push_token))
    _check_label(body.label)
    _check_locale(body.locale)
    registration = Registration(
        user_id, body.app_id, platform, seal_address(devices.sealer, address), body.label, body.locale
    )
    return await devices.database.write(register_job(registration, devices.clock.now()))


def _token_text(push_token: str | dict[str, object]) -> str:
    return push_token if isinstance(push_token, str) else msgspec.json.encode(push_token).decode()


def _check_label(label: str | None) -> None:
    if label is not None and (len(label) > MAX_LABEL_CHARS or not is_storable_text(label)):
        raise InvalidField("label", f"Give label at most {MAX_LABEL_CHARS} characters of text without NUL.")


def _check_locale(locale: str | None) -> None:
    if locale is not None and not (1 <= len(locale) <= MAX_LOCALE_CHARS and _LOCALE_CHARS.issuperset(locale)):
        raise InvalidField("locale", f"Give locale as a language tag that matches {LOCALE}.")
