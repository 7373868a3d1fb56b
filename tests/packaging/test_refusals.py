"""What install.sh refuses: every refusal names the reason and the way out, and leaves nothing behind."""

import fcntl
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.packaging.conftest import Machine


def left_behind(machine: Machine, data: Path) -> list[str]:
    """List what a refused installation has made: the data folder or its parent, a runtime, a log."""
    made = [
        data.parent,
        machine.checkout / ".carillon",
        *Path(machine.environment["TMPDIR"]).glob("carillon-install-*"),
    ]
    return [str(path) for path in made if path.exists()]


@pytest.mark.parametrize(
    "options",
    [["--colour"], ["--data"], ["--port", "0"], ["--port", "65536"], ["--port", "80a"], ["--host", "a b"], ["--data="]],
)
def test_an_option_that_makes_no_sense_is_refused_before_anything_happens(
    fresh_machine: Machine, data: Path, options: list[str]
) -> None:
    done = fresh_machine.install(*options)
    assert done.returncode == 2
    assert options[0].split("=")[0] in done.stdout
    assert "--help" in done.stdout
    assert left_behind(fresh_machine, data) == []


def test_help_tells_every_option_and_every_exit_status(fresh_machine: Machine) -> None:
    done = fresh_machine.install("--help")
    assert done.returncode == 0
    for option in (
        "data",
        "port",
        "host",
        "try",
        "no-service",
        "native",
        "yes",
        "status",
        "stop",
        "setup-url",
        "version",
    ):
        assert f"--{option}" in done.stdout
    for status in (0, 2, 3, 4, 5, 6, 7, 8, 9):
        assert re.search(rf"\b{status} \w", done.stdout), status


def test_a_taken_port_is_named_with_its_holder_and_a_command_that_uses_a_free_one(
    fresh_machine: Machine, data: Path, taken_port: int
) -> None:
    done = fresh_machine.install("--try", "--yes", "--no-service", "--port", str(taken_port), data=data)
    assert done.returncode == 4
    assert f"Port {taken_port} is in use by" in done.stdout
    assert f"(pid {os.getpid()})" in done.stdout
    suggested = shlex.split(done.stdout.strip().splitlines()[-1])
    assert suggested[0] == str(fresh_machine.checkout / "install.sh")
    assert suggested[1:-1] == ["--data", str(data), "--try", "--no-service", "--yes", "--port"]
    assert int(suggested[-1]) > taken_port
    assert left_behind(fresh_machine, data) == []


def test_an_address_that_this_machine_does_not_have_is_refused(
    fresh_machine: Machine, data: Path, free_port: int
) -> None:
    done = fresh_machine.install("--yes", "--no-service", "--host", "192.0.2.99", "--port", str(free_port), data=data)
    assert done.returncode == 2
    assert "192.0.2.99" in done.stdout
    assert left_behind(fresh_machine, data) == []


def test_a_data_folder_that_is_a_file_is_refused_and_the_file_stays(fresh_machine: Machine, tmp_path: Path) -> None:
    letter = tmp_path / "letter"
    letter.write_text("keep me")
    for data in (letter, letter / "below" / "it"):
        done = fresh_machine.install("--yes", "--no-service", data=data)
        assert done.returncode == 2
        assert f"{letter} is not a folder" in done.stdout
    assert letter.read_text() == "keep me"


def test_a_folder_that_holds_other_things_is_not_taken_over(fresh_machine: Machine, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_text("cat")
    done = fresh_machine.install("--yes", "--no-service", data=photos)
    assert done.returncode == 2
    assert "holds other things" in done.stdout
    assert [path.name for path in photos.iterdir()] == ["cat.jpg"]


def mounted(options: str, folder: Path) -> tuple[str, ...]:
    """Return a command prefix under which an empty file system with these options is mounted on a folder."""
    script = f'mount -t tmpfs -o {options} tmpfs "$0" && exec "$@"'
    prefix = (
        "unshare",
        "--mount",
        *(() if os.geteuid() == 0 else ("--map-root-user",)),
        "sh",
        "-c",
        script,
        str(folder),
    )
    probe = subprocess.run([*prefix, "true"], capture_output=True, check=False) if shutil.which("unshare") else None
    if probe is None or probe.returncode != 0:
        pytest.skip("this machine does not let us mount a small file system")
    return prefix


@pytest.mark.parametrize("below", ["", "new/data"])
def test_a_read_only_data_folder_is_refused(fresh_machine: Machine, tmp_path: Path, below: str) -> None:
    place = tmp_path / "place"
    place.mkdir()
    done = fresh_machine.install("--yes", "--no-service", data=place / below, prefix=mounted("ro", place))
    assert done.returncode == 2, done.stdout
    assert "cannot be written to" in done.stdout
    assert "--data" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is told that /proc can be written to")
def test_a_file_system_that_only_claims_to_be_writable_is_not_taken_for_a_full_one(
    fresh_machine: Machine, free_port: int
) -> None:
    """Root was once told that /proc has 0 MB left, as if deleting something would help."""
    place = Path("/proc/carillon")
    done = fresh_machine.install("--yes", "--no-service", "--port", str(free_port), "--data", str(place))
    assert done.returncode == 2, done.stdout
    assert f"{place} cannot be made: /proc cannot be written to by root" in done.stdout
    assert "MB left" not in done.stdout
    assert left_behind(fresh_machine, fresh_machine.home / "nothing" / "data") == []


def test_a_full_disk_is_noticed_before_anything_is_made(fresh_machine: Machine, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    listing = tmp_path / "listing"
    *prefix, script, folder = mounted("size=2m", place)
    listing_it = f'status=$?; ls -A "$0" >{shlex.quote(str(listing))}; exit $status'
    then_list = (*prefix, f"{script.replace('exec ', '')}; {listing_it}", folder)
    done = fresh_machine.install("--yes", "--no-service", data=place / "data", prefix=then_list)
    assert done.returncode == 8, done.stdout
    assert "MB left" in done.stdout
    assert listing.read_text() == ""


def path_with(tmp_path: Path, machine: Machine, **programs: str) -> dict[str, str]:
    """Return an environment whose PATH holds what a small system has, but no Python, and the given scripts."""
    folder = tmp_path / "bin"
    folder.mkdir()
    needed = (
        "sh env id uname dirname basename sed head tail grep cat find mktemp rm mkdir rmdir mv ln date wc cp chmod ls"
    )
    for name in needed.split():
        program = shutil.which(name)
        assert program is not None
        (folder / name).symlink_to(program)
    for name, body in programs.items():
        script = folder / name
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)
    return machine.environment | {"PATH": str(folder)}


@pytest.mark.parametrize(
    "programs",
    [{}, {"python3": "exit 1"}, {"python3": 'echo "not what you think" >&2; exit 127'}],
    ids=["no python", "too old a python", "a python that does not work"],
)
def test_a_missing_python_is_named_with_the_command_that_installs_it(
    fresh_machine: Machine, data: Path, tmp_path: Path, programs: dict[str, str]
) -> None:
    environment = path_with(tmp_path, fresh_machine, **programs)
    done = fresh_machine.install("--yes", "--no-service", data=data, environment=environment)
    assert done.returncode == 5, done.stdout
    assert "Python 3.11 or later is missing" in done.stdout
    assert "apt-get install -y python3 python3-venv" in done.stdout
    assert left_behind(fresh_machine, data) == []


def test_a_machine_that_is_not_linux_is_refused(fresh_machine: Machine, data: Path, tmp_path: Path) -> None:
    environment = path_with(tmp_path, fresh_machine)
    uname = tmp_path / "bin" / "uname"
    uname.unlink()
    uname.write_text("#!/bin/sh\necho Plan9\n")
    uname.chmod(0o755)
    done = fresh_machine.install("--yes", data=data, environment=environment)
    assert done.returncode == 7
    assert "Plan9" in done.stdout
    assert left_behind(fresh_machine, data) == []


def test_a_second_install_of_the_same_folder_at_the_same_time_is_refused(
    fresh_machine: Machine, tmp_path: Path, free_port: int
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    folder = os.open(data, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        done = fresh_machine.install("--yes", "--no-service", "--port", str(free_port), data=data)
    finally:
        os.close(folder)
    assert done.returncode == 9
    assert "another install is working on" in done.stdout
    assert list(data.iterdir()) == []
    assert not (fresh_machine.checkout / ".carillon").exists()


def test_status_and_stop_of_a_folder_without_an_installation_say_so(fresh_machine: Machine, data: Path) -> None:
    status = fresh_machine.install("--status", data=data)
    assert (status.returncode, status.stdout) == (3, f"Carillon is not installed in {data}.\n")
    stop = fresh_machine.install("--stop", data=data)
    assert (stop.returncode, stop.stdout) == (0, f"Carillon is not installed in {data}.\n")
    assert left_behind(fresh_machine, data) == []
