"""The ASGI interface, as far as the hub uses it. Source: the ASGI specification, version 3.0."""

from collections.abc import Awaitable, Callable, Mapping

Event = Mapping[str, object]
Scope = Mapping[str, object]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[dict[str, object]], Awaitable[None]]
AsgiApplication = Callable[[Scope, Receive, Send], Awaitable[None]]
