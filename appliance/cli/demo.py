"""`carillon try`: an appliance that works at once — an admin, an app with push on, two users — and how to try it."""

import asyncio
import secrets
from argparse import Namespace
from datetime import timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

from appliance.api.identity.service import Identity, open_identity
from appliance.cli.data_folder import is_prepared, require_prepared
from appliance.cli.demo_record import DemoRecord, load_demo, save_demo
from appliance.cli.exits import CommandFailed, Exit
from appliance.cli.instance import find_running
from appliance.cli.prepare import prepare
from appliance.cli.push_switch import switch_push_on
from appliance.cli.shown import shown_command
from appliance.client_call import check_base_url
from appliance.clock import SystemClock
from appliance.domain.errors import Unauthorized
from appliance.domain.principal import Role
from appliance.domain.secret import Secret
from appliance.settings import Settings, load_settings
from appliance.storage.database import open_database

ADMIN: Final = "admin"
APP: Final = "Demo"
USERS: Final = ("demo", "demo-second")
TOKEN_LIFETIME: Final = timedelta(days=1)
_THIS_MACHINE: Final = "127.0.0.1"


def run(args: Namespace) -> int:
    """Make the demo, or renew its tokens; what still counts of an earlier one is kept."""
    folder: Path = args.data
    if not is_prepared(folder):
        prepare(folder)
    require_prepared(folder)
    settings = load_settings(folder)
    base_url = _base_url(args.base_url, folder, settings)
    demo = asyncio.run(_make(settings, base_url, load_demo(folder)))
    save_demo(folder, demo)
    print(_explain(shown_command(folder), demo))
    return Exit.DONE


def _base_url(given: str | None, folder: Path, settings: Settings) -> str:
    if given is not None:
        try:
            return check_base_url(given)
        except ValueError as error:
            raise CommandFailed(str(error), code=Exit.USAGE) from error
    running = find_running(folder)
    return running.local_url if running is not None else f"http://127.0.0.1:{settings.port}"


async def _make(settings: Settings, base_url: str, before: DemoRecord | None) -> DemoRecord:
    async with (
        open_database(settings.data_dir, settings.database_url or None) as database,
        open_identity(database, settings, SystemClock(), is_server=False) as identity,
    ):
        if before is None and await identity.is_set_up():
            raise CommandFailed(
                f"the appliance in {settings.data_dir} is in use already, and is no demo.",
                "Try Carillon in a folder of its own: name a new one with --data DIR.",
                code=Exit.USAGE,
            )
        admin_password = await _admin_password(identity, before)
        client_id, client_secret = await _app(identity, settings, before)
        users = [await _user(identity, name, client_id, Secret(admin_password)) for name in USERS]
        tokens = [(await identity.issue_user_token(user, TOKEN_LIFETIME)).token.reveal() for user in users]
        return DemoRecord(
            base_url=base_url,
            admin_username=ADMIN,
            admin_password=admin_password,
            client_id=str(client_id),
            client_secret=client_secret,
            user_id=str(users[0]),
            user_token=tokens[0],
            second_user_id=str(users[1]),
            second_user_token=tokens[1],
        )


async def _admin_password(identity: Identity, before: DemoRecord | None) -> str:
    admin = await identity.find_user(ADMIN)
    if admin is not None and before is not None:
        try:
            await identity.sign_in(ADMIN, Secret(before.admin_password), _THIS_MACHINE)
        except Unauthorized:
            pass
        else:
            return before.admin_password
    password = secrets.token_urlsafe(12)
    if admin is None:
        await identity.create_user(ADMIN, Secret(password), role=Role.ADMIN)
    else:
        await identity.set_password(admin.id, Secret(password))
    return password


async def _app(identity: Identity, settings: Settings, before: DemoRecord | None) -> tuple[UUID, str]:
    if before is not None:
        known = await identity.apps.authenticate_app(before.client_id, Secret(before.client_secret))
        if known is not None:
            await switch_push_on(identity, settings, known.id)
            return known.id, before.client_secret
    found = [app for app in await identity.list_apps() if app.name == APP and not app.is_disabled]
    made = await (identity.rotate_secret(found[0].id) if found else identity.create_app(APP))
    await switch_push_on(identity, settings, made.app.id)
    return made.app.id, made.client_secret.reveal()


async def _user(identity: Identity, name: str, app_id: UUID, password: Secret) -> UUID:
    # The demo has one password for everybody, so that the web page can be opened as the one who is sent to.
    user = await identity.find_user(name)
    if user is None:
        user = await identity.create_user(name, password)
    else:
        await _keep_password(identity, user.id, name, password)
    await identity.enrol_user(user.id, app_id)
    return user.id


async def _keep_password(identity: Identity, user_id: UUID, name: str, password: Secret) -> None:
    try:
        await identity.sign_in(name, password, _THIS_MACHINE)
    except Unauthorized:
        await identity.set_password(user_id, password)


def _explain(command: str, demo: DemoRecord) -> str:
    return (
        f"Receive, as the demo user (leave it running):\n\n"
        f"    {command} listen\n\n"
        f"Send, as the demo app, from a second terminal:\n\n"
        f'    {command} send "Hello" "Your first notification"\n\n'
        f"Open the web page; sign in as {USERS[0]}, who is sent to, or as {demo.admin_username}, "
        f"with the password {demo.admin_password}\n\n"
        f"    {command} open"
    )
