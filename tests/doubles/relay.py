"""A relay as OpenKSeF runs it: registration, signed pushes, and its errors in the order in which it finds them.

Source: OpenKSeF's relay, endpoints and checks. `script` takes whole answers for the next pushes.
"""

import hashlib
import hmac
import json
import secrets
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from tests.doubles.http_peer import Asked, HttpPeer, plain_reply, run_http_peer

WINDOW_S = 300

Refusal = tuple[int, str]


class RelayDouble:
    """The running relay: who is registered, and what it passed on."""

    def __init__(self, now: Callable[[], datetime], *, is_plain: bool) -> None:
        self.keys: dict[str, str] = {}
        self.disabled: set[str] = set()
        self.pushes: list[dict[str, object]] = []
        self.script: list[tuple[int, dict[str, str], bytes]] = []
        self.peer: HttpPeer
        self._now = now
        self._is_plain = is_plain

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.peer.port}" if self._is_plain else f"https://localhost:{self.peer.port}"

    def register(self) -> tuple[str, str]:
        """Register an instance; gives its id and its key."""
        instance_id, key = secrets.token_hex(16), secrets.token_hex(32)
        self.keys[instance_id] = key
        return instance_id, key

    async def answer(self, asked: Asked, writer) -> None:
        status, headers, body = self._judge(asked)
        await plain_reply(body, status=status, headers={"Content-Type": "application/json", **headers})(asked, writer)

    def _judge(self, asked: Asked) -> tuple[int, dict[str, str], bytes]:
        if asked.method == "GET" and asked.path == "/health":
            return _say(200, {"status": "healthy"})
        if asked.method == "POST" and asked.path == "/api/register":
            return self._register(asked)
        if asked.method != "POST" or asked.path != "/api/push":
            return 404, {}, b""
        if self.script:
            return self.script.pop(0)
        try:
            body = json.loads(asked.body)
        except ValueError:
            return 500, {}, b""
        refusal = self._refuse(asked, body)
        if refusal is not None:
            return _say(refusal[0], {"error": refusal[1]})
        self.pushes.append(body)
        return _say(200, {"success": True})

    def _register(self, asked: Asked) -> tuple[int, dict[str, str], bytes]:
        if not str(json.loads(asked.body).get("instanceUrl") or "").strip():
            return _say(400, {"error": "instanceUrl is required"})
        instance_id, key = self.register()
        return _say(200, {"instanceId": instance_id, "apiKey": key})

    def _refuse(self, asked: Asked, body: object) -> Refusal | None:
        if not isinstance(body, dict):
            return 400, "Invalid request body"
        timestamp = asked.headers.get("x-relay-timestamp", "")
        if not timestamp.isdigit():
            return 401, "Invalid timestamp"
        if abs(self._now().timestamp() - int(timestamp)) > WINDOW_S:
            return 401, "Request expired"
        instance_id = asked.headers.get("x-relay-instance", "")
        if instance_id not in self.keys:
            return 401, "Unknown instance"
        if instance_id in self.disabled:
            return 403, "Instance disabled"
        signed = f"{timestamp}.".encode() + asked.body
        wanted = hmac.new(self.keys[instance_id].encode(), signed, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(wanted, asked.headers.get("x-relay-signature", "")):
            return 401, "Invalid signature"
        return None if body.get("pushToken") else (400, "pushToken is required")


def _say(status: int, content: object) -> tuple[int, dict[str, str], bytes]:
    return status, {}, json.dumps(content).encode()


@asynccontextmanager
async def run_relay(
    tls: ssl.SSLContext | None = None, *, now: Callable[[], datetime] = lambda: datetime.now(UTC), port: int = 0
) -> AsyncIterator[RelayDouble]:
    """Run a relay on a loopback port until the block ends; without `tls` it speaks plain HTTP, as OpenKSeF's does."""
    double = RelayDouble(now, is_plain=tls is None)
    async with run_http_peer(double.answer, port=port, tls=tls) as peer:
        double.peer = peer
        yield double
