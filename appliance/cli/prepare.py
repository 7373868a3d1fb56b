"""`carillon prepare`: makes the data folder, its keys and its database, or finds them in order."""

import asyncio
import os
from argparse import Namespace
from pathlib import Path

from appliance.api.identity.service import open_identity
from appliance.cli.data_folder import make_folder, making_keys, unmake_folder
from appliance.cli.exits import Exit
from appliance.cli.instance import find_running, holding_lock
from appliance.clock import SystemClock
from appliance.settings import Settings, load_settings
from appliance.storage.database import open_database


def run(args: Namespace) -> int:
    """Make what is missing; a second time nothing is changed. Beside a running instance there is nothing to do."""
    folder: Path = args.data
    if folder.is_dir() and (running := find_running(folder)) is not None:
        print(f"{folder} is in use by Carillon {running.version} (pid {running.pid}); nothing to prepare.")
        return Exit.DONE
    prepare(folder)
    print(f"{folder} is ready.")
    return Exit.DONE


def prepare(folder: Path) -> None:
    """Make the folder, the keys and the database where they are missing. If that fails, nothing half made is left."""
    made = make_folder(folder)
    try:
        with holding_lock(folder), making_keys(folder, os.environ):
            asyncio.run(_open_once(load_settings(folder)))
    except BaseException:
        unmake_folder(folder, made)
        raise


async def _open_once(settings: Settings) -> None:
    """Bring the schema up to date and make the first signing key; fails where SECRET_KEY does not fit the data."""
    async with (
        open_database(settings.data_dir, settings.database_url or None) as database,
        open_identity(database, settings, SystemClock(), is_server=False),
    ):
        return
