"""The words of the command, its exit codes, and what a failure looks like."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from appliance.cli.exits import CommandFailed, Exit
from appliance.cli.failures import as_command_failed
from appliance.cli.program import main, make_parser
from appliance.client_errors import InvalidRequest, NotSignedIn, Unreachable
from appliance.domain.errors import OutOfSpace, TooMany
from appliance.settings import SettingsError

COMMANDS = [
    "prepare", "serve", "status", "stop", "setup-link", "try", "open", "version",
    "send", "listen", "explain", "user", "app",
]  # fmt: skip


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "appliance.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=Path(__file__).parents[3],
        env={"PATH": "/usr/bin:/bin", **environment},
        check=False,
    )


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert [name for name in COMMANDS if f"    {name}" not in shown] == []


def test_help_loads_nothing_that_is_slow_to_load() -> None:
    code = (
        "import sys\nfrom appliance.cli.program import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\nprint(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "argparse" in loaded
    assert not loaded & {"asyncio", "httpx", "litestar", "granian", "msgspec", "piccolo", "websockets", "uvloop"}


def test_the_data_folder_may_be_named_before_or_after_the_command() -> None:
    parser = make_parser()
    assert parser.parse_args(["--data", "/a", "status"]).data == "/a"
    assert parser.parse_args(["status", "--data", "/b"]).data == "/b"
    assert parser.parse_args(["--data", "/a", "status", "--data", "/b"]).data == "/b"
    assert parser.parse_args(["status"]).data is None


def test_the_data_of_a_notification_is_not_the_data_folder() -> None:
    args = make_parser().parse_args(["--data", "/a", "send", "Hello", "There", "--data", "a=b", "--data", "c=d"])
    assert (args.data, args.pairs) == ("/a", ["a=b", "c=d"])


@pytest.mark.parametrize(
    "arguments",
    [[], ["no-such"], ["serve", "--port", "70000"], ["serve", "--port", "x"], ["send", "only a title"], ["explain"]],
)
def test_wrong_use_ends_with_code_2(arguments: Sequence[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == Exit.USAGE


def test_a_failure_is_one_line_and_the_next_step_without_a_traceback(tmp_path: Path) -> None:
    done = run("--data", str(tmp_path / "none"), "setup-link")
    assert done.returncode == Exit.USAGE
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"carillon: there is no Carillon in {tmp_path / 'none'}.",
        "  Name its data folder with --data DIR.",
    ]


def test_the_traceback_is_shown_when_asked_for(tmp_path: Path) -> None:
    done = run("--data", str(tmp_path / "none"), "setup-link", CARILLON_DEBUG="1")
    assert "Traceback" in done.stderr


def test_a_setting_that_makes_no_sense_is_named(tmp_path: Path) -> None:
    done = run("--data", str(tmp_path / "d"), "prepare", PORT="eighty")
    assert done.returncode == Exit.USAGE
    assert "PORT is 'eighty'" in done.stderr
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CommandFailed("x", code=Exit.PORT_TAKEN), Exit.PORT_TAKEN),
        (SettingsError("x"), Exit.USAGE),
        (OutOfSpace(), Exit.NO_SPACE),
        (OSError(28, "No space left on device"), Exit.NO_SPACE),
        (PermissionError(13, "Permission denied", "/etc/shadow"), Exit.USAGE),
        (FileNotFoundError(2, "No such file", "x"), Exit.FAILED),
        (TooMany("Wait.", retry_after_s=3), Exit.FAILED),
        (Unreachable("no"), Exit.UNREACHABLE),
        (NotSignedIn(status=401, code="x", title="t", detail="d"), Exit.FAILED),
        (InvalidRequest(status=422, code="x", title="t", detail="d", field="title"), Exit.FAILED),
        (RuntimeError("boom\nsecond line"), Exit.FAILED),
        (ExceptionGroup("many", [CommandFailed("x", code=Exit.LOCKED)]), Exit.LOCKED),
    ],
)
def test_every_failure_has_its_code_and_fits_on_a_line(error: Exception, code: Exit) -> None:
    failed = as_command_failed(error)
    assert failed.code is code
    assert failed.what
    assert "\n" not in failed.what + failed.next_step
