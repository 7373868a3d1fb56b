"""Test push over HTTP: for admins any device or channel, for users their own devices."""

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from litestar import Request, Router, post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp
from msgspec import UNSET, Meta, UnsetType

from appliance.api.authentication import address_of
from appliance.api.identity.changes import user_target
from appliance.api.json_body import JsonBody
from appliance.api.operations import Access, Operation, Success, described
from appliance.api.push.access import admin_of, user_of
from appliance.api.replies import json_reply
from appliance.channels.contract import ChannelName
from appliance.delivery.test_push import PushReport, PushTester, Step
from appliance.domain.clock import Clock
from appliance.domain.errors import InvalidField, TooMany
from appliance.domain.principal import Principal
from appliance.security.throttle import RateLimiter, Retry
from appliance.storage import audit
from appliance.storage.database import Database
from appliance.storage.writer import Transaction

OWN_TESTS: Final = 5
OWN_TESTS_WINDOW_S: Final = 3600.0
PUSH_TESTED: Final = "push_tested"
_LIMIT_BYTES: Final = 4 * 1024

TestedChannel = Literal["fcm", "apns", "web_push", "relay", "email"]
TestedLayer = Literal["device", "hub", "fcm", "apns", "web_push", "relay", "email"]
FindingName = Literal["confirmed", "accepted", "works", "unknown", "skipped", "failed"]


@dataclass(frozen=True, slots=True)
class TestPushParts:
    """What the routes are made of."""

    tester: PushTester
    database: Database
    clock: Clock


class TestPush(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to test: one device, or one channel."""

    device_id: Annotated[UUID | UnsetType, Meta(description="Sends a test to this device.")] = UNSET
    channel: Annotated[
        TestedChannel | UnsetType, Meta(description="Asks this channel whether it works; nothing is sent to anybody.")
    ] = UNSET


class TestPushStep(msgspec.Struct, frozen=True):
    """One layer: what it came to, why, and what to do next where something is to be done."""

    layer: TestedLayer
    finding: FindingName
    detail: str
    next_step: str | None
    code: Annotated[str | None, Meta(description="The provider's own code.")]
    took_ms: int | None


class TestPushReport(msgspec.Struct, frozen=True):
    """What a test found. `notification_id` is null where nothing was sent."""

    works: Annotated[bool, Meta(description="The device confirmed the test, or its provider took it.")]
    summary: str
    notification_id: UUID | None
    steps: list[TestPushStep]


def test_push_router(parts: TestPushParts) -> Router:
    """Give the routes of both faces."""
    return Router(path="/", route_handlers=[_console_handler(parts), _account_handler(parts)])


def _console_handler(parts: TestPushParts) -> HTTPRouteHandler:
    read = JsonBody(TestPush, limit_bytes=_LIMIT_BYTES).read
    operation = Operation(
        tag="Console",
        summary="Test a device or a channel",
        access=(Access.ADMIN,),
        body=TestPush,
        success={200: Success("What was found, layer by layer.", TestPushReport)},
        problems=(404, 429, 507),
        refinements={"TestPush": {"oneOf": [{"required": ["device_id"]}, {"required": ["channel"]}]}},
    )

    @post("/console/api/test-push", status_code=200, opt=described(operation))
    async def console_test_push(request: Request[Any, Any, Any]) -> ASGIApp:
        """Send a test to a device, or ask a channel; within 20 seconds, whatever the providers do.

        A test is in no inbox, costs no quota, has no receipt and retires no device.
        """
        admin = admin_of(request)
        body = await read(request)
        if body.device_id is not UNSET and body.channel is UNSET:
            await _record(parts, request, admin, f"device:{body.device_id}")
            return _reply(await parts.tester.test_device(body.device_id))
        if body.channel is not UNSET and body.device_id is UNSET:
            await _record(parts, request, admin, f"channel:{body.channel}")
            return _reply(await parts.tester.test_channel(ChannelName[body.channel.upper()]))
        raise InvalidField("device_id", "Give either device_id or channel.")

    return console_test_push


def _account_handler(parts: TestPushParts) -> HTTPRouteHandler:
    limiter = RateLimiter(OWN_TESTS, OWN_TESTS_WINDOW_S)
    operation = Operation(
        tag="Account",
        summary="Test one of your devices",
        access=(Access.USER,),
        success={200: Success("What was found, layer by layer.", TestPushReport)},
        problems=(404, 429),
    )

    @post("/account/devices/{device_id:uuid}/test", status_code=200, opt=described(operation))
    async def account_device_test(request: Request[Any, Any, Any], device_id: UUID) -> ASGIApp:
        """Send a test to a device of the calling user; at most 5 in an hour."""
        user_id = user_of(request)
        permission = limiter.take(str(user_id), parts.clock.monotonic())
        if isinstance(permission, Retry):
            raise TooMany(
                f"You have tested {OWN_TESTS} times within the hour. Try again later.", retry_after_s=permission.after_s
            )
        return _reply(await parts.tester.test_device(device_id, owner_id=user_id))

    return account_device_test


async def _record(parts: TestPushParts, request: Request[Any, Any, Any], admin: Principal, target: str) -> None:
    def job(transaction: Transaction) -> None:
        audit.record(
            transaction,
            at=parts.clock.now(),
            actor="" if admin.user_id is None else user_target(admin.user_id),
            action=PUSH_TESTED,
            target=target,
            address=address_of(request),
        )

    await parts.database.write(job)


def _reply(report: PushReport) -> ASGIApp:
    steps = [_step(step) for step in report.steps]
    return json_reply(TestPushReport(report.works, report.summary, report.notification_id, steps))


def _step(step: Step) -> TestPushStep:
    return TestPushStep(
        layer=step.layer,  # type: ignore[arg-type]
        finding=step.finding.value,
        detail=step.detail,
        next_step=step.next_step,
        code=step.code,
        took_ms=step.took_ms,
    )
