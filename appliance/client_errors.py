"""What can go wrong for a caller of Carillon's API, as one closed tree.

ClientError
├── Unreachable          no usable answer before the deadline; the same call may be repeated
├── UnexpectedReply      something answered, but not Carillon as this client knows it
└── Refused              Carillon answered with a problem; `status`, `code`, `detail` say which
    ├── NotSignedIn      401, or the credentials were refused
    ├── NotAllowed       403
    ├── NotFound         404
    ├── Conflict         409
    ├── InvalidRequest   400, 413, 415, 422; `field` names the culprit
    ├── TooMany          429; `retry_after_s` tells when to come back
    │   └── QuotaExceeded   the app's daily quota does not hold this send
    └── ServerTrouble    5xx; nothing was accepted
        └── OutOfSpace      507, the server's disk is full
"""

from collections.abc import Mapping
from typing import Final

import msgspec


class ClientError(Exception):
    """Anything that this client raises about a call."""


class Unreachable(ClientError):
    """No usable answer came before the deadline; the text says what was tried last."""


class UnexpectedReply(ClientError):
    """The answer is none of Carillon's: a proxy's page, a redirect, a shape this client does not know."""


class Refused(ClientError):
    """The server's own refusal, in the terms of RFC 9457 (or RFC 6749 when a token was asked for)."""

    def __init__(
        self,
        *,
        status: int,
        code: str,
        title: str,
        detail: str,
        field: str | None = None,
        retry_after_s: float | None = None,
        problem: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(f"{title}: {detail}" if detail and detail != title else title)
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
        self.field = field
        self.retry_after_s = retry_after_s
        self.problem: Mapping[str, object] = problem or {}


class NotSignedIn(Refused):
    """The credentials do not count."""


class NotAllowed(Refused):
    """The credentials are good but do not allow this."""


class NotFound(Refused):
    """No such thing, or it belongs to somebody else."""


class Conflict(Refused):
    """The thing is in a state that does not allow this now."""


class InvalidRequest(Refused):
    """The request breaks a rule; `detail` says the fix."""


class TooMany(Refused):
    """A rate limit was met."""


class QuotaExceeded(TooMany):
    """The app's daily quota does not hold this send."""


class ServerTrouble(Refused):
    """The server could not do it; nothing was accepted."""


class OutOfSpace(ServerTrouble):
    """The server's disk is full; nothing was accepted."""


_BY_CODE: Final[Mapping[str, type[Refused]]] = {
    "quota_exceeded": QuotaExceeded,
    "out_of_space": OutOfSpace,
    "invalid_client": NotSignedIn,
    "invalid_grant": NotSignedIn,
}
_BY_STATUS: Final[Mapping[int, type[Refused]]] = {
    400: InvalidRequest,
    401: NotSignedIn,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    413: InvalidRequest,
    415: InvalidRequest,
    422: InvalidRequest,
    429: TooMany,
    507: OutOfSpace,
}


def refusal_of(status: int, content: bytes, retry_after_s: float | None) -> ClientError:
    """Give the error that an answer outside 2xx means; never fails, whatever the content is."""
    if status < 400:
        return UnexpectedReply(f"The server answered {status}: is the address the server's own, without a path?")
    problem = _read_object(content)
    code = _text(problem, "code") or _text(problem, "error") or f"http_{status}"
    title = _text(problem, "title") or f"The server answered {status}"
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status) or (ServerTrouble if status >= 500 else Refused)
    return kind(
        status=status,
        code=code,
        title=title,
        detail=_text(problem, "detail") or _text(problem, "error_description") or "",
        field=_text(problem, "field") or None,
        retry_after_s=retry_after_s,
        problem=problem,
    )


def _read_object(content: bytes) -> Mapping[str, object]:
    try:
        return msgspec.json.decode(content, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def _text(problem: Mapping[str, object], name: str) -> str:
    value = problem.get(name)
    return value if isinstance(value, str) else ""
