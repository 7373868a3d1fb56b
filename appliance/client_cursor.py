"""Where a listener remembers how far it has come: the sequence number of the newest notification it has handled."""

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Protocol


class CursorStore(Protocol):
    """Keeps one number. `load` gives None when there is none yet."""

    def load(self) -> int | None: ...

    def save(self, cursor: int) -> None: ...


class MemoryCursor:
    """Remembers for as long as the program runs."""

    def __init__(self, cursor: int | None = None) -> None:
        self._cursor = cursor

    def load(self) -> int | None:
        return self._cursor

    def save(self, cursor: int) -> None:
        self._cursor = cursor


class FileCursor:
    """Remembers in a file of mode 600, replaced whole at each change.

    A crash of the machine may bring an older cursor back, and with it notifications that were handled before. A file
    that cannot be read counts as none. Raises `OSError` when the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> int | None:
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        cursor = kept.get("cursor") if isinstance(kept, dict) else None
        return cursor if isinstance(cursor, int) and not isinstance(cursor, bool) and cursor >= 0 else None

    def save(self, cursor: int) -> None:
        descriptor, partial = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump({"cursor": cursor}, file)
            os.replace(partial, self._path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(partial)
            raise
