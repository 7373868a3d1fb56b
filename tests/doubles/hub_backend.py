"""A `HubBackend` in memory: users by bearer, devices by installation id, every notice and call kept for looking at."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

from appliance.domain.notification import Envelope, Priority
from appliance.domain.principal import Principal, PrincipalKind, Role
from appliance.hub.backend import DeviceLost, Hello, HelloAccepted, HelloRefused, Missed
from appliance.hub.messages import EncodedNotification

_SPACE = UUID("0b6f0d0e-2f0a-4d53-9d9a-0f8a0c9f6a11")
START = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)


class MemoryBackend:
    """Holds every user's notifications in order; a device is `uuid5` of its user and its installation id."""

    def __init__(self) -> None:
        self.principals: dict[str, Principal] = {}
        self.owners: dict[UUID, UUID] = {}
        self.hellos: list[Hello] = []
        self.notifications: dict[UUID, list[EncodedNotification]] = {}
        self.given: dict[UUID, set[UUID]] = {}
        self.acknowledged: list[tuple[UUID, UUID, float | None]] = []
        self.late: list[UUID] = []
        self.notices: list[tuple[object, ...]] = []
        self.complete = True
        self.refusal: str | None = None
        self.failure: Exception | None = None
        self.authenticate_gate: asyncio.Event | None = None
        self.hello_gate: asyncio.Event | None = None
        self.load_gate: asyncio.Event | None = None
        self.acknowledge_gate: asyncio.Event | None = None
        self.loads: list[tuple[int, bool]] = []
        self.lost: DeviceLost | None = None
        self.left_out: set[UUID] = set()

    def add_user(
        self,
        bearer: str,
        user_id: UUID,
        *,
        expires_at: datetime | None = None,
        kind: PrincipalKind = PrincipalKind.USER,
    ) -> Principal:
        is_user = kind is PrincipalKind.USER
        principal = Principal(
            kind=kind,
            user_id=user_id if is_user else None,
            app_id=None if is_user else user_id,
            role=Role.MEMBER if is_user else None,
            scopes=frozenset(),
            expires_at=expires_at or datetime.now(UTC) + timedelta(hours=1),
            token_id=f"token-of-{bearer}",
        )
        self.principals[bearer] = principal
        return principal

    def add_notification(self, user_id: UUID, **fields: object) -> EncodedNotification:
        """Commit one more notification for the user, with the next sequence number."""
        kept = self.notifications.setdefault(user_id, [])
        notification = EncodedNotification(make_envelope(user_id, len(kept) + 1, **fields))
        kept.append(notification)
        return notification

    def device_of(self, user_id: UUID, installation_id: str) -> UUID:
        return uuid5(_SPACE, f"{user_id}/{installation_id}")

    async def authenticate(self, bearer: str) -> Principal | None:
        if self.authenticate_gate is not None:
            await self.authenticate_gate.wait()
        return self.principals.get(bearer)

    async def register_hello(self, principal: Principal, hello: Hello) -> HelloAccepted:
        self.hellos.append(hello)
        if self.hello_gate is not None:
            await self.hello_gate.wait()
        if self.refusal is not None:
            raise HelloRefused(self.refusal)
        if self.failure is not None:
            raise self.failure
        assert principal.user_id is not None
        device_id = self.device_of(principal.user_id, hello.device_id)
        self.owners[device_id] = principal.user_id
        return HelloAccepted(device_id)

    async def load_missed(
        self, user_id: UUID, device_id: UUID, after_sequence: int, limit: int, *, is_open_only: bool = False
    ) -> Missed:
        self.loads.append((after_sequence, is_open_only))
        # The snapshot is taken before the wait, as a slow query would.
        newest = max((one.envelope.sequence for one in self.notifications.get(user_id, ())), default=0)
        missed = self._list_missed(user_id, device_id, after_sequence if after_sequence <= newest else 0, is_open_only)
        page, has_more = missed[:limit], len(missed) > limit
        complete, lost = self.complete, self.lost
        if self.load_gate is not None:
            await self.load_gate.wait()
        if lost is not None:
            raise lost
        self.given.setdefault(device_id, set()).update(one.id for one in page)
        return Missed(page, complete, page[-1].envelope.sequence if has_more else newest, has_more)

    async def count_missed(
        self, user_id: UUID, device_id: UUID, after_sequence: int, *, is_open_only: bool = False
    ) -> int:
        return len(self._list_missed(user_id, device_id, after_sequence, is_open_only))

    def _list_missed(self, user_id: UUID, device_id: UUID, after: int, is_open_only: bool) -> list[EncodedNotification]:
        done = {one for device, one, _ in self.acknowledged if device == device_id and is_open_only}
        kept = self.notifications.get(user_id, ())
        return [one for one in kept if one.envelope.sequence > after and one.id not in done | self.left_out]

    async def load_newest(self, device_ids: Sequence[UUID]) -> Mapping[UUID, tuple[UUID, int]]:
        owners = {device_id: self.owners[device_id] for device_id in device_ids if self.lost is None}
        return {device_id: (owner, len(self.notifications.get(owner, ()))) for device_id, owner in owners.items()}

    async def acknowledge(
        self, device_id: UUID, notification_id: UUID, round_trip_s: float | None, *, is_late: bool = False
    ) -> bool:
        if self.acknowledge_gate is not None:
            await self.acknowledge_gate.wait()
        if self.failure is not None:
            raise self.failure
        self.acknowledged.append((device_id, notification_id, round_trip_s))
        if is_late:
            self.late.append(notification_id)
        return notification_id in self.given.get(device_id, set())

    def device_seated(self, user_id: UUID, device_id: UUID, seat_stamp: int) -> None:
        self.notices.append(("seated", device_id, seat_stamp))

    def device_connected(self, user_id: UUID, device_id: UUID, acknowledges: bool) -> None:
        self.notices.append(("connected", device_id, acknowledges))

    def device_disconnected(self, user_id: UUID, device_id: UUID, reason: str) -> None:
        self.notices.append(("disconnected", device_id, reason))

    def offer_cut(self, device_id: UUID, notification_ids: Sequence[UUID], reason: str) -> None:
        self.notices.append(("cut", device_id, tuple(notification_ids), reason))


def make_envelope(user_id: UUID, sequence: int, **fields: object) -> Envelope:
    """Make an envelope with an id that follows from the user and the sequence number; `fields` replace the rest."""
    values: dict[str, object] = {
        "id": uuid5(user_id, str(sequence)),
        "app_id": uuid5(_SPACE, "app"),
        "user_id": user_id,
        "title": f"Title {sequence}",
        "body": f"Body {sequence}",
        "data": {},
        "type": "notification",
        "priority": Priority.NORMAL,
        "sequence": sequence,
        "sent_at": START,
        "expires_at": START + timedelta(hours=24),
        "collapse_key": None,
    }
    return Envelope(**(values | fields))  # type: ignore[arg-type]
