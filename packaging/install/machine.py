"""What install.sh asks of the machine: ports, locks, fingerprints, copies, old releases.

Run as `python3 packaging/machine.py QUESTION ARGUMENT...` with nothing but the standard library. An answer goes to
standard output, the exit status says yes (0) or names the reason (the exit codes of install.sh).
"""

from __future__ import annotations

import argparse
import compileall
import errno
import fcntl
import hashlib
import os
import platform
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from progress import is_ready, read_facts, run_quietly, serves, start_and_wait, wait_for_unit

EXIT_USAGE = 2
EXIT_NOT_ROOT = 3
EXIT_PORT_TAKEN = 4
EXIT_UNSUPPORTED = 7
EXIT_NO_SPACE = 8
EXIT_BUSY = 9

CODE = ("appliance", "wizard")
PAGES = "frontend/pages"  # served as they are; the rest of the front end is built
NOT_CODE = {"__pycache__", "node_modules", "dist", ".vite"}
PORTS_TRIED = 200
LISTENING = "0A"  # TCP_LISTEN in /proc/net/tcp


def find_python_fault() -> str | None:
    """Say why this interpreter cannot run Carillon, or None when it can."""
    if platform.machine() not in {"x86_64", "aarch64"} or sys.maxsize < 2**32:
        return f"this processor or Python ({platform.machine()}) has no prebuilt packages; x86_64 and aarch64 do"
    return None


def walk_files(folder: Path) -> Iterator[Path]:
    """Yield the files of a source folder in a fixed order, without what tools left there."""
    for entry in sorted(folder.iterdir()):
        if entry.name in NOT_CODE or entry.suffix == ".pyc":
            continue
        if entry.is_dir():
            yield from walk_files(entry)
        elif entry.is_file():
            yield entry


def fingerprint(root: Path, names: list[str], extra: str = "") -> str:
    """Name the contents of files and folders under `root` by 12 hex digits; what is missing counts as empty."""
    digest = hashlib.sha256(extra.encode())
    for name in names:
        start = root / name
        files = walk_files(start) if start.is_dir() else ([start] if start.is_file() else [])
        for file in files:
            contents = file.read_bytes()
            digest.update(f"{file.relative_to(root)}\0{len(contents)}\0".encode())
            digest.update(contents)
    return digest.hexdigest()[:12]


def copy_code(root: Path, release: Path) -> None:
    """Copy the import packages, compiled, and the plain pages into a release, so that it can be read-only."""
    for name in CODE:
        if not (root / name).is_dir():
            continue
        copy_files(root, name, release)
        compileall.compile_dir(release / name, quiet=1)
    if (root / PAGES).is_dir():
        copy_files(root, PAGES, release)


def copy_files(root: Path, name: str, target: Path) -> None:
    """Copy a source folder, without what tools left in it."""
    for file in walk_files(root / name):
        copied = target / file.relative_to(root)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copied)


def bind_fault(host: str, port: int) -> OSError | None:
    """Try to listen on an address for an instant; return what stands in the way."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(1)
        except OSError as fault:
            return fault
    return None


def find_listeners(port: int) -> dict[int, str]:
    """Return pid -> command name of the processes that listen on a TCP port, as far as this user may see them."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            columns = line.split()
            if columns[3] == LISTENING and int(columns[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{columns[9]}]")
    holders = {}
    for process in Path("/proc").glob("[0-9]*") if inodes else []:
        try:
            if any(os.readlink(fd) in inodes for fd in (process / "fd").iterdir()):
                holders[int(process.name)] = (process / "comm").read_text(encoding="utf-8").strip()
        except OSError:
            continue  # ended meanwhile, or belongs to another user
    return holders


def check_port(host: str, port: int, our_pid: int) -> int:
    """Answer 0 when the port is free or held by our own process; else say who holds it and name a free one."""
    fault = bind_fault(host, port)
    if fault is None:
        return 0
    if fault.errno == errno.EACCES:
        print(f"Port {port} is below 1024 and only root may listen there.")
        return EXIT_NOT_ROOT
    if fault.errno != errno.EADDRINUSE:
        print(f"Cannot listen on {host}: {fault.strerror or fault}.")
        return EXIT_USAGE
    holders = find_listeners(port)
    if our_pid in holders:
        return 0
    names = ", ".join(f"{name} (pid {pid})" for pid, name in sorted(holders.items())) or "another program"
    print(f"Port {port} is in use by {names}.")
    return EXIT_PORT_TAKEN


def find_free_port(host: str, after: int) -> int | None:
    """Return the first free port above `after`, or None when the next 200 are all taken."""
    for port in range(after + 1, min(after + PORTS_TRIED, 65535) + 1):
        if bind_fault(host, port) is None:
            return port
    return None


def lock_descriptor(descriptor: int, wait_s: float) -> int:
    """Lock what an inherited descriptor has open; the caller's shell keeps the lock until it closes it."""
    end = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return 0
        except BlockingIOError:
            if time.monotonic() >= end:
                return EXIT_BUSY
        time.sleep(0.2)


def check_space(folder: Path, megabytes: int) -> int:
    """Answer 0 when the file system of a folder (or of its nearest existing parent) has that much room."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free // 1_000_000
    if free >= megabytes:
        return 0
    print(f"{folder} has {free} MB left; {megabytes} MB are needed.")
    return EXIT_NO_SPACE


def check_writable(folder: Path) -> int:
    """Answer 0 when a folder can be made in this one; some file systems (/proc) say so of themselves and refuse it."""
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".carillon-", dir=folder))
    except OSError as fault:
        # How much room is left is a question of its own, with an answer of its own.
        return 0 if fault.errno in (errno.ENOSPC, errno.EDQUOT) else EXIT_USAGE
    return 0


def find_lan_address() -> str:
    """Return the address of this machine that others on its network reach, or the loopback address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only asks the kernel for the way out
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def prune_releases(root: Path) -> None:
    """Delete the releases that no installation names any more, and the environments that no release uses.

    `used-by` in a release lists the record (`install.env`) of every installation that has started from it.
    """
    parts_in_use = set()
    for release in sorted((root / "releases").glob("*")):
        listed = release / "used-by"
        records = listed.read_text(encoding="utf-8").splitlines() if listed.exists() else []
        if any(_names_release(Path(record), release) for record in records):
            parts_in_use |= {(release / "venv").resolve(), (release / "frontend" / "dist").resolve().parent}
        else:
            shutil.rmtree(release, ignore_errors=True)
    for part in [*root.glob("venv-*"), *root.glob("web-*")]:
        if part.resolve() not in parts_in_use:
            shutil.rmtree(part, ignore_errors=True)


def _names_release(record: Path, release: Path) -> bool:
    try:
        lines = record.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any(line in (f"RELEASE={release}", f"PREVIOUS={release}") for line in lines)


def answer(arguments: argparse.Namespace) -> int:
    """Answer one question; the result is the exit status."""
    match arguments.question:
        case "python":
            fault = find_python_fault()
            print(fault or platform.python_version())
            return EXIT_UNSUPPORTED if fault else 0
        case "fingerprint-code":
            print(fingerprint(arguments.root, [*CODE, "frontend", "packaging/requirements.lock"]))
        case "fingerprint-web":
            print(fingerprint(arguments.root, ["frontend", "packaging/node.lock"]))
        case "fingerprint-python":
            interpreter = f"{sys.implementation.cache_tag} {sys.base_prefix} {platform.machine()}"
            print(fingerprint(arguments.root, ["packaging/build.lock", "packaging/requirements.lock"], interpreter))
        case "copy-code":
            copy_code(arguments.root, arguments.release)
        case "copy-web":
            copy_files(arguments.root, "frontend", arguments.release)
        case "ready":
            return 0 if serves(arguments.data, arguments.url) and is_ready(arguments.url) else 1
        case "port":
            return check_port(arguments.host, arguments.port, arguments.ours)
        case "free-port":
            print(find_free_port(arguments.host, arguments.port) or "")
        case "lock":
            return lock_descriptor(arguments.descriptor, arguments.wait)
        case "space":
            return check_space(arguments.folder, arguments.megabytes)
        case "writable":
            return check_writable(arguments.folder)
        case "pid-file":
            print(read_facts(arguments.file).get(arguments.key, ""))
        case "lan-address":
            print(find_lan_address())
        case "prune":
            prune_releases(arguments.root)
        case "run":
            return run_quietly(arguments.command, arguments.log, arguments.label, arguments.count, arguments.total)
        case "start":
            return start_and_wait(arguments.command, arguments.output, arguments.data, arguments.url, arguments.timeout)
        case "wait-unit":
            return wait_for_unit(arguments.unit, arguments.data, arguments.url, arguments.timeout)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Describe the questions."""
    parser = argparse.ArgumentParser(prog="machine.py", description="What install.sh asks of the machine.")
    questions = parser.add_subparsers(dest="question", required=True)
    questions.add_parser("python")
    questions.add_parser("lan-address")
    for name in ("fingerprint-code", "fingerprint-web", "fingerprint-python", "prune"):
        questions.add_parser(name).add_argument("root", type=Path)
    for name in ("copy-code", "copy-web"):
        copy = questions.add_parser(name)
        copy.add_argument("root", type=Path)
        copy.add_argument("release", type=Path)
    ready = questions.add_parser("ready")
    ready.add_argument("data", type=Path)
    ready.add_argument("url")
    questions.add_parser("writable").add_argument("folder", type=Path)
    for name in ("port", "free-port"):
        question = questions.add_parser(name)
        question.add_argument("host")
        question.add_argument("port", type=int)
        question.add_argument("--ours", type=int, default=0, help="pid of our own process, 0 for none")
    lock = questions.add_parser("lock")
    lock.add_argument("descriptor", type=int)
    lock.add_argument("wait", type=float, help="seconds")
    space = questions.add_parser("space")
    space.add_argument("folder", type=Path)
    space.add_argument("megabytes", type=int)
    pid_file = questions.add_parser("pid-file")
    pid_file.add_argument("file", type=Path)
    pid_file.add_argument("key")
    run = questions.add_parser("run")
    run.add_argument("--log", type=Path, required=True)
    run.add_argument("--label", required=True)
    run.add_argument("--count", default="", help="a line of output that begins with this is one part done")
    run.add_argument("--total", type=int, default=0)
    run.add_argument("command", nargs="+")
    start = questions.add_parser("start")
    start.add_argument("--output", type=Path, required=True)
    unit = questions.add_parser("wait-unit")
    unit.add_argument("unit")
    for question in (start, unit):
        question.add_argument("--data", type=Path, required=True, help="the data folder that it serves")
        question.add_argument("--url", required=True)
        question.add_argument("--timeout", type=float, default=60)
    start.add_argument("command", nargs="+")
    return parser


if __name__ == "__main__":
    sys.exit(answer(build_parser().parse_args()))
