"""Whose word about the client counts."""

from typing import Any

from appliance.asgi import Application
from appliance.ops.metrics import RequestCounter


async def _seen(client, *, trusted, forwarded=b"203.0.113.7"):
    seen: dict[str, Any] = {}
    absent: Any = None

    async def served(scope, receive, send):
        seen.update(client=scope["client"][0], scheme=scope["scheme"])

    async def nothing(*_):
        return None

    application = Application(served, absent, absent, RequestCounter(), trusted_proxies=trusted)
    headers = [(b"x-forwarded-for", forwarded), (b"x-forwarded-proto", b"https")]
    scope: Any = {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "client": (client, 1),
        "headers": headers,
    }
    await application.asgi(scope, nothing, nothing)
    return seen


async def test_a_trusted_proxy_tells_the_client_and_the_scheme():
    assert await _seen("10.1.2.3", trusted=("10.1.0.0/16",)) == {"client": "203.0.113.7", "scheme": "https"}


async def test_anybody_else_is_not_believed():
    assert await _seen("10.2.0.1", trusted=("10.1.0.0/16",)) == {"client": "10.2.0.1", "scheme": "http"}
    assert await _seen("127.0.0.1", trusted=()) == {"client": "127.0.0.1", "scheme": "http"}


async def test_a_proxy_that_appends_the_port_or_is_seen_as_ipv6_is_understood():
    assert await _seen("::ffff:10.1.2.3", trusted=("10.1.0.1/16",)) == {"client": "203.0.113.7", "scheme": "https"}
    seen = await _seen("10.1.2.3", trusted=("10.1.0.0/16",), forwarded=b"203.0.113.9:555")
    assert seen == {"client": "203.0.113.9", "scheme": "https"}
