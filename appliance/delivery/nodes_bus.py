"""The bus that carries frames between nodes: Redis or Valkey, by Litestar's channels backend.

Theory of operation
-------------------
One connection listens, another one publishes, one frame at a time. When either fails, both are given up and made anew
after a pause; the library's own repeating is switched off, so that nothing is lost in silence. What a connection lost
is not repeated either: whoever missed a frame notices by its number (`delivery.nodes_messages`). A connection on which
nothing arrives any more is found out by the user, who hears every frame of its own come back, and asks for another one.

Nobody ever waits for Redis: frames are taken from a bounded queue when they can leave.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Final
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from litestar.channels.backends.redis import RedisChannelsPubSubBackend
from redis.asyncio import Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from appliance.delivery.nodes_contract import BusUser
from appliance.domain.secret import Secret

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S: Final = 3.0
PUBLISH_TIMEOUT_S: Final = 3.0
CLOSE_TIMEOUT_S: Final = 2.0
LAST_WORDS_S: Final = 1.0
PAUSES_S: Final = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
"""Before each next try to connect, jittered; the last one again and again."""


class RedisBus:
    """The bus of one node over one Redis. `names` are the channels that all nodes of this installation share.

    Raises `ValueError` for a URL that cannot be understood; its text holds nothing of the URL.
    """

    def __init__(self, url: Secret, names: Sequence[str], random: Random) -> None:
        _check(url)
        self._url = url
        self._names = tuple(names)
        self._random = random
        self._awake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._reopening = asyncio.Event()

    def wake(self) -> None:
        """There is something to take."""
        self._awake.set()

    def reopen(self) -> None:
        """Give this connection up and make another one."""
        self._reopening.set()

    def stop(self) -> None:
        """End `run` when all that waits is published, or after a second."""
        self._stopping.set()
        self._awake.set()

    async def run(self, user: BusUser) -> None:
        """Keep a connection until `stop`; what goes wrong is logged and waited out."""
        failures = 0
        while not self._stopping.is_set():
            began_at = asyncio.get_running_loop().time()
            reason = await self._serve(user)
            user.closed(reason)
            if self._stopping.is_set():
                return
            if asyncio.get_running_loop().time() - began_at > PAUSES_S[-1]:
                failures = 0
            if failures in (0, len(PAUSES_S)):
                # Once when it begins, and once when it lasts.
                logger.warning("redis_out_of_reach", extra={"reason": reason})
            pause_s = PAUSES_S[min(failures, len(PAUSES_S) - 1)] * self._random.uniform(0.5, 1.0)
            failures += 1
            try:
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    async def _serve(self, user: BusUser) -> str:
        """Carry frames over one connection until it fails; gives why it ended."""
        self._reopening.clear()
        client = Redis.from_url(
            self._url.reveal(),
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=PUBLISH_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        backend = RedisChannelsPubSubBackend(redis=client, stream_sleep_no_subscriptions=1)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                with _closed_is_lost():
                    await backend.subscribe([*self._names, _name_of(user.id)])
            user.opened()
            return await self._carry(backend, user)
        except (RedisError, OSError, TimeoutError) as error:
            return type(error).__name__
        except Exception:
            logger.exception("nodes_bus_failed")
            return "internal_error"
        finally:
            await _close(backend, client)

    async def _carry(self, backend: RedisChannelsPubSubBackend, user: BusUser) -> str:
        listening = asyncio.create_task(listen(backend, user), name="nodes-listen")
        publishing = asyncio.create_task(self._publish(backend, user), name="nodes-publish")
        reopening = asyncio.create_task(_wait_for(self._reopening), name="nodes-reopen")
        stopping = asyncio.create_task(_wait_for(self._stopping), name="nodes-stop")
        tasks = {listening, publishing, reopening, stopping}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if stopping in done:
                await asyncio.wait({publishing}, timeout=LAST_WORDS_S)
            for task in done:
                task.result()
            return "stopped" if stopping in done else "silent"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _publish(self, backend: RedisChannelsPubSubBackend, user: BusUser) -> None:
        """Publish whatever there is; returns when there is nothing left and the node stops."""
        while True:
            self._awake.clear()
            while (outgoing := user.take()) is not None:
                names = self._names if outgoing.to is None else (_name_of(outgoing.to),)
                with _closed_is_lost():
                    async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                        await backend.publish(outgoing.data, names)
            if self._stopping.is_set():
                return
            await self._awake.wait()


def _check(url: Secret) -> None:
    """Refuse what no connection could be made of, or what would change how this speaks. Connects to nothing."""
    try:
        options = parse_qs(urlsplit(url.reveal()).query, keep_blank_values=True)
        parse_url(url.reveal())
    except ValueError:
        raise ValueError("REDIS_URL cannot be understood: give redis://, rediss:// or unix://.") from None
    if any(name != "db" and not name.startswith("ssl_") for name in options):
        raise ValueError("REDIS_URL may have the options db and ssl_… only.")
    try:
        pool = Redis.from_url(url.reveal()).connection_pool
        pool.connection_class(**pool.connection_kwargs)
    except Exception:
        raise ValueError("REDIS_URL has an option that cannot be understood.") from None


async def listen(backend: RedisChannelsPubSubBackend, user: BusUser) -> None:
    """Hand over what arrives until the connection is lost, which is an `OSError` or a `RedisError`."""
    events = backend.stream_events()
    while True:
        with _closed_is_lost():
            _, data = await anext(events)
        user.hear(data)


@contextmanager
def _closed_is_lost() -> Iterator[None]:
    """Call it a lost connection when the library writes to one that has been closed under it.

    Of that the event loop says `RuntimeError`, which the library does not translate.
    """
    try:
        yield
    except RuntimeError as error:
        raise ConnectionResetError("The connection was closed.") from error


async def _wait_for(event: asyncio.Event) -> None:
    await event.wait()


async def _close(backend: RedisChannelsPubSubBackend, client: Redis) -> None:
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await backend.on_shutdown()
            await client.aclose()
    except (RedisError, OSError, TimeoutError) as error:
        logger.debug("redis_not_closed", extra={"reason": type(error).__name__})


def _name_of(node: UUID) -> str:
    return f"carillon:node:{node.hex}"
