"""signalrcore under remote control, as `client.mjs` is: one JSON object a line comes in, one a line goes out.

    python signalrcore_client.py '{"url": …, "token": …, "protocol": "json"|"messagepack", "transports": [one],
                                  "keepAliveS": 15}'

It always negotiates, reconnects by itself and runs its callbacks on threads of its own.
"""

import json
import sys
import threading
from functools import partial
from typing import Any, Final

from signalrcore.hub_connection_builder import HubConnectionBuilder
from signalrcore.types import HttpTransportType, HubProtocolEncoding

_TRANSPORTS: Final = {
    "WebSockets": HttpTransportType.web_sockets,
    "ServerSentEvents": HttpTransportType.server_sent_events,
    "LongPolling": HttpTransportType.long_polling,
}
_writing = threading.Lock()


def tell(event: str, **facts: object) -> None:
    with _writing:
        sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
        sys.stdout.flush()


def tell_call(method: str, arguments: list[Any]) -> None:
    tell(method, arguments=arguments)


def build(settings: dict[str, Any]) -> Any:
    (transport,) = settings.get("transports", ["WebSockets"])
    is_binary = settings.get("protocol") == "messagepack"
    builder = HubConnectionBuilder()
    builder.with_url(
        settings["url"],
        options={"access_token_factory": lambda: settings["token"], "transport": _TRANSPORTS[transport]},
    )
    builder.with_hub_protocol(HubProtocolEncoding.binary if is_binary else HubProtocolEncoding.text)
    # Without this it would not even ping.
    keep_alive_s = settings.get("keepAliveS", 15)
    builder.with_automatic_reconnect({"keep_alive_interval": keep_alive_s, "reconnect_interval": 1, "max_attempts": 5})
    return builder.build()


def main(settings: dict[str, Any]) -> None:
    connection = build(settings)
    connection.on_open(partial(tell, "started"))
    connection.on_close(partial(tell, "closed", error=None))
    connection.on_reconnect(partial(tell, "reconnected"))
    # The id of the call is its number.
    connection.on_error(lambda failed: tell("answer", call=int(failed.invocation_id), error=failed.error))
    for method in ("ReceiveNotification", "Notify"):
        connection.on(method, partial(tell_call, method))
    try:
        connection.start()
    except Exception as error:
        tell("failed", error=f"{type(error).__name__}: {error}")
    for line in sys.stdin:
        order = json.loads(line)
        if order.get("stop"):
            connection.stop()
            tell("stopped")
            continue
        method, *arguments = order["invoke"]
        call: int = order["call"]

        def take(completion: Any, call: int = call) -> None:
            tell("answer", call=call, result=completion.result)

        connection.invoke(method, arguments, take, str(call))


main(json.loads(sys.argv[1]))
