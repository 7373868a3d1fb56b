"""What `carillon user …` and `carillon app …` do to the data."""

import asyncio
import getpass
import json
import secrets
import sys
from argparse import Namespace
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from appliance.api.identity.apps import AppWithSecret
from appliance.api.identity.service import Identity, open_identity
from appliance.cli.data_folder import require_prepared
from appliance.cli.exits import CommandFailed, Exit
from appliance.cli.push_switch import switch_push_on
from appliance.clock import SystemClock
from appliance.domain.principal import Role
from appliance.domain.secret import Secret
from appliance.settings import load_settings
from appliance.storage.apps import AppRow
from appliance.storage.database import open_database
from appliance.storage.users import UserRow

MAX_PASSWORD_BYTES: Final = 8192
PAGE: Final = 500
_GENERATED_BYTES: Final = 15


def run(args: Namespace) -> int:
    """Open the data and do it."""
    require_prepared(args.data)
    # Asked for before the data is opened: a person may take long to type.
    password = _password(args) if args.account_action in _NEED_PASSWORD else Secret("")
    asyncio.run(_run(args, password))
    return Exit.DONE


async def _run(args: Namespace, password: Secret) -> None:
    settings = load_settings(args.data)
    async with (
        open_database(settings.data_dir, settings.database_url or None) as database,
        open_identity(database, settings, SystemClock(), is_server=False) as identity,
    ):
        await _ACTIONS[args.account_action](identity, args, password)


async def _add_user(identity: Identity, args: Namespace, password: Secret) -> None:
    apps = [await _find_app(identity, name) for name in args.app]
    role = Role.ADMIN if args.admin else Role.MEMBER
    user = await identity.create_user(args.username, password, role=role, email=args.email)
    for app in apps:
        await identity.enrol_user(user.id, app.id)
    print(f"Added {'the admin' if args.admin else 'the user'} {user.username}.")
    print(f"user id: {user.id}")
    _show_generated(args, password)


async def _set_password(identity: Identity, args: Namespace, password: Secret) -> None:
    user = await _find_user(identity, args.username)
    await identity.set_password(user.id, password)
    print(f"Changed the password of {user.username}. Every sign-in made with the old one is ended.")
    _show_generated(args, password)


async def _disable_user(identity: Identity, args: Namespace, _: Secret) -> None:
    user = await _find_user(identity, args.username)
    await identity.disable_user(user.id)
    print(f"Disabled {user.username}. All sign-ins are ended.")


async def _enrol_user(identity: Identity, args: Namespace, _: Secret) -> None:
    user, app = await _find_user(identity, args.username), await _find_app(identity, args.app)
    was_new = await identity.enrol_user(user.id, app.id)
    print(f"{user.username} is {'now' if was_new else 'already'} enrolled in {app.name}.")


async def _list_users(identity: Identity, args: Namespace, _: Secret) -> None:
    users = [user async for user in _all_users(identity)]
    if args.json:
        _show_json([_user_facts(user) for user in users])
        return
    rows = [(user.username, user.role.name.lower(), _state(user.disabled_at), str(user.id)) for user in users]
    _show_table(
        ("NAME", "ROLE", "STATE", "ID"), rows, nothing="There are no users yet. Add one: carillon user add NAME"
    )


async def _add_app(identity: Identity, args: Namespace, _: Secret) -> None:
    made = await identity.create_app(args.name)
    _show_secret(args, made, f"Added the app {made.app.name}.")
    if not args.json:
        print(f"It cannot send yet. Let it: carillon app enable {made.app.id}")


async def _rotate_secret(identity: Identity, args: Namespace, _: Secret) -> None:
    app = await _find_app(identity, args.app)
    made = await identity.rotate_secret(app.id)
    _show_secret(args, made, f"Changed the secret of {app.name}. The old one and its tokens are void.")


async def _enable_app(identity: Identity, args: Namespace, _: Secret) -> None:
    app = await _find_app(identity, args.app)
    if app.is_disabled:
        raise CommandFailed(f"{app.name} is disabled.", "A disabled app cannot be let in again; add another one.")
    # Its keys are sealed, so the settings are needed beyond what the identity knows.
    await switch_push_on(identity, load_settings(args.data), app.id)
    print(f"Push is on for {app.name}: it can send.")


async def _disable_app(identity: Identity, args: Namespace, _: Secret) -> None:
    app = await _find_app(identity, args.app)
    await identity.apps.disable_app(app.id)
    print(f"Disabled {app.name}. It cannot send any more.")


async def _list_apps(identity: Identity, args: Namespace, _: Secret) -> None:
    apps = [app async for app in _all_apps(identity)]
    if args.json:
        _show_json([_app_facts(app) for app in apps])
        return
    rows = [(app.name, "on" if app.push_enabled else "off", _state(app.disabled_at), str(app.id)) for app in apps]
    _show_table(("NAME", "PUSH", "STATE", "ID"), rows, nothing="There are no apps yet. Add one: carillon app add NAME")


_Action = Callable[[Identity, Namespace, Secret], Awaitable[None]]

_NEED_PASSWORD: Final = ("user add", "user passwd")
_ACTIONS: Final[dict[str, _Action]] = {
    "user add": _add_user,
    "user passwd": _set_password,
    "user disable": _disable_user,
    "user enrol": _enrol_user,
    "user list": _list_users,
    "app add": _add_app,
    "app rotate-secret": _rotate_secret,
    "app enable": _enable_app,
    "app disable": _disable_app,
    "app list": _list_apps,
}


def _password(args: Namespace) -> Secret:
    if args.generate:
        return Secret(secrets.token_urlsafe(_GENERATED_BYTES))
    if args.password_stdin:
        # Read as bytes, so that the terminal's own encoding does not matter.
        given = sys.stdin.buffer.read(MAX_PASSWORD_BYTES)
        try:
            return Secret(given.decode().rstrip("\r\n"))
        except UnicodeDecodeError:
            raise CommandFailed("the password is not UTF-8.", code=Exit.USAGE) from None
    if not sys.stdin.isatty():
        raise CommandFailed(
            "there is no terminal to ask for the password.", "Use --password-stdin or --generate.", code=Exit.USAGE
        )
    password = getpass.getpass(f"New password of {args.username}: ")
    if getpass.getpass("Once more: ") != password:
        raise CommandFailed("the two passwords differ.", "Nothing was changed.", code=Exit.USAGE)
    return Secret(password)


async def _find_user(identity: Identity, name: str) -> UserRow:
    user = await identity.find_user(name)
    if user is None:
        raise CommandFailed(f"there is no user {name}.", "All users: carillon user list")
    return user


async def _find_app(identity: Identity, name: str) -> AppRow:
    by_id = await identity.apps.find_app(name)
    if by_id is not None:
        return by_id
    named = [app async for app in _all_apps(identity) if app.name.casefold() == name.casefold()]
    if len(named) > 1:
        raise CommandFailed(f"there are {len(named)} apps named {name}.", "Give its id: carillon app list")
    if not named:
        raise CommandFailed(f"there is no app {name}.", "All apps: carillon app list")
    return named[0]


async def _all_users(identity: Identity) -> AsyncIterator[UserRow]:
    after: UUID | None = None
    while page := await identity.list_users(after=after, limit=PAGE):
        for user in page:
            yield user
        after = page[-1].id


async def _all_apps(identity: Identity) -> AsyncIterator[AppRow]:
    after: UUID | None = None
    while page := await identity.list_apps(after=after, limit=PAGE):
        for app in page:
            yield app
        after = page[-1].id


def _show_generated(args: Namespace, password: Secret) -> None:
    if args.generate:
        print(f"password (shown only now): {password.reveal()}")


def _show_secret(args: Namespace, made: AppWithSecret, text: str) -> None:
    if args.json:
        _show_json({"client_id": str(made.app.id), "client_secret": made.client_secret.reveal(), "name": made.app.name})
        return
    print(text)
    print(f"client id:     {made.app.id}")
    print(f"client secret: {made.client_secret.reveal()}")
    print("The secret is shown only now.")


def _user_facts(user: UserRow) -> dict[str, object]:
    return {
        "user_id": str(user.id),
        "username": user.username,
        "role": user.role.name.lower(),
        "email": user.email,
        "external_subject": user.external_subject,
        "created_at": _text(user.created_at),
        "disabled_at": _text(user.disabled_at),
    }


def _app_facts(app: AppRow) -> dict[str, object]:
    return {
        "client_id": str(app.id),
        "name": app.name,
        "push_enabled": app.push_enabled,
        "created_at": _text(app.created_at),
        "secret_rotated_at": _text(app.secret_rotated_at),
        "disabled_at": _text(app.disabled_at),
    }


def _show_json(content: object) -> None:
    print(json.dumps(content, ensure_ascii=False, indent=2))


def _show_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, nothing: str) -> None:
    if not rows:
        print(nothing)
        return
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _state(disabled_at: datetime | None) -> str:
    return "active" if disabled_at is None else f"disabled {disabled_at:%Y-%m-%d}"


def _text(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat(timespec="seconds").replace("+00:00", "Z")
