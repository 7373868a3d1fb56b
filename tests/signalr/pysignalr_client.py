"""pysignalr under remote control, as `client.mjs` is: one JSON object a line comes in, one a line goes out.

    python pysignalr_client.py '{"url": …, "token": …, "protocol": "json"|"messagepack",
                                "keepAliveS": 15, "results": false, "retries": 1}'

It always negotiates, takes WebSockets only, and has no way to stop but to be cancelled. A Close with an error ends it,
told as `closed`, whether or not it allows to come back.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from pysignalr.client import SignalRClient
from pysignalr.exceptions import ServerError
from pysignalr.messages import CompletionMessage
from pysignalr.protocol.abstract import Protocol
from pysignalr.protocol.json import JSONProtocol
from pysignalr.protocol.messagepack import MessagepackProtocol


def tell(event: str, **facts: object) -> None:
    sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
    sys.stdout.flush()


def make_handler(method: str, result: object) -> Callable[[list[Any]], Awaitable[Any]]:
    async def handle(arguments: list[Any]) -> Any:
        tell(method, arguments=arguments)
        return result

    return handle


async def obey(client: SignalRClient, order: dict[str, Any]) -> None:
    method, *arguments = order["invoke"]

    async def take(completion: Any) -> None:
        facts = {"result": completion.result} if completion.error is None else {"error": completion.error}
        tell("answer", call=order["call"], **facts)

    await client.send(method, arguments, take)


async def read_orders(client: SignalRClient) -> None:
    """Obey until told to stop."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        order = json.loads(line)
        if order.get("stop"):
            return
        await obey(client, order)


async def main(settings: dict[str, Any]) -> None:
    protocol: Protocol = MessagepackProtocol() if settings.get("protocol") == "messagepack" else JSONProtocol()
    client = SignalRClient(
        settings["url"],
        protocol,
        headers={"Authorization": f"Bearer {settings['token']}"},
        signalr_ping_interval=settings.get("keepAliveS", 15),
        retry_sleep=0.1,
        retry_count=settings.get("retries", 1),
    )

    async def tell_opened() -> None:
        tell("started")

    async def ignore_error(completion: CompletionMessage) -> None:
        """Errors come twice, here and at the call's own callback."""

    client.on_open(tell_opened)
    client.on_error(ignore_error)
    for method in ("ReceiveNotification", "Notify"):
        client.on(method, make_handler(method, True if settings.get("results") else None))
    running = asyncio.ensure_future(client.run())
    orders = asyncio.ensure_future(read_orders(client))
    done, _ = await asyncio.wait((running, orders), return_when=asyncio.FIRST_COMPLETED)
    if orders in done:
        running.cancel()
        await asyncio.wait((running,))
        tell("stopped")
        return
    orders.cancel()
    try:
        await running
    except ServerError as error:
        tell("closed", error=str(error))
    except Exception as error:
        tell("failed", error=f"{error!r} from {error.__cause__!r}")


asyncio.run(main(json.loads(sys.argv[1])))
