"""The lock of a data folder and the facts of its instance, across real processes."""

import fcntl
import json
import os
import subprocess
import sys
import threading
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.cli.exits import CommandFailed, Exit
from appliance.cli.instance import (
    LOCK_FILE,
    PID_FILE,
    Instance,
    find_running,
    holding_lock,
    is_running,
    read_instance,
    show_status,
    stop_instance,
    write_instance,
)

HOLDER = """
import signal, sys, time
from pathlib import Path
from appliance.cli.instance import holding_lock, write_instance
folder = Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with holding_lock(folder):
    write_instance(folder, host="127.0.0.1", port=1, tls=False, started_at="2026-03-01T12:00:00Z")
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder and has written itself down."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.stdout.close()
    process.kill()
    process.wait()


def test_a_folder_has_one_holder_at_a_time(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    assert is_running(tmp_path)
    with pytest.raises(CommandFailed, match=f"pid {holder.pid}, port 1") as failed, holding_lock(tmp_path):
        pass
    assert failed.value.code is Exit.LOCKED
    assert find_running(tmp_path) == Instance(holder.pid, 1, "127.0.0.1", "0.1.0", "2026-03-01T12:00:00Z")


def test_a_killed_holder_leaves_the_folder_free(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    holder.kill()
    holder.wait()
    assert not is_running(tmp_path)
    assert read_instance(tmp_path) is not None
    assert find_running(tmp_path) is None
    with holding_lock(tmp_path):
        assert not (tmp_path / PID_FILE).exists()


def test_stop_ends_the_process_that_holds_the_folder(
    holder: subprocess.Popen[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reaper = threading.Thread(target=holder.wait)
    reaper.start()
    assert stop_instance(Namespace(data=tmp_path)) == Exit.DONE
    reaper.join(10)
    assert holder.returncode == 0
    assert capsys.readouterr().out == "Carillon is stopped.\n"
    assert stop_instance(Namespace(data=tmp_path)) == Exit.DONE
    assert "not running" in capsys.readouterr().out


def test_stop_kills_no_stranger_that_has_the_number_of_an_old_instance(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).touch()
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        facts = {"pid": stranger.pid, "port": 1, "host": "x", "version": "1", "started_at": "x"}
        (tmp_path / PID_FILE).write_text(json.dumps(facts))
        assert stop_instance(Namespace(data=tmp_path)) == Exit.DONE
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_status_tells_running_from_stopped(
    holder: subprocess.Popen[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show_status(Namespace(data=tmp_path)) == Exit.DONE
    shown = capsys.readouterr().out
    assert "Carillon is running." in shown
    assert f"pid      {holder.pid}" in shown
    assert "health   does not answer" in shown
    assert show_status(Namespace(data=tmp_path / "none")) == Exit.NOT_RUNNING
    holder.kill()
    holder.wait()
    assert show_status(Namespace(data=tmp_path)) == Exit.NOT_RUNNING
    assert "not running" in capsys.readouterr().out


def test_an_instance_that_has_not_written_itself_down_is_starting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with holding_lock(tmp_path):
        assert show_status(Namespace(data=tmp_path)) == Exit.DONE
        assert "is starting" in capsys.readouterr().out
        write_instance(tmp_path, host="::", port=8, tls=True, started_at="x")
        instance = find_running(tmp_path)
    assert instance is not None
    assert instance.local_url == "https://[::1]:8"
    assert instance.pid == os.getpid()


def test_a_look_at_the_status_does_not_keep_an_instance_from_starting(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    threading.Timer(0.2, os.close, (descriptor,)).start()
    with holding_lock(tmp_path):
        assert is_running(tmp_path)


def test_a_lock_file_that_was_taken_away_is_no_lock(tmp_path: Path) -> None:
    with holding_lock(tmp_path):
        (tmp_path / LOCK_FILE).unlink()
        with holding_lock(tmp_path):
            assert is_running(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1}'])
def test_facts_that_cannot_be_read_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / PID_FILE).write_text(text)
    assert read_instance(tmp_path) is None
