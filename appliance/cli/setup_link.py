"""`carillon setup-link`: the link by which the owner of this machine becomes the first admin."""

import asyncio
from argparse import Namespace
from pathlib import Path

from appliance.api.identity.service import open_identity
from appliance.cli.address import people_url
from appliance.cli.data_folder import require_prepared
from appliance.cli.exits import Exit
from appliance.clock import SystemClock
from appliance.settings import Settings, load_settings
from appliance.storage.database import open_database
from wizard.claim import setup_link


def run(args: Namespace) -> int:
    """Print the link, alone on the last line, with a code that voids the one before; or that all is set up."""
    folder: Path = args.data
    require_prepared(folder)
    settings = load_settings(folder)
    base_url = people_url(args.base_url, folder, settings)
    link = asyncio.run(_make_link(settings, base_url))
    if link is None:
        print(f"Carillon is already set up. Sign in at:\n{base_url}/")
    else:
        print(f"Open this link to set up Carillon. It works once, within 24 hours:\n{link}")
    return Exit.DONE


async def _make_link(settings: Settings, base_url: str) -> str | None:
    async with (
        open_database(settings.data_dir, settings.database_url or None) as database,
        open_identity(database, settings, SystemClock(), is_server=False) as identity,
    ):
        return await setup_link(identity, base_url)
