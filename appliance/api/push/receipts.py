"""An app's receipts: what its webhook was told, what could not be told, and sending that again."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal, Protocol
from uuid import UUID

import msgspec
from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from appliance.api.authentication import address_of, principal_of
from appliance.api.identity.changes import user_target
from appliance.api.json_body import JsonBody
from appliance.api.operations import Access, Operation, Parameter, Success, described
from appliance.api.paging import limit_parameter, read_choice, read_limit, read_number, sequence_parameter
from appliance.api.push.access import admin_of
from appliance.api.replies import json_reply
from appliance.delivery.app_keys import make_sealed_webhook_secret, open_webhook_secret
from appliance.domain.clock import Clock
from appliance.domain.errors import Forbidden, NotFound
from appliance.domain.principal import Principal
from appliance.domain.receipt import SECRETS_OVERLAP, ReceiptState
from appliance.security.sealing import Sealer
from appliance.storage.app_config import rotate_webhook_secret_job
from appliance.storage.apps import load_app
from appliance.storage.database import Database
from appliance.storage.receipts import ReceiptRow, list_receipts, replay_receipts_job

PAGE: Final = 100
MAX_PAGE: Final = 500
MAX_NAMED: Final = 500
REPLAY_PAGE: Final = 500
_LIMIT_BYTES: Final = 64 * 1024
_STATES: Final = {
    "pending": ReceiptState.PENDING,
    "sending": ReceiptState.CLAIMED,
    "told": ReceiptState.DONE,
    "dead": ReceiptState.DEAD,
}
_STATE_NAMES: Final = {state: name for name, state in _STATES.items()}


class ReceiptView(msgspec.Struct, frozen=True):
    """One receipt. `number` counts an app's receipts; `answer` is what the last try came to, in plain words."""

    receipt_id: UUID
    number: int
    notification_id: UUID
    user_id: UUID
    device_id: UUID | None
    status: Literal["delivered", "failed", "invalid_token"]
    error: str | None
    state: Literal["pending", "sending", "told", "dead"]
    tries: int
    next_try_at: datetime | None
    created_at: datetime
    answer: str | None


class ReceiptPage(msgspec.Struct, frozen=True):
    """Receipts, the newest first; `next_cursor` is null on the last page."""

    receipts: list[ReceiptView]
    next_cursor: int | None


class ReplayReceipts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which dead letters to send again; without `receipt_ids` all of the app's."""

    receipt_ids: Annotated[list[UUID], msgspec.Meta(max_length=MAX_NAMED)] | None = None


class Replayed(msgspec.Struct, frozen=True):
    """How many dead letters are on their way again."""

    replayed: int


class RotatedSecret(msgspec.Struct, frozen=True):
    """The new webhook secret; the previous one signs beside it until then."""

    webhook_secret: str
    previous_valid_until: datetime


class Sender(Protocol):
    """What is told when there is something to send at once."""

    def wake(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Receipts:
    """What the calls need."""

    database: Database
    sealer: Sealer
    clock: Clock
    sender: Sender


def receipt_handlers(receipts: Receipts) -> list[HTTPRouteHandler]:
    """Give the handlers of the routes below /push/receipts, and of the rotation of an app's webhook secret."""
    return [_list_handler(receipts), _replay_handler(receipts), _rotate_handler(receipts)]


def _list_handler(receipts: Receipts) -> HTTPRouteHandler:
    operation = Operation(
        tag="Push",
        summary="List an app's receipts",
        access=(Access.ADMIN, Access.APP),
        parameters=(
            Parameter("state", {"type": "string", "enum": list(_STATES)}, "Only receipts in this state."),
            limit_parameter(default=PAGE, most=MAX_PAGE),
            sequence_parameter("cursor", "The `next_cursor` of the page before."),
        ),
        success={200: Success("A page of receipts.", ReceiptPage)},
    )

    @get("/push/receipts/{app_id:uuid}", opt=described(operation))
    async def push_receipts(request: Request[Any, Any, Any], app_id: UUID) -> ASGIApp:
        """List what the app's webhook was told, or is to be told; `dead` are those that it never took."""
        await _check_may_see(receipts, principal_of(request), app_id)
        limit = read_limit(request, default=PAGE, most=MAX_PAGE)
        state = read_choice(request, "state", _STATES)
        after = read_number(request, "cursor")
        rows = await list_receipts(receipts.database, app_id, state=state, after=after, limit=limit + 1)
        page = [_view(row) for row in rows[:limit]]
        return json_reply(ReceiptPage(page, page[-1].number if len(rows) > limit else None))

    return push_receipts


def _replay_handler(receipts: Receipts) -> HTTPRouteHandler:
    read = JsonBody(ReplayReceipts, limit_bytes=_LIMIT_BYTES).read
    operation = Operation(
        tag="Push",
        summary="Send dead receipts again",
        access=(Access.ADMIN, Access.APP),
        body=ReplayReceipts,
        success={200: Success("They are on their way again, for two more days.", Replayed)},
        problems=(507,),
    )

    @post("/push/receipts/{app_id:uuid}/replay", status_code=200, opt=described(operation))
    async def push_receipts_replay(request: Request[Any, Any, Any], app_id: UUID) -> ASGIApp:
        """Send receipts again that the webhook did not take within two days; their bodies and ids stay the same."""
        await _check_may_see(receipts, principal_of(request), app_id)
        named = await read(request)
        job = replay_receipts_job(app_id, named.receipt_ids, receipts.clock.now(), REPLAY_PAGE)
        # In pages: others' writes go in between.
        replayed = page = await receipts.database.write(job)
        while page == REPLAY_PAGE:
            page = await receipts.database.write(job)
            replayed += page
        receipts.sender.wake()
        return json_reply(Replayed(replayed))

    return push_receipts_replay


def _rotate_handler(receipts: Receipts) -> HTTPRouteHandler:
    operation = Operation(
        tag="Push",
        summary="Rotate an app's webhook secret",
        access=(Access.ADMIN,),
        success={200: Success("The new secret, and until when the previous one signs, too.", RotatedSecret)},
        problems=(409, 507),
    )

    @post("/push/config/{app_id:uuid}/webhook-secret", status_code=200, opt=described(operation))
    async def push_config_webhook_secret(request: Request[Any, Any, Any], app_id: UUID) -> ASGIApp:
        """Make a new webhook secret. For a day receipts are signed with both, so that nothing is refused meanwhile."""
        admin = admin_of(request)
        now = receipts.clock.now()
        sealed = make_sealed_webhook_secret(receipts.sealer)
        await receipts.database.write(
            rotate_webhook_secret_job(app_id, sealed, actor=_actor(admin), address=address_of(request), now=now)
        )
        secret = open_webhook_secret(receipts.sealer, sealed)
        return json_reply(RotatedSecret(secret.reveal(), now + SECRETS_OVERLAP))

    return push_config_webhook_secret


def _actor(admin: Principal) -> str:
    return user_target(admin.user_id) if admin.user_id is not None else ""


async def _check_may_see(receipts: Receipts, principal: Principal, app_id: UUID) -> None:
    if not (principal.is_admin or (principal.may_send and principal.app_id == app_id)):
        raise Forbidden("Only an admin, or the app itself with scope push:send, may see its receipts.")
    if await load_app(receipts.database, app_id) is None:
        raise NotFound("There is no app with this id.")


def _view(row: ReceiptRow) -> ReceiptView:
    status: Any = row.status.name.lower()
    state: Any = _STATE_NAMES[row.state]
    return ReceiptView(
        receipt_id=row.id,
        number=row.number,
        notification_id=row.notification_id,
        user_id=row.user_id,
        device_id=row.device_id,
        status=status,
        error=row.error,
        state=state,
        tries=row.tries,
        next_try_at=row.next_try_at,
        created_at=row.created_at,
        answer=row.answer,
    )
