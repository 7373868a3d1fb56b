"""The names under which changes of identity stand in the audit log."""

from enum import StrEnum
from typing import Final
from uuid import UUID


class Change(StrEnum):
    """What happened. The values are stored; never rename one."""

    USER_CREATED = "user_created"
    USER_SIGNED_IN = "user_signed_in"
    USER_DISABLED = "user_disabled"
    USER_PASSWORD_SET = "user_password_set"  # noqa: S105 - names a change, is no password
    USER_ENROLLED = "user_enrolled"
    APP_CREATED = "app_created"
    APP_SECRET_ROTATED = "app_secret_rotated"  # noqa: S105
    APP_DISABLED = "app_disabled"
    SESSION_ENDED = "session_ended"
    REFRESH_FAMILY_REVOKED = "refresh_family_revoked"
    REFRESH_TOKEN_REUSED = "refresh_token_reused"  # noqa: S105
    ACCESS_TOKEN_REVOKED = "access_token_revoked"  # noqa: S105
    SIGNING_KEY_ROTATED = "signing_key_rotated"
    CLAIM_CODE_MADE = "claim_code_made"
    APPLIANCE_CLAIMED = "appliance_claimed"


ACTOR_CLI: Final = "cli"
ACTOR_SETUP: Final = "setup"
ACTOR_SYSTEM: Final = "system"
ACTOR_EXTERNAL: Final = "external issuer"

REVOKES: Final = (
    Change.USER_DISABLED,
    Change.USER_PASSWORD_SET,
    Change.APP_SECRET_ROTATED,
    Change.APP_DISABLED,
    Change.SESSION_ENDED,
    Change.REFRESH_FAMILY_REVOKED,
    Change.REFRESH_TOKEN_REUSED,
    Change.ACCESS_TOKEN_REVOKED,
)
"""The changes after which something that was issued no longer counts."""

FOLLOWED: Final = (*REVOKES, Change.SIGNING_KEY_ROTATED)
"""The changes that a running server must follow when another process makes them."""


def user_target(user_id: UUID) -> str:
    """Name a user in the audit log; also names one as the actor."""
    return f"user:{user_id}"


def app_target(app_id: UUID) -> str:
    """Name an app in the audit log; also names one as the actor."""
    return f"app:{app_id}"


def token_target(token_id: str) -> str:
    """Name a token, a session or a family of refresh tokens, by the id that its access tokens carry."""
    return f"token:{token_id}"
