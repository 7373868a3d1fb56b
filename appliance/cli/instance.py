"""The one instance of a data folder: the lock it holds, the facts it writes down, how to see and to stop it."""

import contextlib
import fcntl
import json
import os
import shlex
import signal
import time
import urllib.error
import urllib.request
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from appliance import __version__
from appliance.cli.data_folder import become_owner, write_private
from appliance.cli.exits import CommandFailed, Exit

LOCK_FILE: Final = "carillon.lock"
PID_FILE: Final = "carillon.pid"
STOP_WITHIN_S: Final = 30.0
_LOOK_EVERY_S: Final = 0.1
_LOCK_PATIENCE_S: Final = 1.0
_HEALTH_DEADLINE_S: Final = 4.0


@dataclass(frozen=True, slots=True)
class Instance:
    """What a running instance has written down about itself. `host` is the address it listens on.

    `hub_port` is the port of the lean listener, None where there is none.
    """

    pid: int
    port: int
    host: str
    version: str
    started_at: str
    tls: bool = False
    hub_port: int | None = None

    @property
    def local_url(self) -> str:
        """Its address as seen from this machine."""
        return self._make_url(self.port)

    @property
    def local_hub_url(self) -> str | None:
        """The address of its lean listener as seen from this machine, None where there is none."""
        return None if self.hub_port is None else self._make_url(self.hub_port)

    def _make_url(self, port: int) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - compared, not bound
        return f"{'https' if self.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


@contextlib.contextmanager
def holding_lock(folder: Path) -> Iterator[None]:
    """Hold the folder for this process. Raises `CommandFailed` with code 9 when another one has it."""
    descriptor = _open_lock(folder)
    try:
        # `status` holds the lock for an instant, too.
        until = time.monotonic() + _LOCK_PATIENCE_S
        while not (_try_lock(descriptor) and _is_still_there(folder, descriptor)):
            if time.monotonic() >= until:
                running = read_instance(folder)
                who = f" (pid {running.pid}, port {running.port})" if running else ""
                raise CommandFailed(
                    f"another Carillon already runs from {folder}{who}.",
                    f"Stop it with: carillon --data {shlex.quote(str(folder))} stop",
                    code=Exit.LOCKED,
                )
            time.sleep(_LOOK_EVERY_S)
            os.close(descriptor)
            descriptor = _open_lock(folder)
        # Whatever is written there was left by a process that did not end in peace.
        (folder / PID_FILE).unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)


def _open_lock(folder: Path) -> int:
    return os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still_there(folder: Path, descriptor: int) -> bool:
    # A preparation that failed takes its lock file away; a lock on that file means nothing to the next process.
    try:
        return os.path.samestat(os.stat(folder / LOCK_FILE), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def is_running(folder: Path) -> bool:
    """Tell whether a process holds the folder."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(descriptor)
    finally:
        os.close(descriptor)


def write_instance(
    folder: Path, *, host: str, port: int, tls: bool, started_at: str, hub_port: int | None = None
) -> None:
    """Write down who runs; only the holder of the lock may."""
    instance = Instance(os.getpid(), port, host, __version__, started_at, tls, hub_port)
    write_private(folder / PID_FILE, json.dumps(asdict(instance)) + "\n")


def read_instance(folder: Path) -> Instance | None:
    """Read what is written down; it counts only while `is_running`."""
    try:
        kept = json.loads((folder / PID_FILE).read_text(encoding="utf-8"))
        return Instance(
            int(kept["pid"]),
            int(kept["port"]),
            str(kept["host"]),
            str(kept["version"]),
            str(kept["started_at"]),
            bool(kept.get("tls")),
            None if kept.get("hub_port") is None else int(kept["hub_port"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def find_running(folder: Path) -> Instance | None:
    """Give the running instance, None when none runs or it has not written itself down yet."""
    return read_instance(folder) if is_running(folder) else None


def show_status(args: Namespace) -> int:
    """Print whether an instance runs from the folder, and its facts; code 0 when it runs, 3 when not."""
    folder: Path = args.data
    if not folder.is_dir():
        print(f"Carillon is not running: there is no data folder {folder}.")
        return Exit.NOT_RUNNING
    if not is_running(folder):
        print(f"Carillon is not running.\n  data     {folder}")
        return Exit.NOT_RUNNING
    instance = read_instance(folder)
    if instance is None:
        print(f"Carillon is starting.\n  data     {folder}")
        return Exit.DONE
    hub = f"  hub      {instance.local_hub_url}\n" if instance.local_hub_url else ""
    print(
        f"Carillon is running.\n"
        f"  health   {_health_of(instance)}\n"
        f"  address  {instance.local_url}\n"
        f"  pid      {instance.pid}\n"
        f"  port     {instance.port}\n"
        f"{hub}"
        f"  version  {instance.version}\n"
        f"  since    {instance.started_at}\n"
        f"  data     {folder}"
    )
    return Exit.DONE


def _health_of(instance: Instance) -> str:
    if instance.tls:
        # The certificate names the public address, not this machine's loopback.
        return "not asked (https)"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{instance.local_url}/health/ready", timeout=_HEALTH_DEADLINE_S) as reply:
            return "ready" if reply.status == 200 else f"not ready ({reply.status})"
    except urllib.error.HTTPError as error:
        return f"not ready ({error.code})"
    except (OSError, ValueError):
        return "does not answer"


def stop_instance(args: Namespace) -> int:
    """Ask the instance to stop and wait until it has, at most 30 s; that none runs is fine, too."""
    folder: Path = args.data
    if not folder.is_dir() or not is_running(folder):
        print(f"Carillon is not running from {folder}.")
        return Exit.DONE
    become_owner(folder)
    until = time.monotonic() + STOP_WITHIN_S
    asked = 0
    while is_running(folder):
        instance = read_instance(folder)
        # The facts are written just after the lock is taken, so a starting process is asked a moment later.
        if instance is not None and instance.pid != asked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(instance.pid, signal.SIGTERM)
            asked = instance.pid
        if time.monotonic() >= until:
            raise CommandFailed(
                f"it did not stop within {STOP_WITHIN_S:.0f} s (pid {asked or 'unknown'}).",
                f"If it must: kill -9 {asked}" if asked else "",
            )
        time.sleep(_LOOK_EVERY_S)
    print("Carillon is stopped.")
    return Exit.DONE
