"""What the hub asks of delivery: who a device is, what it missed, and its acknowledgements."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol
from uuid import UUID

from appliance.channels.contract import ChannelName
from appliance.delivery.envelope import make_envelope
from appliance.delivery.windows import Window
from appliance.domain.clock import Clock
from appliance.domain.errors import CarillonError
from appliance.domain.outcome import OutcomeKind
from appliance.domain.principal import Principal, PrincipalKind
from appliance.hub.backend import DeviceLost, Hello, HelloAccepted, HelloRefused, Missed
from appliance.hub.messages import EncodedNotification
from appliance.storage.database import Database
from appliance.storage.deliveries import AttemptRow, acknowledge_job, confirm_seen_job
from appliance.storage.devices import load_standing
from appliance.storage.replay import count_missed, load_is_awaited, load_missed, load_newest

logger = logging.getLogger(__name__)

SEEN_PAGE: Final = 200
_LATE: Final = (
    "The device acknowledged it over its live connection later than it was waited for; whatever another layer had not "
    "sent by then was cancelled."
)

Authenticate = Callable[[str], Awaitable[Principal | None]]


class BindDevice(Protocol):
    """Finds the device that a client's own id stands for, or registers a hub-only one. Raises `CarillonError`."""

    async def __call__(
        self, user_id: UUID, installation_id: str, *, label: str | None, platform: str | None
    ) -> UUID: ...


class Waiting(Protocol):
    """What acknowledgements need of the engine."""

    def acknowledged(self, device_id: UUID, notification_id: UUID) -> Window | None: ...

    def disconnected(self, device_id: UUID, reason: str) -> None: ...

    def cut(self, device_id: UUID, notification_ids: Sequence[UUID], reason: str) -> None: ...


class OtherNodes(Protocol):
    """Where several nodes run: who must hear what became of an offer that another node made here."""

    def acknowledged(self, device_id: UUID, notification_id: UUID) -> None: ...

    def disconnected(self, device_id: UUID, reason: str) -> None: ...

    def cut(self, device_id: UUID, notification_ids: Sequence[UUID], reason: str) -> None: ...

    def seated(self, device_id: UUID, seat_stamp: int) -> None: ...


class Tests(Protocol):
    """What a test push must hear of what it offered: see `delivery.test_push`."""

    def acknowledged(self, device_id: UUID, notification_id: UUID) -> bool: ...

    def disconnected(self, device_id: UUID, reason: str) -> None: ...

    def cut(self, device_id: UUID, notification_ids: Sequence[UUID], reason: str) -> None: ...


class LiveBackend:
    """Implements `hub.backend.HubBackend` over storage and engine."""

    def __init__(self, database: Database, clock: Clock, authenticate: Authenticate, bind: BindDevice) -> None:
        self._database = database
        self._clock = clock
        self._authenticate = authenticate
        self._bind = bind
        self._engine: Waiting | None = None
        self._nodes: OtherNodes | None = None
        self._tests: Tests | None = None

    def watch(self, tests: Tests) -> None:
        """Tell these tests, too, what devices answer."""
        self._tests = tests

    def attach(self, engine: Waiting, nodes: OtherNodes | None = None) -> None:
        """Tell acknowledgements and lost connections to this engine, and to the other nodes where there are any.

        Call once, before the hub is served.
        """
        self._engine = engine
        self._nodes = nodes

    async def authenticate(self, bearer: str) -> Principal | None:
        """Let users in; an app has nothing to receive."""
        principal = await self._authenticate(bearer)
        return principal if principal is not None and principal.kind is PrincipalKind.USER else None

    async def register_hello(self, principal: Principal, hello: Hello) -> HelloAccepted:
        """Find or register the device, and settle what its cursor shows that it has."""
        if principal.user_id is None:
            raise HelloRefused("Only a user's devices can say Hello.")
        try:
            device_id = await self._bind(principal.user_id, hello.device_id, label=hello.label, platform=hello.platform)
            if hello.cursor is not None:
                await self._confirm_seen(device_id, hello.cursor)
        except CarillonError as refusal:
            raise HelloRefused(refusal.detail) from refusal
        return HelloAccepted(device_id)

    async def load_missed(
        self, user_id: UUID, device_id: UUID, after_sequence: int, limit: int, *, is_open_only: bool = False
    ) -> Missed:
        """Load a page of what the device missed, in order. Raises `DeviceLost` when it is no longer this user's."""
        missed = await load_missed(
            self._database,
            user_id=user_id,
            device_id=device_id,
            after_sequence=after_sequence,
            is_open_only=is_open_only,
            limit=limit,
            now=self._clock.now(),
        )
        if missed is None:
            raise await self._why_lost(user_id, device_id)
        notifications = [
            EncodedNotification(
                make_envelope(
                    id=row.id,
                    app_id=row.app_id,
                    user_id=user_id,
                    content=row.content,
                    sequence=row.sequence,
                    released_at=row.released_at,
                    expires_at=row.expires_at,
                )
            )
            for row in missed.rows
        ]
        return Missed(notifications, missed.is_complete, missed.reached, missed.has_more)

    async def count_missed(
        self, user_id: UUID, device_id: UUID, after_sequence: int, *, is_open_only: bool = False
    ) -> int:
        """Count what follows behind that number; 10 000 stands for that many or more."""
        return await count_missed(
            self._database,
            user_id=user_id,
            device_id=device_id,
            after_sequence=after_sequence,
            is_open_only=is_open_only,
            now=self._clock.now(),
        )

    async def load_newest(self, device_ids: Sequence[UUID]) -> Mapping[UUID, tuple[UUID, int]]:
        """Load the user of each device and that user's newest number; devices that are retired are left out."""
        return await load_newest(self._database, device_ids)

    async def acknowledge(
        self, device_id: UUID, notification_id: UUID, round_trip_s: float | None, *, is_late: bool = False
    ) -> bool:
        """Record the acknowledgement durably, in time or late; False for what was never meant for this device."""
        if self._tests is not None and self._tests.acknowledged(device_id, notification_id):
            return True
        now = self._clock.now()
        if self._nodes is not None:
            self._nodes.acknowledged(device_id, notification_id)
        window = self._engine.acknowledged(device_id, notification_id) if self._engine is not None else None
        attempt = AttemptRow(
            channel=ChannelName.HUB,
            started_at=window.offered_at if window is not None else now,
            latency_ms=_latency_ms(window, round_trip_s, self._clock.monotonic()),
            outcome=OutcomeKind.CONFIRMED,
            code="acknowledged_late" if is_late else "acknowledged",
            reason=_LATE if is_late else "The device acknowledged it over its live connection.",
        )
        return await self._database.write(acknowledge_job(device_id, notification_id, attempt, now))

    def device_seated(self, user_id: UUID, device_id: UUID, seat_stamp: int) -> None:
        """An older session of the device on another node ends."""
        if self._nodes is not None:
            self._nodes.seated(device_id, seat_stamp)

    def device_connected(self, user_id: UUID, device_id: UUID, acknowledges: bool) -> None:
        """Nothing to do: what the device missed was part of its replay."""
        logger.debug("device_connected", extra={"device": str(device_id), "acknowledges": acknowledges})

    def device_disconnected(self, user_id: UUID, device_id: UUID, reason: str) -> None:
        """What the device had not answered goes to the next layer."""
        why = f"The live connection ended before the device answered ({reason})."
        if self._tests is not None:
            self._tests.disconnected(device_id, why)
        if self._nodes is not None:
            self._nodes.disconnected(device_id, why)
        if self._engine is not None:
            self._engine.disconnected(device_id, why)

    def offer_cut(self, device_id: UUID, notification_ids: Sequence[UUID], reason: str) -> None:
        """What was never written to the socket goes to the next layer."""
        if self._tests is not None:
            self._tests.cut(device_id, notification_ids, reason)
        if self._nodes is not None:
            self._nodes.cut(device_id, notification_ids, reason)
        if self._engine is not None:
            self._engine.cut(device_id, notification_ids, reason)

    async def _why_lost(self, user_id: UUID, device_id: UUID) -> DeviceLost:
        standing = await load_standing(self._database, user_id, device_id)
        if standing is None:
            return DeviceLost("This device belongs to another user now.")
        if standing.revoked_text is not None:
            return DeviceLost(standing.revoked_text)
        # Its next Hello makes it reachable here again.
        return DeviceLost("This device was retired. Connect again.", may_return=True)

    async def _confirm_seen(self, device_id: UUID, cursor: int) -> None:
        # Nearly always nothing is open, and looking costs a tenth of a write. What the client has was committed before.
        if not await load_is_awaited(self._database, device_id):
            return
        now = self._clock.now()
        attempt = AttemptRow(
            channel=ChannelName.HUB,
            started_at=now,
            latency_ms=None,
            outcome=OutcomeKind.CONFIRMED,
            code="cursor",
            reason="The device's cursor shows that it has it.",
        )
        # In pages: a client chooses its cursor, and nobody else's write shall wait for a long one.
        while await self._database.write(confirm_seen_job(device_id, cursor, attempt, now, SEEN_PAGE)) == SEEN_PAGE:
            continue


def _latency_ms(window: Window | None, round_trip_s: float | None, now_mono: float) -> int | None:
    if window is not None:
        return round((now_mono - window.offered_mono) * 1000)
    return None if round_trip_s is None else round(round_trip_s * 1000)
