"""Who is asking: a user or an app, as a verified credential names it."""

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from uuid import UUID

SCOPE_PUSH_SEND = "push:send"


class Role(IntEnum):
    """What a user may do. Stored as the number."""

    MEMBER = 0
    ADMIN = 1


class PrincipalKind(IntEnum):
    """Whether a credential speaks for a person or for a backend."""

    USER = 0
    APP = 1


@dataclass(frozen=True, slots=True)
class Principal:
    """The verified bearer of a credential.

    `expires_at` is the instant from which the credential no longer counts; `token_id` names the credential itself
    (JWT `jti`, session or ticket id), so that it can be revoked alone.
    """

    kind: PrincipalKind
    user_id: UUID | None
    app_id: UUID | None
    role: Role | None
    scopes: frozenset[str]
    expires_at: datetime
    token_id: str

    @property
    def is_admin(self) -> bool:
        return self.kind is PrincipalKind.USER and self.role is Role.ADMIN

    @property
    def may_send(self) -> bool:
        return self.kind is PrincipalKind.APP and SCOPE_PUSH_SEND in self.scopes
