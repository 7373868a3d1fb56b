"""What is kept and for how long, and what a device that comes back is given of it — or told plainly that it is gone."""

from datetime import timedelta

import pytest

from appliance.delivery.housekeeping import Housekeeper
from appliance.domain.device import AddressKind, Platform
from appliance.domain.ladder import DeliveryState
from appliance.domain.notification import check_content
from appliance.domain.outcome import OutcomeKind
from appliance.storage.deliveries import AttemptRow, acknowledge_job, confirm_seen_job
from appliance.storage.replay import count_missed, load_missed
from appliance.storage.retention import delete_old_notifications_job
from appliance.storage.sending import Plan, Target, accept_job, withdraw_job

HUB_ONLY = Plan(frozenset(), timedelta(seconds=10))
RETENTION = timedelta(days=30)


@pytest.fixture
async def app(town):
    return await town.add_app()


@pytest.fixture
async def user(town, app):
    return await town.add_user(app)


@pytest.fixture
async def phone(town, user, app):
    return await town.add_device(user, app, AddressKind.FCM_TOKEN, Platform.ANDROID)


@pytest.fixture
def send(database, clock, app, user):
    async def sending(count=1, *, sender=None, **content):
        targets = [Target(user, check_content(title="T", body="B", **content))] * count
        job = accept_job(
            sender or app, targets, field="notifications", idempotency=None, now=clock.now(), plan=HUB_ONLY
        )
        return (await database.write(job)).notification_ids

    return sending


@pytest.fixture
def missed(database, clock, user, phone):
    async def loading(after, limit=100):
        return await load_missed(
            database,
            user_id=user,
            device_id=phone,
            after_sequence=after or 0,
            is_open_only=after is None,
            limit=limit,
            now=clock.now(),
        )

    return loading


def sequences(missed):
    return [row.sequence for row in missed.rows]


def attempt(clock):
    return AttemptRow(0, clock.now(), 5, OutcomeKind.CONFIRMED, "acknowledged", "The device has it.")


async def test_a_device_gets_what_came_after_its_cursor_in_order(send, missed):
    ids = await send(5)
    found = await missed(2)
    assert sequences(found) == [3, 4, 5]
    assert [row.id for row in found.rows] == list(ids[2:])
    assert (found.is_complete, found.reached) == (True, 5)


async def test_a_device_that_is_up_to_date_gets_nothing_and_keeps_its_cursor(send, missed):
    await send(3)
    found = await missed(3)
    assert (sequences(found), found.is_complete, found.reached) == ([], True, 3)


async def test_a_device_without_a_cursor_gets_what_is_open_for_it(database, clock, send, missed, phone):
    ids = await send(3)
    await database.write(acknowledge_job(phone, ids[1], attempt(clock), clock.now()))
    found = await missed(None)
    assert (sequences(found), found.is_complete, found.reached) == ([1, 3], True, 3)


async def test_more_than_a_page_holds_gives_the_oldest_first_and_says_how_far_it_reaches(send, missed):
    """The newest were once given and the older ones never: the client's next cursor claimed them all the same."""
    await send(5)
    first = await missed(0, limit=3)
    assert (sequences(first), first.is_complete, first.reached, first.has_more) == ([1, 2, 3], True, 3, True)
    second = await missed(first.reached, limit=3)
    assert (sequences(second), second.is_complete, second.reached, second.has_more) == ([4, 5], True, 5, False)


async def test_without_a_cursor_the_pages_go_on_with_what_is_open(database, clock, send, missed, phone):
    ids = await send(6)
    for number in (1, 3):
        await database.write(acknowledge_job(phone, ids[number], attempt(clock), clock.now()))
    page = await missed(None, limit=3)
    assert (sequences(page), page.is_complete, page.reached, page.has_more) == ([1, 3, 5], True, 5, True)


async def test_what_follows_is_counted_in_both_ways(database, clock, user, phone, send):
    ids = await send(6)
    await database.write(acknowledge_job(phone, ids[3], attempt(clock), clock.now()))
    counts = [
        await count_missed(
            database, user_id=user, device_id=phone, after_sequence=2, is_open_only=only, now=clock.now()
        )
        for only in (False, True)
    ]
    assert counts == [4, 3]


async def test_a_retired_device_and_a_stranger_s_are_given_no_history(town, database, clock, user, app, send, missed):
    await send(1)
    await database.write(lambda tx: tx.execute("UPDATE device SET retired_at = ?", (clock.now(),)))
    assert await missed(0) is None
    stranger = await town.add_user(app)
    await database.write(lambda tx: tx.execute('UPDATE device SET retired_at = NULL, "user" = ?', (stranger,)))
    assert await missed(0) is None


async def test_what_expired_or_was_withdrawn_is_not_shown_late(database, clock, app, send, missed):
    await send(ttl_s=60)
    (withdrawn,) = await send()
    await send()
    await database.write(withdraw_job(app, withdrawn, clock.now()))
    clock.pass_s(61)
    found = await missed(0)
    assert (sequences(found), found.is_complete, found.reached) == ([3], True, 3)


async def test_what_another_app_sent_does_not_reach_this_apps_device(town, database, clock, user, send, missed):
    other = await town.add_app()
    await database.write(
        lambda tx: tx.execute(
            'INSERT INTO enrolment (id, "user", app, created_at) VALUES (?, ?, ?, ?)',
            (f"{user}|{other}", user, other, clock.now()),
        )
    )
    await send()
    await send(sender=other)
    assert sequences(await missed(0)) == [1]


async def test_a_cursor_from_another_database_is_told_so_and_everything_comes(send, missed):
    await send(2)
    found = await missed(900)
    assert (sequences(found), found.is_complete, found.reached) == ([1, 2], False, 2)


async def test_a_cursor_shows_what_the_device_has_and_settles_it(database, town, clock, send, phone):
    await send(3)
    assert await database.write(confirm_seen_job(phone, 2, attempt(clock), clock.now(), 100)) == 2
    assert await town.count("delivery", "settled_at IS NULL") == 1
    assert await database.write(confirm_seen_job(phone, 2, attempt(clock), clock.now(), 100)) == 0


async def test_a_cursor_never_confirms_what_the_history_left_out(database, clock, app, send, phone):
    """Expired and withdrawn ones are passed over by the replay; the cursor behind them read as if they had been shown.

    A withdrawal leaves a delivery open that a channel holds at that moment.
    """
    await send(ttl_s=60)
    (withdrawn,) = await send()
    await database.write(lambda tx: tx.execute("UPDATE delivery SET state = ?", (DeliveryState.CLAIMED,)))
    await database.write(withdraw_job(app, withdrawn, clock.now()))
    await send()
    clock.pass_s(61)
    assert await database.write(confirm_seen_job(phone, 3, attempt(clock), clock.now(), 100)) == 1
    rows = await database.read(
        "SELECT n.sequence, d.state FROM delivery d JOIN notification n ON n.id = d.notification ORDER BY n.sequence"
    )
    assert [tuple(row) for row in rows] == [
        (1, DeliveryState.CLAIMED),
        (2, DeliveryState.CLAIMED),
        (3, DeliveryState.CONFIRMED),
    ]


async def test_a_cursor_beyond_everything_that_was_sent_settles_nothing(database, town, clock, send, phone):
    await send(2)
    assert await database.write(confirm_seen_job(phone, 900, attempt(clock), clock.now(), 100)) == 0
    assert await town.count("delivery", "settled_at IS NULL") == 2


# Retention


async def test_old_notifications_go_with_their_deliveries_and_attempts(database, town, clock, send, phone):
    ids = await send(3)
    await database.write(acknowledge_job(phone, ids[0], attempt(clock), clock.now()))
    clock.pass_s(RETENTION.total_seconds() + 86_401)
    (fresh,) = await send()
    assert await Housekeeper(database, clock, retention=RETENTION).tidy(clock.now()) == 3
    assert await database.read("SELECT COUNT(*) FROM attempt") == [(0,)]
    assert [str(row[0]) for row in await database.read("SELECT notification FROM delivery")] == [str(fresh)]
    assert await town.count("notification") == 1


async def test_a_cursor_before_the_oldest_that_is_kept_is_told_that_the_history_is_incomplete(
    database, clock, send, missed
):
    await send(3)
    clock.pass_s(RETENTION.total_seconds() + 86_401)
    await send(2)
    await Housekeeper(database, clock, retention=RETENTION).tidy(clock.now())
    assert [(await missed(after)).is_complete for after in (0, 2, 3, 4, 5)] == [False, False, True, True, True]
    assert sequences(await missed(0)) == [4, 5]


async def test_deleting_goes_in_pages_from_the_oldest_on(database, clock, send):
    await send(5)
    clock.pass_s(RETENTION.total_seconds() + 86_401)
    job = delete_old_notifications_job(clock.now() - RETENTION, 2)
    assert [await database.write(job) for _ in range(4)] == [2, 2, 1, 0]


async def test_what_can_still_be_delivered_is_kept_whatever_its_age(database, town, clock, send):
    await send(ttl_s=28 * 86_400)
    clock.pass_s(2 * 86_400)
    assert await Housekeeper(database, clock, retention=timedelta(days=1)).tidy(clock.now()) == 0
    assert await town.count("notification") == 1


async def test_tidying_again_changes_nothing(database, clock, send, missed):
    await send(2)
    clock.pass_s(RETENTION.total_seconds() + 86_401)
    housekeeper = Housekeeper(database, clock, retention=RETENTION)
    assert [await housekeeper.tidy(clock.now()) for _ in range(2)] == [2, 0]
    assert (await missed(2)).is_complete
