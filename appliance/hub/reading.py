"""What a connection does with each message that its client sends."""

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from appliance.hub import calls, endings
from appliance.hub.protocol import (
    AckReceived,
    CloseReceived,
    CompletionReceived,
    InvocationReceived,
    LiveEvent,
    LiveProtocol,
    ProtocolViolation,
)

if TYPE_CHECKING:
    from appliance.hub.connection import Connection
    from appliance.hub.pipe import Pipe

logger = logging.getLogger(__name__)

# After so many messages, and after so many bytes of messages that need no answer, others get a turn of the loop.
_TURN: Final = 64
_CHUNK_BYTES: Final = 16_384


async def read(connection: "Connection", live: LiveProtocol, data: str | bytes, pipe: "Pipe") -> None:
    """Serve the messages in what `pipe` brought, one after another, until the connection ends or leaves that pipe.

    A message that was begun is served to its end; what follows it unread was not counted (see `hub.resume`).
    """
    received = data.encode() if isinstance(data, str) else data
    for start in range(0, len(received) or 1, _CHUNK_BYTES):
        if start:
            await asyncio.sleep(0)
            if not connection.is_carried_by(pipe):
                return
        events = live.receive(received[start : start + _CHUNK_BYTES], connection.core.clock.monotonic())
        for number, event in enumerate(events, start=1):
            await _handle(connection, event)
            if connection.ending is not None or not connection.is_carried_by(pipe):
                return
            if number % _TURN == 0:
                await asyncio.sleep(0)
                if not connection.is_carried_by(pipe):
                    return
    # The first ping of a client brings its timeout, which may be earlier than what was next.
    connection.core.deadlines.wake(connection, live.next_deadline)


async def _handle(connection: "Connection", event: LiveEvent) -> None:
    match event:
        case InvocationReceived():
            await calls.answer_invocation(connection, event)
        case CompletionReceived():
            await calls.take_completion(connection, event)
        case AckReceived(sequence_id):
            connection.acknowledge_sent(sequence_id)
        case CloseReceived():
            connection.end(endings.CLIENT_CLOSED)
        case ProtocolViolation(reason):
            logger.info("hub_protocol_violation", extra={"user_id": str(connection.user_id), "reason": reason})
            connection.end(endings.PROTOCOL_VIOLATION)
