"""Sending: one, the same to many, many different. Accepted whole and kept before the reply, or refused whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

import msgspec
from litestar import Request, post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from appliance.api.json_body import JsonBody
from appliance.api.operations import Access, Operation, Parameter, Success, described
from appliance.api.push.access import sending_app_of
from appliance.api.push.instants import parse_instant
from appliance.api.push.schemas import Send, SendBatch, SendBulk, Sent, SentMany, whole
from appliance.api.replies import Headers, Reply, json_reply
from appliance.delivery.accept import Acceptor, SendReply, SendRequest, check_no_duplicates
from appliance.domain.errors import InvalidField, InvalidTargets, not_enrolled
from appliance.domain.notification import Content, Priority, check_content
from appliance.domain.quota import QuotaStanding
from appliance.storage.database import Database
from appliance.storage.enrolments import load_enrolled

SINGLE_LIMIT_BYTES: Final = 128 * 1024
"""Room for the largest content with every character escaped."""
USER_ID_BYTES: Final = 64
BATCH_ENTRY_BYTES: Final = 32 * 1024
BATCH_LIMIT_BYTES: Final = 16 * 1024 * 1024
MAX_KEY_CHARS: Final = 255

_PRIORITIES: Final = {"low": Priority.LOW, "normal": Priority.NORMAL, "high": Priority.HIGH, None: Priority.NORMAL}
_QUOTA_HEADERS: Final = {
    "X-Quota-Limit": "The app's daily quota.",
    "X-Quota-Remaining": "What is left of it today (UTC).",
    "X-Quota-Reset": "When it starts anew, in Unix seconds: the next midnight UTC.",
}
_KEY_PARAMETER: Final = Parameter(
    "Idempotency-Key",
    {"type": "string", "pattern": f"^[!-~]{{1,{MAX_KEY_CHARS}}}$"},
    "Any text of your own for this one call: repeating the call with it is answered like the first and sends nothing. "
    "Kept for 24 hours.",
    where="header",
)
_encode_canonically: Final = msgspec.json.Encoder(order="deterministic").encode


@dataclass(frozen=True, slots=True)
class Sending:
    """What the three calls need."""

    acceptor: Acceptor
    database: Database
    max_batch: int


def send_handlers(sending: Sending) -> list[HTTPRouteHandler]:
    """Give the handlers of POST /push/send, /push/send/bulk and /push/send/batch."""
    return [_send_handler(sending), _bulk_handler(sending), _batch_handler(sending)]


def _send_handler(sending: Sending) -> HTTPRouteHandler:
    read = JsonBody(Send, limit_bytes=SINGLE_LIMIT_BYTES).read
    operation = _operation(
        "Send a notification to a user",
        Send,
        Success(
            "It is committed to disk and will be delivered or explained.",
            Sent,
            {"Location": "The notification's timeline.", **_QUOTA_HEADERS},
            links={
                "push_notification": {"notification_id": "$response.body#/notification_id"},
                "push_notification_withdraw": {"notification_id": "$response.body#/notification_id"},
            },
        ),
    )

    @post("/push/send", status_code=202, opt=described(operation))
    async def push_send(request: Request[Any, Any, Any]) -> ASGIApp:
        """Send to one user who is enrolled in the calling app. The reply does not wait for the delivery."""
        app_id = sending_app_of(request)
        body = await read(request)
        send_at = None if body.send_at is None else parse_instant(body.send_at, field="send_at")
        target = SendRequest(body.user_id, _content_of(body), send_at, _email_of(body))
        reply = await _accept(sending, request, app_id, (target,), body, field="user_id")
        notification_id = str(reply.notification_ids[0])
        location = (b"location", f"/push/notifications/{notification_id}".encode())
        return Reply(
            202,
            f'{{"notification_id":"{notification_id}"}}'.encode(),
            headers=(location, *_quota_headers(reply.quota)),
        )

    return push_send


def _bulk_handler(sending: Sending) -> HTTPRouteHandler:
    limit = min(BATCH_LIMIT_BYTES, SINGLE_LIMIT_BYTES + sending.max_batch * USER_ID_BYTES)
    read = JsonBody(SendBulk, limit_bytes=limit).read
    operation = _operation(
        "Send the same notification to many users",
        SendBulk,
        Success("All are committed to disk; the ids are in the order of the users.", SentMany, _QUOTA_HEADERS),
        most=("SendBulk", "user_ids", sending.max_batch),
    )

    @post("/push/send/bulk", status_code=202, opt=described(operation))
    async def push_send_bulk(request: Request[Any, Any, Any]) -> ASGIApp:
        """Send to many users in one transaction: if one of them cannot be sent to, nothing is sent."""
        app_id = sending_app_of(request)
        body = await read(request)
        _check_count(body.user_ids, sending.max_batch, field="user_ids")
        _check_no_duplicates(body.user_ids)
        send_at = None if body.send_at is None else parse_instant(body.send_at, field="send_at")
        content = _content_of(body)
        targets = [SendRequest(user_id, content, send_at, _email_of(body)) for user_id in body.user_ids]
        reply = await _accept(sending, request, app_id, targets, body, field="user_ids")
        return _many(reply)

    return push_send_bulk


def _batch_handler(sending: Sending) -> HTTPRouteHandler:
    limit = min(BATCH_LIMIT_BYTES, SINGLE_LIMIT_BYTES + sending.max_batch * BATCH_ENTRY_BYTES)
    read = JsonBody(SendBatch, limit_bytes=limit).read
    operation = _operation(
        "Send different notifications in one call",
        SendBatch,
        Success("All are committed to disk; the ids are in the order of the batch.", SentMany, _QUOTA_HEADERS),
        most=("SendBatch", "notifications", sending.max_batch),
    )

    @post("/push/send/batch", status_code=202, opt=described(operation))
    async def push_send_batch(request: Request[Any, Any, Any]) -> ASGIApp:
        """Send many notifications in one transaction: if one of them cannot be sent, nothing is sent."""
        app_id = sending_app_of(request)
        body = await read(request)
        _check_count(body.notifications, sending.max_batch, field="notifications")
        targets = [_target_of(entry, f"notifications[{index}].") for index, entry in enumerate(body.notifications)]
        reply = await _accept(sending, request, app_id, targets, body, field="notifications")
        return _many(reply)

    return push_send_batch


def _operation(summary: str, body: type, success: Success, most: tuple[str, str, int] | None = None) -> Operation:
    return Operation(
        tag="Push",
        summary=summary,
        access=(Access.APP,),
        body=body,
        parameters=(_KEY_PARAMETER,),
        success={202: success},
        problems=(429, 507),
        refinements={} if most is None else {most[0]: {"properties": {most[1]: {"maxItems": most[2]}}}},
    )


async def _accept(
    sending: Sending,
    request: Request[Any, Any, Any],
    app_id: UUID,
    targets: Sequence[SendRequest],
    body: Send | SendBulk | SendBatch,
    *,
    field: str,
) -> SendReply:
    key = _idempotency_key_of(request)
    fingerprint = None if key is None else _fingerprint(request.scope["path"], body)
    try:
        return await sending.acceptor.accept(app_id, targets, field=field, idempotency_key=key, fingerprint=fingerprint)
    except InvalidTargets as refusal:
        refusal.field = field
        raise
    except InvalidField:
        await _check_enrolled(sending, app_id, targets, field)
        raise


async def _check_enrolled(sending: Sending, app_id: UUID, targets: Sequence[SendRequest], field: str) -> None:
    """Say first that a user may not be sent to, before anything about the time of sending."""
    enrolled = await load_enrolled(sending.database, app_id, {target.user_id for target in targets})
    strangers = [index for index, target in enumerate(targets) if target.user_id not in enrolled]
    if strangers:
        raise not_enrolled(strangers, count=len(targets), field=field)


def _target_of(entry: Send, path: str) -> SendRequest:
    send_at = None if entry.send_at is None else parse_instant(entry.send_at, field=f"{path}send_at")
    return SendRequest(entry.user_id, _content_of(entry, path), send_at, _email_of(entry))


def _content_of(body: Send | SendBulk, path: str = "") -> Content:
    if body.collapse_key is not None:
        _check_collapse_key(body.collapse_key, field=f"{path}collapse_key")
    return check_content(
        title=body.title,
        body=body.body,
        data=body.data,
        type=body.type,
        priority=_PRIORITIES[body.priority],
        ttl_s=None if body.ttl is None else whole(body.ttl, field=f"{path}ttl"),
        collapse_key=body.collapse_key,
        path=path,
    )


def _email_of(body: Send | SendBulk) -> bool | None:
    return None if body.email is msgspec.UNSET else body.email


def _check_collapse_key(key: str, *, field: str) -> None:
    if not (key.isascii() and key.isprintable()):
        raise InvalidField(field, f"Give {field} in printable ASCII: providers carry it in a header.")


def _check_no_duplicates(user_ids: Sequence[UUID]) -> None:
    try:
        check_no_duplicates(user_ids, "user_ids")
    except InvalidTargets as refusal:
        refusal.field = "user_ids"
        raise


def _check_count(entries: Sequence[object], most: int, *, field: str) -> None:
    if not entries:
        raise InvalidField(field, f"Give {field} at least 1 entry.")
    if len(entries) > most:
        raise InvalidField(field, f"Give {field} at most {most} entries; it has {len(entries)}. Split the call.")


def _idempotency_key_of(request: Request[Any, Any, Any]) -> str | None:
    for name, value in request.scope["headers"]:
        if name == b"idempotency-key":
            # Visible ASCII only: what a proxy might fold or recode could come back as another key.
            if not 1 <= len(value) <= MAX_KEY_CHARS or not all(0x21 <= byte <= 0x7E for byte in value):
                raise InvalidField(
                    "Idempotency-Key", f"Give Idempotency-Key 1 to {MAX_KEY_CHARS} visible ASCII characters."
                )
            return value.decode("ascii")
    return None


def _fingerprint(path: str, body: Send | SendBulk | SendBatch) -> bytes:
    """Tell bodies apart by what they mean: white space and the order of fields do not count."""
    return sha256(path.encode() + b"\0" + _encode_canonically(body)).digest()


def _many(reply: SendReply) -> Reply:
    return json_reply(SentMany(list(reply.notification_ids)), status=202, headers=_quota_headers(reply.quota))


def _quota_headers(quota: QuotaStanding) -> Headers:
    return (
        (b"x-quota-limit", b"%d" % quota.limit),
        (b"x-quota-remaining", b"%d" % quota.remaining),
        (b"x-quota-reset", b"%d" % int(quota.reset_at.timestamp())),
    )
