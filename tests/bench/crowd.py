"""A crowd of hub clients in one process, which checks that each of them gets every message once and in order.

Every message carries its number in its title: the n-th one for a client is number n. So a client needs to know nothing
but the last number to see what was lost, doubled or overtaken.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.bench.process import Orders, serve_orders
from tests.bench.websocket import WebSocketClient, connect, make_hub_upgrade, make_upgrade
from tests.bench.wire import HttpCaller, make_request

CONNECT_AT_ONCE: Final = 64
PING_EVERY_S: Final = 15.0
_PING_TURNS: Final = 150
_READY_WITHIN_S: Final = 30.0
_BATCH: Final = 500
_TITLE: Final = b'"title":"'
_ID: Final = b'"id":"'


class Client(WebSocketClient):
    """One client: `bare` says nothing at all, `plain` shakes hands, `session` says Hello for a device.

    Of one that `is_judged` every message counts.
    """

    __slots__ = ("_acknowledges", "_crowd", "_mode", "_number", "_token", "is_judged", "last", "ready")

    def __init__(
        self, crowd: "Crowd", number: int, mode: str, token: str, *, acknowledges: bool, is_judged: bool
    ) -> None:
        super().__init__()
        self._crowd = crowd
        self._number = number
        self._mode = mode
        self._token = token
        self._acknowledges = acknowledges
        self.is_judged = is_judged
        self.last = crowd.number
        self.ready: asyncio.Future[None] | None = asyncio.get_running_loop().create_future()

    def make_upgrade(self) -> bytes:
        if self._mode == "bare":
            return make_upgrade("/", "127.0.0.1")
        return make_hub_upgrade(self._crowd.port, self._token)

    def opened(self) -> None:
        if self._mode == "bare":
            self._be_ready()
        else:
            self.shake_hands()

    def refused(self, head: bytes) -> None:
        self._fail(head[:60].decode(errors="replace"))

    def closed(self, reason: str) -> None:
        self._crowd.lose(self)
        self._fail(reason)

    def message(self, data: bytes, start: int, end: int) -> None:
        at = data.find(_TITLE, start, end)
        if at < 0:
            self._take_other(data[start:end])
            return
        while at >= 0:
            stop = data.index(b'"', at + len(_TITLE), end)
            self._take(int(data[at + len(_TITLE) : stop]))
            if self._acknowledges:
                id_at = data.rindex(_ID, start, at) + len(_ID)
                self.send_text(b'{"type":1,"target":"Acknowledge","arguments":["%b"]}\x1e' % data[id_at : id_at + 36])
            at = data.find(_TITLE, stop, end)

    def _take(self, number: int) -> None:
        crowd = self._crowd
        if number != self.last + 1:
            crowd.disorder += 1
        self.last = number
        if self.is_judged:
            crowd.arrivals.append(time.monotonic())
            if len(crowd.arrivals) == crowd.target:
                crowd.complete.set()

    def _take_other(self, message: bytes) -> None:
        if self.ready is None:
            return
        if b'"error"' in message:
            self._fail(message.decode(errors="replace"))
        elif self._mode == "session" and message.startswith(b"{}"):
            hello = {"deviceId": f"bench-{self._number}", "acknowledges": self._acknowledges}
            call = {"type": 1, "target": "Hello", "arguments": [hello], "invocationId": "0"}
            self.send_text(json.dumps(call).encode() + b"\x1e")
        elif self._mode == "plain" or b'"invocationId"' in message:
            self._be_ready()

    def _be_ready(self) -> None:
        if self.ready is not None and not self.ready.done():
            self.ready.set_result(None)
        self.ready = None

    def _fail(self, reason: str) -> None:
        if self.ready is not None and not self.ready.done():
            self.ready.set_exception(ConnectionError(reason))
        self.ready = None


class Crowd:
    """The clients of one server, and what they have received of the present turn."""

    def __init__(self) -> None:
        self.port = 0
        self.number = 0
        self.target = 0
        self.disorder = 0
        self.arrivals: list[float] = []
        self.complete = asyncio.Event()
        self._clients: dict[Client, None] = {}
        self._lost = 0
        self._cpu_from = 0.0
        self._is_bare = False
        self._keeping: asyncio.Task[None] | None = None
        self._people: dict[str, Any] = {}
        self._callers: dict[int, HttpCaller] = {}
        self._replies: asyncio.Queue[int] = asyncio.Queue()

    @property
    def orders(self) -> Orders:
        return {
            "connect": self.connect,
            "expect": self.expect,
            "wait": self.wait,
            "post": self.post,
            "stall": self.stall,
            "leave": self.leave,
        }

    async def connect(
        self,
        port: int,
        count: int,
        mode: str,
        *,
        people: str | None = None,
        is_one_user: bool = False,
        acknowledges: bool = False,
        unjudged: Sequence[int] = (),
        only: Sequence[int] | None = None,
    ) -> dict[str, Any]:
        """Connect so many, a window of them at a time, and tell how long it took until all were served.

        Without `people` all have the one token of the hub that stands alone. `only` names the numbers to connect, for
        instance those of the `unjudged` who come back; they get small buffers.
        """
        self.port = port
        self._is_bare = mode == "bare"
        if people is not None:
            self._people = read_people(people)
        tokens = [user["token"] for user in self._people["users"]] if people is not None else ["alice"]
        numbers = iter(range(count) if only is None else only)
        failures: list[str] = []

        async def work() -> None:
            for number in numbers:
                token = tokens[0 if is_one_user else number % len(tokens)]
                is_judged = number not in unjudged
                client = Client(self, number, mode, token, acknowledges=acknowledges, is_judged=is_judged)
                try:
                    await self._admit(client, number)
                except (OSError, TimeoutError) as error:
                    failures.append(str(error) or type(error).__name__)

        begun = time.monotonic()
        await asyncio.gather(*(work() for _ in range(CONNECT_AT_ONCE)))
        if failures:
            raise ConnectionError(f"{len(failures)} of {count} were not let in, the first for: {failures[0]}")
        if self._keeping is None and not self._is_bare:
            self._keeping = asyncio.create_task(self._keep_alive())
        return {"took_s": time.monotonic() - begun}

    async def _admit(self, client: Client, number: int) -> None:
        ready = client.ready
        assert ready is not None
        async with asyncio.timeout(_READY_WITHIN_S):
            await connect(client, self.port, number, is_narrow=not client.is_judged)
            await ready
        self._clients[client] = None

    async def expect(self) -> dict[str, Any]:
        """Begin a turn: everybody is going to get one more message."""
        self.number += 1
        self.arrivals = []
        self.target = sum(client.is_judged for client in self._clients)
        self.complete.clear()
        self._cpu_from = time.process_time()
        return {}

    async def wait(self, patience_s: float) -> dict[str, Any]:
        """End the turn: tell when (monotonic seconds) the half, 99 % and the last of its messages had arrived.

        Raises when one is missing, came twice or overtook another.
        """
        try:
            async with asyncio.timeout(patience_s):
                await self.complete.wait()
        except TimeoutError:
            pass
        cpu_s = time.process_time() - self._cpu_from
        arrived = sorted(self.arrivals)
        if len(arrived) != self.target or self.disorder or self._lost:
            raise RuntimeError(
                f"turn {self.number}: {len(arrived)} of {self.target} messages arrived, {self.disorder} not in their "
                f"order, {self._lost} connections were lost"
            )
        return {
            "messages": len(arrived),
            "half_at": arrived[len(arrived) // 2],
            "p99_at": arrived[min(len(arrived) - 1, int(len(arrived) * 0.99))],
            "last_at": arrived[-1],
            "client_cpu_s": cpu_s,
        }

    async def post(self, port: int, body: str, is_one_user: bool, patience_s: float) -> dict[str, Any]:
        """Have one turn through the API: one send to the first user, or batches that name everybody once."""
        await self.expect()
        requests = self._make_requests(port, body, is_one_user=is_one_user)
        # A server closes a connection on which nothing is asked for a while.
        if port not in self._callers or self._callers[port].is_lost:
            caller = HttpCaller(lambda _, status, __: self._replies.put_nowait(status))
            await connect(caller, port, 0)
            self._callers[port] = caller
        begun = time.monotonic()
        for request in requests:
            self._callers[port].call(request)
            if (status := await self._replies.get()) != 202:
                raise RuntimeError(f"a send was answered with {status}")
        answered = time.monotonic()
        return {"begun": begun, "answered": answered, **await self.wait(patience_s)}

    def _make_requests(self, port: int, body: str, *, is_one_user: bool) -> list[bytes]:
        token, users = self._people["app_token"], self._people["users"]
        content = {"title": str(self.number), "body": body}
        if is_one_user:
            return [make_request(port, "/push/send", token, {"user_id": users[0]["id"], **content})]
        entries = [{"user_id": user["id"], **content} for user in users[: len(self._clients)]]
        pages = [entries[at : at + _BATCH] for at in range(0, len(entries), _BATCH)]
        return [make_request(port, "/push/send/batch", token, {"notifications": page}) for page in pages]

    async def stall(self) -> dict[str, Any]:
        """Let those who are not judged read nothing more."""
        for client in self._clients:
            if not client.is_judged:
                client.stall()
        return {}

    async def leave(self, *, only_unjudged: bool = False) -> dict[str, Any]:
        """Drop the connections, all or those of the unjudged. Raises when something came beyond the last turn."""
        if self.disorder:
            raise RuntimeError(f"{self.disorder} messages came after their turn was complete")
        leaving = [client for client in self._clients if not (only_unjudged and client.is_judged)]
        for client in leaving:
            del self._clients[client]
            client.abort()
        if not only_unjudged:
            for caller in self._callers.values():
                caller.close()
            self._callers.clear()
            self.number = 0
        return {}

    def lose(self, client: Client) -> None:
        """A connection has ended; an unjudged one may."""
        if client in self._clients:
            del self._clients[client]
            self._lost += client.is_judged

    async def _keep_alive(self) -> None:
        """Ping as the official clients do, a part of the crowd at a time."""
        while True:
            waiting = list(self._clients)
            part = max(1, -(-len(waiting) // _PING_TURNS))
            for start in range(0, max(1, len(waiting)), part):
                await asyncio.sleep(PING_EVERY_S * part / max(1, len(waiting)))
                for client in waiting[start : start + part]:
                    client.ping()


def read_people(file: str) -> dict[str, Any]:
    """Read what `house.People` has written: the app's token, and each user's id and token."""
    people: dict[str, Any] = json.loads(Path(file).read_text(encoding="utf-8"))
    return people


if __name__ == "__main__":
    serve_orders(lambda: Crowd().orders)
