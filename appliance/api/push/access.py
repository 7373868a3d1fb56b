"""Who may call what in the push API."""

from typing import Any
from uuid import UUID

from litestar import Request

from appliance.api.authentication import principal_of
from appliance.domain.errors import Forbidden
from appliance.domain.principal import Principal, PrincipalKind


def sending_app_of(request: Request[Any, Any, Any]) -> UUID:
    """Give the calling app's id. Raises `Unauthorized`, or `Forbidden` for any other bearer."""
    principal = principal_of(request)
    if principal.app_id is None or not principal.may_send:
        raise Forbidden(
            "Use an app's token with scope push:send: POST /oauth/token with grant_type=client_credentials."
        )
    return principal.app_id


def user_of(request: Request[Any, Any, Any]) -> UUID:
    """Give the calling user's id. Raises `Unauthorized`, or `Forbidden` for an app."""
    principal = principal_of(request)
    if principal.kind is not PrincipalKind.USER or principal.user_id is None:
        raise Forbidden("Use a user's token: POST /oauth/token with grant_type=password.")
    return principal.user_id


def admin_of(request: Request[Any, Any, Any]) -> Principal:
    """Give the calling admin. Raises `Unauthorized`, or `Forbidden` for anybody else."""
    principal = principal_of(request)
    if not principal.is_admin:
        raise Forbidden("Only an admin may do this. Sign in as an admin.")
    return principal
