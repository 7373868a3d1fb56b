"""What became of a notification, and taking it back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from litestar import Request, delete, get
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from appliance.api.authentication import principal_of
from appliance.api.operations import Access, Operation, Success, described
from appliance.api.push.access import sending_app_of
from appliance.api.push.schemas import AttemptView, DeliveryView, TimelineView, Withdrawn
from appliance.api.replies import json_reply
from appliance.delivery.accept import Acceptor
from appliance.delivery.timeline import DeliveryStory, Timeline, load_timeline
from appliance.domain.errors import NotFound
from appliance.storage.database import Database


@dataclass(frozen=True, slots=True)
class Stories:
    """What the calls need. `is_offered` tells whether a device holds a notification unanswered at this moment."""

    database: Database
    acceptor: Acceptor
    is_offered: Callable[[UUID, UUID], bool] | None = None


def notification_handlers(stories: Stories) -> list[HTTPRouteHandler]:
    """Give the handlers of GET and DELETE /push/notifications/{notification_id}."""
    return [_timeline_handler(stories), _withdraw_handler(stories)]


def _timeline_handler(stories: Stories) -> HTTPRouteHandler:
    operation = Operation(
        tag="Push",
        summary="See what became of a notification",
        access=(Access.APP, Access.ADMIN),
        success={200: Success("Every delivery with its attempts, in plain words.", TimelineView)},
    )

    @get("/push/notifications/{notification_id:uuid}", opt=described(operation))
    async def push_notification(request: Request[Any, Any, Any], notification_id: UUID) -> ASGIApp:
        """Read a notification's timeline: an app those that it sent, an admin all."""
        app_id = None if principal_of(request).is_admin else sending_app_of(request)
        timeline = await load_timeline(
            stories.database, notification_id, app_id=app_id, user_id=None, is_offered=stories.is_offered
        )
        if timeline is None:
            raise NotFound("There is no notification with this id, or this app did not send it.")
        return json_reply(_view(timeline))

    return push_notification


def _withdraw_handler(stories: Stories) -> HTTPRouteHandler:
    operation = Operation(
        tag="Push",
        summary="Withdraw a notification",
        access=(Access.APP,),
        success={200: Success("What was stopped, and what it was too late for.", Withdrawn)},
        problems=(507,),
    )

    @delete("/push/notifications/{notification_id:uuid}", status_code=200, opt=described(operation))
    async def push_notification_withdraw(request: Request[Any, Any, Any], notification_id: UUID) -> ASGIApp:
        """Stop what has not been shown yet. Its timeline stays readable. Withdrawing again changes nothing."""
        withdrawal = await stories.acceptor.withdraw(sending_app_of(request), notification_id)
        return json_reply(Withdrawn(withdrawal.withdrawn, withdrawal.already_shown))

    return push_notification_withdraw


def _view(timeline: Timeline) -> TimelineView:
    notification = timeline.notification
    content = notification.content
    return TimelineView(
        notification_id=notification.id,
        app_id=notification.app_id,
        user_id=notification.user_id,
        title=content.title,
        type=content.type,
        priority=content.priority.name.lower(),  # type: ignore[arg-type]
        collapse_key=content.collapse_key,
        state=timeline.state,
        explanation=timeline.explanation,
        sequence=notification.sequence,
        accepted_at=notification.accepted_at,
        send_at=notification.send_at,
        released_at=notification.released_at,
        expires_at=notification.expires_at,
        withdrawn_at=notification.withdrawn_at,
        read_at=notification.read_at,
        deliveries=[_delivery(story) for story in timeline.deliveries],
    )


def _delivery(story: DeliveryStory) -> DeliveryView:
    return DeliveryView(
        id=story.id,
        device_id=story.device_id,
        device_label=story.device_label,
        platform=story.platform,
        state=story.state,
        explanation=story.explanation,
        next_attempt_at=story.next_attempt_at,
        settled_at=story.settled_at,
        attempts=[
            AttemptView(
                number=attempt.number,
                layer=attempt.layer,
                channel=attempt.channel,
                started_at=attempt.started_at,
                latency_ms=attempt.latency_ms,
                outcome=attempt.outcome,
                code=attempt.code,
                reason=attempt.reason,
            )
            for attempt in story.attempts
        ],
    )
