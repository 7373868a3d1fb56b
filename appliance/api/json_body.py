"""Reading a JSON body into a struct: one decode, and a refusal that names the field and the fix."""

import asyncio
import re
from typing import Any, Final, Generic, TypeVar

import msgspec
from litestar import Request
from litestar.types import Receive

from appliance.api.problems import BodyTooLarge, BodyTooSlow, MalformedBody, UnknownField, UnsupportedMediaType
from appliance.domain.errors import CarillonError, InvalidField

T = TypeVar("T")

BODY_DEADLINE_S: Final = 15.0
"""How long a body may take to arrive. Whoever sends slower, or nothing, must not hold a connection for ever."""

_PASSED_OVER_BYTES: Final = 1024 * 1024
_PASSED_OVER_S: Final = 2.0
_TROUBLE: Final = re.compile(r"(?P<text>.*?)(?: - at `\$\.?(?P<path>.*)`)?", re.DOTALL)
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_EXPECTED: Final = re.compile(r"Expected `([^`]*)`(?:, got `([^`]*)`)?( .*)?", re.DOTALL)
_WORDS: Final = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "object": "an object",
    "array": "a list",
    "null": "null",
    "uuid": "a UUID",
}


class JsonBody(Generic[T]):
    """Reads bodies of one kind, at most `limit_bytes` long.

    `unknown_status` is 422, or 400 where a call's contract says so for unknown fields.
    """

    def __init__(self, kind: type[T], *, limit_bytes: int, unknown_status: int = 422) -> None:
        self._decode = msgspec.json.Decoder(kind).decode
        self._limit_bytes = limit_bytes
        self._unknown_status = unknown_status

    async def read(self, request: Request[Any, Any, Any]) -> T:
        """Read and check the body. Raises `InvalidField`, and as `read_bytes` does, `UnsupportedMediaType`."""
        _check_media_type(request)
        body = await read_bytes(request, self._limit_bytes)
        try:
            return self._decode(body)
        except msgspec.ValidationError as error:
            raise self._refusal(str(error)) from None
        except RecursionError:
            raise MalformedBody("Send JSON that is nested less deeply.") from None
        except UnicodeDecodeError:
            raise MalformedBody("Send the JSON in UTF-8.") from None
        except msgspec.DecodeError as error:
            raise MalformedBody(_malformed_detail(body, str(error))) from None

    def _refusal(self, text: str) -> CarillonError:
        trouble = _TROUBLE.fullmatch(text)
        what, path = (trouble["text"], trouble["path"] or "") if trouble else (text, "")
        path = path.replace("[...]", "")
        if unknown := _UNKNOWN.fullmatch(what):
            field = _join(path, _shorten(unknown[1]))
            detail = f"Remove {field}: this call does not know it."
            return UnknownField(field, detail) if self._unknown_status == 400 else InvalidField(field, detail)
        if missing := _MISSING.fullmatch(what):
            field = _join(path, missing[1])
            return InvalidField(field, f"Give {field}.")
        field = path or "body"
        return InvalidField(field, _fix(field, what))


async def read_bytes(request: Request[Any, Any, Any], limit_bytes: int) -> bytes:
    """Read a body whole, or give up at the first byte over the limit, or when it does not arrive within 15 seconds.

    Raises `BodyTooLarge`, `BodyTooSlow`, `MalformedBody`.
    """
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            return await _read_whole(request.receive, limit_bytes)
    except TimeoutError:
        raise BodyTooSlow(BODY_DEADLINE_S) from None


async def _read_whole(receive: Receive, limit_bytes: int) -> bytes:
    message: Any = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        whole: bytes = message.get("body", b"")
        if len(whole) > limit_bytes:
            raise BodyTooLarge(limit_bytes)
        return whole
    parts: list[bytes] = []
    size = 0
    while message["type"] == "http.request":
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > limit_bytes:
            parts.clear()
            if message.get("more_body"):
                await _pass_over_the_rest(receive)
            raise BodyTooLarge(limit_bytes)
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()
    raise MalformedBody("The connection ended before the body was complete. Send it again.")


async def _pass_over_the_rest(receive: Receive) -> None:
    """Read on for a moment: a client that is still writing when the connection closes would not see the reply."""
    left = _PASSED_OVER_BYTES
    try:
        async with asyncio.timeout(_PASSED_OVER_S):
            while left > 0:
                message: Any = await receive()
                left -= len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
    except TimeoutError:
        return


def _check_media_type(request: Request[Any, Any, Any]) -> None:
    for name, value in request.scope["headers"]:
        if name == b"content-type":
            media_type = value.partition(b";")[0].strip().lower()
            if media_type == b"application/json" or media_type.endswith(b"+json"):
                return
            break
    raise UnsupportedMediaType


def _malformed_detail(body: bytes, text: str) -> str:
    if not body.strip():
        return "Send a JSON object as the body; it is empty."
    place = re.search(r"\(byte (\d+)\)", text)
    return f"Send valid JSON; it breaks at byte {place[1]}." if place else "Send valid JSON; it ends too early."


def _shorten(name: str) -> str:
    # A stranger's field name goes back into the reply, but not a megabyte of it.
    return name if len(name) <= 100 else f"{name[:100]}…"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _fix(field: str, what: str) -> str:
    if "Invalid UUID" in what:
        return f"Give {field} as a UUID, like 0192f0c1-2b3c-7d4e-8f90-a1b2c3d4e5f6."
    if "Invalid enum value" in what:
        return f"Choose one of the documented values for {field}."
    if expected := _EXPECTED.fullmatch(what):
        wanted = " or ".join(_WORDS.get(name, name) for name in expected[1].split(" | "))
        if expected[2] is None:
            return f"Give {field} as {wanted}{expected[3] or ''}."
        return f"Give {field} as {wanted}; it is {_WORDS.get(expected[2], expected[2])}."
    return f"Correct {field}: {what[:1].lower()}{what[1:]}."
