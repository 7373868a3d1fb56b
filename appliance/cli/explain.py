"""`carillon explain`: why did it (not) arrive? The timeline of a notification in plain words."""

import asyncio
import os
from argparse import Namespace
from pathlib import Path
from uuid import UUID

import msgspec

from appliance.cli.data_folder import require_prepared
from appliance.cli.exits import CommandFailed, Exit
from appliance.cli.timeline_text import describe
from appliance.cli.who import CLIENT_ID_VARIABLE, TOKEN_VARIABLE, URL_VARIABLE, find_app_access, find_user_access
from appliance.client import CarillonClient, Timeline
from appliance.client_timeline import Delivery


def run(args: Namespace) -> int:
    """Print the timeline: over HTTP when a server is named, else straight from the data folder."""
    try:
        notification_id = UUID(args.id)
    except ValueError:
        raise CommandFailed(
            f"{args.id!r} is no notification id.", "It is what carillon send prints.", code=Exit.USAGE
        ) from None
    timeline = _over_http(args, notification_id) if _names_server(args) else _from_folder(args.data, notification_id)
    if args.json:
        print(msgspec.json.format(msgspec.json.encode(timeline)).decode())
    else:
        print(describe(timeline))
    return Exit.DONE


def _names_server(args: Namespace) -> bool:
    flags = (args.url, args.client_id, args.client_secret, args.username, args.token)
    variables = (URL_VARIABLE, CLIENT_ID_VARIABLE, TOKEN_VARIABLE)
    return any(flags) or any(os.environ.get(variable) for variable in variables)


def _over_http(args: Namespace, notification_id: UUID) -> Timeline:
    if args.username or args.token:
        person = find_user_access(args)
        if person.username:
            client = CarillonClient.for_user(person.url, person.username, person.password.reveal())
        else:
            client = CarillonClient.with_token(person.url, person.token.reveal)
    else:
        app = find_app_access(args)
        client = CarillonClient(app.url, app.client_id, app.client_secret.reveal())
    with client:
        return client.notification(notification_id)


def _from_folder(folder: Path, notification_id: UUID) -> Timeline:
    require_prepared(folder)
    timeline = asyncio.run(_load(folder, notification_id))
    if timeline is None:
        raise CommandFailed(f"there is no notification {notification_id} in {folder}.")
    return timeline


async def _load(folder: Path, notification_id: UUID) -> Timeline | None:
    # Only here: whoever explains over HTTP needs no server code.
    from appliance.delivery.timeline import load_timeline
    from appliance.settings import load_settings
    from appliance.storage.database import open_database

    settings = load_settings(folder)
    async with open_database(settings.data_dir, settings.database_url or None) as database:
        story = await load_timeline(database, notification_id)
    if story is None:
        return None
    asked = story.notification
    return Timeline(
        notification_id=str(asked.id),
        app_id=str(asked.app_id),
        user_id=str(asked.user_id),
        title=asked.content.title,
        type=asked.content.type,
        priority=asked.content.priority.name.lower(),
        state=story.state,
        explanation=story.explanation,
        accepted_at=asked.accepted_at,
        send_at=asked.send_at,
        released_at=asked.released_at,
        expires_at=asked.expires_at,
        withdrawn_at=asked.withdrawn_at,
        read_at=asked.read_at,
        deliveries=msgspec.convert(msgspec.to_builtins(story.deliveries), tuple[Delivery, ...]),
    )
