"""The data folder: where it is, whether it can be used, whose it is, and how a new one is made."""

import contextlib
import os
import pwd
import secrets
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import appliance
from appliance.cli.exits import CommandFailed, Exit
from appliance.settings import ENV_FILE, default_data_dir, read_env_file

FOLDER_MODE: Final = 0o700
_SECRET_KEY_BYTES: Final = 48
_DATABASE_FILE: Final = "carillon.sqlite"
_OURS: Final = (ENV_FILE, _DATABASE_FILE, "carillon.lock", "install.env", "try.json")
_MAY_BE_THERE: Final = frozenset({"lost+found", "carillon", "carillon.log", "install.log", "runtime"})
_MADE_FIRST: Final = frozenset({"carillon.lock"})
_SKELETON: Final = """\
# Carillon's settings, one NAME=value a line. The environment wins over this file.
# SECRET_KEY seals what is secret in the database: keep it, and keep it with every backup.
SECRET_KEY={key}
# PUBLIC_URL=https://push.example.org
"""


def locate(given: str | None, environ: Mapping[str, str]) -> Path:
    """Give the data folder: `--data`, else DATA_DIR, else this user's default."""
    named = given or environ.get("DATA_DIR")
    folder = Path(named) if named else default_data_dir(environ)
    return folder.expanduser().absolute()


def require_prepared(folder: Path) -> None:
    """Raise `CommandFailed` unless the folder holds an appliance that this user may work on."""
    _check_is_folder(folder)
    if not folder.exists() or not any((folder / name).exists() for name in _OURS):
        raise CommandFailed(
            f"there is no Carillon in {folder}.", "Name its data folder with --data DIR.", code=Exit.USAGE
        )
    become_owner(folder)


def become_owner(folder: Path) -> None:
    """Go on as the user who owns the folder, if root works on a service's data, so that no file becomes root's.

    Raises `CommandFailed` when the folder belongs to somebody else and this is not root.
    """
    owner = folder.stat().st_uid
    if owner == os.geteuid():
        return
    name = _name_of(owner)
    if os.geteuid() != 0:
        raise CommandFailed(f"{folder} belongs to {name}.", f"Run it as {name}, or as root.", code=Exit.USAGE)
    with contextlib.suppress(KeyError):
        os.initgroups(name, folder.stat().st_gid)
    os.setgid(folder.stat().st_gid)
    os.setuid(owner)
    program = appliance.__file__ or ""
    if not os.access(program, os.R_OK):
        raise CommandFailed(
            f"{folder} belongs to {name}, who may not read the program in {Path(program).parent}.",
            f"Install it where {name} can read it, or give the folder to root.",
            code=Exit.USAGE,
        )


def is_prepared(folder: Path) -> bool:
    """Tell whether an appliance was set up here before, so that there is nothing to make."""
    return (folder / ENV_FILE).exists()


def make_folder(folder: Path) -> Path | None:
    """Make the folder with all that is missing above it; give the topmost one made, None when it was there.

    Raises `CommandFailed` when the place cannot be used; then nothing was made.
    """
    _check_is_folder(folder)
    if folder.exists():
        become_owner(folder)
        _check_ours(folder)
        _check_writable(folder)
        if stat.S_IMODE(folder.stat().st_mode) != FOLDER_MODE:
            folder.chmod(FOLDER_MODE)
        return None
    top = folder
    while not top.parent.exists():
        top = top.parent
    _check_is_folder(top.parent)
    _check_writable(top.parent, wanted=folder)
    try:
        folder.mkdir(mode=FOLDER_MODE, parents=True)
    except OSError as error:
        unmake_folder(folder, top)
        raise CommandFailed(f"{folder} cannot be made: {error.strerror}.", _ANOTHER, code=Exit.USAGE) from error
    return top


def unmake_folder(folder: Path, made: Path | None) -> None:
    """Take away what `make_folder` made, as far as it is still empty."""
    place = folder
    while made is not None:
        with contextlib.suppress(OSError):
            place.rmdir()
        if place == made:
            return
        place = place.parent


@contextlib.contextmanager
def making_keys(folder: Path, environ: Mapping[str, str]) -> Iterator[None]:
    """Write SECRET_KEY where there is none; if what is done inside fails, leave the folder as it was.

    The key is made once and never again, and lines of others in `.env` are kept. The caller holds the folder's lock.
    Raises `CommandFailed` when the folder holds data whose key is gone.
    """
    was_empty = _is_empty(folder)
    before = _text_of(folder / ENV_FILE)
    try:
        _write_key(folder, environ)
        yield
    except BaseException:
        if was_empty:
            _clear(folder)
        elif before != _text_of(folder / ENV_FILE):
            _restore(folder / ENV_FILE, before)
        raise


_ANOTHER: Final = "Name another folder with --data DIR."


def _check_is_folder(folder: Path) -> None:
    for place in (folder, *folder.parents):
        if place.is_symlink() and not place.exists():
            raise CommandFailed(f"{place} is a link that leads nowhere.", _ANOTHER, code=Exit.USAGE)
        if place.exists() and not place.is_dir():
            raise CommandFailed(f"{place} is a file, not a folder.", _ANOTHER, code=Exit.USAGE)


def _check_ours(folder: Path) -> None:
    if _is_empty(folder) or any((folder / name).exists() for name in _OURS):
        return
    raise CommandFailed(
        f"the folder {folder} holds other things.", "Name an empty or a new one with --data DIR.", code=Exit.USAGE
    )


def _check_writable(folder: Path, *, wanted: Path | None = None) -> None:
    reason = "is on a read-only file system"
    if not os.statvfs(folder).f_flag & os.ST_RDONLY:
        if os.access(folder, os.W_OK | os.X_OK):
            return
        reason = f"cannot be written to by {_name_of(os.geteuid())}"
    lead = f"{wanted} cannot be made: " if wanted is not None else "the folder "
    raise CommandFailed(f"{lead}{folder} {reason}.", _ANOTHER, code=Exit.USAGE)


def _is_empty(folder: Path) -> bool:
    return {entry.name for entry in folder.iterdir()} <= _MAY_BE_THERE | _MADE_FIRST


def _write_key(folder: Path, environ: Mapping[str, str]) -> None:
    path = folder / ENV_FILE
    if environ.get("SECRET_KEY") or environ.get("SECRET_KEY_FILE"):
        return
    if read_env_file(path).get("SECRET_KEY"):
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)
        return
    database = folder / _DATABASE_FILE
    if database.exists() and database.stat().st_size:
        raise CommandFailed(
            f"{folder} holds data, but its SECRET_KEY is gone from {ENV_FILE}.",
            f"Put the line SECRET_KEY=… back, from a backup of {ENV_FILE}; a new key could not open this data.",
            code=Exit.USAGE,
        )
    skeleton = _SKELETON.format(key=secrets.token_urlsafe(_SECRET_KEY_BYTES))
    kept = _text_of(path) or ""
    write_private(path, skeleton if not kept else f"{kept.rstrip()}\n\n{skeleton}")


def write_private(path: Path, text: str) -> None:
    """Replace a file whole, with mode 600: a crash leaves the old one or the new one. Raises `OSError`."""
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _restore(path: Path, text: str | None) -> None:
    if text is None:
        path.unlink(missing_ok=True)
    else:
        write_private(path, text)


def _clear(folder: Path) -> None:
    """Remove what a failed preparation made, the lock file too; only files and the folder of copies can be there."""
    for entry in list(folder.iterdir()):
        if entry.name in _MAY_BE_THERE:
            continue
        if entry.is_dir() and not entry.is_symlink():
            for inner in entry.iterdir():
                inner.unlink()
            entry.rmdir()
        else:
            entry.unlink()


def _name_of(user_id: int) -> str:
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return f"the user with the number {user_id}"
