"""A real PostgreSQL of the tests' own: a cluster in a temporary folder, on a unix socket, ended by its process id."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

START_DEADLINE_S = 30.0
STOP_DEADLINE_S = 20.0
_RUN_AS = ("postgres", "nobody")


class NoPostgresql(Exception):
    """PostgreSQL is not installed here or does not start; the text says which."""


class PostgresCluster:
    """One server with any number of databases. It forgets on a crash of the machine, which a test never has."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        # Not below pytest's folder: the server may not run as root, and others may not enter that one.
        self._folder = Path(tempfile.mkdtemp(prefix="carillon-pg-", dir="/tmp"))
        self._account = _unprivileged_account()
        self._process: subprocess.Popen[bytes] | None = None
        self._made = 0

    def start(self) -> None:
        """Make the cluster when it is new, start it, and wait until it answers."""
        if not (self._folder / "data").exists():
            self._make()
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(self._programs / "postgres", "-D", self._folder / "data"),
                    *("-c", f"unix_socket_directories={self._folder}", "-c", "listen_addresses="),
                    *("-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=60"),
                ],
                stdout=log,
                stderr=log,
                user=self._account[0],
                group=self._account[1],
            )
        deadline = time.monotonic() + START_DEADLINE_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise NoPostgresql(f"PostgreSQL did not start: {self._log()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End the server at once, as `pg_ctl stop -m fast` does; the cluster stays and can be started again."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait(STOP_DEADLINE_S)

    def remove(self) -> None:
        """Stop and delete everything."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def make_database(self, template: str | None = None) -> str:
        """Make an empty database, or a copy of another one, and give its URL."""
        self._made += 1
        name = f"carillon_{self._made}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            origin = sql.Identifier(template) if template else sql.Identifier("template0")
            connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), origin))
        return self.url(name)

    def end_sessions(self, url: str) -> int:
        """Cut every connection to the database, as a restart of the server would; gives how many there were."""
        name = conninfo_to_dict(url)["dbname"]
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            return connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
            ).rowcount

    def url(self, name: str) -> str:
        return f"postgresql://carillon@/{name}?host={self._folder}"

    def _make(self) -> None:
        user, group = self._account
        if user is not None:
            shutil.chown(self._folder, user, group)
        made = subprocess.run(
            [
                *(self._programs / "initdb", "-D", self._folder / "data"),
                *("-U", "carillon", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"),
            ],
            capture_output=True,
            check=False,
            user=user,
            group=group,
        )
        if made.returncode != 0:
            raise NoPostgresql(f"initdb failed: {made.stderr.decode(errors='replace').strip()}")

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _log(self) -> str:
        return (self._folder / "log").read_text(encoding="utf-8", errors="replace")[-2_000:]


def find_programs() -> Path:
    """Give the folder with `initdb` and `postgres`. Raises `NoPostgresql`."""
    given = os.environ.get("CARILLON_POSTGRESQL_BIN")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name.zfill(4))
    on_path = shutil.which("initdb")
    places = [Path(given)] if given else []
    places += [*reversed(debian), *([Path(on_path).resolve().parent] if on_path else [])]
    for folder in places:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise NoPostgresql("PostgreSQL is not installed.")


def _unprivileged_account() -> tuple[int | None, int | None]:
    """Give the user and group to run as where this is root, since PostgreSQL refuses that."""
    if os.geteuid() != 0:
        return None, None
    for name in _RUN_AS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    raise NoPostgresql("There is no unprivileged user to run PostgreSQL as.")
