"""The parts of the installation that can be asked one question at a time."""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT

MACHINE = ROOT / "packaging" / "install" / "machine.py"
PUT_BACK = ROOT / "packaging" / "install" / "put_back.py"


def ask(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(MACHINE), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        env=os.environ | variables,
        check=False,
    )


# --- what identifies a release


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "appliance" / "inner").mkdir(parents=True)
    (root / "packaging").mkdir()
    (root / "appliance" / "__init__.py").write_text("one = 1\n")
    (root / "appliance" / "inner" / "__init__.py").write_text("two = 2\n")
    (root / "packaging" / "requirements.lock").write_text("left-pad==1\n")
    return root


def test_the_same_code_has_the_same_fingerprint_whatever_tools_left_in_it(source: Path, tmp_path: Path) -> None:
    before = ask("fingerprint-code", source).stdout
    assert re.fullmatch(r"[0-9a-f]{12}\n", before)
    (source / "appliance" / "__pycache__").mkdir()
    (source / "appliance" / "__pycache__" / "x.cpython-311.pyc").write_bytes(b"\0")
    copy = tmp_path / "elsewhere"
    shutil.copytree(source, copy)
    assert ask("fingerprint-code", copy).stdout == before


@pytest.mark.parametrize(
    "changed", ["appliance/inner/__init__.py", "packaging/requirements.lock", "wizard/__init__.py"]
)
def test_changed_code_or_packages_make_another_release(source: Path, changed: str) -> None:
    before = ask("fingerprint-code", source).stdout
    (source / changed).parent.mkdir(exist_ok=True)
    (source / changed).write_text("three = 3\n")
    assert ask("fingerprint-code", source).stdout != before


def test_moving_a_line_between_files_is_a_change(source: Path) -> None:
    before = ask("fingerprint-code", source).stdout
    (source / "appliance" / "__init__.py").write_text("one = 1\ntwo = 2\n")
    (source / "appliance" / "inner" / "__init__.py").write_text("")
    assert ask("fingerprint-code", source).stdout != before


def test_a_release_holds_the_code_compiled_the_pages_and_nothing_else(source: Path, tmp_path: Path) -> None:
    release = tmp_path / "release"
    for name in ("pages/home.html", "src/main.ts", "node_modules/x/index.js"):
        (source / "frontend" / name).parent.mkdir(parents=True)
        (source / "frontend" / name).write_text("x")
    assert ask("copy-code", source, release).returncode == 0
    plain = {str(path.relative_to(release)) for path in release.rglob("*.py")}
    assert plain == {"appliance/__init__.py", "appliance/inner/__init__.py"}
    assert len(list(release.rglob("*.pyc"))) == 2
    others = {str(path.relative_to(release)) for path in release.rglob("*") if path.is_file()} - plain
    assert {name for name in others if not name.endswith(".pyc")} == {"frontend/pages/home.html"}


# --- old releases


def make_release(root: Path, name: str, parts: str, record: Path | None) -> Path:
    release = root / "releases" / name
    (release / "frontend").mkdir(parents=True)
    (root / f"venv-{parts}").mkdir(exist_ok=True)
    (release / "venv").symlink_to(root / f"venv-{parts}")
    (root / f"web-{parts}" / "dist").mkdir(parents=True, exist_ok=True)
    (release / "frontend" / "dist").symlink_to(root / f"web-{parts}" / "dist")
    if record is not None:
        (release / "used-by").write_text(f"{record}\n")
    return release


def test_pruning_keeps_what_any_installation_runs_or_can_go_back_to(tmp_path: Path) -> None:
    root = tmp_path / "runtime"
    here, there, gone = (tmp_path / name / "install.env" for name in ("here", "there", "gone"))
    current = make_release(root, "3", "b", here)
    previous = make_release(root, "2", "a", here)
    of_another = make_release(root, "1", "a", there)
    outdated = make_release(root, "0", "0", here)
    orphaned = make_release(root, "00", "0", gone)
    unused = make_release(root, "000", "0", None)
    here.parent.mkdir()
    here.write_text(f"RELEASE={current}\nPREVIOUS={previous}\n")
    there.parent.mkdir()
    there.write_text(f"RELEASE={of_another}\n")
    assert ask("prune", root).returncode == 0
    assert set((root / "releases").iterdir()) == {current, previous, of_another}
    assert not any(path.exists() for path in (outdated, orphaned, unused))
    parts = {path.name for path in root.iterdir()} - {"releases"}
    assert parts == {"venv-a", "venv-b", "web-a", "web-b"}


# --- waiting until it is ready

# A server of the data folder DATA that writes itself down as `carillon serve` does and then waits to be stopped.
SERVER = """
import fcntl, json, os, signal, sys
from pathlib import Path
data, port, holds_the_lock = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "locked"
lock = os.open(data / "carillon.lock", os.O_RDWR | os.O_CREAT, 0o600)
if holds_the_lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
(data / "carillon.pid").write_text(json.dumps({"pid": os.getpid(), "port": port}))
print(os.getpid(), flush=True)
signal.pause()
"""


class Ready(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """The output of the tests stays free of it."""


@pytest.fixture
def answering() -> Iterator[int]:
    """A port on which somebody answers that all is well."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Ready) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def start(data: Path, port: int, *command: str, within_s: float = 1.5) -> subprocess.CompletedProcess[str]:
    url = f"http://127.0.0.1:{port}/health/ready"
    options = ("--output", data / "out", "--data", data, "--url", url, "--timeout", str(within_s))
    return ask("start", *options, "--", sys.executable, "-c", *command)


def stop_server(data: Path) -> None:
    os.kill(int((data / "out").read_text()), signal.SIGTERM)


def test_a_server_is_ready_when_it_has_written_itself_down_holds_its_folder_and_answers(
    tmp_path: Path, answering: int
) -> None:
    done = start(tmp_path, answering, SERVER, str(tmp_path), str(answering), "locked", within_s=20)
    assert done.returncode == 0, done.stdout
    url = f"http://127.0.0.1:{answering}/health/ready"
    assert ask("ready", tmp_path, url).returncode == 0
    assert ask("ready", tmp_path, url.replace(str(answering), "1")).returncode == 1
    stop_server(tmp_path)


@pytest.mark.parametrize(("port", "lock"), [("another", "locked"), ("its own", "not locked")])
def test_what_another_instance_answers_does_not_make_a_server_ready(
    tmp_path: Path, answering: int, port: str, lock: str
) -> None:
    """Of two installations on one port, the loser was once called ready because the winner answered."""
    written = answering if port == "its own" else answering - 1
    done = start(tmp_path, answering, SERVER, str(tmp_path), str(written), lock)
    assert done.returncode == 6
    assert "not ready in time" in done.stdout


def test_what_another_process_has_written_down_does_not_make_a_server_ready(tmp_path: Path, answering: int) -> None:
    other = subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path), str(answering), "locked"], stdout=-1)
    try:
        assert other.stdout is not None and other.stdout.readline()
        assert start(tmp_path, answering, "import signal; signal.pause()").returncode == 6
    finally:
        other.kill()
        other.communicate()


def test_a_server_that_finds_its_port_taken_is_told_apart_although_somebody_answers_there(
    tmp_path: Path, answering: int
) -> None:
    done = start(tmp_path, answering, "import sys, time; time.sleep(0.3); sys.exit(4)", within_s=20)
    assert done.returncode == 4
    assert "it ended with exit status 4" in done.stdout


@pytest.mark.parametrize(("main_pid", "status"), [("its own", 0), ("another", 6)])
def test_a_service_is_ready_only_by_the_answer_of_its_own_process(
    tmp_path: Path, answering: int, main_pid: str, status: int
) -> None:
    """The same for systemd: the unit was active, but another instance had the port and answered."""
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path), str(answering), "locked"], stdout=-1)
    try:
        assert server.stdout is not None and server.stdout.readline()
        pid = server.pid if main_pid == "its own" else os.getpid()
        systemctl = tmp_path / "bin" / "systemctl"
        systemctl.parent.mkdir()
        systemctl.write_text(f"#!/bin/sh\nprintf 'MainPID={pid}\\nNRestarts=0\\nActiveState=active\\n'\n")
        systemctl.chmod(0o755)
        url = f"http://127.0.0.1:{answering}/health/ready"
        done = ask(
            "wait-unit", "--data", tmp_path, "--url", url, "--timeout", "1.5", "carillon.service",
            PATH=f"{systemctl.parent}{os.pathsep}{os.environ['PATH']}",
        )  # fmt: skip
        assert done.returncode == status, done.stdout
    finally:
        server.kill()
        server.communicate()


# --- the database after an upgrade that failed


def make_database(path: Path, word: str) -> None:
    path.parent.mkdir(exist_ok=True)
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE note (word TEXT)")
        database.execute("INSERT INTO note VALUES (?)", (word,))
    database.close()


def read_word(path: Path) -> str:
    with sqlite3.connect(path) as database:
        word = database.execute("SELECT word FROM note").fetchone()[0]
    database.close()
    return str(word)


def put_back(data: Path, begun: float) -> subprocess.CompletedProcess[str]:
    # From standard input, as install.sh does it.
    return subprocess.run(
        [sys.executable, "-", str(data), str(begun)],
        input=PUT_BACK.read_text(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def test_a_database_that_the_failed_upgrade_changed_is_put_back(tmp_path: Path) -> None:
    make_database(tmp_path / "carillon.sqlite", "after")
    copy = tmp_path / "backups" / "before-upgrade-20260102T000000000000.sqlite"
    make_database(copy, "before")
    older = tmp_path / "backups" / "before-upgrade-20250102T000000000000.sqlite"
    make_database(older, "long before")
    assert copy.name in put_back(tmp_path, copy.stat().st_mtime - 5).stdout
    assert read_word(tmp_path / "carillon.sqlite") == "before"
    assert (tmp_path / "carillon.sqlite").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "carillon.sqlite.restored").exists()


def test_a_database_that_was_not_upgraded_this_time_keeps_all_it_has_accepted_since(tmp_path: Path) -> None:
    make_database(tmp_path / "carillon.sqlite", "accepted since")
    copy = tmp_path / "backups" / "before-upgrade-20260102T000000000000.sqlite"
    make_database(copy, "before")
    os.utime(copy, (1_000_000, 1_000_000))
    assert put_back(tmp_path, 1_000_001).stdout == ""
    assert read_word(tmp_path / "carillon.sqlite") == "accepted since"


# --- the service


def fill_unit(**values: str) -> str:
    text = (ROOT / "packaging" / "carillon.service").read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def test_install_fills_every_blank_of_the_service_unit() -> None:
    blanks = set(re.findall(r"@[A-Z_]+@", (ROOT / "packaging" / "carillon.service").read_text()))
    script = (ROOT / "packaging" / "install" / "instance.sh").read_text()
    assert blanks
    assert blanks == set(re.findall(r"@[A-Z_]+@", script))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this machine has no systemd-analyze")
def test_systemd_accepts_the_unit_and_finds_it_hardened(tmp_path: Path) -> None:
    unit = tmp_path / "etc" / "systemd" / "system" / "carillon.service"
    unit.parent.mkdir(parents=True)
    unit.write_text(
        fill_unit(
            DATA="/var/lib/carillon",
            HOST="0.0.0.0",
            PORT="8480",
            PROTECT_HOME="yes",
            PRIVATE_USERS="yes",
            CAPABILITIES="",
        )
    )
    program = tmp_path / "opt" / "carillon" / "current" / "bin" / "carillon"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    shutil.copytree("/usr/lib/systemd/system", tmp_path / "usr" / "lib" / "systemd" / "system", symlinks=True)
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", f"--root={tmp_path}", "carillon.service"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert judged.returncode == 0, judged.stdout[-500:]


# --- the lock files


@pytest.fixture
def locks(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "packaging", tmp_path / "packaging")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def check_locks(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(root / "packaging" / "check_locks.py")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_lock_files_are_complete_and_name_no_address(locks: Path) -> None:
    done = check_locks(locks)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("lock", "line", "fault"),
    [
        ("requirements.lock", "--index-url https://packages.example.org/simple\n", "names an address"),
        ("dev.lock", "thing @ file:///tmp/thing.whl\n", "names an address"),
        ("node.lock", "thing>=1 \\\n    --hash=sha256:00\n", "not pinned"),
        ("requirements.lock", "thing==1\n", "has no hash"),
        ("requirements.lock", "thing==1 \\\n    --hash=sha256:00\n", "dev.lock: thing is missing"),
    ],
)
def test_a_fault_in_a_lock_file_is_found_and_named(locks: Path, lock: str, line: str, fault: str) -> None:
    with (locks / "packaging" / lock).open("a") as file:
        file.write(line)
    done = check_locks(locks)
    assert done.returncode == 1
    assert lock.split(".")[0] in done.stderr
    assert fault in done.stderr


def test_a_dependency_that_was_named_but_not_locked_is_found(locks: Path) -> None:
    project = locks / "pyproject.toml"
    first = tomllib.loads(project.read_text())["project"]["dependencies"][0]
    project.write_text(project.read_text().replace(f'"{first}"', f'"{first}", "flask>=3"'))
    done = check_locks(locks)
    assert done.returncode == 1
    assert "requirements.lock: flask is named in pyproject.toml but not locked" in done.stderr
