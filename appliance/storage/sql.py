"""One SQL text for two databases, and reading what comes back.

Statements are written with `?` for parameters and run unchanged on SQLite; for PostgreSQL `?` becomes the driver's own
mark once and is remembered. SQLite gives ids and instants back as text, PostgreSQL as objects: `uuid_of` and
`instant_of` take both.
"""

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


def sqlite_value(value: Any) -> Any:
    """Turn a parameter into what SQLite stores; the texts are the same that Piccolo writes."""
    kind = type(value)
    if kind is UUID:
        return str(value)
    if kind is datetime:
        return str(value.astimezone(UTC))
    if kind is date:
        return value.isoformat()
    if isinstance(value, int):
        return int(value)
    return value


@lru_cache(maxsize=512)
def percent_marks(sql: str) -> str:
    """Give the statement with psycopg's `%s` marks."""
    return sql.replace("%", "%%").replace("?", "%s")


@lru_cache(maxsize=512)
def dollar_marks(sql: str) -> str:
    """Give the statement with asyncpg's `$1, $2, …` marks."""
    parts = sql.split("?")
    return "".join(part + (f"${number}" if number < len(parts) else "") for number, part in enumerate(parts, 1))
