"""How a write is begun without waiting for it, whatever the server."""

import asyncio
import logging
from collections.abc import Awaitable
from typing import cast

from appliance.hub.asgi_types import Send
from appliance.hub.outbox import WriteFuture

logger = logging.getLogger(__name__)


def begin_write(send: Send, event: dict[str, object]) -> WriteFuture:
    """Begin to send one event. A server whose send gives back a future has begun by being called; else a task does."""
    sending = send(event)
    if hasattr(sending, "add_done_callback"):
        return cast(WriteFuture, sending)
    return asyncio.ensure_future(_await_quietly(sending))


async def _await_quietly(sending: Awaitable[None]) -> None:
    try:
        await sending
    except (OSError, RuntimeError) as error:
        # The reader of the same connection sees that the peer is gone and ends it.
        logger.debug("hub_write_failed", extra={"error": type(error).__name__})
