"""`carillon send`: sends one notification as an app, over HTTP, and can wait to see what becomes of it."""

import json
import re
import time
from argparse import Namespace
from datetime import UTC, datetime, timedelta
from typing import Final

from appliance.cli.exits import CommandFailed, Exit
from appliance.cli.shown import shown_command
from appliance.cli.timeline_text import describe
from appliance.cli.who import find_app_access
from appliance.client import CarillonClient, PushOptions, Timeline

_DURATION: Final = re.compile(r"(\d{1,9})\s*([smhd]?)")
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_LOOK_EVERY_S: Final = 0.5


def run(args: Namespace) -> int:
    """Print the notification's id; with --wait also its timeline, code 1 if it is not settled in that time."""
    access = find_app_access(args)
    user_id = args.user or access.demo_user_id
    if not user_id:
        raise CommandFailed("to whom? Give --user with the user's id.", "carillon user list", code=Exit.USAGE)
    options = _options(args)
    data = _data(args)
    with CarillonClient(access.url, access.client_id, access.client_secret.reveal()) as client:
        sent = client.send_push(user_id, args.title, args.body, data, **options)
        print(sent.notification_id, flush=True)
        if args.wait is None:
            return Exit.DONE
        timeline = _wait(client, sent.notification_id, args.wait)
    print(describe(timeline))
    if timeline.is_settled:
        return Exit.DONE
    command = f"{shown_command(args.data)} explain {sent.notification_id}"
    raise CommandFailed(f"it is not settled after {args.wait:g} s.", f"Look again with: {command}")


def _options(args: Namespace) -> PushOptions:
    options = PushOptions()
    if args.type is not None:
        options["type"] = args.type
    if args.priority is not None:
        options["priority"] = args.priority
    if args.ttl is not None:
        options["ttl"] = parse_duration(args.ttl)
    if args.collapse_key is not None:
        options["collapse_key"] = args.collapse_key
    if args.at is not None:
        options["send_at"] = parse_moment(args.at, datetime.now(UTC))
    if args.idempotency_key is not None:
        options["idempotency_key"] = args.idempotency_key
    return options


def _data(args: Namespace) -> dict[str, object] | None:
    data: dict[str, object] = {}
    if args.json is not None:
        try:
            given = json.loads(args.json)
        except (ValueError, RecursionError) as error:
            raise CommandFailed(f"--json is not JSON: {error}.", code=Exit.USAGE) from error
        if not isinstance(given, dict):
            raise CommandFailed("--json is no object.", 'Write it as \'{"route": "/schedule"}\'.', code=Exit.USAGE)
        data.update(given)
    for pair in args.pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise CommandFailed(f"--data {pair!r} is no pair.", "Write it as --data name=value.", code=Exit.USAGE)
        data[name] = value
    return data or None


def parse_duration(text: str) -> timedelta:
    """Read `90`, `90s`, `15m`, `2h` or `7d`. Raises `CommandFailed`."""
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None:
        raise CommandFailed(f"{text!r} is no length of time.", "Write it as 90s, 15m, 2h or 7d.", code=Exit.USAGE)
    return timedelta(seconds=int(match[1]) * _UNITS[match[2]])


def parse_moment(text: str, now: datetime) -> datetime:
    """Read `+15m` from now, or a date and time; without a zone it is this machine's. Raises `CommandFailed`."""
    if text.startswith("+"):
        return now + parse_duration(text[1:])
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise CommandFailed(
            f"{text!r} is no moment.", "Write it as 2026-03-17T12:00, 2026-03-17T12:00:00Z or +15m.", code=Exit.USAGE
        ) from None
    return at.astimezone(UTC)


def _wait(client: CarillonClient, notification_id: str, seconds: float) -> Timeline:
    until = time.monotonic() + seconds
    while True:
        timeline = client.notification(notification_id)
        left = until - time.monotonic()
        if timeline.is_settled or left <= 0:
            return timeline
        time.sleep(min(_LOOK_EVERY_S, left))
