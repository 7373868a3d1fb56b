"""Running what takes a while for install.sh: quietly, with the time shown and the end reported truthfully."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

EXIT_UNHEALTHY = 6
POLL_S = 0.25
PLAIN_INTERVAL_S = 5.0
STOP_S = 15.0
# What `carillon` itself reports and install.sh passes on: a setting or the folder cannot be used, the port is taken,
# the disk is full, another process uses the folder.
TELLING_EXITS = {2, 4, 8, 9}


class Ticker:
    """Shows how long a step has been running: in place on a terminal, every five seconds elsewhere."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._begun = time.monotonic()
        self._shown = self._begun
        self._on_terminal = sys.stdout.isatty()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._begun

    def show(self, note: str = "") -> None:
        """Show the time and a note, when it is time to show something again."""
        interval = 1.0 if self._on_terminal else PLAIN_INTERVAL_S
        if time.monotonic() - self._shown < interval:
            return
        self._shown = time.monotonic()
        text = f"      {self._label}: {self.elapsed_s:.0f} s{', ' + note if note else ''}"
        print(f"\r\033[K{text}" if self._on_terminal else text, end="" if self._on_terminal else "\n", flush=True)

    def close(self, verdict: str) -> None:
        """Replace the last line shown by how it ended."""
        text = f"      {self._label}: {verdict} ({self.elapsed_s:.1f} s)"
        print(f"\r\033[K{text}" if self._on_terminal else text, flush=True)


def run_quietly(command: Sequence[str], log: Path, label: str, count: str, total: int) -> int:
    """Run a command with its output in the log and the progress on the screen; return its exit status.

    A line of output that begins with `count` counts as one of `total` parts.
    """
    ticker = Ticker(label)
    with log.open("ab") as output:
        begun_at = output.tell()
        output.write(f"\n$ {' '.join(command)}\n".encode())
        output.flush()
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    _pass_on_signals(child)
    while True:
        try:
            status = child.wait(POLL_S)
        except subprocess.TimeoutExpired:
            done = _count_lines(log, begun_at, count) if count else 0
            ticker.show(f"{min(done, total)} of {total}" if total and done else "")
            continue
        ticker.close("done" if status == 0 else "failed")
        return status if status >= 0 else 128 - status


def start_and_wait(command: Sequence[str], output: Path, data: Path, url: str, timeout_s: float) -> int:
    """Start the server in a session of its own and wait until it is ready; it goes on when this ends with 0.

    Ready is what this very process answers, not another one that has the port: see `serves`. A server that ends, or is
    not ready in time, is stopped and reported; nothing is left running then.
    """
    ticker = Ticker("waiting until it is ready")
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "ab") as file:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, cwd="/"
        )
    _pass_on_signals(server)
    while ticker.elapsed_s < timeout_s:
        status = server.poll()
        if status is not None:
            ticker.close(f"it ended with exit status {status}")
            return status if status in TELLING_EXITS else EXIT_UNHEALTHY
        if serves(data, url, server.pid) and is_ready(url) and server.poll() is None:
            ticker.close("ready")
            return 0
        ticker.show()
        time.sleep(POLL_S)
    ticker.close("not ready in time")
    server.terminate()
    try:
        server.wait(STOP_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    return EXIT_UNHEALTHY


def wait_for_unit(unit: str, data: Path, url: str, timeout_s: float) -> int:
    """Wait until a systemd service is ready; give up at once when systemd has seen it fail.

    Ready is what the service's own process answers, not another one that has the port: see `serves`.
    """
    ticker = Ticker("waiting until it is ready")
    while ticker.elapsed_s < timeout_s:
        shown = subprocess.run(
            ["systemctl", "show", "--property=ActiveState,NRestarts,ExecMainStatus,MainPID", unit],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
        facts = dict(line.partition("=")[::2] for line in shown.stdout.splitlines())
        if facts.get("ActiveState") == "failed" or facts.get("NRestarts", "0") not in ("", "0"):
            status = int(facts.get("ExecMainStatus") or 0)
            ticker.close(f"it ended with exit status {status}")
            return status if status in TELLING_EXITS else EXIT_UNHEALTHY
        pid = int(facts.get("MainPID") or 0)
        if facts.get("ActiveState") == "active" and pid and serves(data, url, pid) and is_ready(url):
            ticker.close("ready")
            return 0
        ticker.show()
        time.sleep(POLL_S)
    ticker.close("not ready in time")
    return EXIT_UNHEALTHY


def serves(data: Path, url: str, pid: int | None = None) -> bool:
    """Say whether the instance of a data folder is the one at the URL's port, and is this process where one is named.

    What it has written down counts only while it holds the folder's lock, as for `carillon --data DATA status`.
    """
    facts = read_facts(data / "carillon.pid")
    if not facts or facts.get("port") != urlsplit(url).port or (pid is not None and facts.get("pid") != pid):
        return False
    try:
        descriptor = os.open(data / "carillon.lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def read_facts(path: Path) -> dict[str, object]:
    """Return what `carillon serve` has written down in its pid file, nothing when that cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, encoding="utf-8") as file:
            facts = json.loads(file.read(10_000))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def is_ready(url: str) -> bool:
    """Say whether a GET of the URL is answered with 200 within two seconds, in plain HTTP or over TLS."""
    parts = urlsplit(url)
    host = parts.hostname or "127.0.0.1"
    # The certificate is not judged: it names the public address, and this asks our own process on this machine.
    unjudged = ssl.create_default_context()
    unjudged.check_hostname = False
    unjudged.verify_mode = ssl.CERT_NONE
    for connection in (
        http.client.HTTPConnection(host, parts.port, timeout=2),
        http.client.HTTPSConnection(host, parts.port, timeout=2, context=unjudged),
    ):
        try:
            connection.request("GET", parts.path)
            return connection.getresponse().status == http.client.OK
        except ConnectionRefusedError:
            return False
        except (OSError, http.client.HTTPException):
            continue
        finally:
            connection.close()
    return False


def _count_lines(log: Path, offset: int, beginning: str) -> int:
    with log.open("rb") as file:
        file.seek(offset)
        return sum(line.startswith(beginning.encode()) for line in file)


def _pass_on_signals(child: subprocess.Popen[bytes]) -> None:
    """An interrupted installation stops what it has started before it ends itself."""

    def stop(number: int, _frame: FrameType | None) -> None:
        child.terminate()
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
