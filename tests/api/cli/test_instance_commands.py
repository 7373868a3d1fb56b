"""`prepare`, `serve`, `status`, `stop` and `setup-link` as processes, with their exit codes."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from appliance.cli.exits import CommandFailed, Exit
from appliance.cli.instance import Instance, find_running
from appliance.cli.serve import reserve_port
from tests.doubles.certificates import Authority

ROOT = Path(__file__).parents[3]
DEADLINE_S = 30.0


def environment(**more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return {**kept, **more}


def carillon(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "appliance.cli", "--data", str(folder), *arguments],
        cwd=ROOT, env=environment(**more), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


class Serving:
    """`carillon serve` in the background."""

    def __init__(self, folder: Path, *arguments: str, **more: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "appliance.cli", "--data", str(folder), "serve", *arguments],
            cwd=ROOT, env=environment(**more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def until_ready(self) -> Instance:
        deadline = time.monotonic() + DEADLINE_S
        while True:
            assert self.process.poll() is None, self.end()
            assert time.monotonic() < deadline
            instance = find_running(self.folder)
            if instance is not None and _is_ready(instance.local_url):
                return instance
            time.sleep(0.05)

    def end(self, number: int = signal.SIGKILL) -> str:
        """Signal it, if it still runs, and give all that it printed."""
        assert self.process.stderr is not None
        if self.process.stderr.closed:
            return ""
        self.process.send_signal(number)
        return self.process.communicate(timeout=DEADLINE_S)[1]


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready", timeout=5, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A place with a space in its name, where nothing is yet."""
    return tmp_path / "my data"


@pytest.fixture
def serving(folder: Path) -> Iterator[Serving]:
    running = Serving(folder, "--host", "127.0.0.1", "--port", "0")
    yield running
    running.end()


def test_prepare_makes_everything_once(folder: Path) -> None:
    first = carillon(folder, "prepare")
    assert (first.returncode, first.stderr) == (Exit.DONE, "")
    key = (folder / ".env").read_text()
    assert (folder / "carillon.sqlite").stat().st_mode & 0o777 == 0o600
    second = carillon(folder, "prepare")
    assert second.returncode == Exit.DONE
    assert (folder / ".env").read_text() == key


def test_a_wrong_secret_key_is_told_and_changes_nothing(folder: Path) -> None:
    assert carillon(folder, "prepare").returncode == Exit.DONE
    before = (folder / "carillon.sqlite").read_bytes()
    done = carillon(folder, "prepare", SECRET_KEY="x" * 40)
    assert done.returncode == Exit.USAGE
    assert "SECRET_KEY is not the key" in done.stderr
    assert (folder / "carillon.sqlite").read_bytes() == before


def test_an_unreachable_database_leaves_no_folder_behind(folder: Path) -> None:
    done = carillon(folder, "prepare", DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert done.returncode != Exit.DONE
    assert "Traceback" not in done.stderr
    assert not folder.exists()


def test_an_instance_is_seen_and_stopped(serving: Serving, folder: Path) -> None:
    instance = serving.until_ready()
    status = carillon(folder, "status")
    assert status.returncode == Exit.DONE
    assert f"pid      {serving.process.pid}" in status.stdout
    assert "health   ready" in status.stdout
    assert json.loads((folder / "carillon.pid").read_text())["port"] == instance.port
    stopped = carillon(folder, "stop")
    assert (stopped.returncode, stopped.stdout) == (Exit.DONE, "Carillon is stopped.\n")
    assert serving.process.wait(DEADLINE_S) == Exit.DONE
    assert not (folder / "carillon.pid").exists()
    assert carillon(folder, "status").returncode == Exit.NOT_RUNNING
    assert carillon(folder, "stop").returncode == Exit.DONE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_in_peace(serving: Serving, number: signal.Signals) -> None:
    serving.until_ready()
    output = serving.end(number)
    assert serving.process.returncode == Exit.DONE
    assert "server_stopped" in output
    assert "Traceback" not in output


def test_a_second_instance_of_the_folder_is_refused(serving: Serving, folder: Path) -> None:
    instance = serving.until_ready()
    second = carillon(folder, "serve", "--host", "127.0.0.1", "--port", "0")
    assert second.returncode == Exit.LOCKED
    assert f"pid {serving.process.pid}" in second.stderr
    assert _is_ready(instance.local_url)
    prepared = carillon(folder, "prepare")
    assert prepared.returncode == Exit.DONE
    assert "nothing to prepare" in prepared.stdout


def test_a_port_that_is_taken_is_told_before_anything_is_served(folder: Path) -> None:
    assert carillon(folder, "prepare").returncode == Exit.DONE
    with socket.socket() as other:
        # Another program may share its port on purpose; this one must not slip in beside it.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = carillon(folder, "serve", "--host", "127.0.0.1", "--port", str(port))
    assert done.returncode == Exit.PORT_TAKEN
    assert f"port {port} on 127.0.0.1 is in use" in done.stderr
    assert carillon(folder, "status").returncode == Exit.NOT_RUNNING


def test_of_servers_that_reach_for_one_port_at_the_same_instant_exactly_one_gets_it() -> None:
    """Several sockets may bind an address while none listens, so two starts at once could both find it free.

    Both then served on the port, and the system handed each of them half of the connections.
    """
    rivals, rounds = 6, 60
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    line = threading.Barrier(rivals)

    def reach() -> socket.socket | Exit:
        line.wait(DEADLINE_S)
        try:
            return reserve_port("127.0.0.1", port)
        except CommandFailed as failed:
            return failed.code

    with ThreadPoolExecutor(rivals) as pool:
        for _ in range(rounds):
            ends = [each.result() for each in [pool.submit(reach) for _ in range(rivals)]]
            winners = [end for end in ends if isinstance(end, socket.socket)]
            for winner in winners:
                winner.close()
            assert len(winners) == 1
            assert ends.count(Exit.PORT_TAKEN) == rivals - 1


def test_an_address_of_no_machine_is_told(folder: Path) -> None:
    assert carillon(folder, "serve", "--host", "192.0.2.7", "--port", "0").returncode == Exit.USAGE
    assert carillon(folder, "serve", "--host", "no such host", "--port", "0").returncode == Exit.USAGE


def test_a_killed_instance_starts_again_on_its_data(serving: Serving, folder: Path) -> None:
    serving.until_ready()
    serving.end(signal.SIGKILL)
    again = Serving(folder, "--host", "127.0.0.1", "--port", "0")
    again.until_ready()
    again.end(signal.SIGTERM)
    assert again.process.returncode == Exit.DONE


def test_the_server_may_open_as_many_files_as_the_machine_allows(serving: Serving) -> None:
    serving.until_ready()
    limits = Path(f"/proc/{serving.process.pid}/limits").read_text()
    line = next(line for line in limits.splitlines() if line.startswith("Max open files"))
    soft, hard = line.split()[3:5]
    assert soft == hard


def test_an_ipv6_address_is_served(folder: Path) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
    serving = Serving(folder, "--host", "::1", "--port", "0")
    assert serving.until_ready().local_url.startswith("http://[::1]:")
    serving.end(signal.SIGTERM)
    assert serving.process.returncode == Exit.DONE


def test_with_a_certificate_it_serves_https_from_tls_1_2_on(folder: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.server_tls("127.0.0.1")
    (pem,) = tmp_path.glob("*.pem")
    serving = Serving(folder, "--host", "127.0.0.1", "--port", "0", TLS_CERT=str(pem), TLS_KEY=str(pem))
    deadline = time.monotonic() + DEADLINE_S
    while (instance := find_running(folder)) is None or not _accepts(instance.port):
        assert serving.process.poll() is None, serving.end()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert instance.local_url.startswith("https://127.0.0.1:")
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        tls = authority.trust(ssl.create_default_context())
        tls.minimum_version = tls.maximum_version = version
        reply = httpx.get(f"{instance.local_url}/health/ready", verify=tls, trust_env=False)
        assert reply.status_code == 200
    serving.end(signal.SIGTERM)
    assert serving.process.returncode == Exit.DONE


def _accepts(port: int) -> bool:
    with socket.socket() as visitor:
        return visitor.connect_ex(("127.0.0.1", port)) == 0


def test_the_setup_link_stands_alone_on_the_last_line_and_works_once(serving: Serving, folder: Path) -> None:
    instance = serving.until_ready()
    links = [carillon(folder, "setup-link").stdout.splitlines()[-1] for _ in range(2)]
    assert links[0] != links[1]
    assert all(link.startswith(f"{instance.local_url}/setup#code=") for link in links)
    codes = [link.partition("#code=")[2] for link in links]
    claim = {"username": "owner", "password": "a long enough password"}
    with httpx.Client(base_url=instance.local_url, trust_env=False) as http:
        headers = {"origin": instance.local_url}
        # A new code voids the one before.
        assert http.post("/wizard/api/claim", json={**claim, "code": codes[0]}, headers=headers).status_code == 403
        assert http.post("/wizard/api/claim", json={**claim, "code": codes[1]}, headers=headers).is_success
    done = carillon(folder, "setup-link", "--base-url", "https://push.example.org")
    assert done.returncode == Exit.DONE
    assert done.stdout.splitlines() == [
        "Carillon is already set up. Sign in at:",
        "https://push.example.org/",
    ]
