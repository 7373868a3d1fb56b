"""How a push service under test behaves: by the target of a push, by a script for the next ones, or by an outage.

Every behaviour has a name. `ServiceControl` decides which one a request gets, keeps the ledger of what was accepted,
and is driven by method calls from pytest or over HTTP by hand (`/_requests`, `/_script`).
"""

import asyncio
import json
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from random import Random

from h2.errors import ErrorCodes

from tests.doubles.http2_server import Asked, Http2Server

HUGE_BYTES = 300_000
SLOW_S = 0.5

FAULTS = ("silent", "reset", "refuse", "drop", "swallow", "html", "empty", "garbage", "huge", "slow", "drip", "goaway")
"""Faults of the way rather than answers of the service.

silent   taken and never answered              reset    RST_STREAM(INTERNAL_ERROR)
refuse   RST_STREAM(REFUSED_STREAM)            drop     not taken, the connection is cut
swallow  taken, then the connection is cut     html     502 with a page of HTML
empty    500 without a body                    garbage  200 with a body that means nothing
huge     200 with a body without a sensible end
slow     answered as usual after half a second drip     answered as usual, the body in single bytes
goaway   answered as usual, and the connection is drained
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """One push that the service accepted, with everything a test may want to look at."""

    id: str
    target: str
    headers: dict[str, str]
    payload: dict[str, object]
    connection: int


@dataclass(slots=True)
class ServiceControl:
    """What a test or a person at the keyboard can change while the service runs, and what it has seen."""

    accepted: list[Taken] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    script: deque[str] = field(default_factory=deque)
    outage: str = ""
    chances: dict[str, float] = field(default_factory=dict)
    """Share of requests that get a behaviour by chance, for load; drawn from `random`."""
    random: Random = field(default_factory=lambda: Random(1))
    is_keeping: bool = True
    """Whether accepted pushes are kept whole; counting goes on without."""
    ids: Counter[str] = field(default_factory=Counter)

    def behaviour_for(self, told_by_target: str) -> str:
        """Give the behaviour for the next request: the outage, the script, the target, chance, in this order."""
        if self.outage:
            return self.outage
        if self.script:
            return self.script.popleft()
        if told_by_target or not self.chances:
            return told_by_target
        drawn = self.random.random()
        for behaviour, share in self.chances.items():
            drawn -= share
            if drawn < 0:
                return behaviour
        return ""

    def accept(self, taken: Taken) -> None:
        """Write a push down as accepted."""
        self.ids[taken.id] += 1
        if self.is_keeping:
            self.accepted.append(taken)

    @property
    def duplicates(self) -> dict[str, int]:
        """What was accepted more than once, by id, and how often."""
        return {taken_id: count for taken_id, count in self.ids.items() if count > 1}

    def forget(self) -> None:
        """Empty the ledger."""
        self.accepted.clear()
        self.answers.clear()
        self.ids.clear()


def misbehave(asked: Asked, behaviour: str, accept: Callable[[], None], answer: Callable[[], None]) -> None:
    """Do one of `FAULTS`; `accept` writes the push down, `answer` gives the usual answer."""
    loop = asyncio.get_running_loop()
    match behaviour:
        case "silent":
            accept()
        case "reset":
            asked.reset(ErrorCodes.INTERNAL_ERROR)
        case "refuse":
            asked.reset(ErrorCodes.REFUSED_STREAM)
        case "drop":
            asked.connection.drop()
        case "swallow":
            accept()
            asked.connection.drop()
        case "html":
            asked.reply(502, {"content-type": "text/html"}, b"<html><title>502</title><body>Bad gateway</body></html>")
        case "empty":
            asked.reply(500)
        case "garbage":
            asked.reply(200, {"content-type": "application/json"}, b"\x00\xff not what was promised")
        case "huge":
            asked.reply(200, {"content-type": "application/json"}, b"x" * HUGE_BYTES)
        case "slow":
            loop.call_later(SLOW_S, answer)
        case "drip":
            asked.parts = 1_000
            answer()
        case "goaway":
            answer()
            asked.connection.go_away(said=b'{"reason":"Shutdown"}')
        case _:
            raise ValueError(f"There is no behaviour {behaviour!r}.")


def answer_control(
    asked: Asked, server: Http2Server, control: ServiceControl, more: dict[str, Callable[[], None]]
) -> None:
    """Answer `GET /_requests` and `POST /_script`; the script's JSON may hold any of the fields named in the code.

    `more` are further actions of the service that a script can name under "do".
    """
    if asked.path == "/_requests":
        told = {
            "accepted": [asdict(taken) for taken in control.accepted],
            "answers": dict(control.answers),
            "duplicates": control.duplicates,
            "connections": len(server.connections),
            "connected": server.connected,
        }
        asked.reply(200, {"content-type": "application/json"}, json.dumps(told).encode())
        return
    try:
        script = json.loads(bytes(asked.body) or b"{}")
        control.script.extend(script.get("next", ()))
        control.outage = script.get("outage", control.outage)
        control.chances = script.get("chances", control.chances)
        server.latency_s = script.get("latency_s", server.latency_s)
        actions = {"forget": control.forget, "drop": lambda: _drop_all(server), **more}
        for action in script.get("do", ()):
            actions[action]()
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        asked.reply(400, {"content-type": "text/plain"}, f"This cannot be done: {fault!r}\n".encode())
        return
    asked.reply(200, {"content-type": "text/plain"}, b"done\n")


def _drop_all(server: Http2Server) -> None:
    for connection in list(server.connections):
        connection.drop()
