"""The hub in the console: figures, who is connected, ending a connection; and who is "connected now" elsewhere."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from appliance.storage.audit import list_latest
from appliance.storage.database import open_database
from tests.doubles.appliance import RunningAppliance, TestApp, TestUser
from tests.doubles.hub_client import HubClient, open_hub

HUB = "/console/api/hub"
CONNECTIONS = f"{HUB}/connections"


@asynccontextmanager
async def connected(server: RunningAppliance, user: TestUser) -> AsyncIterator[HubClient]:
    url = f"ws://127.0.0.1:{server.port}/hubs/notifications"
    async with open_hub(url, user.token, user_agent_header="Phone/1.0") as client:
        yield client


async def list_of(http: httpx.AsyncClient, admin: TestUser, query: str = "") -> dict[str, Any]:
    reply = await http.get(f"{CONNECTIONS}{query}", headers=admin.headers)
    assert reply.status_code == 200, reply.text
    assert reply.headers["cache-control"] == "no-store"
    page: dict[str, Any] = reply.json()
    return page


class TestFigures:
    async def test_connections_are_counted_by_kind_and_notifications_by_what_came_of_them(
        self, server: RunningAppliance, http: httpx.AsyncClient, admin: TestUser, app: TestApp, user: TestUser
    ) -> None:
        before = (await http.get(HUB, headers=admin.headers)).json()
        async with connected(server, user), connected(server, user) as full:
            await full.say_hello()
            body = {"user_id": str(user.id), "title": "T", "body": "B"}
            (await http.post("/push/send", json=body, headers=app.headers)).raise_for_status()
            told = await full.next_notification()
            assert (await full.invoke("Acknowledge", told["id"]))["result"] is True
            after = (await http.get(HUB, headers=admin.headers)).json()
        for name, more in (("connections", 2), ("sessions", 1), ("acknowledged", 1), ("offered_plain", 1)):
            assert after[name] - before[name] == more, name
        for kinds, kind, more in (
            ("transports", "WebSockets", 2),
            ("encodings", "json", 2),
            ("dialects", "plain", 1),
            ("dialects", "full", 1),
        ):
            assert after[kinds][kind] - before[kinds].get(kind, 0) == more, kind
        steps = after["round_trips"]
        assert steps[-1]["up_to_s"] is None
        assert steps[-1]["count"] - before["round_trips"][-1]["count"] == 1
        assert [step["count"] for step in steps] == sorted(step["count"] for step in steps)

    async def test_metrics_tell_the_same(
        self, server: RunningAppliance, http: httpx.AsyncClient, user: TestUser
    ) -> None:
        async with connected(server, user):
            text = (await http.get("/metrics")).text
        assert 'carillon_hub_transport_connections{transport="WebSockets"}' in text
        assert 'carillon_hub_encoding_connections{encoding="json"}' in text
        assert 'carillon_hub_acknowledgement_seconds_bucket{le="+Inf"}' in text
        assert "carillon_hub_notifications_acknowledged_late_total" in text


class TestWhoIsConnected:
    async def test_a_connection_is_described(
        self, server: RunningAppliance, http: httpx.AsyncClient, admin: TestUser, user: TestUser
    ) -> None:
        async with connected(server, user) as client:
            hello = await client.say_hello("kitchen")
            page = await list_of(http, admin, f"?user={user.id}")
        (one,) = page["connections"]
        assert (page["next_cursor"], one["user_id"], one["device_id"]) == (None, str(user.id), hello["deviceId"])
        assert (one["transport"], one["encoding"], one["dialect"]) == ("WebSockets", "json", "full")
        assert (one["address"], one["user_agent"]) == ("127.0.0.1", "Phone/1.0")
        assert (one["is_away"], one["queued_bytes"]) == (False, 0)
        assert one["window_s"] > 0
        for name in ("connected_at", "last_heard_at"):
            assert datetime.now(UTC) - datetime.fromisoformat(one[name]) < timedelta(seconds=30)

    async def test_pages_give_everybody_once_oldest_first(
        self, server: RunningAppliance, http: httpx.AsyncClient, admin: TestUser, user: TestUser
    ) -> None:
        async with connected(server, user), connected(server, user), connected(server, user):
            whole = await list_of(http, admin, f"?user={user.id}")
            told: list[dict[str, Any]] = []
            query = f"?user={user.id}&limit=2"
            while True:
                page = await list_of(http, admin, query)
                told.extend(page["connections"])
                if page["next_cursor"] is None:
                    break
                query = f"?user={user.id}&limit=2&cursor={page['next_cursor']}"
        ids = [one["connection_id"] for one in told]
        assert ids == [one["connection_id"] for one in whole["connections"]]
        assert len(set(ids)) == 3

    async def test_lists_of_devices_tell_who_is_connected_now(
        self, server: RunningAppliance, http: httpx.AsyncClient, admin: TestUser, app: TestApp, user: TestUser
    ) -> None:
        body = {"app_id": str(app.id), "platform": "ios", "push_token": f"t-{uuid4()}"}
        device_id = (await http.post("/push/devices/register", json=body, headers=user.headers)).json()["device_id"]

        async def is_connected() -> tuple[bool, bool]:
            of_app = (await http.get(f"/push/devices/{app.id}", headers=app.headers)).json()["devices"]
            of_user = (await http.get("/account/devices", headers=user.headers)).json()["apps"]
            own = next(one for group in of_user for one in group["devices"] if one["device_id"] == device_id)
            return next(one["connected"] for one in of_app if one["device_id"] == device_id), own["connected"]

        assert await is_connected() == (False, False)
        async with connected(server, user) as client:
            await client.say_hello(device_id)
            assert await is_connected() == (True, True)


class TestDisconnecting:
    async def test_one_connection_ends_may_come_back_and_it_is_in_the_audit_log(
        self, server: RunningAppliance, http: httpx.AsyncClient, admin: TestUser, user: TestUser
    ) -> None:
        async with connected(server, user) as first, connected(server, user) as second:
            page = await list_of(http, admin, f"?user={user.id}")
            ids = [one["connection_id"] for one in page["connections"]]
            reply = await http.delete(f"{CONNECTIONS}/{ids[0]}", headers=admin.headers)
            assert (reply.status_code, reply.content) == (204, b"")
            goodbye = {"type": 7, "error": "An administrator ended this connection.", "allowReconnect": True}
            assert await first.closing() == ([goodbye], 1000)
            assert (await second.invoke("X"))["error"]
            again = await http.delete(f"{CONNECTIONS}/{ids[0]}", headers=admin.headers)
            assert (again.status_code, again.json()["code"]) == (404, "not_found")
        async with open_database(server.data_dir, None) as database:
            entries = await list_latest(database, "hub_connection_ended", limit=10)
        told = [(entry.actor, entry.target, entry.address) for entry in entries if ids[0] in entry.target]
        assert told == [(f"user:{admin.id}", f"connection:{ids[0]} user:{user.id}", "127.0.0.1")]

    @pytest.mark.parametrize("connection_id", [str(uuid4()), "00000000-0000-0000-0000-000000000000"])
    async def test_an_id_that_nobody_has_is_404(
        self, http: httpx.AsyncClient, admin: TestUser, connection_id: str
    ) -> None:
        reply = await http.delete(f"{CONNECTIONS}/{connection_id}", headers=admin.headers)
        assert (reply.status_code, reply.headers["content-type"]) == (404, "application/problem+json")


class TestWhoMayLook:
    @pytest.mark.parametrize(
        ("method", "path"), [("GET", HUB), ("GET", CONNECTIONS), ("DELETE", CONNECTIONS + "/{id}")]
    )
    async def test_only_an_admin(
        self, http: httpx.AsyncClient, app: TestApp, user: TestUser, method: str, path: str
    ) -> None:
        url = path.format(id=uuid4())
        assert (await http.request(method, url)).status_code == 401
        for headers in (user.headers, app.headers):
            assert (await http.request(method, url, headers=headers)).status_code == 403

    @pytest.mark.parametrize("query", ["?limit=0", "?limit=501", "?cursor=x", "?user=x"])
    async def test_a_query_that_makes_no_sense_is_422_and_named(
        self, http: httpx.AsyncClient, admin: TestUser, query: str
    ) -> None:
        reply = await http.get(f"{CONNECTIONS}{query}", headers=admin.headers)
        assert (reply.status_code, reply.json()["field"]) == (422, query[1:].partition("=")[0])
