"""What is read from the command line, and what is shown on the terminal."""

import shlex
import subprocess
from argparse import Namespace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from appliance.cli.demo_record import DemoRecord, load_demo, save_demo
from appliance.cli.exits import CommandFailed
from appliance.cli.screen import one_line, printable
from appliance.cli.send import _data, parse_duration, parse_moment
from appliance.cli.shown import COMMAND_VARIABLE, shown_command
from appliance.cli.timeline_text import describe
from appliance.cli.who import find_app_access, find_user_access
from appliance.client_timeline import Attempt, Delivery, Timeline

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DEMO = DemoRecord("http://127.0.0.1:1", "admin", "pw", "app-1", "cs_1", "user-1", "t1", "user-2", "t2")
NOTHING = {
    "url": None, "client_id": None, "client_secret": None, "token": None, "username": None, "password": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "length"),
    [("0", 0), ("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("7 d", 604_800), ("3H", 10_800)],
)
def test_lengths_of_time_are_read(text: str, length: int) -> None:
    assert parse_duration(text) == timedelta(seconds=length)


@pytest.mark.parametrize("text", ["", "-1", "1.5h", "1w", "h", "1h30m"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(CommandFailed):
        parse_duration(text)


def test_moments_are_read_from_now_or_from_the_calendar() -> None:
    assert parse_moment("+15m", NOON) == NOON + timedelta(minutes=15)
    assert parse_moment("2026-03-17T12:00:00Z", NOON) == datetime(2026, 3, 17, 12, tzinfo=UTC)
    assert parse_moment("2026-03-17T12:00:00+02:00", NOON) == datetime(2026, 3, 17, 10, tzinfo=UTC)
    assert parse_moment("2026-03-17T12:00", NOON).tzinfo is UTC
    for text in ("tomorrow", "+", "12:00"):
        with pytest.raises(CommandFailed):
            parse_moment(text, NOON)


def test_pairs_and_json_make_one_object() -> None:
    assert _data(Namespace(json='{"a": 1, "b": 2}', pairs=["b=x=y", "c="])) == {"a": 1, "b": "x=y", "c": ""}
    assert _data(Namespace(json=None, pairs=[])) is None
    for given in (Namespace(json="[1]", pairs=[]), Namespace(json="{", pairs=[]), Namespace(json=None, pairs=["x"])):
        with pytest.raises(CommandFailed):
            _data(given)


def test_text_from_elsewhere_cannot_command_the_terminal() -> None:
    assert printable("\x1b[2J\x07ok\u202eevil\u009b1m") == "\ufffd[2J\ufffdok\ufffdevil\ufffd1m"
    assert printable("two\nlines\twide") == "two\nlines    wide"
    assert one_line("two\n\n lines\r") == "two lines"
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert printable(f"zażółć {family}") == f"zażółć {family}"


def test_the_command_is_shown_as_the_set_up_told_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(COMMAND_VARIABLE, "'/my data/carillon'")
    assert shown_command(tmp_path) == "'/my data/carillon'"
    monkeypatch.delenv(COMMAND_VARIABLE)
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    wrapper = folder / "carillon"
    wrapper.write_text("#!/bin/sh\n")
    wrapper.chmod(0o755)
    assert shlex.split(shown_command(folder)) == [str(wrapper)]


def test_the_command_that_is_shown_without_a_set_up_runs_from_anywhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(COMMAND_VARIABLE, raising=False)
    folder = tmp_path / "it's a folder"
    pasted = ["/bin/sh", "-c", f"{shown_command(folder)} status"]
    done = subprocess.run(pasted, cwd="/", capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 3, done.stderr
    assert str(folder) in done.stdout


def test_a_demo_record_is_private_and_comes_back_as_it_was(tmp_path: Path) -> None:
    save_demo(tmp_path, DEMO)
    assert load_demo(tmp_path) == DEMO
    assert (tmp_path / "try.json").stat().st_mode & 0o777 == 0o600
    assert "cs_1" not in repr(DEMO)
    assert "t1" not in repr(DEMO)
    (tmp_path / "try.json").write_text('{"base_url": 1}')
    assert load_demo(tmp_path) is None
    assert load_demo(tmp_path / "none") is None


def arguments(folder: Path, **given: Any) -> Namespace:
    return Namespace(data=folder, **(NOTHING | given))


def test_an_app_is_named_by_flags_then_by_the_environment_then_by_the_demo(tmp_path: Path) -> None:
    environ = {"CARILLON_URL": "http://env", "CARILLON_CLIENT_ID": "env-1", "CARILLON_CLIENT_SECRET": "cs_env"}
    with pytest.raises(CommandFailed, match="CARILLON_CLIENT_ID"):
        find_app_access(arguments(tmp_path), {})
    save_demo(tmp_path, DEMO)
    assert find_app_access(arguments(tmp_path), {}).demo_user_id == "user-1"
    from_environment = find_app_access(arguments(tmp_path), environ)
    assert (from_environment.url, from_environment.client_id) == ("http://env", "env-1")
    assert from_environment.demo_user_id is None
    flags = arguments(tmp_path, url="http://flag", client_id="flag-1", client_secret="cs_flag")
    assert find_app_access(flags, environ).client_id == "flag-1"
    assert "cs_flag" not in repr(find_app_access(flags, environ))


def test_a_user_is_named_by_a_token_a_password_or_the_demo(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="--username"):
        find_user_access(arguments(tmp_path), {})
    with pytest.raises(CommandFailed, match="CARILLON_URL"):
        find_user_access(arguments(tmp_path, token="t"), {})
    save_demo(tmp_path, DEMO)
    assert find_user_access(arguments(tmp_path), {}).is_demo
    assert find_user_access(arguments(tmp_path, token="t"), {}).token.reveal() == "t"
    person = find_user_access(arguments(tmp_path, username="anna"), {"CARILLON_PASSWORD": "p"})
    assert (person.username, person.password.reveal(), person.is_demo) == ("anna", "p", False)
    assert find_user_access(arguments(tmp_path, token="flag"), {"CARILLON_USERNAME": "anna"}).username == ""


def a_timeline(**changes: Any) -> Timeline:
    fields: dict[str, Any] = {
        "notification_id": "n1", "app_id": "a1", "user_id": "u1", "title": "Hello", "state": "delivering",
        "explanation": "1 delivery: 1 queued.", "accepted_at": NOON, "expires_at": NOON + timedelta(hours=1),
    }  # fmt: skip
    return Timeline(**(fields | changes))


def test_a_timeline_names_each_attempt_and_what_happens_next() -> None:
    attempt = Attempt(
        number=1, layer="direct", channel="fcm", started_at=NOON, latency_ms=83, outcome="retry", code="unavailable",
        reason="Google asked to try later.",
    )  # fmt: skip
    waiting = Delivery(
        id="d1", device_label="Anna's phone", platform="android", state="queued",
        explanation="Google asked to try later. It will be tried again.",
        next_attempt_at=NOON + timedelta(minutes=1), attempts=(attempt,),
    )  # fmt: skip
    text = describe(a_timeline(deliveries=(waiting,)))
    assert "Anna's phone (android): waiting" in text
    assert "over FCM (Google), 83 ms: Google asked to try later. [unavailable]" in text
    assert "next try" in text
    assert not a_timeline(deliveries=(waiting,)).is_settled


def test_a_timeline_is_settled_when_nothing_further_can_happen() -> None:
    done = Delivery(id="d1", device_label="x", state="confirmed", explanation="It has it.", settled_at=NOON)
    assert a_timeline(state="delivered", deliveries=(done,)).is_settled
    assert "nothing further happens" in describe(a_timeline(deliveries=(done,)))
    assert a_timeline(state="released").is_settled
    assert not a_timeline(state="scheduled").is_settled


def test_a_timeline_cannot_command_the_terminal() -> None:
    assert "\x1b" not in describe(a_timeline(title="\x1b[2Jgone", explanation="\x1b]0;x\x07"))
