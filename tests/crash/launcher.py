"""Starts the program as always, but ends it with SIGKILL when it passes a chosen point for the n-th time.

    python -m tests.crash.launcher POINT N --data DIR serve …

The product has no hooks for this: here named functions of it are wrapped before it starts.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from appliance.asgi import Application
from appliance.cli.program import main
from appliance.delivery.accept import Acceptor
from appliance.delivery.engine import DeliveryEngine
from appliance.delivery.live import LiveBackend
from appliance.hub.connection import Connection
from appliance.storage import sending, upgrade
from appliance.storage.piccolo_app import APP_CONFIG
from appliance.storage.sqlite import SQLiteWriterConnection

Function = Callable[..., Any]
Wrap = Callable[[Function, "Fuse"], Function]


class Fuse:
    """Ends the process when it has been burnt `passes` times."""

    def __init__(self, passes: int) -> None:
        self._left = passes

    def burn(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _before(function: Function, fuse: Fuse) -> Function:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        fuse.burn()
        return function(*args, **kwargs)

    return wrapped


def _after(function: Function, fuse: Fuse) -> Function:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        fuse.burn()
        return result

    return wrapped


def _after_await(function: Function, fuse: Fuse) -> Function:
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = await function(*args, **kwargs)
        fuse.burn()
        return result

    return wrapped


def _after_each_reply(function: Function, fuse: Fuse) -> Function:
    """Burn the fuse when the last byte of the reply to a send has been handed to the server."""

    async def serve(self: Application, scope: Any, receive: Any, send: Any) -> None:
        async def watched(message: Any) -> None:
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                fuse.burn()

        is_send = scope["type"] == "http" and scope["path"].startswith("/push/send")
        await function(self, scope, receive, watched if is_send else send)

    return serve


POINTS: dict[str, tuple[Any, str, Wrap]] = {
    # In the writer's thread: the whole group is lost, or kept without anybody having been told.
    "between_notification_and_deliveries": (sending, "_insert_deliveries", _before),
    "before_commit": (SQLiteWriterConnection, "commit", _before),
    "after_commit": (SQLiteWriterConnection, "commit", _after),
    # On the event loop: kept, and somebody is about to be told.
    "before_hand_over": (DeliveryEngine, "hand_over", _before),
    "before_reply": (Acceptor, "accept", _after_await),
    "after_reply": (Application, "_serve", _after_each_reply),
    "before_offer": (DeliveryEngine, "_offer", _before),
    "mid_fan_out": (Connection, "offer", _before),
    "after_offer": (DeliveryEngine, "_offer", _after),
    "before_acknowledgement": (LiveBackend, "acknowledge", _before),
    "after_acknowledgement": (LiveBackend, "acknowledge", _after_await),
    "after_hello": (LiveBackend, "register_hello", _after_await),
    "mid_replay": (LiveBackend, "load_missed", _after_await),
    "before_upkeep": (DeliveryEngine, "_look", _before),
    # At start-up.
    "mid_migration": (MigrationManager, "_run_add_columns", _before),
    "after_migration_before_its_note": (MigrationManager, "run", _after_await),
    "after_copy_before_upgrade": (upgrade, "_copy_before_upgrade", _after),
}


def arm(point: str, passes: int) -> None:
    """Wrap the point's function."""
    owner, name, wrap = POINTS[point]
    setattr(owner, name, wrap(getattr(owner, name), Fuse(passes)))


if __name__ == "__main__":
    if point := sys.argv[1]:
        arm(point, int(sys.argv[2]))
    if folder := os.environ.get("MIGRATIONS_UNDER_TEST"):
        APP_CONFIG.migrations_folder_path = str(Path(folder))
    sys.exit(main(sys.argv[3:]))
