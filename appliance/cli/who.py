"""Whom a command speaks to, and as whom: from its flags, else the environment, else the demo of the data folder."""

import getpass
import os
import sys
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.cli.demo_record import DemoRecord, load_demo
from appliance.cli.exits import CommandFailed, Exit
from appliance.domain.secret import Secret

URL_VARIABLE: Final = "CARILLON_URL"
CLIENT_ID_VARIABLE: Final = "CARILLON_CLIENT_ID"
CLIENT_SECRET_VARIABLE: Final = "CARILLON_CLIENT_SECRET"  # noqa: S105 - names a variable
TOKEN_VARIABLE: Final = "CARILLON_TOKEN"  # noqa: S105
USERNAME_VARIABLE: Final = "CARILLON_USERNAME"
PASSWORD_VARIABLE: Final = "CARILLON_PASSWORD"  # noqa: S105

_NONE: Final = Secret("")


@dataclass(frozen=True, slots=True)
class AppAccess:
    """A server and an app's credentials; `demo_user_id` is whom the demo sends to."""

    url: str
    client_id: str
    client_secret: Secret
    demo_user_id: str | None = None


@dataclass(frozen=True, slots=True)
class UserAccess:
    """A server and a person: by name and password, or by a token from elsewhere, or as the demo user."""

    url: str
    username: str = ""
    password: Secret = _NONE
    token: Secret = _NONE
    is_demo: bool = False


def find_app_access(args: Namespace, environ: Mapping[str, str] = os.environ) -> AppAccess:
    """Give the app to speak as. Raises `CommandFailed` that names what is missing."""
    demo = load_demo(args.data)
    url = args.url or environ.get(URL_VARIABLE)
    client_id = args.client_id or environ.get(CLIENT_ID_VARIABLE)
    client_secret = args.client_secret or environ.get(CLIENT_SECRET_VARIABLE)
    if client_id is None and client_secret is None and demo is not None:
        return AppAccess(url or demo.base_url, demo.client_id, Secret(demo.client_secret), demo.user_id)
    missing = [
        f"{flag} (or {variable})"
        for value, flag, variable in (
            (url, "--url", URL_VARIABLE),
            (client_id, "--client-id", CLIENT_ID_VARIABLE),
            (client_secret, "--client-secret", CLIENT_SECRET_VARIABLE),
        )
        if not value
    ]
    if not url or not client_id or not client_secret:
        raise CommandFailed(
            f"which app is this? Missing: {', '.join(missing)}.",
            "An app is made with: carillon app add NAME",
            code=Exit.USAGE,
        )
    return AppAccess(url, client_id, Secret(client_secret))


def find_user_access(args: Namespace, environ: Mapping[str, str] = os.environ) -> UserAccess:
    """Give the person to speak as; a password that is not given is asked for. Raises `CommandFailed`."""
    demo = load_demo(args.data)
    token = args.token or environ.get(TOKEN_VARIABLE)
    username = args.username or (None if args.token else environ.get(USERNAME_VARIABLE))
    url = args.url or environ.get(URL_VARIABLE) or _url_of(demo)
    if username is None and not token:
        if demo is None:
            raise CommandFailed(
                "who is listening? Give --username, or --token.",
                "A user is made with: carillon user add NAME",
                code=Exit.USAGE,
            )
        return UserAccess(url or demo.base_url, is_demo=True)
    if not url:
        raise CommandFailed(f"which server? Give --url (or {URL_VARIABLE}).", code=Exit.USAGE)
    if username is None:
        return UserAccess(url, token=Secret(token or ""))
    password = args.password or environ.get(PASSWORD_VARIABLE) or _ask_password(username)
    return UserAccess(url, username=username, password=Secret(password))


def demo_token(folder: Path) -> str:
    """Give the demo user's token as it stands now: `carillon try` renews it."""
    demo = load_demo(folder)
    if demo is None:
        raise CommandFailed(f"the demo in {folder} is gone.", code=Exit.USAGE)
    return demo.user_token


def _url_of(demo: DemoRecord | None) -> str | None:
    return None if demo is None else demo.base_url


def _ask_password(username: str) -> str:
    if not sys.stdin.isatty():
        raise CommandFailed(f"the password of {username} is missing.", f"Set {PASSWORD_VARIABLE}.", code=Exit.USAGE)
    return getpass.getpass(f"Password of {username}: ")
