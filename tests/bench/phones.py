"""Phones that come back by themselves: each has a device, keeps its cursor, acknowledges, and notes what it received.

They come back in one of two ways: `at_once` tries again in the same instant, and every second while nobody listens;
`with_jitter` waits a random part of five seconds first, then backs off with full jitter. Both honour Retry-After.
"""

import asyncio
import json
import random
import time
from typing import Any, Final

from tests.bench.crowd import read_people
from tests.bench.process import Orders, serve_orders
from tests.bench.websocket import WebSocketClient, connect, make_hub_upgrade

PING_EVERY_S: Final = 15.0
READY_WITHIN_S: Final = 30.0
RETRY_EVERY_S: Final = 1.0
SPREAD_S: Final = 5.0
LONGEST_PAUSE_S: Final = 30.0
_FIRST_WINDOW: Final = 64
_PING_TURNS: Final = 150


class Refused(Exception):
    """The server let the phone not in, or its Hello failed; `cause` is a name for counting."""

    def __init__(self, cause: str, retry_after_s: float | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.retry_after_s = retry_after_s


class Line(WebSocketClient):
    """One connection of a phone."""

    __slots__ = ("_phone", "ready")

    def __init__(self, phone: "Phone") -> None:
        super().__init__()
        self._phone = phone
        self.ready: asyncio.Future[None] | None = asyncio.get_running_loop().create_future()

    def make_upgrade(self) -> bytes:
        return make_hub_upgrade(self._phone.crowd.port, self._phone.token)

    def opened(self) -> None:
        self.shake_hands()

    def refused(self, head: bytes) -> None:
        lines = head.decode("latin-1").lower().split("\r\n")
        after = next((line.partition(":")[2] for line in lines if line.startswith("retry-after:")), None)
        self._fail(Refused(lines[0].partition(" ")[2], None if after is None else float(after)))

    def closed(self, reason: str) -> None:
        self._fail(Refused(f"cut before Hello was answered: {reason}"))
        self._phone.lose(self)

    def message(self, data: bytes, start: int, end: int) -> None:
        # A plain `ReceiveNotification` may come before Hello is answered; what counts is what the session is given.
        for text in data[start:end].split(b"\x1e")[:-1]:
            record = json.loads(text)
            match record.get("type"):
                case None:
                    self._say_hello()
                case 1 if record["target"] == "Notify":
                    self._phone.receive(record["arguments"][0])
                    call = {"type": 1, "target": "Acknowledge", "arguments": [record["arguments"][0]["id"]]}
                    self.send_text(json.dumps(call).encode() + b"\x1e")
                case 3 if "error" in record:
                    self._fail(Refused(f"Hello: {record['error']}"))
                case 3:
                    self._phone.take_hello(record["result"])
                    self._be_ready()
                case 7:
                    self._fail(Refused(f"closed: {record.get('error')}"))

    def _say_hello(self) -> None:
        hello = {"deviceId": "phone", "acknowledges": True}
        if self._phone.cursor is not None:
            hello["cursor"] = self._phone.cursor
        call = {"type": 1, "target": "Hello", "arguments": [hello], "invocationId": "0"}
        self.send_text(json.dumps(call).encode() + b"\x1e")

    def _be_ready(self) -> None:
        if self.ready is not None and not self.ready.done():
            self.ready.set_result(None)
        self.ready = None

    def _fail(self, refused: Refused) -> None:
        if self.ready is not None and not self.ready.done():
            self.ready.set_exception(refused)
        self.ready = None


class Phone:
    """One device. `received` holds the numbers of its notifications in the order in which they came."""

    __slots__ = ("crowd", "cursor", "line", "number", "received", "token")

    def __init__(self, crowd: "Phones", number: int, token: str) -> None:
        self.crowd = crowd
        self.number = number
        self.token = token
        self.cursor: int | None = None
        self.received: list[int] = []
        self.line: Line | None = None

    async def try_once(self) -> None:
        """Connect and say Hello. Raises `Refused`, `OSError`, `TimeoutError`."""
        line = Line(self)
        ready = line.ready
        assert ready is not None
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                await connect(line, self.crowd.port, self.number)
                await ready
            if line.is_gone:
                raise Refused("cut right after Hello was answered")
        except BaseException:
            line.abort()
            raise
        self.line = line
        self.crowd.note_back()

    def take_hello(self, result: dict[str, Any]) -> None:
        """Keep the cursor that the server says is safe; a history that is not whole is a fault here."""
        self.crowd.incomplete += not result["complete"]
        self.cursor = max(self.cursor or 0, result["cursor"])

    def receive(self, notification: dict[str, Any]) -> None:
        if notification["sequence"] <= (self.cursor or 0):
            self.crowd.repeated += 1
        self.cursor = notification["sequence"]
        self.received.append(int(notification["title"]))

    def lose(self, line: Line) -> None:
        """The connection is gone; come back when that was not asked for."""
        if self.line is line:
            self.line = None
            self.crowd.bring_back(self)


class Phones:
    """All phones, and how they come back."""

    def __init__(self) -> None:
        self.port = 0
        self.repeated = 0
        self.incomplete = 0
        self._phones: list[Phone] = []
        self._way = ""
        self._returning: set[asyncio.Task[None]] = set()
        self._back_at: list[float] = []
        self._lost = 0
        self._errors: dict[str, int] = {}
        self._is_over = False
        self._randomness = random.Random(8480)

    @property
    def orders(self) -> Orders:
        return {
            "connect": self.connect,
            "prepare": self.prepare,
            "wait": self.wait,
            "tell": self.tell,
            "leave": self.leave,
        }

    async def connect(self, port: int, people: str) -> dict[str, Any]:
        """Connect everybody for the first time, a window of them at a time."""
        self.port = port
        users = enumerate(read_people(people)["users"])
        self._phones = [Phone(self, number, user["token"]) for number, user in users]
        waiting = iter(self._phones)

        async def work() -> None:
            for phone in waiting:
                await phone.try_once()

        begun = time.monotonic()
        await asyncio.gather(*(work() for _ in range(_FIRST_WINDOW)))
        self._keeping = asyncio.create_task(self._keep_alive())
        return {"took_s": time.monotonic() - begun}

    async def prepare(self, way: str) -> dict[str, Any]:
        """Say how they come back the next time."""
        self._way = way
        self._back_at, self._errors, self._lost = [], {}, 0
        return {}

    async def wait(self, patience_s: float) -> dict[str, Any]:
        """Wait until all were cut and are back; tell when (monotonic seconds) the half and the last one were."""
        until = time.monotonic() + patience_s
        while not self._are_all_back() and time.monotonic() < until:  # noqa: ASYNC110 - thousands are waited for
            await asyncio.sleep(0.05)
        back = sorted(self._back_at)
        return {
            "lost": self._lost,
            "missing": sum(phone.line is None for phone in self._phones),
            "half_at": back[len(back) // 2] if back else 0.0,
            "last_at": back[-1] if back else 0.0,
            "errors": self._errors,
        }

    async def tell(self) -> dict[str, Any]:
        """Tell what each phone that got anything has received, by its number."""
        received = {str(phone.number): phone.received for phone in self._phones if phone.received}
        return {"received": received, "repeated": self.repeated, "incomplete": self.incomplete}

    async def leave(self) -> dict[str, Any]:
        self._is_over = True
        self._keeping.cancel()
        for phone in self._phones:
            if phone.line is not None:
                phone.line.abort()
        for task in list(self._returning):
            task.cancel()
        await asyncio.gather(*self._returning, return_exceptions=True)
        return {}

    def _are_all_back(self) -> bool:
        return self._lost >= len(self._phones) and all(phone.line is not None for phone in self._phones)

    def note_back(self) -> None:
        self._back_at.append(time.monotonic())

    def bring_back(self, phone: Phone) -> None:
        """Let a phone that lost its connection come back by itself."""
        if self._is_over:
            return
        self._lost += 1
        task = asyncio.create_task(self._come_back(phone))
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def _come_back(self, phone: Phone) -> None:
        has_jitter, tries = self._way == "with_jitter", 0
        if has_jitter:
            await asyncio.sleep(self._randomness.uniform(0, SPREAD_S))
        while True:
            tries += 1
            try:
                await phone.try_once()
            except Refused as refused:
                self._count(refused.cause)
                pause_s = refused.retry_after_s
            except (OSError, TimeoutError) as error:
                self._count(type(error).__name__)
                pause_s = None
            else:
                return
            if pause_s is None and not has_jitter:
                pause_s = RETRY_EVERY_S
            elif pause_s is None:
                pause_s = self._randomness.uniform(0, min(LONGEST_PAUSE_S, RETRY_EVERY_S * 2**tries))
            elif has_jitter:
                pause_s += self._randomness.uniform(0, RETRY_EVERY_S)
            await asyncio.sleep(pause_s)

    def _count(self, cause: str) -> None:
        self._errors[cause] = self._errors.get(cause, 0) + 1

    async def _keep_alive(self) -> None:
        part = max(1, -(-len(self._phones) // _PING_TURNS))
        while True:
            for start in range(0, len(self._phones), part):
                await asyncio.sleep(PING_EVERY_S * part / len(self._phones))
                for phone in self._phones[start : start + part]:
                    if phone.line is not None:
                        phone.line.ping()


if __name__ == "__main__":
    serve_orders(lambda: Phones().orders)
