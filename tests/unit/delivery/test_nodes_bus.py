"""The bus over a real Redis: it connects, notices every kind of loss, and comes back by itself."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from uuid import uuid4

import pytest

from appliance.clock import SystemClock
from appliance.delivery import nodes_messages as said
from appliance.delivery.nodes import Nodes
from appliance.delivery.nodes_bus import RedisBus, listen
from appliance.domain.secret import Secret
from appliance.hub.messages import EncodedNotification
from tests.doubles.certificates import Authority
from tests.doubles.hub_backend import make_envelope
from tests.doubles.hub_stand_in import HubStandIn
from tests.doubles.redis import NoRedis, RedisServer

NAMES = ("carillon:test:1",)
PATIENCE_S = 20.0


class _Node(Nodes):
    """A node whose hub a test can look at."""

    @property
    def hub(self):
        return self._hub


async def until(holds):
    """Wait until it holds, with a deadline."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running_node(url, names=NAMES):
    async def look_up():
        pass

    hub = HubStandIn()
    nodes = _Node(RedisBus(Secret(url), names, Random(1)), hub, SystemClock(), look_up, Random(1))
    task = asyncio.create_task(nodes.run())
    try:
        yield nodes
    finally:
        nodes.stop()
        await asyncio.wait_for(task, 10)


@asynccontextmanager
async def running_nodes(url, count):
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(running_node(url)) for _ in range(count)]
        await until(lambda: all(one.is_up and one.others == count - 1 for one in nodes))
        yield nodes


def ask(node, sequence, user=None):
    return node.ask(EncodedNotification(make_envelope(user or uuid4(), sequence)), [uuid4()])


async def test_three_nodes_find_each_other_and_hear_each_other(redis):
    async with running_nodes(redis.url, 3) as nodes:
        user = uuid4()
        for number in range(1, 101):
            assert ask(nodes[0], number, user) > 0
        for other in nodes[1:]:
            await until(lambda other=other: len(other.hub.plain_offers) == 100)
            assert [envelope.sequence for _, envelope in other.hub.plain_offers] == list(range(1, 101))
        assert nodes[0].hub.plain_offers == []
        assert len(redis.list_channels()) == 4


async def test_a_node_that_stops_says_goodbye_and_leaves_nothing_behind(redis):
    async with running_node(redis.url) as stays:
        async with running_node(redis.url):
            await until(lambda: stays.others == 1)
        await until(lambda: stays.others == 0)
    assert redis.list_channels() == []


async def test_nobody_is_asked_while_redis_is_away_and_all_is_well_when_it_is_back(redis):
    async with running_nodes(redis.url, 2) as (here, there):
        resyncs = there.counters.resyncs
        redis.kill()
        await until(lambda: not here.is_up and not there.is_up)
        assert ask(here, 1) == 0
        redis.start()
        await until(lambda: here.is_up and there.is_up and here.others == there.others == 1)
        await until(lambda: there.counters.resyncs > resyncs)
        assert ask(here, 2) > 0
        await until(lambda: there.hub.plain_offers)
        assert [envelope.sequence for _, envelope in there.hub.plain_offers] == [2]


async def test_a_node_that_starts_while_redis_is_away_joins_when_it_comes(redis):
    redis.kill()
    async with running_node(redis.url) as node:
        assert ask(node, 1) == 0
        redis.start()
        await until(lambda: node.is_up)


async def test_subscriptions_that_are_cut_are_made_again_and_what_was_missed_is_looked_up(redis):
    async with running_nodes(redis.url, 2) as (here, there):
        await until(lambda: there.counters.resyncs > 0)
        resyncs = there.counters.resyncs
        assert redis.cut_connections() == 2
        await until(lambda: here.is_up and there.is_up and there.counters.resyncs > resyncs)
        await until(lambda: here.others == there.others == 1)
        ask(here, 1)
        await until(lambda: there.hub.plain_offers)


@pytest.mark.slow
async def test_a_redis_that_hangs_holds_nobody_up_and_is_given_up(redis):
    async with running_nodes(redis.url, 1) as (node,):
        redis.freeze()
        for number in range(1, 2_001):
            ask(node, number)
        await until(lambda: not node.is_up)
        redis.thaw()
        await until(lambda: node.is_up)


async def test_what_strangers_publish_is_counted_and_ignored(redis):
    async with running_nodes(redis.url, 1) as (node,):
        for data in (b"", b"hello", b"\x09" + b"x" * 100, b"\x01" + b"\xff" * 2_000):
            assert redis.publish(NAMES[0], data) == 1
        await until(lambda: node.counters.frames_unreadable == 4)
        assert node.is_up


async def test_while_the_secret_key_is_rotated_nodes_hear_each_other_once(redis):
    """A node with the new key speaks on the channel of the old one, too; who hears both must not offer twice."""
    async with (
        running_node(redis.url, ("carillon:test:2", "carillon:test:1")) as new,
        running_node(redis.url, ("carillon:test:2", "carillon:test:1")) as newer,
        running_node(redis.url, ("carillon:test:1",)) as old,
    ):
        await until(lambda: new.others == newer.others == old.others == 2)
        ask(new, 1)
        ask(old, 2)
        for other in (newer, old):
            await until(lambda other=other: other.hub.plain_offers)
        await until(lambda: len(newer.hub.plain_offers) == 2)
        await asyncio.sleep(0)
        assert [envelope.sequence for _, envelope in old.hub.plain_offers] == [1]
        assert [envelope.sequence for _, envelope in newer.hub.plain_offers] == [1, 2]


async def test_a_wrong_password_is_logged_without_it(redis, caplog):
    url = redis.url.replace("open-sesame", "knock-knock")
    async with running_node(url) as node:
        await until(lambda: "redis_out_of_reach" in caplog.text)
        assert not node.is_up
    told = caplog.text + repr([record.__dict__ for record in caplog.records])
    assert "knock-knock" not in told and "AuthenticationError" in told


async def test_nodes_speak_over_tls_with_an_authority_of_ones_own(redis, tmp_path):
    authority = Authority(tmp_path)
    try:
        server = RedisServer(redis._program, certificate=authority.write_server_file("127.0.0.1"))
        server.start()
    except NoRedis as reason:
        pytest.skip(f"This Redis was built without TLS. {reason}")
    try:
        async with running_nodes(f"{server.url}?ssl_ca_certs={authority.write_certificate()}", 2) as (here, there):
            ask(here, 1)
            await until(lambda: there.hub.plain_offers)
        async with running_node(server.url) as stranger:
            await asyncio.sleep(0.5)
            assert not stranger.is_up, "a certificate of an unknown authority must not be trusted"
    finally:
        server.remove()


@pytest.mark.parametrize(
    "url",
    [
        "http://me:secret@host",
        "redis://me:secret@host/0?foo=1",
        "redis://me:secret@host/0?socket_timeout=soon",
        "redis://me:secret@host/0?decode_responses=secret",
        "redis://me:secret@host/0?max_connections=1",
        "redis://me:secret@host/0?ssl_cert_reqs=required",
        "rediss://me:secret@host/0?ssl_cert_reqs=secret",
        "rediss://me:secret@host/0?ssl_secret=1",
    ],
)
async def test_a_url_that_cannot_be_understood_is_refused_without_being_shown(url):
    """One with an unknown option was let in, and ended everything that nodes do when they first connected."""
    with pytest.raises(ValueError) as refused:
        RedisBus(Secret(url), NAMES, Random(1))
    assert "secret" not in str(refused.value)
    assert str(refused.value).startswith("REDIS_URL ")


async def test_a_frame_of_the_next_version_is_not_for_this_one():
    frame = said.encode_frame(uuid4(), 1, [])
    assert said.decode_frame(frame).messages == []
    with pytest.raises(said.Unreadable):
        said.decode_frame(bytes([said.VERSION + 1]) + frame[1:])


async def test_a_transport_that_was_closed_under_the_library_is_a_lost_connection_like_any_other():
    """The story: of a killed Redis the event loop said RuntimeError, and it was logged as an internal error."""

    class ClosedUnder:
        def stream_events(self):
            return self

        def __aiter__(self):
            return self

        async def __anext__(self):
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

    with pytest.raises(ConnectionResetError):
        await listen(ClosedUnder(), None)  # type: ignore[arg-type]
