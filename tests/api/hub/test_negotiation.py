"""Negotiate and the status codes around it, over real HTTP."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from appliance.domain.principal import PrincipalKind
from appliance.hub.limits import HubLimits
from tests.doubles.hub_client import open_hub, open_socket
from tests.doubles.hub_http import HANDSHAKE, by_hand
from tests.doubles.hub_server import ALICE, HubServer, run_hub
from tests.doubles.raw_websocket import CLOSE, TEXT, make_frame, open_raw

SHOP = UUID(int=7)
ALICE_HEADERS = {"Authorization": "Bearer alice"}
ID = re.compile(r"[A-Za-z0-9_-]{22}")


@pytest.fixture
async def http(server: HubServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.http, headers=ALICE_HEADERS, trust_env=False) as client:
        yield client


async def negotiate(http: httpx.AsyncClient, query: str = "?negotiateVersion=1", **options: Any) -> dict[str, Any]:
    response = await http.post(f"/negotiate{query}", **options)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def refused_status(server: HubServer, query: str = "", bearer: str | None = "alice") -> httpx.Headers:
    """Give the status (as header `:status`) and headers of a refused upgrade."""
    with pytest.raises(InvalidStatus) as refused:
        async with open_socket(server.ws + query, bearer):
            pass
    response = refused.value.response
    return httpx.Headers({":status": str(response.status_code), **dict(response.headers.raw_items())})


class TestNegotiate:
    async def test_version_1_has_two_distinct_ids_and_three_transports_and_nothing_else(
        self, http: httpx.AsyncClient
    ) -> None:
        response = await http.post("/negotiate?negotiateVersion=1")
        answer = response.json()
        assert response.headers["content-type"] == "application/json"
        assert set(answer) == {"negotiateVersion", "connectionId", "connectionToken", "availableTransports"}
        assert answer["negotiateVersion"] == 1
        assert ID.fullmatch(answer["connectionId"]) and ID.fullmatch(answer["connectionToken"])
        assert answer["connectionId"] != answer["connectionToken"]
        assert answer["availableTransports"] == [
            {"transport": "WebSockets", "transferFormats": ["Text", "Binary"]},
            {"transport": "ServerSentEvents", "transferFormats": ["Text"]},
            {"transport": "LongPolling", "transferFormats": ["Text", "Binary"]},
        ]

    async def test_without_a_version_it_is_0_and_the_connection_id_opens_the_transport(
        self, server: HubServer, http: httpx.AsyncClient
    ) -> None:
        answer = await negotiate(http, "")
        assert answer["negotiateVersion"] == 0 and "connectionToken" not in answer
        async with open_hub(f"{server.ws}?id={answer['connectionId']}"):
            pass

    async def test_a_higher_version_is_answered_with_1(self, http: httpx.AsyncClient) -> None:
        assert (await negotiate(http, "?negotiateVersion=7"))["negotiateVersion"] == 1

    async def test_query_names_are_matched_without_regard_to_case(self, http: httpx.AsyncClient) -> None:
        assert (await negotiate(http, "?NegotiateVersion=1"))["negotiateVersion"] == 1

    async def test_an_unusable_version_is_answered_with_an_error(self, http: httpx.AsyncClient) -> None:
        assert await negotiate(http, "?negotiateVersion=x") == {
            "error": "The client requested a non-integer protocol version."
        }

    async def test_a_stray_id_and_unknown_fields_change_nothing(self, http: httpx.AsyncClient) -> None:
        answer = await negotiate(http, "?negotiateVersion=1&id=stale&foo=bar")
        assert set(answer) == set(await negotiate(http))
        assert "stale" not in answer.values()

    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
    async def test_other_methods_are_not_allowed(self, http: httpx.AsyncClient, method: str) -> None:
        response = await http.request(method, "/negotiate")
        assert response.status_code == 405
        assert response.headers["allow"] == "POST"

    async def test_the_token_may_come_in_the_query(self, server: HubServer, http: httpx.AsyncClient) -> None:
        await negotiate(http, "?negotiateVersion=1&access_token=alice", headers={"Authorization": ""})
        async with open_hub(f"{server.ws}?access_token=alice", bearer=None):
            pass

    @pytest.mark.parametrize(("query", "header"), [("alice", "Bearer stale"), ("stale", "Bearer alice")])
    async def test_one_good_token_of_two_is_enough(self, http: httpx.AsyncClient, query: str, header: str) -> None:
        await negotiate(http, f"?access_token={query}", headers={"Authorization": header})


class TestRefusals:
    @pytest.mark.parametrize("header", ["", "Bearer", "Bearer wrong", "Basic alice", "alice", "Bearer alicE"])
    @pytest.mark.parametrize(
        ("method", "path"),
        [("POST", "/negotiate"), ("GET", ""), ("POST", "?id=x"), ("DELETE", "?id=x"), ("GET", "?id=x")],
    )
    async def test_without_a_good_token_every_request_is_401_with_a_challenge(
        self, http: httpx.AsyncClient, method: str, path: str, header: str
    ) -> None:
        response = await http.request(method, path, headers={"Authorization": header})
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith("Bearer")

    @pytest.mark.parametrize("bearer", [None, "wrong", "x" * 20_000])
    async def test_an_upgrade_without_a_good_token_is_answered_401_before_it_is_accepted(
        self, server: HubServer, bearer: str | None
    ) -> None:
        headers = await refused_status(server, bearer=bearer)
        assert headers[":status"] == "401"
        assert headers["www-authenticate"].startswith("Bearer")

    async def test_a_token_that_has_expired_is_401(self, server: HubServer, http: httpx.AsyncClient) -> None:
        principal = server.backend.principals["alice"]
        server.backend.principals["alice"] = replace(principal, expires_at=principal.expires_at.replace(year=2020))
        assert (await http.post("/negotiate")).status_code == 401

    async def test_an_apps_token_is_403(self, server: HubServer, http: httpx.AsyncClient) -> None:
        server.backend.add_user("app", UUID(int=9), kind=PrincipalKind.APP)
        assert (await http.post("/negotiate", headers={"Authorization": "Bearer app"})).status_code == 403

    async def test_a_missing_id_is_400_and_an_unknown_one_404_on_every_verb(
        self, server: HubServer, http: httpx.AsyncClient
    ) -> None:
        for method in ("GET", "POST", "DELETE"):
            missing = await http.request(method, "")
            assert (missing.status_code, missing.text) == (400, "Connection ID required")
            unknown = await http.request(method, "?id=unknown")
            assert (unknown.status_code, unknown.text) == (404, "No Connection with that ID")
        assert (await refused_status(server, "?id=unknown"))[":status"] == "404"

    async def test_the_public_id_of_version_1_opens_nothing(self, server: HubServer, http: httpx.AsyncClient) -> None:
        answer = await negotiate(http)
        assert (await refused_status(server, f"?id={answer['connectionId']}"))[":status"] == "404"

    async def test_another_users_id_is_403_and_stays_usable_for_its_owner(
        self, server: HubServer, http: httpx.AsyncClient
    ) -> None:
        query = f"?id={(await negotiate(http))['connectionToken']}"
        assert (await refused_status(server, query, "bob"))[":status"] == "403"
        async with open_hub(server.ws + query):
            taken = await http.delete(query, headers={"Authorization": "Bearer bob"})
            assert taken.status_code == 403

    async def test_an_open_id_refuses_a_second_socket_and_other_transports_unharmed(
        self, server: HubServer, http: httpx.AsyncClient
    ) -> None:
        query = f"?id={(await negotiate(http))['connectionToken']}"
        async with open_hub(server.ws + query) as client:
            assert (await refused_status(server, query))[":status"] == "409"
            poll = await http.get(query)
            assert (poll.status_code, poll.text) == (400, "Cannot change transports mid-connection")
            post = await http.post(query, content=b'{"type":6}\x1e')
            assert post.status_code == 405
            assert post.text == "POST requests are not allowed for WebSocket connections."
            delete = await http.delete(query)
            assert delete.status_code == 400
            assert delete.text == "Cannot terminate this connection using the DELETE endpoint."
            assert (await client.invoke("X"))["error"] == "Unknown hub method 'X'"

    async def test_an_id_whose_connection_has_ended_is_404(self, server: HubServer, http: httpx.AsyncClient) -> None:
        query = f"?id={(await negotiate(http))['connectionToken']}"
        async with open_hub(server.ws + query) as client:
            await client.send({"type": 7})
            assert (await client.closing()) == ([{"type": 7}], 1000)
        assert (await http.get(query)).status_code == 404
        assert (await refused_status(server, query))[":status"] == "404"

    @pytest.mark.parametrize("what", ["user", "token", "app"])
    async def test_a_revoked_id_opens_nothing(self, server: HubServer, http: httpx.AsyncClient, what: str) -> None:
        principals = server.backend.principals
        principals["alice"] = replace(principals["alice"], app_id=SHOP)
        query = f"?id={(await negotiate(http))['connectionToken']}"
        if what == "user":
            server.hub.close_user(ALICE, "Gone.")
        elif what == "app":
            server.hub.close_app(SHOP, "Gone.")
        else:
            server.hub.close_token("token-of-alice", "Gone.")
        assert (await refused_status(server, query))[":status"] == "404"

    async def test_an_id_that_no_transport_has_opened_is_not_deleted(self, http: httpx.AsyncClient) -> None:
        query = f"?id={(await negotiate(http))['connectionToken']}"
        delete = await http.delete(query)
        assert delete.status_code == 400
        assert delete.text == "Cannot terminate this connection using the DELETE endpoint."
        other = await http.put(query)
        assert (other.status_code, other.headers["allow"]) == (405, "GET, POST, DELETE")

    async def test_an_id_that_is_not_opened_in_time_is_404(self) -> None:
        limits = HubLimits(negotiation_lifetime_s=0.05)
        async with run_hub(limits) as server, httpx.AsyncClient(headers=ALICE_HEADERS, trust_env=False) as http:
            answer = (await http.post(f"{server.http}/negotiate?negotiateVersion=1")).json()
            await server.until(negotiations_pending=0)
            for accept in ("*/*", "text/event-stream"):
                late = await http.get(f"{server.http}?id={answer['connectionToken']}", headers={"Accept": accept})
                assert late.status_code == 404

    @pytest.mark.parametrize("path", ["/other", "/negotiate/x", "x"])
    async def test_other_paths_are_404(self, server: HubServer, http: httpx.AsyncClient, path: str) -> None:
        assert (await http.post(server.http + path)).status_code == 404

    async def test_a_query_of_too_many_fields_is_400(self, http: httpx.AsyncClient) -> None:
        assert (await http.post("/negotiate?" + "a=1&" * 100)).status_code == 400


class TestCaps:
    async def test_over_a_cap_it_is_503_with_a_retry_after_and_a_free_place_is_taken_again(self) -> None:
        limits = HubLimits(connections=2)
        async with run_hub(limits) as server, httpx.AsyncClient(headers=ALICE_HEADERS, trust_env=False) as http:
            async with open_hub(server.ws), open_hub(server.ws):
                headers = await refused_status(server)
                assert headers[":status"] == "503"
                assert 1 <= int(headers["retry-after"]) <= 10
                assert (await http.post(server.http + "/negotiate")).status_code == 503
            await server.until(connections=0)
            async with open_hub(server.ws):
                pass
            assert server.hub.stats().refused == {"connections": 2}

    async def test_a_hub_that_stops_lets_nobody_in(self) -> None:
        async with run_hub() as server, httpx.AsyncClient(headers=ALICE_HEADERS, trust_env=False) as http:
            await server.hub.drain(1.0)
            headers = await refused_status(server)
            assert headers[":status"] == "503" and headers["retry-after"]
            assert (await http.post(server.http + "/negotiate")).status_code == 503

    async def test_one_user_cannot_take_all_places(self) -> None:
        async with run_hub(HubLimits(connections_per_user=1)) as server, open_hub(server.ws):
            assert (await refused_status(server))[":status"] == "503"
            async with open_hub(server.ws, "bob"):
                pass

    async def test_handshakes_that_do_not_come_do_not_pile_up(self) -> None:
        async with run_hub(HubLimits(handshakes_pending=1)) as server, open_socket(server.ws) as waiting:
            assert (await refused_status(server))[":status"] == "503"
            await waiting.shake_hands()
            await server.until(handshakes_pending=0)
            async with open_hub(server.ws):
                pass

    async def test_ids_that_are_not_opened_do_not_pile_up(self) -> None:
        limits = HubLimits(negotiations_pending_per_user=2)
        async with run_hub(limits) as server, httpx.AsyncClient(headers=ALICE_HEADERS, trust_env=False) as http:
            answers = [await http.post(server.http + "/negotiate") for _ in range(3)]
            assert [answer.status_code for answer in answers] == [200, 200, 503]
            bob = await http.post(server.http + "/negotiate", headers={"Authorization": "Bearer bob"})
            assert bob.status_code == 200


class TestPath:
    @pytest.mark.parametrize("path", ["/negotiate", "//negotiate", "/negotiate/", "///negotiate//"])
    async def test_repeated_slashes_count_as_one(self, http: httpx.AsyncClient, path: str) -> None:
        assert (await http.post(f"{http.base_url}".rstrip("/") + f"{path}?negotiateVersion=1")).status_code == 200


class TestEnding:
    async def test_an_id_is_unknown_as_soon_as_its_connection_has_ended_although_the_socket_is_still_open(
        self, server: HubServer
    ) -> None:
        async with by_hand(server) as hand, open_raw(server.port) as socket:
            assert await socket.upgrade(path=hand.target) == 101
            await socket.send(make_frame(HANDSHAKE))
            await socket.next_frame()
            assert (await hand.post(b"")).status == 405
            server.hub.close_user(ALICE, "The account was disabled.")
            # The goodbye and the close frame, to which this client does not answer.
            assert [(await socket.next_frame()).opcode for _ in range(2)] == [TEXT, CLOSE]
            assert (await hand.post(b"")).status == 404
