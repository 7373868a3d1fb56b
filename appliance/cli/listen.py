"""`carillon listen`: a terminal as a device on the hub: receives, acknowledges, comes back after every loss."""

import asyncio
import hashlib
import json
import os
import signal
import socket
import sys
from argparse import Namespace
from base64 import urlsafe_b64decode
from pathlib import Path

import msgspec

from appliance.cli.data_folder import become_owner
from appliance.cli.demo_record import load_demo
from appliance.cli.exits import CommandFailed, Exit
from appliance.cli.screen import one_line, printable
from appliance.cli.shown import shown_command
from appliance.cli.who import UserAccess, demo_token, find_user_access
from appliance.client import AsyncCarillonClient
from appliance.client_cursor import FileCursor
from appliance.client_hub import HubListener, HubNotification, HubRefused, Live, Lost

_INDENT = " " * 10


def run(args: Namespace) -> int:
    """Print notifications until Ctrl-C (or the first, with --once); what the connection does goes to standard error."""
    access = find_user_access(args)
    if access.is_demo:
        become_owner(args.data)
    try:
        asyncio.run(_listen(args, access))
    except asyncio.CancelledError:
        # SIGTERM; Ctrl-C is a KeyboardInterrupt, which ends every command the same way.
        pass
    except HubRefused as refused:
        raise CommandFailed(str(refused), _next_step(args, access)) from refused
    return Exit.DONE


async def _listen(args: Namespace, access: UserAccess) -> None:
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with _Identity(args, access) as identity:
        name = args.device or socket.gethostname() or "terminal"
        place = _cursor_file(args.data, access, identity.who(await identity.token(None)), name)
        listener = HubListener(
            access.url,
            identity.token,
            device_id=f"carillon-listen:{name}"[:128],
            label=name[:100],
            cursor=FileCursor(place),
            acknowledges=not args.no_ack,
            on_state=_tell_state,
        )
        show = _show_json if args.json else _Printer(_known_apps(args.data)).show
        async with listener:
            async for notification in listener:
                show(notification)
                if args.once:
                    await listener.acknowledge(notification)
                    return


class _Identity:
    """Where the bearer comes from, and whose it is."""

    def __init__(self, args: Namespace, access: UserAccess) -> None:
        self._access = access
        self._folder: Path = args.data
        self._client: AsyncCarillonClient | None = None
        if access.username:
            self._client = AsyncCarillonClient.for_user(access.url, access.username, access.password.reveal())

    async def __aenter__(self) -> "_Identity":
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def token(self, refused: str | None) -> str:
        """Give a bearer; one from outside is what it is, a person's own is renewed in time."""
        if self._client is not None:
            return await self._client.access_token(refused)
        if self._access.is_demo:
            return demo_token(self._folder)
        return self._access.token.reveal()

    def who(self, token: str) -> str:
        """Name the person behind a token, so that each has a cursor of their own."""
        try:
            middle = token.split(".")[1]
            claims = json.loads(urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
            return str(claims["sub"])
        except (IndexError, ValueError, KeyError, TypeError):
            return self._access.username or hashlib.sha256(token.encode()).hexdigest()


def _cursor_file(folder: Path, access: UserAccess, who: str, device: str) -> Path:
    key = hashlib.sha256("\0".join((access.url, who, device)).encode()).hexdigest()[:16]
    if access.is_demo:
        return folder / f"listen-{key}.json"
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    place = Path(state) / "carillon"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    return place / f"listen-{key}.json"


def _known_apps(folder: Path) -> dict[str, str]:
    demo = load_demo(folder)
    return {} if demo is None else {demo.client_id: "Demo"}


def _show_json(notification: HubNotification) -> None:
    print(msgspec.json.encode(notification).decode(), flush=True)


class _Printer:
    """Prints notifications for people."""

    def __init__(self, app_names: dict[str, str]) -> None:
        self._app_names = app_names

    def show(self, notification: HubNotification) -> None:
        app = self._app_names.get(notification.app_id, notification.app_id)
        lines = [f"{notification.sent_at.astimezone():%H:%M:%S}  {one_line(app)}  {one_line(notification.title)}"]
        lines += [f"{_INDENT}{line}" for line in printable(notification.body).splitlines()]
        for name, value in notification.data.items():
            text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            lines.append(f"{_INDENT}{one_line(name)}: {one_line(text)}")
        print("\n".join(lines), flush=True)


def _tell_state(state: Live | Lost) -> None:
    match state:
        case Live(missed, is_complete):
            missed_text = f", {missed} missed follow" if missed else ""
            print(f"connected{missed_text}", file=sys.stderr, flush=True)
            if not is_complete:
                print("the history is incomplete: older notifications are not sent again", file=sys.stderr, flush=True)
        case Lost(reason, retry_in_s):
            print(f"{one_line(reason)} Trying again in {retry_in_s:.1f} s.", file=sys.stderr, flush=True)


def _next_step(args: Namespace, access: UserAccess) -> str:
    if access.is_demo:
        return f"A second listener needs --device NAME. Tokens are renewed by: {shown_command(args.data)} try"
    return "A second listener needs --device NAME; a token that has run out must be replaced."
