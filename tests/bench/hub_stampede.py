"""Everybody comes back at once: the program is killed under its clients while notifications are published.

Every notification that was accepted must reach its user's device once and in order, whatever happened meanwhile. A
batch to many users goes out in the instant before the kill, so that it hits the program in the middle of delivering.
"""

import contextlib
import random
import threading
import time
import uuid
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import httpx

from tests.bench.house import LEAN, House, People
from tests.bench.hub_setting import HubSetting
from tests.bench.process import Worker, read_memory
from tests.bench.report import Report
from tests.bench.stage import BODY

PER_S = 10
RACING = 500
"""Users of the batch that races the kill."""
RECOVERY_GOAL_S = 30.0
WAYS = {"at_once": "back at once", "with_jitter": "back with jitter"}
_BACK_WITHIN_S = 180.0
_DELIVERED_WITHIN_S = 30.0
_LEAD_S = 2.0
_SETTLE_S = 5.0
_RETRY_S = 0.2


class Publisher:
    """Publishes 10 notifications a second, one after another, each to a random user, whether the program runs or not.

    A send without an answer is repeated under the same idempotency key until it is accepted, so that `accepted` is what
    the program has promised: for each user's number, how many. Each carries its number among its user's own.
    """

    def __init__(self, people: People, port: int) -> None:
        self.accepted: dict[int, int] = {}
        self.retried = 0
        self._people = people
        self._url = f"http://127.0.0.1:{port}"
        self._randomness = random.Random(20_260_301)
        self._stopping = threading.Event()
        self._racing = threading.Event()
        self._raced = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="publisher")

    @property
    def count(self) -> int:
        return sum(self.accepted.values())

    def start(self) -> None:
        self._thread.start()

    def race(self) -> None:
        """Send one batch to many users, and return as soon as it is accepted."""
        self._raced.clear()
        self._racing.set()
        if not self._raced.wait(30):
            raise RuntimeError("the batch before the kill was not accepted in time")

    def stop(self) -> None:
        """Send nothing more. Raises what the publishing failed with."""
        self.abandon()
        if self._failure is not None:
            raise self._failure

    def abandon(self) -> None:
        """End in any case, for instance because something else has failed."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(60)

    def _run(self) -> None:
        try:
            with httpx.Client(base_url=self._url, timeout=20) as client:
                due = time.monotonic()
                while not self._stopping.is_set():
                    if self._racing.is_set():
                        self._racing.clear()
                        crowd = range(len(self._people.user_ids))
                        self._publish(client, self._randomness.sample(crowd, min(RACING, len(crowd))))
                        self._raced.set()
                    self._publish(client, [self._randomness.randrange(len(self._people.user_ids))])
                    due = max(due + 1 / PER_S, time.monotonic() - 1.0)
                    self._stopping.wait(max(0.0, due - time.monotonic()))
        except Exception as failure:
            self._failure = failure

    def _publish(self, client: httpx.Client, users: list[int]) -> None:
        numbers = {user: self.accepted.get(user, 0) + 1 for user in users}
        entries = [
            {"user_id": self._people.user_ids[user], "title": str(number), "body": BODY}
            for user, number in numbers.items()
        ]
        headers = {"authorization": f"Bearer {self._people.app_token}", "idempotency-key": str(uuid.uuid4())}
        while not self._stopping.is_set():
            try:
                answer = client.post("/push/send/batch", json={"notifications": entries}, headers=headers)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code == 202:
                self.accepted.update(numbers)
                return
            if answer is not None and answer.status_code not in (409, 429, 503):
                raise RuntimeError(f"a send was answered with {answer.status_code}: {answer.text[:200]}")
            self.retried += 1
            self._stopping.wait(_RETRY_S)
        # Nobody knows whether this last one was accepted.
        raise RuntimeError("the publishing was stopped before its last send was answered")


@dataclass(frozen=True, slots=True)
class Return:
    """How one crowd came back. Seconds are counted from the kill; `up_s` is when the program answered again."""

    up_s: float
    half_s: float
    all_s: float
    lost: int
    errors: dict[str, int]
    accepted: int
    rss_before_mib: float
    rss_after_mib: float


@dataclass(slots=True)
class Faults:
    """What was wrong with what the devices received; all must be 0."""

    missed: int = 0
    doubled: int = 0
    overtaken: int = 0
    repeated: int = 0
    incomplete: int = 0


def measure_stampede(setting: HubSetting) -> Report:
    report = setting.make_report(f"Stampede of {setting.connections} sessions after kill -9, {PER_S}/s published")
    report.note("Times are counted from the kill and include the program's start. Every client says Hello, cursor too.")
    for listener in setting.listeners:
        _measure_listener(setting, listener, report)
    return report


def _measure_listener(setting: HubSetting, listener: str, report: Report) -> None:
    with contextlib.ExitStack() as stack:
        house = setting.make_house(listener)
        stack.callback(house.stop)
        phones = setting.make_phones()
        stack.callback(phones.close)
        found = phones.ask("connect", port=house.hub_port, people=str(setting.people.file), within_s=_BACK_WITHIN_S)
        count = setting.connections
        report.rate(f"{listener}: first connect and Hello", count, [count / found["took_s"]])
        publisher = Publisher(setting.people, house.port)
        stack.callback(publisher.abandon)
        publisher.start()
        for way, name in WAYS.items():
            _tell(report, listener, name, count, _stampede(house, phones, publisher, way))
        time.sleep(_LEAD_S)
        publisher.stop()
        faults = _find_faults(phones, publisher)
        phones.ask("leave")
    _judge(report, listener, publisher, faults)


def _stampede(house: House, phones: Worker, publisher: Publisher, way: str) -> Return:
    phones.ask("prepare", way=way)
    time.sleep(_LEAD_S)
    before, rss_before = publisher.count, read_memory(house.pid).rss_kib
    publisher.race()
    killed_at = time.monotonic()
    house.kill()
    house.start()
    up_at = time.monotonic()
    found = phones.ask("wait", patience_s=_BACK_WITHIN_S, within_s=_BACK_WITHIN_S + 30)
    if found["missing"]:
        raise RuntimeError(f"{found['missing']} clients did not come back in {_BACK_WITHIN_S:g} s: {found['errors']}")
    time.sleep(_SETTLE_S)
    return Return(
        up_s=up_at - killed_at,
        half_s=found["half_at"] - killed_at,
        all_s=found["last_at"] - killed_at,
        lost=found["lost"],
        errors=found["errors"],
        accepted=publisher.count - before,
        rss_before_mib=rss_before / 1024,
        rss_after_mib=read_memory(house.pid).rss_kib / 1024,
    )


def _find_faults(phones: Worker, publisher: Publisher) -> Faults:
    """Compare what was accepted with what came, once all of it has or time is up."""
    until = time.monotonic() + _DELIVERED_WITHIN_S
    while True:
        told = phones.ask("tell")
        faults = _compare(publisher.accepted, told)
        if not faults.missed or time.monotonic() >= until:
            return faults
        time.sleep(0.5)


def _compare(accepted: dict[int, int], told: dict[str, Any]) -> Faults:
    faults = Faults(repeated=told["repeated"], incomplete=told["incomplete"])
    received = {int(number): list(numbers) for number, numbers in told["received"].items()}
    for user in accepted.keys() | received.keys():
        numbers = received.get(user, [])
        distinct = set(numbers)
        faults.missed += len(set(range(1, accepted.get(user, 0) + 1)) - distinct)
        faults.doubled += len(numbers) - len(distinct)
        faults.overtaken += sum(later < earlier for earlier, later in pairwise(numbers))
    return faults


def _tell(report: Report, listener: str, name: str, count: int, found: Return) -> None:
    errors = ", ".join(f"{cause} {number}" for cause, number in sorted(found.errors.items())) or "none"
    figures = f"all after {found.all_s:.1f} s"
    detail = f"half after {found.half_s:.1f} s, the program answered after {found.up_s:.1f} s; {found.lost} were cut"
    report.figure(f"{listener}, {name}", count, figures, detail)
    report.figure(f"{listener}, {name}: failed tries", count, str(sum(found.errors.values())), errors)
    memory = f"{found.rss_before_mib:.0f} MiB before the kill; {found.accepted} accepted from there to here"
    report.figure(f"{listener}, {name}: RSS afterwards", count, f"{found.rss_after_mib:.0f} MiB", memory)
    if listener == LEAN:
        report.goal(f"{listener}, {name}: seconds until all are back", found.all_s, below=RECOVERY_GOAL_S)


def _judge(report: Report, listener: str, publisher: Publisher, faults: Faults) -> None:
    report.note(f"{listener}: {publisher.count} notifications were accepted, {publisher.retried} tries repeated.")
    for name, number in (
        ("missed", faults.missed),
        ("received twice", faults.doubled),
        ("out of order", faults.overtaken),
        ("given again behind the cursor", faults.repeated),
        ("histories called incomplete", faults.incomplete),
    ):
        report.goal(f"{listener}: {name}", number, at_most=0)
