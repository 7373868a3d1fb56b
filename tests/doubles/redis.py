"""A real Redis of the tests' own: a server in a temporary folder, on a free port of the loopback interface."""

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

START_DEADLINE_S = 15.0
STOP_DEADLINE_S = 10.0
PASSWORD = "open-sesame/100%"
_URL_PASSWORD = "open-sesame%2F100%25"
_NAMES = ("redis-server", "valkey-server")


class NoRedis(Exception):
    """Neither Redis nor Valkey is installed here, or it does not start; the text says which."""


class RedisServer:
    """One server that keeps nothing. `start` and `kill` may be repeated; the port stays.

    With `certificate`, a file that holds one and its key, it speaks nothing but TLS.
    """

    def __init__(self, program: str, *, certificate: Path | None = None) -> None:
        self._program = program
        self._folder = Path(tempfile.mkdtemp(prefix="carillon-redis-"))
        self._certificate = certificate
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        scheme = "redis" if self._certificate is None else "rediss"
        return f"{scheme}://:{_URL_PASSWORD}@127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Start it and wait until it answers."""
        port: tuple[str, ...] = ("--port", str(self._port))
        if self._certificate is not None:
            port = ("--port", "0", "--tls-port", str(self._port), "--tls-auth-clients", "no")
            port += ("--tls-cert-file", str(self._certificate), "--tls-key-file", str(self._certificate))
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(self._program, *port, "--bind", "127.0.0.1", "--dir", str(self._folder)),
                    *("--save", "", "--appendonly", "no", "--requirepass", PASSWORD),
                ],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_DEADLINE_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise NoRedis(f"Redis did not start: {self._log()}")
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill it without warning; whatever it held is gone."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait(STOP_DEADLINE_S)

    def freeze(self) -> None:
        """Let it hang: connections stay and nothing is answered, until `thaw`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def cut_connections(self) -> int:
        """Cut every subscriber's connection, as a network would; gives how many there were."""
        with self._client() as client:
            return int(client.execute_command("CLIENT", "KILL", "TYPE", "pubsub"))

    def publish(self, channel: str, data: bytes) -> int:
        """Publish what a stranger might; gives how many heard it."""
        with self._client() as client:
            return int(client.execute_command("PUBLISH", channel, data))

    def list_channels(self) -> list[str]:
        """Give the channels that somebody listens to."""
        with self._client() as client:
            return sorted(name.decode() for name in client.execute_command("PUBSUB", "CHANNELS"))

    def remove(self) -> None:
        """Stop and delete everything."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _client(self) -> Redis:
        return Redis(port=self._port, password=PASSWORD, socket_timeout=5)

    def _answers(self) -> bool:
        if self._certificate is not None:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self._port)) == 0
        try:
            with self._client() as client:
                return bool(client.ping())
        except RedisError:
            return False

    def _log(self) -> str:
        return (self._folder / "log").read_text(encoding="utf-8", errors="replace")[-2_000:]


def find_redis() -> str:
    """Give the path of the server program. Raises `NoRedis`."""
    for name in _NAMES:
        if found := shutil.which(name):
            return found
    raise NoRedis("Redis is not installed.")


def _free_port() -> int:
    # The port must stay the same over a restart, so the server cannot be left to choose it.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
