"""Reading `limit` and cursors from a query: strict, and told by name when they are wrong."""

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar
from uuid import UUID

from litestar import Request

from appliance.api.operations import Parameter
from appliance.domain.errors import InvalidField

T = TypeVar("T")

MAX_SEQUENCE: Final = 2**53 - 1
_DIGITS: Final = re.compile(r"[0-9]{1,16}")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def limit_parameter(*, default: int, most: int) -> Parameter:
    """Document `limit`."""
    schema = {"type": "integer", "minimum": 1, "maximum": most, "default": default}
    return Parameter("limit", schema, "Most entries of a page.")


def sequence_parameter(name: str, description: str) -> Parameter:
    """Document a cursor that is a sequence number."""
    return Parameter(name, {"type": "integer", "minimum": 0, "maximum": MAX_SEQUENCE}, description)


def read_limit(request: Request[Any, Any, Any], *, default: int, most: int) -> int:
    """Give `limit`. Raises `InvalidField`."""
    limit = read_number(request, "limit", least=1, most=most)
    return default if limit is None else limit


def read_number(request: Request[Any, Any, Any], name: str, *, least: int = 0, most: int = MAX_SEQUENCE) -> int | None:
    """Give a whole number from the query, None when it is absent. Raises `InvalidField`."""
    text = _value(request, name)
    if text is None:
        return None
    if not _DIGITS.fullmatch(text) or not least <= int(text) <= most:
        raise InvalidField(name, f"Give {name} as a whole number from {least} to {most}.")
    return int(text)


def read_choice(request: Request[Any, Any, Any], name: str, choices: Mapping[str, T]) -> T | None:
    """Give what a name from the query stands for, None when it is absent. Raises `InvalidField`."""
    text = _value(request, name)
    if text is None:
        return None
    if text not in choices:
        raise InvalidField(name, f"Give {name} as one of: {', '.join(choices)}.")
    return choices[text]


def read_id(request: Request[Any, Any, Any], name: str) -> UUID | None:
    """Give an id from the query, None when it is absent. Raises `InvalidField`."""
    text = _value(request, name)
    if text is None:
        return None
    if not _UUID.fullmatch(text):
        raise InvalidField(name, f"Give {name} as the last page gave it.")
    return UUID(text)


def _value(request: Request[Any, Any, Any], name: str) -> str | None:
    values: Mapping[str, Any] = request.query_params
    value = values.get(name)
    return None if value is None else str(value)
