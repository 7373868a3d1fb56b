"""Every error as a problem (RFC 9457): one mapping from refusals to status, headers and body.

`type` is a reference to a page of this server that says what the problem means (`GET /problems/{code}`); `code` is the
same name for programs; `detail` says the next step; `field` and `errors` name what to change. An unknown fault is
logged under an `error_id`, and the body tells that id only.
"""

import inspect
import logging
import uuid
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap

from appliance.domain.errors import (
    CarillonError,
    InvalidTargets,
    PayloadTooLarge,
    QuotaExceeded,
    TooMany,
    Unauthorized,
    Unavailable,
)

logger = logging.getLogger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
PAGES: Final = "/problems/"
MAX_LISTED: Final = 100
"""Most entries of `errors`; the rest is counted in `detail` already."""


class FieldError(msgspec.Struct, frozen=True):
    """One thing to change: where it is, and the fix."""

    field: str
    detail: str


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """What went wrong and the next step."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    field: str | None = None
    errors: tuple[FieldError, ...] = ()
    retry_after_s: int | None = None
    limit_bytes: int | None = None
    actual_bytes: int | None = None
    error_id: str | None = None


class MalformedBody(CarillonError):
    """The body cannot be read as JSON at all."""

    code = "malformed_body"
    title = "The body is not readable"
    status = 400


class UnknownField(CarillonError):
    """The body has a field that this call does not know; nothing was changed."""

    code = "unknown_field"
    title = "Unknown field"
    status = 400

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field


class BodyTooLarge(CarillonError):
    """The body is larger than this call takes."""

    code = "body_too_large"
    title = "The body is too large"
    status = 413

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"Send at most {limit_bytes} bytes in one call; split a batch into several.")
        self.limit_bytes = limit_bytes


class BodyTooSlow(CarillonError):
    """The body did not arrive in time; the connection is closed."""

    code = "request_timeout"
    title = "The request took too long"
    status = 408

    def __init__(self, deadline_s: float) -> None:
        super().__init__(f"Send the whole body within {deadline_s:g} seconds; split a batch into several.")


class UnsupportedMediaType(CarillonError):
    """The body is not declared as what this call takes."""

    code = "unsupported_media_type"
    title = "Unsupported media type"
    status = 415

    def __init__(self, wanted: str = "application/json") -> None:
        super().__init__(f"Send the body as {wanted} and say so: Content-Type: {wanted}.")


# What the framework itself refuses, by status: code, title, next step.
_HTTP_PROBLEMS: Final = {
    400: ("malformed_request", "The request is not readable", "Check the request's path, query and headers."),
    401: ("unauthorized", "Sign in first", "Send a valid access token: Authorization: Bearer …"),
    403: ("forbidden", "Not allowed", "Use a credential that allows this."),
    404: ("not_found", "Not found", "Check the path; GET /schema lists every operation."),
    405: ("method_not_allowed", "Method not allowed", "Use one of the methods in the Allow header."),
    406: ("not_acceptable", "Not acceptable", "Accept application/json."),
    408: (BodyTooSlow.code, BodyTooSlow.title, "Send it again."),
    413: (BodyTooLarge.code, BodyTooLarge.title, "Send less in one call."),
    415: (UnsupportedMediaType.code, UnsupportedMediaType.title, "Send the body as application/json."),
    422: ("invalid", "The request is not valid", "Check the request against GET /schema."),
    429: ("too_many_requests", "Too many requests", "Wait and send it again."),
    500: ("internal_error", "Something is wrong on our side", "Nothing is known to be kept. Try again later."),
    503: ("unavailable", "Try again shortly", "Send it again in a moment."),
}


def problem_of(error: CarillonError) -> Problem:
    """Give a refusal as its problem."""
    return Problem(
        type=PAGES + error.code,
        title=error.title,
        status=_status_of(error),
        detail=error.detail,
        code=error.code,
        field=getattr(error, "field", None) or None,
        errors=_errors_of(error),
        retry_after_s=_retry_after_of(error),
        limit_bytes=getattr(error, "limit_bytes", None),
        actual_bytes=error.actual_bytes if isinstance(error, PayloadTooLarge) else None,
    )


def problem_headers(error: CarillonError) -> dict[str, str]:
    """Give the headers that go with a refusal: Retry-After, WWW-Authenticate, the quota's standing."""
    headers = {"cache-control": "no-store"}
    retry_after_s = _retry_after_of(error)
    if retry_after_s is not None:
        headers["retry-after"] = str(retry_after_s)
    if isinstance(error, Unauthorized):
        # RFC 6750 section 3: no error attribute when the request carried no credential at all.
        refused = ', error="invalid_token"' if error.code == "invalid_token" else ""
        headers["www-authenticate"] = f'Bearer realm="carillon"{refused}'
    if isinstance(error, BodyTooSlow):
        # The rest of the body may still come; it must not be taken for the next request.
        headers["connection"] = "close"
    if isinstance(error, QuotaExceeded):
        headers["x-quota-limit"] = str(error.limit)
        headers["x-quota-remaining"] = str(max(0, error.limit - error.used))
        headers["x-quota-reset"] = str(int(error.reset_at.timestamp()))
    return headers


def problem_reply(problem: Problem, headers: dict[str, str]) -> Response[bytes]:
    """Give a problem as Litestar's reply."""
    return Response(msgspec.json.encode(problem), status_code=problem.status, media_type=MEDIA_TYPE, headers=headers)


def answer_refusal(_: Request[Any, Any, Any], error: CarillonError) -> Response[bytes]:
    """Answer a refusal of ours."""
    return problem_reply(problem_of(error), problem_headers(error))


def answer_http_exception(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Answer what the framework refused: unknown path, wrong method, unreadable parameter."""
    if error.status_code >= 500:
        return answer_fault(request, error)
    code, title, detail = _HTTP_PROBLEMS.get(error.status_code, _HTTP_PROBLEMS[400])
    errors = _parameter_errors(error.extra) if error.status_code in (400, 422) else ()
    problem = Problem(
        type=PAGES + code,
        title=title,
        status=error.status_code,
        detail=errors[0].detail if errors else detail,
        code=code,
        field=errors[0].field if errors else None,
        errors=errors,
    )
    headers = {"cache-control": "no-store"}
    for name, value in (error.headers or {}).items():
        headers[name.lower()] = value
    if "allow" in headers:
        headers["allow"] = ", ".join(sorted(set(headers["allow"].split(", "))))
    return problem_reply(problem, headers)


def answer_unreadable(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer a body that could not be decoded, wherever that came up."""
    refusal = MalformedBody("Send valid JSON in UTF-8, without deep nesting.")
    return problem_reply(problem_of(refusal), problem_headers(refusal))


def answer_fault(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer a bug: 500 with an id under which the log has the whole story."""
    error_id = uuid.uuid4().hex
    path = request.scope.get("path_template") or request.scope["path"]
    logger.error(
        "request_failed",
        extra={"error_id": error_id, "method": request.scope["method"], "path": path, "fault": type(error).__name__},
        exc_info=error,
    )
    code, title, detail = _HTTP_PROBLEMS[500]
    problem = Problem(
        type=PAGES + code,
        title=title,
        status=500,
        detail=f"{detail} The server's log has the details under {error_id}.",
        code=code,
        error_id=error_id,
    )
    return problem_reply(problem, {"cache-control": "no-store"})


def exception_handlers() -> ExceptionHandlersMap:
    """Give the application's one map from exceptions to answers."""
    return {
        CarillonError: answer_refusal,
        HTTPException: answer_http_exception,
        msgspec.DecodeError: answer_unreadable,
        RecursionError: answer_unreadable,
        Exception: answer_fault,
    }


def known_problems() -> dict[str, tuple[int, str, str]]:
    """Give status, title and meaning of every code that a reply can carry."""
    known = {code: (status, title, detail) for status, (code, title, detail) in _HTTP_PROBLEMS.items()}
    waiting: list[type[CarillonError]] = [CarillonError]
    while waiting:
        kind = waiting.pop()
        waiting.extend(kind.__subclasses__())
        if kind is not CarillonError and "code" in vars(kind):
            known[kind.code] = (kind.status, kind.title, inspect.getdoc(kind) or kind.title)
    return known


def _status_of(error: CarillonError) -> int:
    return error.refused_status if isinstance(error, InvalidTargets) else error.status


def _retry_after_of(error: CarillonError) -> int | None:
    return error.retry_after_s if isinstance(error, TooMany | Unavailable) else None


def _errors_of(error: CarillonError) -> tuple[FieldError, ...]:
    if isinstance(error, InvalidTargets):
        return tuple(FieldError(f"{error.field or ''}[{index}]", error.advice) for index in error.indexes[:MAX_LISTED])
    field = getattr(error, "field", None)
    return (FieldError(field, error.detail),) if field else ()


def _parameter_errors(extra: object) -> tuple[FieldError, ...]:
    """Read the framework's list of parameters that it could not take; it names no value."""
    if not isinstance(extra, Sequence):
        return ()
    return tuple(
        FieldError(str(entry["key"]), f"Correct {entry['key']}: {entry.get('message', 'it is not valid')}.")
        for entry in extra[:MAX_LISTED]
        if isinstance(entry, dict) and "key" in entry
    )
