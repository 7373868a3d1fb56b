"""Making a data folder, finding one, and leaving nothing half made."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.cli.data_folder import become_owner, locate, make_folder, making_keys, require_prepared, unmake_folder
from appliance.cli.exits import CommandFailed, Exit
from appliance.settings import load_settings, read_env_file

NOBODY = 65_534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")


def test_the_folder_is_the_one_named_else_the_environments_else_the_users_own() -> None:
    assert locate("/a", {"DATA_DIR": "/b"}) == Path("/a")
    assert locate(None, {"DATA_DIR": "/b"}) == Path("/b")
    assert locate("here", {}) == Path.cwd() / "here"
    if os.geteuid() == 0:
        assert locate(None, {}) == Path("/var/lib/carillon")
    else:
        assert locate(None, {"XDG_DATA_HOME": "/c"}) == Path("/c/carillon")


def test_a_new_folder_is_for_its_owner_alone_and_gets_a_key(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert make_folder(folder) == tmp_path / "a"
    with making_keys(folder, {}):
        pass
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600
    assert len(load_settings(folder, {}).secret_key.reveal()) >= 64


def test_the_key_is_never_made_again_and_other_lines_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    make_folder(folder)
    (folder / ".env").write_text("# my own\nSMTP_HOST=mail\nUNKNOWN='x y'\n")
    with making_keys(folder, {}):
        pass
    first = (folder / ".env").read_text()
    assert first.startswith("# my own\nSMTP_HOST=mail\nUNKNOWN='x y'\n")
    assert make_folder(folder) is None
    with making_keys(folder, {}):
        pass
    assert (folder / ".env").read_text() == first


def test_a_key_of_the_environment_is_not_written_down(tmp_path: Path) -> None:
    with making_keys(tmp_path, {"SECRET_KEY": "k" * 40}):
        pass
    assert not (tmp_path / ".env").exists()


def test_data_whose_key_is_gone_gets_no_new_key(tmp_path: Path) -> None:
    (tmp_path / "carillon.sqlite").write_bytes(b"data")
    (tmp_path / ".env").write_text("PORT=1\n")
    with pytest.raises(CommandFailed, match="SECRET_KEY is gone"), making_keys(tmp_path, {}):
        pass
    assert (tmp_path / ".env").read_text() == "PORT=1\n"
    assert (tmp_path / "carillon.sqlite").read_bytes() == b"data"


def test_a_failure_in_a_new_folder_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    made = make_folder(folder)
    with pytest.raises(RuntimeError), making_keys(folder, {}):
        (folder / "carillon.sqlite").write_bytes(b"half")
        (folder / "backups").mkdir()
        (folder / "backups" / "copy.sqlite").write_bytes(b"half")
        raise RuntimeError
    unmake_folder(folder, made)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_in_a_folder_with_data_takes_nothing_away(tmp_path: Path) -> None:
    (tmp_path / "carillon.sqlite").write_bytes(b"data")
    (tmp_path / ".env").write_text(f"SECRET_KEY={'k' * 40}\n")
    with pytest.raises(RuntimeError), making_keys(tmp_path, {}):
        raise RuntimeError
    assert (tmp_path / "carillon.sqlite").read_bytes() == b"data"
    assert read_env_file(tmp_path / ".env") == {"SECRET_KEY": "k" * 40}


def test_a_failure_beside_the_owners_own_env_gives_it_back(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DATABASE_URL=postgresql://nowhere\n")
    with pytest.raises(RuntimeError), making_keys(tmp_path, {}):
        raise RuntimeError
    assert (tmp_path / ".env").read_text() == "DATABASE_URL=postgresql://nowhere\n"


def test_a_folder_with_other_things_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    tmp_path.chmod(0o755)
    with pytest.raises(CommandFailed, match="holds other things"):
        make_folder(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


@pytest.mark.parametrize("place", ["file", "file/below", "link", "link/below"])
def test_a_file_or_a_dead_link_in_the_way_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(CommandFailed) as failed:
        make_folder(tmp_path / place)
    assert failed.value.code is Exit.USAGE
    assert str(tmp_path / place.split("/")[0]) in failed.value.what
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "link"]


def test_a_place_where_nothing_can_be_made_is_named() -> None:
    with pytest.raises(CommandFailed, match="/proc/none"):
        make_folder(Path("/proc/none/below"))


def test_a_folder_without_carillon_is_not_worked_on(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(CommandFailed, match="no Carillon"):
            require_prepared(folder)


@as_root
def test_root_works_on_a_services_folder_as_that_service(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    for place in (tmp_path, *tmp_path.parents):
        if place.stat().st_uid == os.geteuid() and place.name.startswith(("pytest", "test")):
            place.chmod(0o755)
    code = (
        "import sys; from pathlib import Path; from appliance.cli.data_folder import become_owner\n"
        "become_owner(Path(sys.argv[1])); Path(sys.argv[1], 'made').touch()"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    if "may not read the program" in done.stderr:
        pytest.skip("this checkout is not readable for other users")
    assert done.returncode == 0, done.stderr
    assert (folder / "made").stat().st_uid == NOBODY


@as_root
def test_somebody_else_is_told_whose_folder_it_is(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from appliance.cli.data_folder import become_owner\n"
        "folder = Path(sys.argv[1]); os.chdir('/'); folder.stat(); os.seteuid(65533)\n"
        "become_owner(folder)"
    )
    tmp_path.chmod(0o755)
    for place in tmp_path.parents:
        if place.name.startswith("pytest"):
            place.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "belongs to root" in done.stderr


def test_ones_own_folder_needs_no_change(tmp_path: Path) -> None:
    become_owner(tmp_path)
    assert tmp_path.stat().st_uid == os.geteuid()
