"""Long polling by hand, over real sockets."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from appliance.hub.limits import HubLimits
from appliance.hub.protocol import ProtocolTimes
from tests.doubles.hub_http import HANDSHAKE, HubByHand, Reply, by_hand
from tests.doubles.hub_server import ALICE, HubServer, run_hub, wait_until


@pytest.fixture
async def hand(server: HubServer) -> AsyncIterator[HubByHand]:
    async with by_hand(server) as opened:
        yield opened


def titles(reply: Reply) -> list[str]:
    return [record["arguments"][0]["title"] for record in reply.records if record["type"] == 1]


class TestPolling:
    async def test_the_first_poll_is_answered_empty_at_once_and_the_second_brings_the_handshake(
        self, hand: HubByHand
    ) -> None:
        first = await hand.poll()
        assert (first.status, first.body) == (200, b"")
        assert first.headers["content-type"] == "application/octet-stream"
        waiting = await hand.begin_poll()
        posted = await hand.post(HANDSHAKE)
        assert (posted.status, posted.body) == (200, b"")
        second = await waiting.reply()
        assert (second.status, second.body) == (200, b"{}\x1e")
        assert second.headers["content-type"] == "application/octet-stream"

    async def test_no_answer_to_a_poll_may_be_kept(self, hand: HubByHand) -> None:
        await hand.poll()
        waiting = await hand.begin_poll()
        await hand.post(HANDSHAKE)
        replies = [await waiting.reply()]
        older = await hand.begin_poll()
        await asyncio.sleep(0.05)
        newer = await hand.begin_poll()
        replies.append(await older.reply())
        await hand.delete()
        replies.append(await newer.reply())
        assert [reply.status for reply in replies] == [200, 204, 204]
        for reply in replies:
            assert reply.headers["cache-control"] == "no-cache, no-store"
            assert reply.headers["pragma"] == "no-cache"
            assert reply.headers["expires"] == "Thu, 01 Jan 1970 00:00:00 GMT"

    async def test_a_waiting_poll_brings_a_notification_as_soon_as_there_is_one(
        self, server: HubServer, hand: HubByHand
    ) -> None:
        await hand.shake_hands_by_polls()
        waiting = await hand.begin_poll()
        server.send(title="now")
        reply = await waiting.reply()
        assert titles(reply) == ["now"]

    async def test_what_was_sent_between_two_polls_is_brought_in_order_and_whole(
        self, server: HubServer, hand: HubByHand
    ) -> None:
        await hand.shake_hands_by_polls()
        for number in range(100):
            server.send(title=str(number), body="żółć 🎉 \x1e\n" * 20)
        told: list[str] = []
        polls = 0
        while len(told) < 100:
            told += titles(await hand.poll())
            polls += 1
        assert told == [str(number) for number in range(100)]
        assert polls <= 3

    async def test_a_newer_poll_ends_the_older_one_with_204_and_takes_its_data(
        self, server: HubServer, hand: HubByHand
    ) -> None:
        await hand.shake_hands_by_polls()
        older = await hand.begin_poll()
        await wait_for_poll(server)
        newer = await hand.begin_poll()
        assert (await older.reply()).status == 204
        server.send(title="for the newer")
        assert titles(await newer.reply()) == ["for the newer"]

    async def test_of_many_racing_polls_one_brings_each_notification_and_all_are_answered(
        self, server: HubServer, hand: HubByHand
    ) -> None:
        await hand.shake_hands_by_polls()
        told: list[str] = []
        for round_ in range(10):
            polls = [asyncio.ensure_future(hand.poll()) for _ in range(8)]
            await asyncio.sleep(0)
            server.send(title=str(round_))
            # All but the newest end by themselves, however long a busy machine takes over it.
            await wait_until(lambda of=polls: sum(not poll.done() for poll in of) <= 1)  # type: ignore[misc]
            done, waiting = await asyncio.wait(polls, timeout=0.2)
            told += [title for poll in done for title in titles(poll.result()) if poll.result().status == 200]
            if waiting:
                server.send(title=f"last {round_}")
                told += [title for poll in waiting for title in titles(await poll)]
        assert [title for title in told if "last" not in title] == [str(round_) for round_ in range(10)]

    async def test_a_poll_that_was_given_up_loses_nothing(self, server: HubServer, hand: HubByHand) -> None:
        """The client goes away in the middle of its poll; what is sent then waits for the next one."""
        await hand.shake_hands_by_polls()
        for number in range(5):
            waiting = await hand.begin_poll()
            await asyncio.sleep(0.02)
            waiting.abort()
            await asyncio.sleep(0.05)
            server.send(title=f"{number} a")
            server.send(title=f"{number} b")
            told: list[str] = []
            while len(told) < 2:
                told += titles(await hand.poll())
            assert told == [f"{number} a", f"{number} b"]

    async def test_an_empty_poll_ends_after_its_time_and_the_next_one_goes_on(self) -> None:
        async with run_hub(HubLimits(poll_timeout_s=0.2)) as server, by_hand(server) as hand:
            await hand.shake_hands_by_polls()
            for _ in range(3):
                reply = await hand.poll()
                assert (reply.status, reply.body, reply.headers["content-type"]) == (200, b"", "text/plain")
            server.send(title="still there")
            assert titles(await hand.poll()) == ["still there"]

    async def test_no_poll_is_answered_empty_before_the_handshake_is(self) -> None:
        """Some clients take an empty answer for the answer to their handshake."""
        async with run_hub(HubLimits(poll_timeout_s=0.05)) as server, by_hand(server) as hand:
            await hand.poll()
            waiting = await hand.begin_poll()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(waiting.reader.readexactly(1), 0.4)
            await hand.post(HANDSHAKE)
            assert (await waiting.reply()).records == [{}]

    async def test_an_idle_poll_gets_pings(self) -> None:
        limits = HubLimits(protocol=ProtocolTimes(keep_alive_s=0.1))
        async with run_hub(limits) as server, by_hand(server) as hand:
            await hand.shake_hands_by_polls()
            for _ in range(3):
                assert (await hand.poll()).records[0] == {"type": 6}

    async def test_200_idle_polls_wait_and_all_of_them_receive(self, server: HubServer) -> None:
        hands = [HubByHand(server, "alice") for _ in range(200)]
        try:
            for hand in hands:
                await hand.negotiate()
                await hand.shake_hands_by_polls()
            polls = [await hand.begin_poll() for hand in hands]
            assert server.hub.stats().plain_connections == 200
            server.send(title="all")
            for poll in polls:
                assert titles(await poll.reply()) == ["all"]
        finally:
            for hand in hands:
                await hand.leave()

    async def test_a_session_says_hello_and_acknowledges_by_posts(self, server: HubServer, hand: HubByHand) -> None:
        await hand.shake_hands_by_polls()
        await hand.say_hello_by_polls()
        notification = server.send("phone")
        (told,) = (await hand.poll()).records
        assert told["target"] == "Notify"
        acknowledge = {"type": 1, "target": "Acknowledge", "arguments": [str(notification.id)], "invocationId": "a"}
        await hand.send(acknowledge)
        assert (await hand.poll()).records == [{"type": 3, "invocationId": "a", "result": True}]
        assert [one for _, one, _ in server.backend.acknowledged] == [notification.id]


class TestEnding:
    async def test_a_client_that_polls_no_more_is_lost_and_its_notifications_are_cut(self) -> None:
        async with run_hub(HubLimits(disconnect_timeout_s=0.3)) as server, by_hand(server) as hand:
            await hand.shake_hands_by_polls()
            await hand.say_hello_by_polls()
            notifications = [server.send("phone") for _ in range(3)]
            await server.until(connections=0)
            assert server.hub.stats().ended == {"socket_lost": 1}
            await wait_until(lambda: any(notice[0] == "cut" for notice in server.backend.notices))
            cuts = [notice for notice in server.backend.notices if notice[0] == "cut"]
            cut = [one for _, _, ids, _ in cuts for one in ids]  # type: ignore[attr-defined]
            assert cut == [notification.id for notification in notifications]
            for method in (hand.poll, hand.delete):
                assert (await method()).status == 404
            assert (await hand.post(b'{"type":6}\x1e')).status == 404

    async def test_a_client_that_never_polls_again_after_its_first_poll_is_lost_too(self) -> None:
        async with run_hub(HubLimits(disconnect_timeout_s=0.2)) as server, by_hand(server) as hand:
            await hand.poll()
            await server.until(connections=0, handshakes_pending=0)

    async def test_a_waiting_poll_keeps_the_connection_beyond_the_disconnect_timeout(self) -> None:
        async with run_hub(HubLimits(disconnect_timeout_s=0.2)) as server, by_hand(server) as hand:
            await hand.shake_hands_by_polls()
            waiting = await hand.begin_poll()
            await asyncio.sleep(0.6)
            server.send(title="still there")
            assert titles(await waiting.reply()) == ["still there"]

    async def test_delete_is_answered_202_and_ends_the_waiting_poll_and_the_id(
        self, server: HubServer, hand: HubByHand
    ) -> None:
        await hand.shake_hands_by_polls()
        waiting = await hand.begin_poll()
        await wait_for_poll(server)
        deleted = await hand.delete()
        assert (deleted.status, deleted.body) == (202, b"")
        assert (await waiting.reply()).status == 204
        assert (await hand.poll()).status == 404
        assert (await hand.post(b'{"type":6}\x1e')).status == 404
        assert (await hand.delete()).status == 404
        assert server.hub.stats().ended == {"client_closed": 1}

    async def test_delete_cuts_what_was_not_fetched(self, server: HubServer, hand: HubByHand) -> None:
        await hand.shake_hands_by_polls()
        await hand.say_hello_by_polls()
        notification = server.send("phone")
        assert (await hand.delete()).status == 202
        assert (await hand.poll()).status == 404
        await wait_until(
            lambda: ("cut", server.device(), (notification.id,), "client_closed") in server.backend.notices
        )

    async def test_the_end_is_told_to_the_waiting_poll_and_the_next_one_gets_204_once(
        self, server: HubServer, hand: HubByHand
    ) -> None:
        await hand.shake_hands_by_polls()
        waiting = await hand.begin_poll()
        await wait_for_poll(server)
        server.hub.close_user(ALICE, "Your account was disabled.")
        assert (await waiting.reply()).records == [{"type": 7, "error": "Your account was disabled."}]
        assert (await hand.poll()).status == 204
        assert (await hand.poll()).status == 404

    async def test_the_end_is_told_to_the_next_poll_when_none_waits(self, server: HubServer, hand: HubByHand) -> None:
        await hand.shake_hands_by_polls()
        server.send(title="before the end")
        server.hub.close_user(ALICE, "Your account was disabled.")
        assert (await hand.post(b'{"type":6}\x1e')).status == 404
        assert titles(await hand.poll()) == ["before the end"]
        assert (await hand.poll()).records == [{"type": 7, "error": "Your account was disabled."}]
        assert [(await hand.poll()).status for _ in range(2)] == [204, 404]

    async def test_a_goodbye_that_is_not_fetched_is_given_up_and_a_late_poll_still_learns_of_the_end(self) -> None:
        async with run_hub(HubLimits(close_deadline_s=0.1)) as server, by_hand(server) as hand:
            await hand.shake_hands_by_polls()
            await hand.say_hello_by_polls()
            notification = server.send("phone")
            server.hub.close_user(ALICE, "Gone.")
            await wait_until(lambda: ("cut", server.device(), (notification.id,), "revoked") in server.backend.notices)
            assert [(await hand.poll()).status for _ in range(2)] == [204, 404]

    async def test_delete_while_the_goodbye_waits_ends_it_at_once(self, server: HubServer, hand: HubByHand) -> None:
        await hand.shake_hands_by_polls()
        server.hub.close_user(ALICE, "Gone.")
        assert (await hand.delete()).status == 202
        assert (await hand.poll()).status == 404

    async def test_a_clients_goodbye_is_answered_with_one(self, server: HubServer, hand: HubByHand) -> None:
        await hand.shake_hands_by_polls()
        waiting = await hand.begin_poll()
        await hand.send({"type": 7})
        assert (await waiting.reply()).records == [{"type": 7}]
        assert [(await hand.poll()).status for _ in range(2)] == [204, 404]
        assert server.hub.stats().ended == {"client_closed": 1}

    async def test_an_ended_id_tells_another_user_nothing(self, server: HubServer, hand: HubByHand) -> None:
        await hand.shake_hands_by_polls()
        waiting = await hand.begin_poll()
        await hand.send({"type": 7})
        await waiting.reply()
        assert (await hand.poll(authorization="Bearer bob")).status == 404
        assert (await hand.poll()).status == 204

    async def test_one_that_ends_by_a_violation_says_so(self, hand: HubByHand) -> None:
        await hand.shake_hands_by_polls()
        waiting = await hand.begin_poll()
        assert (await hand.post(b"nonsense\x1e")).status == 200
        (close,) = (await waiting.reply()).records
        assert close["type"] == 7 and close["allowReconnect"] is True

    async def test_no_handshake_ends_it_with_an_error_record(self) -> None:
        limits = HubLimits(protocol=ProtocolTimes(handshake_timeout_s=0.2), poll_timeout_s=0.05)
        async with run_hub(limits) as server, by_hand(server) as hand:
            await hand.poll()
            assert (await hand.poll()).records == [{"error": "Handshake was canceled."}]
            assert (await hand.poll()).status == 204

    async def test_a_queue_over_its_bound_cuts_it_and_the_client_comes_back(self) -> None:
        async with run_hub(HubLimits(outbox_bytes=20_000)) as server, by_hand(server) as hand:
            await hand.shake_hands_by_polls()
            await hand.say_hello_by_polls()
            sent = [server.send("phone", body="x" * 4_000).id for _ in range(10)]
            await server.until(connections=0)
            assert server.hub.stats().ended == {"slow_reader": 1}
            # One in flight, four behind it, and the one too many; those after it were not offered any more.
            await wait_until(lambda: _cut_ids(server) == set(sent[:6]))
            assert [(await hand.poll()).status for _ in range(2)] == [204, 404]

    async def test_a_drain_tells_those_that_poll_and_gives_up_those_that_do_not(self) -> None:
        limits = HubLimits(close_deadline_s=0.2)
        async with run_hub(limits) as server, by_hand(server) as polling, by_hand(server) as silent:
            await polling.shake_hands_by_polls()
            await silent.shake_hands_by_polls()
            waiting = await polling.begin_poll()
            await wait_for_poll(server)
            async with asyncio.timeout(4.0):
                await server.hub.drain(5.0)
            (close,) = (await waiting.reply()).records
            assert close["type"] == 7 and close["allowReconnect"] is True
            assert (await polling.poll()).status == 204
            assert server.hub.stats().connections == 0


class TestCredentials:
    async def test_every_poll_and_post_shows_its_token(self, hand: HubByHand) -> None:
        await hand.shake_hands_by_polls()
        for bad in ("", "Bearer wrong"):
            assert (await hand.poll(authorization=bad)).status == 401
            assert (await hand.post(b'{"type":6}\x1e', authorization=bad)).status == 401
        assert (await hand.poll(authorization="Bearer bob")).status == 403
        assert (await hand.post(b'{"type":6}\x1e', authorization="Bearer bob")).status == 403

    async def test_a_token_bound_to_another_app_is_refused(self, server: HubServer, hand: HubByHand) -> None:
        await hand.shake_hands_by_polls()
        principal = server.backend.principals["alice"]
        server.backend.principals["other app"] = replace(principal, app_id=ALICE, token_id="t-2")
        assert (await hand.poll(authorization="Bearer other app")).status == 403

    async def test_a_renewed_token_is_taken_over(self, server: HubServer, hand: HubByHand) -> None:
        await hand.shake_hands_by_polls()
        principal = server.backend.principals["alice"]
        later = principal.expires_at.replace(year=principal.expires_at.year + 1)
        server.backend.principals["newer"] = replace(principal, token_id="t-2", expires_at=later)
        hand.headers = {"authorization": "Bearer newer"}
        waiting = await hand.begin_poll()
        await wait_for_poll(server)
        server.hub.close_token("token-of-alice", "The old one.")
        server.send(title="the old one does not matter")
        assert titles(await waiting.reply()) == ["the old one does not matter"]
        server.hub.close_token("t-2", "The new one.")
        assert (await hand.poll()).records == [{"type": 7, "error": "The new one."}]

    async def test_an_expired_token_ends_the_connection(self, server: HubServer, hand: HubByHand) -> None:
        principal = server.backend.principals["alice"]
        soon = principal.expires_at.now(principal.expires_at.tzinfo).timestamp() + 0.4
        expires_at = principal.expires_at.fromtimestamp(soon, principal.expires_at.tzinfo)
        server.backend.principals["alice"] = replace(principal, expires_at=expires_at)
        await hand.shake_hands_by_polls()
        (close,) = (await hand.poll()).records
        assert close["error"] == "The access token has expired." and close["allowReconnect"] is True
        assert datetime.now(UTC) - expires_at < timedelta(seconds=1)

    async def test_a_token_that_ends_earlier_than_the_one_before_is_not_taken_over(
        self, server: HubServer, hand: HubByHand
    ) -> None:
        await hand.shake_hands_by_polls()
        principal = server.backend.principals["alice"]
        earlier = principal.expires_at - timedelta(minutes=30)
        server.backend.principals["shorter"] = replace(principal, token_id="t-2", expires_at=earlier)
        assert (await hand.post(b'{"type":6}\x1e', authorization="Bearer shorter")).status == 200
        waiting = await hand.line()
        waiting.begin("GET", hand.target, {"authorization": "Bearer shorter"})
        await wait_for_poll(server)
        server.hub.close_token("t-2", "The shorter one.")
        server.send(title="it does not matter")
        assert titles(await waiting.reply()) == ["it does not matter"]
        server.hub.close_token("token-of-alice", "The longer one.")
        assert (await hand.poll()).records == [{"type": 7, "error": "The longer one."}]


def _cut_ids(server: HubServer) -> set[object]:
    cuts = [notice for notice in server.backend.notices if notice[0] == "cut"]
    return {one for _, _, ids, _ in cuts for one in ids}  # type: ignore[attr-defined]


async def wait_for_poll(server: HubServer) -> None:
    """Let a poll that was written a moment ago reach the hub."""
    await asyncio.sleep(0.1)
