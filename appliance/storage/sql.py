"""One SQL text for two databases, and reading what comes back.

Statements are written with `?` for parameters and run unchanged on SQLite; for PostgreSQL `?` becomes the driver's own
mark once and is remembered. SQLite gives ids and instants back as text, PostgreSQL as objects: `uuid_of` and
`instant_of` take both.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

Row = tuple[Any, ...]


def uuid_of(value: Any) -> UUID:
    """Read an id."""
    return value if type(value) is UUID else UUID(value if isinstance(value, str) else str(value))


def optional_uuid_of(value: Any) -> UUID | None:
    """Read an id that may be absent."""
    return None if value is None else uuid_of(value)


def instant_of(value: Any) -> datetime:
    """Read an instant as an aware UTC datetime."""
    instant = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def optional_instant_of(value: Any) -> datetime | None:
    """Read an instant that may be absent."""
    return None if value is None else instant_of(value)


def bytes_of(value: Any) -> bytes:
    """Read a binary value."""
    return value if type(value) is bytes else bytes(value)


def marks(count: int) -> str:
    """Give `?, ?, …` for an IN list of `count` values."""
    return ", ".join("?" * count)


def sqlite_values(values: Iterable[Any]) -> list[Any]:
    """Turn parameters into what SQLite stores; the texts are the same that Piccolo writes."""
    return [
        value
        if (stored_as := _STORED_AS[type(value)]) is None
        else stored_as(value)  # the hot path: no call where none
        for value in values
    ]


class _StoredAs(dict[type, Callable[[Any], Any] | None]):
    """How a type is stored; None as it is. Learns each type when it first comes."""

    def __missing__(self, kind: type) -> Callable[[Any], Any] | None:
        # Enums and booleans: the driver would look for an adapter each time.
        stored_as = int if issubclass(kind, int) and kind is not int else None
        self[kind] = stored_as
        return stored_as


@lru_cache(maxsize=256)
def _instant_text(value: datetime) -> str:
    # Remembered because one send writes the same instant into many rows, and writing it down is slow.
    return str(value.astimezone(UTC))


_STORED_AS = _StoredAs({UUID: str, datetime: _instant_text, date: date.isoformat})


@lru_cache(maxsize=512)
def percent_marks(sql: str) -> str:
    """Give the statement with psycopg's `%s` marks."""
    return sql.replace("%", "%%").replace("?", "%s")


@lru_cache(maxsize=512)
def dollar_marks(sql: str) -> str:
    """Give the statement with asyncpg's `$1, $2, …` marks."""
    parts = sql.split("?")
    return "".join(part + (f"${number}" if number < len(parts) else "") for number, part in enumerate(parts, 1))
