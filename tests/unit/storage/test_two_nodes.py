"""Two nodes over one PostgreSQL: what is decided inside one commit stays decided when two commit at once."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta

import psycopg
import pytest

from appliance.domain.device import AddressKind, Platform
from appliance.domain.errors import QuotaExceeded, Unavailable
from appliance.domain.ladder import DeliveryState
from appliance.domain.outcome import OutcomeKind
from appliance.domain.secret import Secret
from appliance.storage.deliveries import AttemptRow, acknowledge_job
from appliance.storage.sending import Accepted, IdempotencyKey, Plan, Target, accept_job, release_job
from tests.unit.storage.conftest import Town

HUB_ONLY = Plan(frozenset(), timedelta(seconds=10))


@pytest.fixture(params=["postgresql"])
def database_url(request):
    return Secret(request.getfixturevalue("postgresql").make_database())


@pytest.fixture
async def nodes(open_again):
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(open_again()) for _ in range(2)]


@pytest.fixture
def town(nodes, clock):
    return Town(nodes[0], clock)


@pytest.fixture
def accept(clock, content):
    def accepting(node, app_id, *user_ids, key=None):
        targets = [Target(user_id, content) for user_id in user_ids]
        idempotency = None if key is None else IdempotencyKey(key, b"body")
        return node.write(
            accept_job(app_id, targets, field="user_id", idempotency=idempotency, now=clock.now(), plan=HUB_ONLY)
        )

    return accepting


async def test_equal_requests_to_two_nodes_make_one_notification(nodes, town, accept):
    app = await town.add_app()
    user = await town.add_user(app)
    for number in range(10):
        key = f"order-{number}"
        replies = await asyncio.gather(*(accept(node, app, user, key=key) for node in nodes for _ in range(10)))
        assert len({reply.notification_ids for reply in replies}) == 1
        assert sum(not reply.repeated for reply in replies) == 1
    assert await town.count("notification") == 10


async def test_the_quota_holds_over_two_nodes(nodes, town, accept):
    app = await town.add_app(quota=50)
    users = [await town.add_user(app) for _ in range(4)]
    sends = [accept(nodes[number % 2], app, users[number % 4]) for number in range(200)]
    results = await asyncio.gather(*sends, return_exceptions=True)
    assert len([result for result in results if isinstance(result, Accepted)]) == 50
    assert len([result for result in results if isinstance(result, QuotaExceeded)]) == 150
    assert await town.count("notification") == 50


async def test_two_nodes_number_one_users_notifications_without_a_gap_or_a_double(nodes, town, accept):
    app = await town.add_app()
    user = await town.add_user(app)
    sent = await asyncio.gather(*(accept(nodes[number % 2], app, user) for number in range(60)))
    assert sorted(accepted.released[0].sequence for accepted in sent) == list(range(1, 61))


async def test_whatever_is_committed_of_a_users_numbers_has_no_gap_below_it(nodes, town, accept):
    """Sessions rely on it: who was sent number n finds all below it in the database, whichever node accepted them."""
    app = await town.add_app(quota=150)
    user = await town.add_user(app)
    running = True

    async def watch(node):
        looks = 0
        while running:
            [(count, newest)] = await node.read(
                'SELECT COUNT(*), COALESCE(MAX(sequence), 0) FROM notification WHERE "user" = ?', (user,)
            )
            assert count == newest
            looks += 1
        return looks

    watching = [asyncio.create_task(watch(node)) for node in nodes]
    # The last fifty are refused, and must not take numbers with them.
    sends = [accept(nodes[number % 2], app, user) for number in range(200)]
    results = await asyncio.gather(*sends, return_exceptions=True)
    running = False
    assert all(looks > 0 for looks in await asyncio.gather(*watching))
    assert len([result for result in results if isinstance(result, Accepted)]) == 150
    assert await town.value("SELECT last_sequence FROM account WHERE id = ?", user) == 150


async def test_bulk_sends_that_meet_in_opposite_orders_all_end(nodes, town, accept):
    app = await town.add_app()
    users = [await town.add_user(app) for _ in range(20)]
    results = await asyncio.gather(
        *(accept(nodes[number % 2], app, *(users if number % 2 else reversed(users))) for number in range(20)),
        return_exceptions=True,
    )
    # PostgreSQL may end a deadlock by refusing one of the two, which is then told to repeat.
    assert {type(result) for result in results} <= {Accepted, Unavailable}
    accepted = [result for result in results if isinstance(result, Accepted)]
    assert await town.count("notification") == 20 * len(accepted)
    assert accepted


async def test_a_replayed_notification_acknowledged_at_two_nodes_at_once_makes_one_delivery(nodes, town, accept, clock):
    """A device that was registered after the send has no delivery yet; each node found none, and each made one."""
    app = await town.add_app()
    user = await town.add_user(app)
    sent = [(await accept(nodes[0], app, user)).notification_ids[0] for _ in range(20)]
    device = await town.add_device(user, app, AddressKind.FCM_TOKEN, Platform.ANDROID)
    attempt = AttemptRow(0, clock.now(), 5, OutcomeKind.CONFIRMED, "acknowledged", "The device has it.")
    for notification in sent:
        job = acknowledge_job(device, notification, attempt, clock.now())
        assert await asyncio.gather(*(node.write(job) for node in nodes)) == [True, True]
    assert await town.count("delivery", "state = ?", (DeliveryState.CONFIRMED,)) == 20
    assert await town.count("delivery") == 20


async def test_a_scheduled_send_is_released_by_one_node_only(nodes, town, clock, content):
    app = await town.add_app()
    user = await town.add_user(app)
    at = clock.now() + timedelta(hours=1)
    targets = [Target(user, content, at)] * 30
    await nodes[0].write(
        accept_job(app, targets, field="notifications", idempotency=None, now=clock.now(), plan=HUB_ONLY)
    )
    clock.pass_s(3600)
    released = await asyncio.gather(*(node.write(release_job(clock.now(), HUB_ONLY, 100)) for node in nodes))
    ids = [one.id for page in released for one in page]
    assert len(ids) == len(set(ids)) == 30
    assert await town.value("SELECT last_sequence FROM account WHERE id = ?", user) == 30


async def test_a_node_goes_on_after_the_server_has_cut_its_connections(nodes, town, accept, postgresql, database_url):
    app = await town.add_app()
    user = await town.add_user(app)
    assert postgresql.end_sessions(database_url.reveal()) > 0
    results = await asyncio.gather(accept(nodes[0], app, user), accept(nodes[1], app, user), return_exceptions=True)
    assert {type(result) for result in results} <= {Accepted, Unavailable}
    assert isinstance(await accept(nodes[0], app, user), Accepted)
    for _ in range(3):
        try:
            assert await nodes[0].read("SELECT COUNT(*) FROM app") == [(1,)]
            break
        except Unavailable:
            continue
    else:
        pytest.fail("The reader did not come back.")


async def test_while_the_server_is_down_everything_is_refused_and_afterwards_works_again(
    nodes, town, accept, postgresql
):
    app = await town.add_app()
    user = await town.add_user(app)
    postgresql.stop()
    try:
        with pytest.raises(Unavailable):
            await accept(nodes[0], app, user)
        with pytest.raises(Unavailable):
            await nodes[0].read("SELECT 1")
    finally:
        postgresql.start()
    assert isinstance(await accept(nodes[0], app, user), Accepted)
    assert await nodes[0].read("SELECT COUNT(*) FROM notification") == [(1,)]


async def test_a_server_that_does_not_sync_by_default_is_asked_to(open_again, database_url):
    with psycopg.connect(database_url.reveal(), autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET synchronous_commit = off")
    async with open_again() as node:
        assert await node.read("SELECT current_setting('synchronous_commit')") == [("off",)]
        assert await node.write(lambda tx: tx.fetch_one("SELECT current_setting('synchronous_commit')")) == ("on",)


async def test_two_nodes_that_serve_two_apps_at_once_refuse_nobody(nodes, town, accept):
    """Each group held the rows of all its jobs; two nodes with two apps waited for each other in circles all the time.

    A quarter of the sends was refused and one took six seconds: PostgreSQL looks for deadlocks after a second.
    """
    apps = [await town.add_app() for _ in range(2)]
    users = [await town.add_user(*apps) for _ in range(20)]

    async def caller(number):
        for turn in range(20):
            await accept(nodes[number % 2], apps[(number + turn) % 2], users[(number * 7 + turn) % 20])

    async with asyncio.timeout(20):
        await asyncio.gather(*(caller(number) for number in range(16)))
    assert await town.count("notification") == 320


async def test_a_job_that_meets_a_foreign_lock_in_a_circle_is_run_again(nodes, town, accept, database_url):
    """Somebody's own program beside Carillon may lock rows in any order; a deadlock is not the sender's business."""
    app = await town.add_app()
    users = [await town.add_user(app) for _ in range(2)]
    await accept(nodes[0], app, users[0])
    async with await psycopg.AsyncConnection.connect(database_url.reveal()) as foreign:
        await foreign.execute("UPDATE account SET email = NULL WHERE id = %s", (users[0],))
        sending = asyncio.create_task(accept(nodes[0], app, users[0]))
        await asyncio.sleep(0.2)
        # The send holds its app's quota row by now and waits for the user's; this closes the circle.
        closing = asyncio.create_task(foreign.execute("UPDATE quota_day SET used = used WHERE app = %s", (app,)))
        async with asyncio.timeout(15):
            try:
                await closing
                await foreign.commit()
            except psycopg.errors.DeadlockDetected:
                await foreign.rollback()
            await sending
    assert await town.count("notification") == 2
