"""Health: `/health` says that the process lives, `/health/ready` that it can accept and keep a notification."""

import asyncio
import os
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from litestar import Response, Router, get
from litestar.datastructures import CacheControlHeader
from litestar.openapi.datastructures import ResponseSpec

from appliance import __version__
from appliance.domain.errors import CarillonError
from appliance.storage.database import Database
from appliance.storage.writer import Transaction

READY_DEADLINE_S: Final = 3.0
MIN_FREE_BYTES: Final = 16 * 1024 * 1024
_PROBE_ROW: Final = "readiness probe"
_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NO_STORE: Final = CacheControlHeader(no_store=True)


class Health(msgspec.Struct, frozen=True):
    """The process lives."""

    status: str
    version: str


class Check(msgspec.Struct, frozen=True):
    """One thing that readiness needs: whether it holds, and the next step where it does not."""

    ok: bool
    detail: str


class Readiness(msgspec.Struct, frozen=True):
    """Whether a notification would be accepted and kept right now."""

    status: str
    checks: Mapping[str, Check]


class HealthProbe:
    """Looks at what readiness needs. `is_stopping` makes load balancers go elsewhere before the doors close.

    `describe_nodes`, given on one node among several, tells how it stands with the others; a node that is cut off from
    them serves on.
    """

    def __init__(
        self,
        database: Database,
        data_dir: Path,
        is_delivering: Callable[[], bool],
        describe_nodes: Callable[[], str] | None = None,
    ) -> None:
        self._database = database
        self._data_dir = data_dir
        self._is_delivering = is_delivering
        self._describe_nodes = describe_nodes
        self.is_stopping = False

    async def check(self) -> Readiness:
        """Check storage by a real commit that leaves nothing and the data disk by its free space; within 3 seconds."""
        checks = {"storage": await self._check_storage(), "disk": await asyncio.to_thread(self._check_disk)}
        if self._is_delivering():
            checks["delivery"] = Check(True, "Deliveries are being worked on.")
        else:
            checks["delivery"] = Check(False, "The delivery engine has stopped; see the log and restart the server.")
        if self._describe_nodes is not None:
            checks["nodes"] = Check(True, self._describe_nodes())
        if self.is_stopping:
            checks["process"] = Check(False, "The server is stopping.")
        ready = all(check.ok for check in checks.values())
        return Readiness("ready" if ready else "not ready", checks)

    async def _check_storage(self) -> Check:
        try:
            async with asyncio.timeout(READY_DEADLINE_S):
                await self._database.write(_touch)
        except TimeoutError:
            return Check(False, f"The database did not commit within {READY_DEADLINE_S:.0f} s.")
        except CarillonError as refusal:
            return Check(False, refusal.detail)
        return Check(True, "The database commits.")

    def _check_disk(self) -> Check:
        try:
            free = shutil.disk_usage(self._data_dir).free
        except OSError as error:
            return Check(False, f"The data folder cannot be read: {os.strerror(error.errno or 0)}.")
        if free < MIN_FREE_BYTES:
            return Check(False, f"Only {free // 1024 // 1024} MiB are free on the data disk; make room.")
        return Check(True, f"{free // 1024 // 1024} MiB are free.")


def _touch(transaction: Transaction) -> None:
    # A row that comes and goes is written and fsynced. What changes nothing would commit on a full disk, too.
    transaction.execute(
        "INSERT INTO claim (id, created_at, expires_at) VALUES (?, ?, ?)", (_PROBE_ROW, _LONG_AGO, _LONG_AGO)
    )
    transaction.execute("DELETE FROM claim WHERE id = ?", (_PROBE_ROW,))


def health_router(probe: HealthProbe) -> Router:
    """Give the routes `/health` and `/health/ready`."""

    @get("/", summary="Is the process alive?", operation_id="GetHealth", cache_control=_NO_STORE)
    async def get_health() -> Health:
        return Health("healthy", __version__)

    @get(
        "/ready",
        summary="Can it accept and keep a notification?",
        operation_id="GetReadiness",
        cache_control=_NO_STORE,
        responses={503: ResponseSpec(Readiness, description="It cannot; `checks` says why and what to do.")},
    )
    async def get_readiness() -> Response[Readiness]:
        readiness = await probe.check()
        headers: dict[str, Any] = {} if readiness.status == "ready" else {"Retry-After": "5"}
        return Response(readiness, status_code=200 if readiness.status == "ready" else 503, headers=headers)

    return Router("/health", route_handlers=[get_health, get_readiness], tags=["operations"])
