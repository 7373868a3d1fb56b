"""The inbox at rest: order, cursors, what is hidden, what is gone."""

from datetime import timedelta

import pytest

from appliance.domain.errors import NotFound
from appliance.storage.inbox import load_after, load_newest, mark_read_job
from appliance.storage.sending import Plan, Target, accept_job, withdraw_job

HUB_ONLY = Plan(frozenset(), timedelta(seconds=10))


@pytest.fixture
def send(database, clock, content):
    async def sending(app_id, user_id, send_at=None):
        job = accept_job(
            app_id,
            [Target(user_id, content, send_at)],
            field="user_id",
            idempotency=None,
            now=clock.now(),
            plan=HUB_ONLY,
        )
        return (await database.write(job)).notification_ids[0]

    return sending


async def test_pages_go_on_where_the_last_one_ended(database, town, send):
    app_id = await town.add_app()
    user_id = await town.add_user(app_id)
    ids = [await send(app_id, user_id) for _ in range(5)]
    first = await load_after(database, user_id, cursor=0, limit=3)
    second = await load_after(database, user_id, cursor=first.cursor, limit=3)
    assert [entry.id for entry in (*first.entries, *second.entries)] == ids
    assert (first.cursor, second.cursor, second.is_complete) == (3, 5, True)
    newest = await load_newest(database, user_id, before=None, limit=2)
    older = await load_newest(database, user_id, before=newest.entries[-1].sequence, limit=2)
    assert [entry.id for entry in (*newest.entries, *older.entries)] == ids[:0:-1]


async def test_a_scheduled_and_a_withdrawn_notification_are_not_in_the_inbox(database, town, clock, send):
    app_id = await town.add_app()
    user_id = await town.add_user(app_id)
    scheduled = await send(app_id, user_id, clock.now() + timedelta(hours=1))
    withdrawn = await send(app_id, user_id)
    await database.write(withdraw_job(app_id, withdrawn, clock.now()))
    assert (await load_newest(database, user_id, before=None, limit=10)).entries == []
    assert (await load_after(database, user_id, cursor=0, limit=10)).cursor == 1
    for hidden in (scheduled, withdrawn):
        with pytest.raises(NotFound):
            await database.write(mark_read_job(user_id, hidden, clock.now()))


async def test_a_cursor_from_before_what_was_kept_is_told_that_something_is_missing(database, town, send):
    app_id = await town.add_app()
    user_id = await town.add_user(app_id)
    for _ in range(4):
        await send(app_id, user_id)

    def forget(tx):
        tx.execute('DELETE FROM notification WHERE "user" = ? AND sequence <= 2', (user_id,))
        tx.execute("UPDATE account SET oldest_sequence = 3 WHERE id = ?", (user_id,))

    await database.write(forget)
    page = await load_after(database, user_id, cursor=1, limit=10)
    assert ([entry.sequence for entry in page.entries], page.is_complete) == ([3, 4], False)
    assert (await load_after(database, user_id, cursor=2, limit=10)).is_complete is True


async def test_a_cursor_from_the_future_is_answered_with_everything_and_called_incomplete(database, town, send):
    # The story: after the database was restored from a copy, clients came with cursors that it had never given out.
    # They were told "complete" with nothing, and missed all that was sent until the numbers had caught up.
    app_id = await town.add_app()
    user_id = await town.add_user(app_id)
    ids = [await send(app_id, user_id) for _ in range(3)]
    page = await load_after(database, user_id, cursor=500, limit=2)
    assert ([entry.id for entry in page.entries], page.cursor, page.is_complete) == (ids[:2], 2, False)
    rest = await load_after(database, user_id, cursor=page.cursor, limit=2)
    assert ([entry.id for entry in rest.entries], rest.cursor, rest.is_complete) == (ids[2:], 3, True)
    nobody_wrote = await town.add_user(app_id)
    empty = await load_after(database, nobody_wrote, cursor=500, limit=2)
    assert (empty.entries, empty.cursor, empty.is_complete) == ([], 0, False)


async def test_the_first_reading_counts(database, town, clock, send):
    app_id = await town.add_app()
    user_id, stranger = await town.add_user(app_id), await town.add_user(app_id)
    notification_id, at = await send(app_id, user_id), clock.now()
    await database.write(mark_read_job(user_id, notification_id, at))
    clock.pass_s(60)
    await database.write(mark_read_job(user_id, notification_id, clock.now()))
    assert (await load_newest(database, user_id, before=None, limit=1)).entries[0].read_at == at
    with pytest.raises(NotFound):
        await database.write(mark_read_job(stranger, notification_id, clock.now()))
