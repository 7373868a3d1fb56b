"""The real program, started so that it kills itself at a labelled point; and looking at the files that it leaves."""

import contextlib
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from uuid import UUID

from appliance.storage.database import DATABASE_FILE
from tests.doubles.appliance import RunningAppliance


class LaunchedAppliance(RunningAppliance):
    """`carillon serve` under the launcher. `arm` names the point of the next start; without it nothing is wrapped."""

    point = ""
    passes = 0

    def arm(self, point: str, passes: int = 1) -> None:
        self.point, self.passes = point, passes

    def spawn(self) -> None:
        """Start it and do not wait: it may well be gone before it answers."""
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                [*self._command, "serve", "--host", "127.0.0.1", "--port", str(self.port)],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def wait_killed(self, within_s: float) -> None:
        """Wait until it has killed itself. Raises `AssertionError` when it has not, or has ended in another way."""
        process, self._process = self._process, None
        assert process is not None
        try:
            status = process.wait(within_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"{self.point} was not passed {self.passes} times in {within_s} s") from None
        assert status == -signal.SIGKILL, (self.point, status, self.output[-3_000:])

    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def _command(self) -> list[str]:
        launched = [sys.executable, "-m", "tests.crash.launcher", self.point, str(self.passes)]
        return [*launched, "--data", str(self.data_dir)]


def copy_data(data_dir: Path, target: Path) -> Path:
    """Copy the database with its WAL as the files are; gives the copy's path. Nobody may be writing."""
    target.mkdir()
    for name in (DATABASE_FILE, f"{DATABASE_FILE}-wal"):
        if (data_dir / name).exists():
            shutil.copyfile(data_dir / name, target / name)
    return target / DATABASE_FILE


def check_integrity(database: Path) -> None:
    """Open the database, which plays its WAL in, and let SQLite check all of it."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def kept_ids(database: Path) -> set[str]:
    """Give the ids of all notifications in the database, the order of their keeping lost."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return {str(UUID(row[0])) for row in connection.execute("SELECT id FROM notification")}
