"""Put the database back as it was before an upgrade that did not start.

    python3 put_back.py DATA BEGUN

Takes the newest copy in DATA/backups when the upgrade that began at BEGUN (seconds since 1970) made it, and does
nothing otherwise: then the schema did not change. Nothing else may have the database open.
"""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

DATABASE_FILE = "carillon.sqlite"


def put_back(data: Path, begun: float) -> Path | None:
    """Replace the database by the copy made since `begun`; return that copy, or None when there is none."""
    copies = sorted(data.glob("backups/before-upgrade-*.sqlite"))
    if not copies or copies[-1].stat().st_mtime < begun:
        return None
    database = data / DATABASE_FILE
    restored = data / f"{DATABASE_FILE}.restored"
    restored.unlink(missing_ok=True)
    restored.touch(mode=0o600)
    origin = sqlite3.connect(f"file:{copies[-1]}?mode=ro", uri=True)
    target = sqlite3.connect(restored)
    try:
        origin.backup(target)
    finally:
        target.close()
        origin.close()
    for suffix in ("-wal", "-shm"):
        database.with_name(DATABASE_FILE + suffix).unlink(missing_ok=True)
    restored.rename(database)
    return copies[-1]


if __name__ == "__main__":
    taken = put_back(Path(sys.argv[1]), float(sys.argv[2]))
    if taken is not None:
        print(f"The database is back as it was before the upgrade ({taken.name}).")
