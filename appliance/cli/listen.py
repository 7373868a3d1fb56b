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
from typing import Final

import msgspec

from appliance.cli.data_folder import become_owner
from appliance.cli.exits import CommandFailed, Exit
from appliance.cli.screen import one_line, printable
from appliance.cli.shown import shown_command
from appliance.cli.who import UserAccess, demo_token, find_user_access
from appliance.client import AsyncCarillonClient, ClientError, Patience
from appliance.client_cursor import FileCursor
from appliance.client_hub import HubListener, HubNotification, HubRefused, Live, Lost

_INDENT: Final = " " * 10
_NAME_WITHIN_S: Final = 2.0


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
    async with _client_of(args.data, access) as client:
        name = args.device or socket.gethostname() or "terminal"
        place = _cursor_file(args.data, access, _who(args, access), name)
        listener = HubListener(
            access.url,
            client.access_token,
            device_id=f"carillon-listen:{name}"[:128],
            label=name[:100],
            cursor=FileCursor(place),
            acknowledges=not args.no_ack,
            on_state=_tell_state,
        )
        show = _show_json if args.json else _Printer(client).show
        async with listener:
            async for notification in listener:
                await show(notification)
                if args.once:
                    await listener.acknowledge(notification)
                    return


def _client_of(folder: Path, access: UserAccess) -> AsyncCarillonClient:
    if access.username:
        # Short: the listener itself tries again for ever, and tells each time why.
        patience = Patience(deadline_s=6, attempt_s=5)
        return AsyncCarillonClient.for_user(access.url, access.username, access.password.reveal(), patience=patience)
    if access.is_demo:
        return AsyncCarillonClient.with_token(access.url, lambda: demo_token(folder))
    return AsyncCarillonClient.with_token(access.url, access.token.reveal)


def _who(args: Namespace, access: UserAccess) -> str:
    """Name the person who listens, so that each has a cursor of their own; no server is asked, nothing is trusted."""
    if access.username:
        return access.username
    token = demo_token(args.data) if access.is_demo else access.token.reveal()
    try:
        middle = token.split(".")[1]
        return str(json.loads(urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))["sub"])
    except (IndexError, ValueError, KeyError, TypeError):
        return hashlib.sha256(token.encode()).hexdigest()


def _cursor_file(folder: Path, access: UserAccess, who: str, device: str) -> Path:
    key = hashlib.sha256("\0".join((access.url, who, device)).encode()).hexdigest()[:16]
    if access.is_demo:
        return folder / f"listen-{key}.json"
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    place = Path(state) / "carillon"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    return place / f"listen-{key}.json"


async def _show_json(notification: HubNotification) -> None:
    print(msgspec.json.encode(notification).decode(), flush=True)


class _Printer:
    """Prints notifications for people. The hub tells an app's id; its name is looked up once, in the inbox."""

    def __init__(self, client: AsyncCarillonClient) -> None:
        self._client = client
        self._app_names: dict[str, str] = {}

    async def show(self, notification: HubNotification) -> None:
        app = await self._name_of(notification.app_id)
        lines = [f"{notification.sent_at.astimezone():%H:%M:%S}  {one_line(app)}  {one_line(notification.title)}"]
        lines += [f"{_INDENT}{line}" for line in printable(notification.body).splitlines()]
        for name, value in notification.data.items():
            text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            lines.append(f"{_INDENT}{one_line(name)}: {one_line(text)}")
        print("\n".join(lines), flush=True)

    async def _name_of(self, app_id: str) -> str:
        if app_id not in self._app_names:
            try:
                async with asyncio.timeout(_NAME_WITHIN_S):
                    entries = await self._client.inbox()
            except (ClientError, TimeoutError):
                return app_id
            self._app_names.update((entry.app_id, entry.app_name) for entry in entries)
            self._app_names.setdefault(app_id, app_id)
        return self._app_names[app_id]


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
