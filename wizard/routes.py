"""The way in to a new appliance: the setup page and the call that takes the claim code."""

from typing import Annotated, Any, Final

import msgspec
from litestar import HttpMethod, Request, Router, post, route

from appliance.api.authentication import address_of
from appliance.api.identity.service import Identity
from appliance.api.json_body import JsonBody
from appliance.api.operations import Operation, Success, described
from appliance.api.pages import Pages
from appliance.api.replies import Reply
from appliance.api.sign_in import SignedIn, refuse_other_sites, signed_in_reply
from appliance.domain.secret import Secret
from appliance.security.passwords import MAX_PASSWORD_CHARS, MIN_PASSWORD_CHARS
from wizard.claim import SETUP_PATH, AlreadySetUp, ClaimDesk

MAX_BODY_BYTES: Final = 16_384


class ClaimForm(msgspec.Struct, forbid_unknown_fields=True):
    """The claim code and the first admin's name and password."""

    code: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    username: Annotated[str, msgspec.Meta(min_length=1, max_length=150)]
    password: Annotated[str, msgspec.Meta(min_length=MIN_PASSWORD_CHARS, max_length=MAX_PASSWORD_CHARS)]


_CLAIM: Final = Operation(
    tag="Setup",
    summary="Claim a new appliance",
    success={
        201: Success(
            "You are the admin, and signed in.", SignedIn, {"Set-Cookie": "The session, for the browser only."}
        )
    },
    body=ClaimForm,
    problems=(403, 404, 409, 429),
)


def wizard_router(identity: Identity, pages: Pages) -> Router:
    """Give the routes of the set-up; they answer 404 once the appliance has an admin."""
    desk = ClaimDesk(identity)
    form = JsonBody(ClaimForm, limit_bytes=MAX_BODY_BYTES)

    @route(SETUP_PATH, http_method=[HttpMethod.GET, HttpMethod.HEAD])
    async def show_setup(request: Request[Any, Any, Any]) -> Reply:
        """Shows the setup page, or that there is nothing to set up any more."""
        if await identity.is_set_up():
            return pages.reply(request, "already-set-up.html", status=404)
        return pages.reply(request, "setup.html")

    @post("/wizard/api/claim", opt=described(_CLAIM))
    async def claim_appliance(request: Request[Any, Any, Any]) -> Reply:
        """Takes the one-time code of the setup link, makes the first admin and signs in. 404 once there is an admin.
        After ten wrong codes in a minute an address is answered 429; the right code is always taken.
        """
        if await identity.is_set_up():
            raise AlreadySetUp
        refuse_other_sites(identity, request)
        given = await form.read(request)
        opened = await desk.redeem(
            Secret(given.code.strip()),
            given.username,
            Secret(given.password),
            address=address_of(request),
            user_agent=request.headers.get("user-agent", ""),
        )
        return signed_in_reply(identity, request, opened)

    return Router("/", route_handlers=[show_setup, claim_appliance])
