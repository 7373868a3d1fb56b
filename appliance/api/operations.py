"""How a handler says what it is: summary, who may call it, what goes in, what comes out.

A handler carries its `Operation` in `opt`; `api.openapi` writes the API document from nothing else. What the handler
checks itself and what is documented are the same structs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

OPT: Final = "operation"


class Access(StrEnum):
    """Whose bearer token an operation takes; the values name the security schemes in the document."""

    ADMIN = "adminToken"
    APP = "appToken"
    USER = "userToken"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter or request header with its JSON schema."""

    name: str
    schema: Mapping[str, Any]
    description: str
    where: str = "query"


@dataclass(frozen=True, slots=True)
class Success:
    """A reply: its body (a msgspec type, or None) and its headers with what they say."""

    description: str
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "application/json"
    links: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Operation:
    """What one handler does. `problems` are the statuses it can refuse with, beyond those every call has.

    `refusals` are those that are not told as problems, because another document fixes their form.
    """

    tag: str
    summary: str
    success: Mapping[int, Success]
    access: tuple[Access, ...] = ()
    body: Any = None
    body_media_type: str = "application/json"
    parameters: tuple[Parameter, ...] = ()
    problems: tuple[int, ...] = ()
    refinements: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    refusals: Mapping[int, Success] = field(default_factory=dict)


def described(operation: Operation) -> dict[str, Operation]:
    """Give the `opt` of a handler."""
    return {OPT: operation}
