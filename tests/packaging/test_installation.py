"""install.sh doing what it is for, with the real program on loopback ports."""

import http.client
import json
import os
import shlex
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.packaging.conftest import Machine

pytestmark = pytest.mark.slow

TRY_FACTS = {
    "base_url",
    "admin_username",
    "admin_password",
    "client_id",
    "client_secret",
    "user_id",
    "user_token",
    "second_user_id",
    "second_user_token",
}
BREAK = "\nraise SystemExit('broken on purpose')\n"


@dataclass(frozen=True)
class Tried:
    """A demo that runs: where, and what installing it printed."""

    machine: Machine
    data: Path
    port: int
    printed: str

    def again(self, *options: str) -> subprocess.CompletedProcess[str]:
        return self.machine.install(*options, "--yes", "--no-service", data=self.data)

    @property
    def pid(self) -> int:
        return int(json.loads((self.data / "carillon.pid").read_text())["pid"])

    def commands(self) -> list[str]:
        """Return the command lines that were printed to be pasted."""
        return [
            line.strip() for line in self.printed.splitlines() if line.strip().startswith(str(self.data / "carillon"))
        ]


def is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def eventually(holds: Callable[[], bool], within_s: float = 30) -> bool:
    """Say whether something comes true in another process, which has no clock that a test could turn."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def tried(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tried]:
    data = tmp_path_factory.mktemp("demo") / "data"
    # Port 0 cannot be asked for: people and the printed commands need to know it.
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    done = machine.install("--try", "--yes", "--no-service", "--port", str(port), data=data)
    assert done.returncode == 0, done.stdout
    yield Tried(machine, data, port, done.stdout)


def test_the_demo_runs_and_its_secrets_are_for_its_owner_alone(tried: Tried) -> None:
    assert is_ready(tried.port)
    facts = json.loads((tried.data / "try.json").read_text())
    assert facts.keys() >= TRY_FACTS
    assert all(facts[name] for name in TRY_FACTS)
    assert facts["base_url"] == f"http://127.0.0.1:{tried.port}"
    modes = {name: stat.S_IMODE((tried.data / name).stat().st_mode) for name in ("", "try.json", ".env", "install.log")}
    assert modes == {"": 0o700, "try.json": 0o600, ".env": 0o600, "install.log": 0o600}


def test_nothing_secret_is_printed_or_logged_by_the_installation(tried: Tried) -> None:
    facts = json.loads((tried.data / "try.json").read_text())
    log = (tried.data / "install.log").read_text() + (tried.data / "carillon.log").read_text()
    for name in ("admin_password", "client_secret", "user_token", "second_user_token"):
        assert facts[name] not in log, name


def test_the_demo_listens_on_this_machine_alone(tried: Tried) -> None:
    listening = Path("/proc/net/tcp").read_text().splitlines()[1:]
    addresses = [line.split()[1] for line in listening if line.split()[3] == "0A"]
    ours = [address for address in addresses if int(address.partition(":")[2], 16) == tried.port]
    assert ours == [f"0100007F:{tried.port:04X}"]


def test_the_printed_commands_work_as_printed(tried: Tried, tmp_path: Path) -> None:
    commands = tried.commands()
    listen = next(command for command in commands if " listen" in command)
    send = next(command for command in commands if " send" in command)
    heard = tmp_path / "heard"
    with heard.open("wb") as output:
        listener = subprocess.Popen(
            ["sh", "-c", f"exec {listen}"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=tried.machine.environment,
        )
    try:
        assert eventually(lambda: heard.stat().st_size > 0), "the listener said nothing"
        sent = subprocess.run(
            ["sh", "-c", send], env=tried.machine.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert sent.returncode == 0, sent.stdout + sent.stderr
        words = shlex.split(send)
        title = words[words.index("--title") + 1] if "--title" in words else words[-1]
        assert eventually(lambda: title in heard.read_text()), heard.read_text()
    finally:
        listener.send_signal(signal.SIGINT)
        listener.wait(15)


def test_a_second_run_leaves_the_running_instance_alone_and_repeats_its_commands(tried: Tried) -> None:
    before = tried.pid
    done = tried.again("--try")
    assert done.returncode == 0, done.stdout
    assert f"already running on port {tried.port}" in done.stdout
    assert tried.pid == before
    for command in tried.commands():
        if " send" in command or " listen" in command:
            assert command in done.stdout


def test_a_plain_second_run_keeps_the_port_and_the_address_of_the_first(tried: Tried) -> None:
    before = tried.pid
    done = tried.again()
    assert done.returncode == 0, done.stdout
    assert f"already running on port {tried.port}" in done.stdout
    assert tried.pid == before


def test_another_folder_cannot_take_the_port_of_the_running_instance(tried: Tried, tmp_path: Path) -> None:
    data = tmp_path / "second"
    done = tried.machine.install("--try", "--yes", "--no-service", "--port", str(tried.port), data=data)
    assert done.returncode == 4
    assert f"(pid {tried.pid})" in done.stdout
    assert not data.exists()


def test_of_two_installs_at_once_on_one_port_one_wins_and_the_other_leaves_nothing(
    tried: Tried, tmp_path: Path, free_port: int
) -> None:
    """Both once said that they run: the loser's server had ended, but the winner's answered the loser's question."""
    folders = [tmp_path / "tower one" / "data", tmp_path / "tower two" / "data"]
    with ThreadPoolExecutor(len(folders)) as pool:
        installs = [
            pool.submit(tried.machine.install, "--try", "--yes", "--no-service", "--port", str(free_port), data=data)
            for data in folders
        ]
        done = [install.result() for install in installs]
    assert sorted(each.returncode for each in done) == [0, 4], [each.stdout for each in done]
    winner = next(data for data, each in zip(folders, done, strict=True) if each.returncode == 0)
    loser = next(data for data in folders if data != winner)
    refused = next(each.stdout for each in done if each.returncode == 4)
    pid = json.loads((winner / "carillon.pid").read_text())["pid"]
    assert f"Port {free_port} is in use by" in refused
    assert f"(pid {pid})" in refused
    assert shlex.split(refused.strip().splitlines()[-1])[-2] == "--port"
    assert not loser.parent.exists()
    assert not list(Path(tried.machine.environment["TMPDIR"]).glob("carillon-install-*"))
    assert tried.machine.install("--status", data=winner).returncode == 0
    assert is_ready(free_port)
    assert tried.machine.install("--stop", data=winner).returncode == 0


def test_status_stop_and_start_again(tried: Tried) -> None:
    status = tried.again("--status")
    assert status.returncode == 0
    for fact in (str(tried.pid), str(tried.port), "0.1.0", str(tried.data)):
        assert fact in status.stdout
    stopped = tried.again("--stop")
    assert stopped.returncode == 0, stopped.stdout
    assert not is_ready(tried.port)
    assert tried.again("--status").returncode == 3
    assert tried.again("--stop").returncode == 0
    started = tried.again()
    assert started.returncode == 0, started.stdout
    assert is_ready(tried.port)


def test_an_instance_started_by_hand_is_taken_over_and_not_doubled(tried: Tried) -> None:
    assert tried.again("--stop").returncode == 0
    with (tried.data / "by-hand.log").open("wb") as output:
        by_hand = subprocess.Popen(
            [str(tried.data / "carillon"), "serve", "--host", "127.0.0.1", "--port", str(tried.port)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=tried.machine.environment,
        )
    try:
        assert eventually(lambda: is_ready(tried.port))
        done = tried.again()
        assert done.returncode == 0, done.stdout
        assert "already running" in done.stdout
        assert by_hand.poll() is None
        assert tried.again("--stop").returncode == 0
        assert by_hand.wait(30) == 0
    finally:
        if by_hand.poll() is None:
            by_hand.kill()
    assert tried.again().returncode == 0


def test_another_port_moves_the_running_instance(tried: Tried, free_port: int) -> None:
    moved = tried.again("--port", str(free_port))
    assert moved.returncode == 0, moved.stdout
    assert is_ready(free_port)
    assert not is_ready(tried.port)
    back = tried.again("--port", str(tried.port))
    assert back.returncode == 0, back.stdout
    assert is_ready(tried.port)


def test_a_newer_code_replaces_the_running_one_and_keeps_the_data(tried: Tried) -> None:
    key = (tried.data / ".env").read_bytes()
    client_id = json.loads((tried.data / "try.json").read_text())["client_id"]
    before = tried.pid
    changed = tried.machine.checkout / "appliance" / "__init__.py"
    original = changed.read_text()
    changed.write_text(original.replace('"""Carillon', '"""Carillon the newer', 1))
    try:
        done = tried.again("--try")
        assert done.returncode == 0, done.stdout
        assert tried.pid != before
        assert is_ready(tried.port)
        assert (tried.data / ".env").read_bytes() == key
        assert json.loads((tried.data / "try.json").read_text())["client_id"] == client_id
    finally:
        changed.write_text(original)
    assert tried.again().returncode == 0


def test_a_new_version_that_does_not_start_leaves_the_old_one_running(tried: Tried) -> None:
    releases = set((tried.machine.checkout / ".carillon" / "releases").iterdir())
    record = (tried.data / "install.env").read_text()
    broken = tried.machine.checkout / "appliance" / "asgi.py"
    original = broken.read_text()
    broken.write_text(original + BREAK)
    try:
        done = tried.again()
    finally:
        broken.write_text(original)
    assert done.returncode == 6, done.stdout
    assert "broken on purpose" in done.stdout
    assert "The version that ran before runs again." in done.stdout
    assert is_ready(tried.port)
    assert (tried.data / "install.env").read_text() == record
    assert set((tried.machine.checkout / ".carillon" / "releases").iterdir()) == releases
    assert "already running" in tried.again().stdout


def test_a_first_install_that_does_not_start_leaves_nothing(tried: Tried, data: Path, free_port: int) -> None:
    releases = set((tried.machine.checkout / ".carillon" / "releases").iterdir())
    broken = tried.machine.checkout / "appliance" / "asgi.py"
    original = broken.read_text()
    broken.write_text(original + BREAK)
    try:
        done = tried.machine.install("--yes", "--no-service", "--port", str(free_port), data=data)
    finally:
        broken.write_text(original)
    assert done.returncode == 6, done.stdout
    assert not data.parent.exists()
    assert set((tried.machine.checkout / ".carillon" / "releases").iterdir()) == releases


def test_an_empty_folder_that_was_there_is_empty_again_after_a_failure(
    tried: Tried, tmp_path: Path, free_port: int
) -> None:
    data = tmp_path / "mounted"
    data.mkdir()
    broken = tried.machine.checkout / "appliance" / "asgi.py"
    original = broken.read_text()
    broken.write_text(original + BREAK)
    try:
        done = tried.machine.install("--yes", "--no-service", "--port", str(free_port), data=data)
    finally:
        broken.write_text(original)
    assert done.returncode == 6, done.stdout
    assert list(data.iterdir()) == []


def test_a_fresh_install_ends_with_the_link_of_the_set_up_page(tried: Tried, data: Path, free_port: int) -> None:
    done = tried.machine.install("--yes", "--no-service", "--host", "127.0.0.1", "--port", str(free_port), data=data)
    assert done.returncode == 0, done.stdout
    first = done.stdout.strip().splitlines()[-1]
    assert first.startswith(f"http://127.0.0.1:{free_port}/setup#code=")
    again = tried.machine.install("--setup-url", data=data)
    assert again.returncode == 0, again.stdout
    second = again.stdout.strip().splitlines()[-1]
    assert second.startswith(f"http://127.0.0.1:{free_port}/setup#code=")
    assert second != first
    assert tried.machine.install("--stop", data=data).returncode == 0


def test_an_interrupted_install_takes_away_what_it_began(fresh_machine: Machine, data: Path, free_port: int) -> None:
    fresh_machine.data_folders.add(data)
    runtime = fresh_machine.checkout / ".carillon"
    install = subprocess.Popen(
        [
            str(fresh_machine.checkout / "install.sh"),
            "--yes",
            "--no-service",
            "--data",
            str(data),
            "--port",
            str(free_port),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=fresh_machine.environment,
        start_new_session=True,
    )
    try:
        assert eventually(lambda: any(runtime.glob("venv-*/bin/pip")), 60), "the installation never got that far"
        os.killpg(install.pid, signal.SIGINT)
        output, _ = install.communicate(timeout=60)
    finally:
        if install.poll() is None:
            os.killpg(install.pid, signal.SIGKILL)
    assert install.returncode == 130, output.decode()
    assert not runtime.exists()
    assert not data.parent.exists()


def test_web_pages_with_a_build_are_built_once_and_shipped_with_the_release(tried: Tried) -> None:
    frontend = tried.machine.checkout / "frontend"
    package = {"name": "pages", "version": "1.0.0", "private": True, "scripts": {"build": "node build.mjs"}}
    lock = {"name": "pages", "version": "1.0.0", "lockfileVersion": 3, "requires": True, "packages": {"": package}}
    build = (
        "import {mkdirSync, writeFileSync} from 'node:fs';mkdirSync('dist');writeFileSync('dist/it', process.version)"
    )
    made = {"package.json": json.dumps(package), "package-lock.json": json.dumps(lock), "build.mjs": build}
    frontend.mkdir(exist_ok=True)
    for name, text in made.items():
        (frontend / name).write_text(text)
    try:
        done = tried.again()
        assert done.returncode == 0, done.stdout
        assert "Building the web pages" in done.stdout
        release = next(
            line.removeprefix("RELEASE=")
            for line in (tried.data / "install.env").read_text().splitlines()
            if line.startswith("RELEASE=")
        )
        assert (Path(release) / "frontend" / "dist" / "it").read_text().startswith("v24.")
        # What only built it is gone, and the checkout is as it was.
        web = (Path(release) / "frontend" / "dist").resolve().parent
        assert {path.name for path in web.iterdir()} == {"dist", ".complete"}
        assert not (frontend / "dist").exists()
        assert "already running" in tried.again().stdout
    finally:
        for name in made:
            (frontend / name).unlink()
    assert tried.again().returncode == 0
