"""Google, Apple and a browser's push service as a process of their own, driven by orders."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.bench.process import Orders, serve_orders
from tests.doubles.apns import STREAMS, run_apns
from tests.doubles.certificates import Authority
from tests.doubles.fcm import run_fcm
from tests.doubles.http2_server import ServerLimits
from tests.doubles.http_peer import Asked, plain_reply, run_http_peer

_CREATED = plain_reply(b"", status=201, headers={"Location": "/m/1"})


class PushServices:
    """The services; Google without TLS, because the stock SDK cannot be told whom to trust."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._doubles: dict[str, Any] = {}
        self._latency_s = 0.0

    @property
    def orders(self) -> Orders:
        return {"open": self._open, "behave": self._behave, "count": self._count, "close": self._close}

    async def _open(self, folder: str) -> dict[str, Any]:
        authority = Authority(Path(folder), valid_for=timedelta(days=1))
        google = await self._stack.enter_async_context(run_fcm(None))
        apple = await self._stack.enter_async_context(run_apns(authority))
        # Apple lets a new connection have one stream until it has seen a token; the stock SDK loses pushes by that.
        apple.server.limits = ServerLimits(streams=STREAMS)
        apple.server.on_stream_limit = lambda connection: STREAMS
        browser = await self._stack.enter_async_context(
            run_http_peer(self._take, tls=authority.server_tls("localhost"))
        )
        self._doubles = {"google": google, "apple": apple}
        for double in self._doubles.values():
            double.control.is_keeping = False
        return {
            "account": google.service_account(),
            "bearer": google.make_bearer(),
            "google": google.url,
            "apple": apple.url,
            "key": [apple.key.p8, apple.key.key_id, apple.key.team_id],
            "browser": f"https://localhost:{browser.port}/wpush/v2/bench",
            "authority": str(authority.write_certificate()),
        }

    async def _behave(self, latency_s: float, chances: dict[str, dict[str, float]], outage: str = "") -> dict[str, Any]:
        """Forget everything and behave so; the outage is Google's."""
        self._latency_s = latency_s
        for name, double in self._doubles.items():
            double.control.forget()
            double.control.chances = chances.get(name, {})
            double.control.outage = outage if name == "google" else ""
            double.server.latency_s = latency_s
        return {}

    async def _count(self) -> dict[str, Any]:
        controls = {name: double.control for name, double in self._doubles.items()}
        return {
            name: {"accepted": len(one.ids), "doubled": len(one.duplicates), "answers": dict(one.answers)}
            for name, one in controls.items()
        }

    async def _close(self) -> dict[str, Any]:
        await self._stack.aclose()
        return {}

    async def _take(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        await _CREATED(asked, writer)


if __name__ == "__main__":
    serve_orders(lambda: PushServices().orders)
