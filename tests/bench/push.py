"""Pushes: our senders beside the stock SDKs, the error mix, the queue in the path, a hanging provider, an outage.

Google, Apple and the browser's service are another process. Messages per processor second count our process only, all
threads of it; they say more than rates, which two processes on few cores take from each other.
"""

import asyncio
import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import uvloop

from appliance.channels.apns import ApnsChannel
from appliance.channels.apns_credential import ApnsKey
from appliance.channels.contract import Channel, Push
from appliance.channels.fcm import FcmChannel
from appliance.channels.webpush import WebPushChannel
from appliance.clock import SystemClock
from appliance.domain.device import Platform
from appliance.domain.outcome import Accepted, Gone, Outcome, Retry
from appliance.domain.secret import Secret
from appliance.security.outbound import OutboundClient, OutboundRules, make_tls_context
from appliance.storage.database import open_database
from tests.bench.process import Worker, split_cores
from tests.bench.push_stock import cpu_of, make_aioapns, make_firebase, make_pywebpush, spread
from tests.bench.report import Report
from tests.contract.channel_stands import VapidPair
from tests.doubles.apns import device_token
from tests.doubles.fcm import registration_token
from tests.doubles.hand_clock import HandClock
from tests.doubles.outage import HealthyProvider, PacedProvider, live_through_outage
from tests.doubles.push_service import PushService
from tests.doubles.pushes import make_push
from tests.unit.delivery.conftest import House

LATENCY_S = 0.05
AT_ONCE = 256
BROWSERS_AT_ONCE = 16
MIX = {
    "google": {"UNAVAILABLE_LATER": 0.01, "QUOTA_EXCEEDED": 0.005, "silent": 0.001},
    "apple": {"ServiceUnavailable": 0.01, "TooManyRequests": 0.005, "silent": 0.001},
}
DEAD_SHARE = 100
MIX_TIMEOUT_S = 3.0
MOST_TRIES = 12
OUTAGE_SLOTS = 256
CLOCK = SystemClock()


@dataclass(frozen=True, slots=True)
class PushPace:
    """How much to send."""

    rounds: int
    ours: int
    stock: int
    mix: int
    queued: int
    beside_hanging: int
    outage: int


QUICK = PushPace(rounds=1, ours=3_000, stock=500, mix=5_000, queued=3_000, beside_hanging=200, outage=5_000)
FULL = PushPace(rounds=3, ours=20_000, stock=2_000, mix=50_000, queued=20_000, beside_hanging=1_000, outage=50_000)


def measure_push(folder: Path, pace: PushPace) -> Report:
    """Measure all of it, one after another."""
    services = Worker("tests.bench.push_services", split_cores().servers)
    try:
        report = uvloop.run(_PushBench(folder, pace, services).run())
        services.ask("close")
        return report
    finally:
        services.close()


class _PushBench:
    def __init__(self, folder: Path, pace: PushPace, services: Worker) -> None:
        self.folder = folder
        self.pace = pace
        self.services = services
        self.report = Report("Pushes", scale="pushes")
        self.facts: dict[str, Any] = {}

    async def run(self) -> Report:
        self.facts = self.services.ask("open", folder=str(self.folder))
        os.environ["SSL_CERT_FILE"] = self.facts["authority"]
        self.report.note(f"Providers answer after {LATENCY_S * 1000:.0f} ms; {AT_ONCE} pushes under way at once.")
        self.report.note("Where one core serves the providers, they bound the rates; a processor second is ours alone.")
        await self._beside_stock()
        await self._browsers()
        await self._mix()
        await self._queue()
        await self._outage()
        return self.report

    # The channels.

    def _fcm(self) -> FcmChannel:
        account = Secret(json.dumps(self.facts["account"]))
        return FcmChannel(account, CLOCK, make_tls_context, base_url=self.facts["google"])

    def _apns(self) -> ApnsChannel:
        p8, key_id, team_id = self.facts["key"]
        credential = ApnsKey(Secret(p8), key_id, team_id)
        return ApnsChannel(
            credential, CLOCK, make_tls_context, topic="com.openksef.mobile", base_url=self.facts["apple"]
        )

    def _behave(self, latency_s: float = LATENCY_S, **how: Any) -> None:
        self.services.ask("behave", latency_s=latency_s, **({"chances": {}} | how))

    # One part after another.

    async def _beside_stock(self) -> None:
        self._behave()
        project = self.facts["account"]["project_id"]
        firebase = make_firebase(self.facts["google"], project, self.facts["bearer"])
        sdk, aioapns = make_aioapns(self.facts["apple"], self.facts["key"], make_tls_context)
        stock = self.pace.stock
        await self._compare(
            "FCM", self._fcm(), fcm_push, lambda: asyncio.to_thread(firebase, stock), "firebase-admin", 5.0
        )
        await self._compare("APNs", self._apns(), apns_push, lambda: spread(stock, AT_ONCE, aioapns), "aioapns", 1.8)
        sdk.pool.close()

    async def _browsers(self) -> None:
        self._behave()
        keys = VapidPair()
        _, text = PushService.subscribe(_Subscriber(self.facts["browser"]))  # type: ignore[arg-type]
        told = json.loads(text)
        outbound = OutboundClient(OutboundRules(("localhost",)))
        channel = WebPushChannel(outbound, keys, CLOCK, subject="mailto:admin@push.example")
        stock = make_pywebpush(told, keys.pair.private_key, self.facts["authority"])
        count = self.pace.stock

        def push(number: int) -> Push:
            return make_push(text, CLOCK.now(), number=number + 1, platform=Platform.WEB)

        await self._compare(
            "Web Push",
            channel,
            push,
            lambda: asyncio.to_thread(stock, count, BROWSERS_AT_ONCE),
            "pywebpush",
            2.0,
            at_once=BROWSERS_AT_ONCE,
            ours=self.pace.stock * 2,
        )
        await outbound.close()

    async def _compare(
        self,
        name: str,
        channel: Channel,
        make: Callable[[int], Push],
        stock: Callable[[], Awaitable[object]],
        stock_name: str,
        goal: float,
        *,
        at_once: int = AT_ONCE,
        ours: int = 0,
    ) -> None:
        count = ours or self.pace.ours

        async def send(number: int) -> None:
            outcome = await channel.deliver(make(number))
            if not isinstance(outcome, Accepted):
                raise RuntimeError(f"{name}: {outcome}")

        # What is loaded, connected and fetched once is not what is measured.
        await spread(at_once, at_once, send)
        await stock()
        per_cpu: dict[str, list[float]] = {"ours": [], "stock": []}
        per_s: dict[str, list[float]] = {"ours": [], "stock": []}
        for _ in range(self.pace.rounds):
            for who, sent, work in (
                ("stock", self.pace.stock, stock),
                ("ours", count, lambda: spread(count, at_once, send)),
            ):
                cpu_s, took_s = await cpu_of(work)
                per_cpu[who].append(sent / cpu_s)
                per_s[who].append(sent / took_s)
        await channel.close()
        self.report.rate(f"{name}, {stock_name}", self.pace.stock, per_s["stock"], _per_cpu(per_cpu["stock"]))
        self.report.rate(f"{name}, ours", count, per_s["ours"], _per_cpu(per_cpu["ours"]))
        times = statistics.median(per_cpu["ours"]) / statistics.median(per_cpu["stock"])
        self.report.goal(f"{name} per processor second, times {stock_name}'s", times, at_least=goal)

    async def _mix(self) -> None:
        """Send with errors, tries repeated by hand at once, and look for what was lost, doubled or asked again."""
        self._behave(chances=MIX)
        fcm, apns = self._fcm(), self._apns()
        ledger = _Ledger()

        async def send(number: int) -> None:
            is_google = number % 10 < 7
            make, channel = (fcm_push, fcm) if is_google else (apns_push, apns)
            push = replace(make(number, is_dead=number % DEAD_SHARE == 0), timeout_s=MIX_TIMEOUT_S)
            await ledger.see_through(channel, push, number)

        cpu_s, took_s = await cpu_of(lambda: spread(self.pace.mix, AT_ONCE * 2, send))
        await fcm.close()
        await apns.close()
        counted = self.services.ask("count")
        doubled = sum(one["doubled"] for one in counted.values())
        silent = ledger.codes["timeout"] + ledger.codes["not_answered"]
        self.report.rate(
            "FCM and APNs 70/30 with errors", self.pace.mix, [self.pace.mix / took_s], _per_cpu([self.pace.mix / cpu_s])
        )
        self.report.figure(
            "  repeated under the same id", doubled, f"{doubled}", f"{ledger.ambiguous} answers never came ({silent})"
        )
        self.report.goal("lost", self.pace.mix - len(ledger.settled), at_most=0)
        self.report.goal("dead tokens asked again", ledger.dead_again, at_most=0)
        self.report.goal("doubled beyond the answers that never came", doubled - ledger.ambiguous, at_most=0)

    async def _queue(self) -> None:
        """The same senders bare, then behind queue and database; then Apple's pushes while Google hangs."""
        self._behave()
        bare, bare_per_cpu = await self._bare_rate()
        async with open_database(_made(self.folder / "queue"), None) as database:
            channels = _Counting(self._fcm()), _Counting(self._apns())
            house = House(database, CLOCK, channels)
            app_id, phones, iphones = await _people(house)
            count = self.pace.queued
            for start in range(0, count, 500):
                await asyncio.gather(
                    *(
                        house.send(app_id, (phones if number % 10 < 7 else iphones)[number % 50])
                        for number in range(start, min(start + 500, count))
                    )
                )
            async with house.running():
                house.engine.wake()
                cpu_s, began = time.process_time(), time.monotonic()
                async with asyncio.timeout(600):
                    while sum(len(one.at) for one in channels) < count:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                queued = count / (time.monotonic() - began)
                per_cpu = count / (time.process_time() - cpu_s)
                self.report.rate("bare senders, 70/30", count, [bare], _per_cpu([bare_per_cpu]))
                self.report.rate("  behind queue and database", count, [queued], _per_cpu([per_cpu]))
                self.report.goal("share of the bare senders' rate behind the queue", queued / bare, at_least=0.6)
                self.report.goal("the same per processor second", per_cpu / bare_per_cpu, at_least=0.6)
                await self._beside_hanging(house, app_id, phones, iphones, channels[1])
            for one in channels:
                await one.close()

    async def _bare_rate(self) -> tuple[float, float]:
        fcm, apns = self._fcm(), self._apns()

        async def send(number: int) -> None:
            is_google = number % 10 < 7
            await (fcm if is_google else apns).deliver((fcm_push if is_google else apns_push)(number))

        await spread(AT_ONCE, AT_ONCE, send)
        cpu_s, took_s = await cpu_of(lambda: spread(self.pace.queued, AT_ONCE * 2, send))
        await fcm.close()
        await apns.close()
        return self.pace.queued / took_s, self.pace.queued / cpu_s

    async def _beside_hanging(
        self, house: House, app_id: UUID, phones: list[UUID], iphones: list[UUID], apple: "_Counting"
    ) -> None:
        for is_hanging in (False, True):
            self._behave(outage="silent" if is_hanging else "")
            if is_hanging:
                await asyncio.gather(*(house.send(app_id, phones[number % 50]) for number in range(AT_ONCE * 2)))
                await asyncio.sleep(0.5)
            apple.at.clear()
            sent: dict[UUID, float] = {}
            for number in range(self.pace.beside_hanging):
                began = time.monotonic()
                sent[await house.send(app_id, iphones[number % 50])] = began
                await asyncio.sleep(0.005)
            async with asyncio.timeout(60):
                while not sent.keys() <= apple.at.keys():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            took = sorted((apple.at[one] - began) * 1000 for one, began in sent.items())
            spread_ms = {"p50_ms": took[len(took) // 2], "p99_ms": took[int(len(took) * 0.99)]}
            state = "while Google hangs" if is_hanging else "while Google is well"
            self.report.latency(f"APNs from accept to taken, {state}", spread_ms)

    async def _outage(self) -> None:
        clock = HandClock()
        sick, well = PacedProvider(slots=OUTAGE_SLOTS), HealthyProvider()
        async with open_database(_made(self.folder / "outage"), None) as database:
            house = House(database, clock, (sick, well))
            async with house.running():
                story = await live_through_outage(house, sick, well, count=self.pace.outage)
                retired = await database.read("SELECT id FROM device WHERE retired_at IS NOT NULL")
        self.report.figure(
            "three hours of outage, then drained",
            self.pace.outage,
            f"{story.drained_in_s:,.0f} s",
            f"virtual; {story.tries_while_down} tries while down, then at most {sick.most_in_a_tick} a second",
        )
        self.report.goal("sent that had expired", len(set(story.doomed) & set(sick.accepted)), at_most=0)
        self.report.goal("kept but not sent", len(set(story.kept) - set(sick.accepted)), at_most=0)
        self.report.goal("sent twice", sum(1 for times in sick.accepted.values() if times > 1), at_most=0)
        self.report.goal("devices retired", len(retired), at_most=0)
        self.report.goal("pushes of the healthy provider that waited", story.others_late, at_most=0)
        self.report.goal("most in one second after the outage", sick.most_in_a_tick, at_most=OUTAGE_SLOTS)


class _Ledger:
    """Sees pushes through: repeats what may work later, never what is settled."""

    def __init__(self) -> None:
        self.settled: dict[int, Outcome] = {}
        self.codes: Counter[str] = Counter()
        self.ambiguous = 0
        self.dead_again = 0

    async def see_through(self, channel: Channel, push: Push, number: int) -> None:
        for _ in range(MOST_TRIES):
            if isinstance(self.settled.get(number), Gone):
                self.dead_again += 1
            outcome = await channel.deliver(push)
            self.codes[outcome.code] += 1
            if not isinstance(outcome, Retry):
                self.settled[number] = outcome
                return
            self.ambiguous += outcome.code not in ("UNAVAILABLE", "QUOTA_EXCEEDED", *MIX["apple"])


class _Counting:
    """A channel that remembers when each notification was taken."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.name, self.address_kinds = channel.name, channel.address_kinds
        self.slots, self.has_one_lane = channel.slots, channel.has_one_lane
        self.at: dict[UUID, float] = {}

    def lane_of(self, push: Push) -> str:
        return self._channel.lane_of(push)

    async def deliver(self, push: Push) -> Outcome:
        outcome = await self._channel.deliver(push)
        if isinstance(outcome, Accepted):
            self.at[push.envelope.id] = time.monotonic()
        return outcome

    async def probe(self) -> Any:
        return await self._channel.probe()

    async def close(self) -> None:
        await self._channel.close()


class _Subscriber:
    """What a subscription is made from, at a service that looks at nothing."""

    def __init__(self, endpoint: str) -> None:
        self.browsers: dict[str, object] = {}
        self.origin = endpoint


def fcm_push(number: int, *, is_dead: bool = False) -> Push:
    return make_push(registration_token("UNREGISTERED" if is_dead else "", number), CLOCK.now(), number=number + 1)


def apns_push(number: int, *, is_dead: bool = False) -> Push:
    token = device_token("Unregistered" if is_dead else "", number)
    return make_push(token, CLOCK.now(), number=number + 1, platform=Platform.IOS)


async def _people(house: House) -> tuple[UUID, list[UUID], list[UUID]]:
    app_id = await house.add_app(quota=100_000_000)
    phones, iphones = [], []
    for number in range(50):
        phones.append(await house.add_user(app_id))
        await house.add_device(phones[-1], app_id, registration_token(number=number))
        iphones.append(await house.add_user(app_id))
        await house.add_device(iphones[-1], app_id, device_token(number=number + 1), Platform.IOS)
    return app_id, phones, iphones


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    return folder


def _per_cpu(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f} per processor second"
