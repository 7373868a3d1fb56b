"""Every refusal that a caller can meet, as one closed tree.

CarillonError
├── Unauthorized          who are you?                                   401
├── Forbidden             you may not                                    403
│   ├── PushDisabled      push is off for this app
│   └── NotEnrolled       the user is not enrolled in the calling app
├── NotFound              no such thing, or not yours                    404
├── Conflict              it is being done, or it is already otherwise   409
├── Invalid               the request cannot mean anything               422
│   ├── InvalidField      names one field and its fix
│   ├── PayloadTooLarge   names the field and the bytes
│   ├── InvalidTargets    a bulk or batch call with offending indexes
│   └── IdempotencyMismatch  the key was used with another body
├── TooMany               come back later                                429
│   └── QuotaExceeded     the app's daily quota is used up
└── Unavailable           nothing was kept, try again                    503
    └── OutOfSpace        the disk is full                               507

`api.problems` maps the tree to RFC 9457 once; nothing else knows status codes by heart.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar


class CarillonError(Exception):
    """A refusal with a stable `code`, a `title` for people and a `detail` that says the next step."""

    code: ClassVar[str] = "error"
    title: ClassVar[str] = "The request was refused"
    status: ClassVar[int] = 500

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Unauthorized(CarillonError):
    """No credential, or one that does not count."""

    code = "unauthorized"
    title = "Sign in first"
    status = 401


class Forbidden(CarillonError):
    """The credential is good but does not allow this."""

    code = "forbidden"
    title = "Not allowed"
    status = 403


class PushDisabled(Forbidden):
    """Push is switched off for the app."""

    code = "push_disabled"
    title = "Push is off for this app"

    def __init__(self) -> None:
        super().__init__('Ask an admin to enable push: PATCH /push/config/{app_id} with {"enabled": true}.')


class NotEnrolled(Forbidden):
    """The target user does not exist or is not enrolled in the calling app."""

    code = "not_enrolled"
    title = "The user is not enrolled in this app"

    def __init__(self, field: str = "user_id") -> None:
        super().__init__(
            "No active user with this id is enrolled in this app: check the id, enrol the user (carillon user enrol), "
            "or let them register a device with the app."
        )
        self.field = field


class NotFound(CarillonError):
    """No such thing, or it belongs to somebody else; the two are not told apart."""

    code = "not_found"
    title = "Not found"
    status = 404


class Conflict(CarillonError):
    """The thing is in a state that does not allow the change."""

    code = "conflict"
    title = "Conflict"
    status = 409


class Invalid(CarillonError):
    """The request is well-formed but cannot be accepted as it is."""

    code = "invalid"
    title = "The request is not valid"
    status = 422


class InvalidField(Invalid):
    """One field breaks a rule; `field` is its path, `detail` the fix."""

    code = "invalid_field"

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field


class PayloadTooLarge(InvalidField):
    """A field is larger than what the layers can carry."""

    code = "payload_too_large"

    def __init__(self, field: str, *, limit_bytes: int, actual_bytes: int) -> None:
        super().__init__(field, f"Shorten {field} to {limit_bytes} bytes; it has {actual_bytes}.")
        self.limit_bytes = limit_bytes
        self.actual_bytes = actual_bytes


class InvalidTargets(Invalid):
    """A bulk or batch call names targets that cannot be sent to; nothing was sent. `advice` is for each of them."""

    code = "invalid_targets"
    title = "Some targets cannot be sent to; nothing was sent"

    def __init__(
        self,
        detail: str,
        *,
        indexes: Sequence[int],
        status: int = 422,
        field: str | None = None,
        advice: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.advice = advice or detail
        self.indexes = tuple(indexes)
        self.refused_status = status
        self.field = field


def not_enrolled(indexes: Sequence[int], *, count: int, field: str) -> NotEnrolled | InvalidTargets:
    """Give the refusal of a send in which users are named who are not enrolled.

    `indexes` tells which of the `count` targets in the request's `field`; a single send names its user in `user_id`.
    """
    if field == "user_id":
        return NotEnrolled()
    return InvalidTargets(
        f"{len(indexes)} of {count} entries of {field} name a user who is not enrolled in this app.",
        indexes=indexes,
        status=NotEnrolled.status,
        field=field,
        advice=NotEnrolled().detail,
    )


class IdempotencyMismatch(Invalid):
    """The Idempotency-Key was used before with another body."""

    code = "idempotency_mismatch"
    title = "This Idempotency-Key was used with another body"

    def __init__(self) -> None:
        super().__init__("Use a new Idempotency-Key for a new request; repeat the same body to get the first reply.")


class TooMany(CarillonError):
    """A rate limit was met; `retry_after_s` tells when to come back."""

    code = "too_many_requests"
    title = "Too many requests"
    status = 429

    def __init__(self, detail: str, *, retry_after_s: int) -> None:
        super().__init__(detail)
        self.retry_after_s = max(1, retry_after_s)


class QuotaExceeded(TooMany):
    """The app's daily quota does not hold this send; `reset_at` is the next midnight UTC."""

    code = "quota_exceeded"
    title = "The daily quota is used up"

    def __init__(self, *, limit: int, used: int, asked: int, reset_at: datetime, retry_after_s: int) -> None:
        super().__init__(
            f"{used} of {limit} notifications are used today and {asked} more do not fit. "
            f"The counter resets at {reset_at:%Y-%m-%dT%H:%M:%SZ}; an admin can raise daily_quota.",
            retry_after_s=retry_after_s,
        )
        self.limit = limit
        self.used = used
        self.asked = asked
        self.reset_at = reset_at


class Unavailable(CarillonError):
    """The server could not keep the request; nothing was accepted and repeating is safe."""

    code = "unavailable"
    title = "Try again shortly"
    status = 503

    def __init__(self, detail: str, *, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_s = max(1, retry_after_s)


class OutOfSpace(Unavailable):
    """The disk is full; nothing was accepted."""

    code = "out_of_space"
    title = "The server's disk is full"
    status = 507

    def __init__(self) -> None:
        super().__init__(
            "Nothing was accepted. Free some space on the data disk; no restart is needed.", retry_after_s=30
        )
