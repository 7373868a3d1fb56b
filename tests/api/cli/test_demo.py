"""The demo: what `carillon try` makes, and that the commands it prints work exactly as printed."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from appliance.cli.exits import Exit
from tests.doubles.appliance import RunningAppliance

ROOT = Path(__file__).parents[3]
KEYS = [
    "base_url", "admin_username", "admin_password", "client_id", "client_secret",
    "user_id", "user_token", "second_user_id", "second_user_token",
]  # fmt: skip


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Demo"]:
    running = RunningAppliance(tmp_path_factory.mktemp("demo") / "it's my data")
    running.start()
    yield Demo(running)
    assert running.stop() == 0, running.output


class Demo:
    """A demo, with what `try` printed. Commands run in a shell of their own, as somebody would paste them."""

    def __init__(self, running: RunningAppliance) -> None:
        self.running = running
        # A home of its own, so that no cursor is left in the developer's.
        self.home = running.data_dir.parent / "home"
        self.home.mkdir()
        done = self.carillon("try", "--base-url", running.base_url)
        assert (done.returncode, done.stderr) == (Exit.DONE, "")
        self.commands = [line.strip() for line in done.stdout.splitlines() if line.startswith("    ")]

    @property
    def facts(self) -> dict[str, str]:
        return json.loads((self.running.data_dir / "try.json").read_text())

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.home)}

    def carillon(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "appliance.cli", "--data", str(self.running.data_dir), *arguments],
            cwd=ROOT, env={**self.environment, **more}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def paste(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", "-c", command], cwd="/", env=self.environment, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip

    def listen(self, *arguments: str, command: list[str] | None = None, **more: str) -> "Listening":
        program = [sys.executable, "-m", "appliance.cli", "--data", str(self.running.data_dir), "listen"]
        return Listening(command or [*program, *arguments], {**self.environment, **more})


class Listening:
    """A listener in the background whose output is read line by line."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        # A line that never comes must not hold the tests up.
        self._watchdog = threading.Timer(60, self.end, (signal.SIGKILL,))
        self._watchdog.start()

    def until(self, state: str) -> str:
        """Read the states (standard error) until one begins so."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith(state):
                return line
        raise AssertionError(f"the listener ended without {state!r}")

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the listener ended"
        return line.rstrip("\n")

    def end(self, number: int = signal.SIGTERM) -> tuple[str, str]:
        self._watchdog.cancel()
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
        return self.process.communicate(timeout=30)


def test_the_facts_are_exactly_these_and_private(demo: Demo) -> None:
    assert list(demo.facts) == KEYS
    assert (demo.running.data_dir / "try.json").stat().st_mode & 0o777 == 0o600
    assert demo.facts["base_url"] == demo.running.base_url


def test_the_three_commands_work_exactly_as_printed_in_any_place(demo: Demo) -> None:
    listen, send, open_web = demo.commands
    listening = demo.listen(command=["/bin/sh", "-c", f"cd / && exec {listen}"])
    listening.until("connected")
    sent = demo.paste(send)
    assert sent.returncode == Exit.DONE, sent.stderr
    assert len(sent.stdout.strip()) == 36
    assert listening.line().endswith("Demo  Hello")
    assert listening.line().strip() == "Your first notification"
    listening.end()
    assert listening.process.returncode == Exit.DONE
    opened = demo.paste(open_web)
    assert (opened.returncode, opened.stdout) == (Exit.DONE, f"{demo.running.base_url}/\n")
    page = httpx.get(opened.stdout.strip(), trust_env=False)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")


def test_a_second_try_keeps_what_still_counts_and_renews_the_tokens(demo: Demo) -> None:
    before = demo.facts
    assert demo.carillon("try", "--base-url", demo.running.base_url).returncode == Exit.DONE
    after = demo.facts
    kept = [key for key in KEYS if before[key] == after[key]]
    assert kept == [key for key in KEYS if not key.endswith("token")]


def test_a_try_after_the_record_was_spoilt_makes_what_no_longer_counts(demo: Demo) -> None:
    place = demo.running.data_dir / "try.json"
    spoilt = {**demo.facts, "admin_password": "not this one", "client_secret": "cs_not_this_one"}
    place.write_text(json.dumps(spoilt))
    assert demo.carillon("try", "--base-url", demo.running.base_url).returncode == Exit.DONE
    facts = demo.facts
    assert facts["client_id"] == spoilt["client_id"]
    assert facts["client_secret"] != spoilt["client_secret"]
    form = {"grant_type": "password", "username": "admin", "password": facts["admin_password"]}
    assert httpx.post(f"{demo.running.base_url}/oauth/token", data=form, trust_env=False).status_code == 200
    # The running server has followed the new secret.
    assert demo.carillon("send", "Hello", "With the new secret").returncode == Exit.DONE


def test_the_tokens_are_good_for_a_day_and_for_these_users(demo: Demo) -> None:
    for name in ("user", "second_user"):
        headers = {"authorization": f"Bearer {demo.facts[f'{name}_token']}"}
        devices = httpx.get(f"{demo.running.base_url}/account/devices", headers=headers, trust_env=False)
        assert devices.status_code == 200
        sent = demo.carillon("send", "Hello", "There", "--user", demo.facts[f"{name}_id"])
        assert sent.returncode == Exit.DONE


def test_an_appliance_in_use_is_not_made_a_demo(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "appliance.cli", "--data", str(tmp_path / "d")]
    options: dict[str, Any] = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 60, "check": False}
    environment = {"PATH": os.environ["PATH"]}
    assert subprocess.run([*program, "prepare"], env=environment, **options).returncode == Exit.DONE
    added = subprocess.run([*program, "user", "add", "owner", "--admin", "--generate"], env=environment, **options)
    assert added.returncode == Exit.DONE, added.stderr
    done = subprocess.run([*program, "try"], env=environment, **options)
    assert done.returncode == Exit.USAGE
    assert "is no demo" in done.stderr
    assert not (tmp_path / "d" / "try.json").exists()


def test_send_waits_and_tells_what_became_of_it(demo: Demo) -> None:
    # The second user has no other device that the delivery would wait for.
    listening = demo.listen("--device", "waiting room", "--json", "--token", demo.facts["second_user_token"])
    listening.until("connected")
    to_second = ["--user", demo.facts["second_user_id"]]
    data = ["--data", "route=/x", "--json", '{"count": 2}']
    sent = demo.carillon("send", "Hello", "There", *to_second, *data, "--wait", "20")
    assert sent.returncode == Exit.DONE, sent.stdout + sent.stderr
    notification = json.loads(listening.line())
    assert notification["id"] == sent.stdout.splitlines()[0]
    assert notification["data"] == {"route": "/x", "count": 2}
    assert "waiting room (hub): received" in sent.stdout
    assert "over the live hub" in sent.stdout
    # Straight from the data folder, the same story.
    explained = demo.carillon("explain", notification["id"])
    assert explained.returncode == Exit.DONE
    assert "waiting room (hub): received" in explained.stdout
    over_http = demo.carillon("explain", notification["id"], "--json", "--url", demo.running.base_url)
    assert json.loads(over_http.stdout)["notification_id"] == notification["id"]
    as_admin = demo.carillon(
        "explain", notification["id"], "--url", demo.running.base_url, "--username", "admin",
        CARILLON_PASSWORD=demo.facts["admin_password"],
    )  # fmt: skip
    assert "waiting room (hub): received" in as_admin.stdout, as_admin.stderr
    listening.end()


def test_what_was_sent_while_nobody_listened_comes_first_and_only_once(demo: Demo) -> None:
    first = demo.listen("--device", "radio", "--once", "--json")
    first.until("connected")
    demo.carillon("send", "Number one", "There")
    assert json.loads(first.line())["title"] == "Number one"
    assert first.process.wait(30) == Exit.DONE
    first.end()
    demo.carillon("send", "Number two", "There")
    second = demo.listen("--device", "radio", "--json")
    assert "1 missed follow" in second.until("connected")
    assert json.loads(second.line())["title"] == "Number two"
    demo.carillon("send", "Number three", "There")
    assert json.loads(second.line())["title"] == "Number three"
    second.end()


def test_a_listener_comes_back_after_the_server_was_killed(demo: Demo) -> None:
    listening = demo.listen("--device", "survivor", "--json")
    listening.until("connected")
    demo.running.kill()
    demo.running.start()
    listening.until("connected")
    demo.carillon("send", "After the crash", "There")
    assert json.loads(listening.line())["title"] == "After the crash"
    listening.end()


def test_a_listener_is_told_of_a_restart_and_comes_back(demo: Demo) -> None:
    listening = demo.listen("--device", "patient", "--json")
    listening.until("connected")
    assert demo.running.stop() == 0
    assert "The server is restarting." in listening.until("The server")
    demo.running.start()
    listening.until("connected")
    demo.carillon("send", "After the restart", "There")
    assert json.loads(listening.line())["title"] == "After the restart"
    listening.end()


def test_a_second_listener_of_the_same_name_ends_the_first_with_a_hint(demo: Demo) -> None:
    first = demo.listen("--device", "twin")
    first.until("connected")
    second = demo.listen("--device", "twin")
    second.until("connected")
    assert first.process.wait(30) == Exit.FAILED
    _, states = first.end()
    assert "connected again elsewhere" in states
    assert "--device NAME" in states
    second.end()


def test_ctrl_c_ends_a_listener_without_a_word(demo: Demo) -> None:
    listening = demo.listen("--device", "brief")
    listening.until("connected")
    output, states = listening.end(signal.SIGINT)
    assert listening.process.returncode == Exit.INTERRUPTED
    assert (output, states) == ("", "")


def test_a_user_listens_by_name_and_password_from_another_folder(demo: Demo) -> None:
    added = demo.carillon("user", "add", "anna", "--generate", "--app", demo.facts["client_id"])
    assert added.returncode == Exit.DONE, added.stderr
    facts = dict(line.split(": ", 1) for line in added.stdout.splitlines() if ": " in line)
    password = next(value for name, value in facts.items() if name.startswith("password"))
    program = [sys.executable, "-m", "appliance.cli", "--data", str(demo.home / "none"), "listen", "--json"]
    listening = Listening(
        [*program, "--url", demo.running.base_url, "--username", "anna"],
        {**demo.environment, "CARILLON_PASSWORD": password},
    )
    listening.until("connected")
    sent = demo.carillon("send", "For Anna", "There", "--user", facts["user id"])
    assert sent.returncode == Exit.DONE, sent.stderr
    assert json.loads(listening.line())["title"] == "For Anna"
    listening.end()
    # The cursor is in the user's own state folder.
    assert list((demo.home / ".local" / "state" / "carillon").glob("listen-*.json"))


def test_a_server_that_is_not_there_yet_is_waited_for(demo: Demo, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "appliance.cli", "--data", str(tmp_path / "none"), "listen"]
    nowhere = Listening(
        [*program, "--url", "http://127.0.0.1:1", "--username", "anna"],
        {**demo.environment, "CARILLON_PASSWORD": "whatever it is"},
    )
    assert "does not answer" in nowhere.until("http://127.0.0.1:1")
    assert nowhere.end()[0] == ""
    assert nowhere.process.returncode == Exit.DONE


def test_refusals_are_one_line_and_name_the_field(demo: Demo) -> None:
    too_long = demo.carillon("send", "x" * 300, "There")
    assert too_long.returncode == Exit.FAILED
    assert "title" in too_long.stderr
    assert len(too_long.stderr.splitlines()) <= 2
    stranger = demo.carillon("send", "Hello", "There", "--user", "00000000-0000-7000-8000-000000000000")
    assert stranger.returncode == Exit.FAILED
    wrong = demo.carillon(
        "send", "Hello", "There", "--user", demo.facts["user_id"], "--client-id", demo.facts["client_id"],
        "--client-secret", "cs_wrong", "--url", demo.running.base_url,
    )  # fmt: skip
    assert wrong.returncode == Exit.FAILED
    assert "cs_wrong" not in wrong.stderr
    nowhere = demo.carillon("explain", "00000000-0000-7000-8000-000000000000")
    assert nowhere.returncode == Exit.FAILED


def test_a_scheduled_notification_is_told_as_such(demo: Demo) -> None:
    sent = demo.carillon("send", "Later", "There", "--at", "+1h", "--wait", "0")
    assert sent.returncode == Exit.FAILED
    assert "scheduled" in sent.stdout
    assert "explain" in sent.stderr
