"""The transaction behind a 202: what it keeps, what it refuses, and who wins a race."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from appliance.domain.device import AddressKind, Platform
from appliance.domain.errors import (
    Forbidden,
    IdempotencyMismatch,
    InvalidTargets,
    NotEnrolled,
    NotFound,
    PushDisabled,
    QuotaExceeded,
)
from appliance.domain.identifier import make_id
from appliance.domain.notification import check_content
from appliance.storage.retention import delete_stale_job
from appliance.storage.sending import (
    IDEMPOTENCY_LIFETIME,
    Accepted,
    IdempotencyKey,
    Plan,
    Target,
    accept_job,
    release_job,
    withdraw_job,
)

HUB_ONLY = Plan(frozenset(), timedelta(seconds=10))
WITH_FCM = Plan(frozenset({AddressKind.FCM_TOKEN}), timedelta(seconds=10))


@pytest.fixture
def accept(database, clock, content):
    def accepting(app_id, *user_ids, key=None, body=b"body", field="user_id", plan=HUB_ONLY, send_at=None, of=content):
        targets = [Target(user_id, of, send_at) for user_id in user_ids]
        idempotency = None if key is None else IdempotencyKey(key, body)
        return database.write(
            accept_job(app_id, targets, field=field, idempotency=idempotency, now=clock.now(), plan=plan)
        )

    return accepting


async def test_all_parts_of_a_send_are_kept_in_one_commit(town, database, accept, clock):
    app = await town.add_app()
    user = await town.add_user(app)
    phone = await town.add_device(user, app, AddressKind.FCM_TOKEN, Platform.ANDROID)
    before = database.writer.groups
    accepted = await accept(app, user, key="k", plan=WITH_FCM)
    assert database.writer.groups == before + 1
    (released,) = accepted.released
    assert accepted.notification_ids == (released.id,)
    assert (released.user_id, released.sequence, released.released_at) == (user, 1, clock.now())
    assert [delivery.device_id for delivery in released.deliveries] == [phone]
    assert accepted.quota.remaining == 9_999
    assert await town.value("SELECT data FROM notification WHERE id = ?", released.id) == '{"order":7}'
    assert await town.count("delivery", "notification = ?", [released.id]) == 1
    assert await town.count("idempotency") == 1
    assert await town.value("SELECT used FROM quota_day WHERE app = ?", app) == 1


async def test_a_users_notifications_are_numbered_one_after_another_across_apps(town, accept):
    shop, bank = await town.add_app(), await town.add_app()
    user, other = await town.add_user(shop, bank), await town.add_user(shop)
    sent = await asyncio.gather(*(accept(app, user) for app in (shop, bank, shop)), accept(shop, other))
    assert [accepted.released[0].sequence for accepted in sent] == [1, 2, 3, 1]


async def test_a_bulk_send_numbers_each_of_its_users_by_themselves(town, accept):
    app = await town.add_app()
    users = [await town.add_user(app) for _ in range(3)]
    await accept(app, users[1])
    accepted = await accept(app, *users, field="user_ids")
    assert [released.sequence for released in accepted.released] == [1, 2, 1]
    assert len(set(accepted.notification_ids)) == 3


async def test_a_batch_that_names_a_user_twice_keeps_their_order(town, accept):
    app = await town.add_app()
    ada, ben = await town.add_user(app), await town.add_user(app)
    accepted = await accept(app, ada, ben, ada, ada, field="notifications")
    assert [(released.user_id, released.sequence) for released in accepted.released] == [
        *((ada, 1), (ben, 1), (ada, 2), (ada, 3))
    ]


async def test_devices_of_other_apps_and_retired_ones_get_nothing(town, database, accept, clock):
    shop, bank = await town.add_app(), await town.add_app()
    user = await town.add_user(shop, bank)
    mine = await town.add_device(user, shop, AddressKind.FCM_TOKEN, Platform.ANDROID)
    await town.add_device(user, bank, AddressKind.FCM_TOKEN, Platform.ANDROID)
    retired = await town.add_device(user, shop, AddressKind.FCM_TOKEN, Platform.ANDROID)
    await database.write(lambda tx: tx.execute("UPDATE device SET retired_at = ? WHERE id = ?", (clock.now(), retired)))
    (released,) = (await accept(shop, user)).released
    assert [delivery.device_id for delivery in released.deliveries] == [mine]


@pytest.mark.parametrize(("plan", "due_in_s"), [(WITH_FCM, 10), (HUB_ONLY, 24 * 3600)])
async def test_the_engine_looks_when_another_layer_could_take_over(town, accept, clock, plan, due_in_s):
    app = await town.add_app()
    user = await town.add_user(app)
    await town.add_device(user, app, AddressKind.FCM_TOKEN, Platform.ANDROID)
    await accept(app, user, plan=plan)
    due_at = clock.now() + timedelta(seconds=due_in_s)
    assert await town.count("delivery", "due_at = ?", [due_at]) == 1


# Refusals


async def test_a_user_who_is_not_enrolled_or_disabled_or_unknown_is_refused(town, accept, clock):
    app, other = await town.add_app(), await town.add_app()
    for user in (
        await town.add_user(other),
        await town.add_user(app, disabled_at=clock.now()),
        make_id(clock.now()),
    ):
        with pytest.raises(NotEnrolled):
            await accept(app, user)
    assert await town.count("notification") == 0
    assert await town.count("quota_day") == 0


async def test_an_app_that_is_disabled_or_gone_may_not_send(town, accept, clock):
    app = await town.add_app(disabled_at=clock.now())
    user = await town.add_user(app)
    for sender in (app, make_id(clock.now())):
        with pytest.raises(Forbidden):
            await accept(sender, user)


async def test_while_push_is_off_nothing_is_accepted(town, accept):
    app = await town.add_app(enabled=False)
    user = await town.add_user(app)
    with pytest.raises(PushDisabled):
        await accept(app, user, key="k")
    assert await town.count("idempotency") == 0


async def test_a_bulk_send_with_one_bad_user_sends_nothing_and_names_the_entries(town, accept):
    app = await town.add_app()
    good, bad = await town.add_user(app), await town.add_user()
    with pytest.raises(InvalidTargets) as refusal:
        await accept(app, good, bad, good, bad, field="notifications", key="k")
    assert refusal.value.indexes == (1, 3)
    assert refusal.value.field == "notifications"
    for table in ("notification", "delivery", "quota_day", "idempotency"):
        assert await town.count(table) == 0
    assert await town.value("SELECT last_sequence FROM account WHERE id = ?", good) == 0


# Idempotency


async def test_fifty_equal_requests_at_once_make_one_notification_and_get_one_reply(town, accept):
    app = await town.add_app()
    user = await town.add_user(app)
    await town.add_device(user, app, AddressKind.FCM_TOKEN, Platform.ANDROID)
    replies = await asyncio.gather(*(accept(app, user, key="order-7") for _ in range(50)))
    assert len({reply.notification_ids for reply in replies}) == 1
    assert sum(not reply.repeated for reply in replies) == 1
    assert sum(len(reply.released) for reply in replies) == 1
    assert await town.count("notification") == 1
    assert await town.count("delivery") == 1
    assert await town.value("SELECT used FROM quota_day WHERE app = ?", app) == 1


async def test_the_same_key_with_another_body_is_refused_and_changes_nothing(town, accept):
    app = await town.add_app()
    user = await town.add_user(app)
    first = await accept(app, user, key="k", body=b"one")
    with pytest.raises(IdempotencyMismatch):
        await accept(app, user, key="k", body=b"two")
    assert (await accept(app, user, key="k", body=b"one")).notification_ids == first.notification_ids
    assert await town.count("notification") == 1


async def test_the_same_key_of_two_apps_is_two_keys(town, accept):
    shop, bank = await town.add_app(), await town.add_app()
    user = await town.add_user(shop, bank)
    assert (await accept(shop, user, key="k")).notification_ids != (await accept(bank, user, key="k")).notification_ids


async def test_a_key_counts_for_a_day_and_is_new_afterwards(town, accept, clock):
    app = await town.add_app()
    user = await town.add_user(app)
    first = await accept(app, user, key="k", body=b"one")
    clock.pass_s(IDEMPOTENCY_LIFETIME.total_seconds() - 1)
    assert (await accept(app, user, key="k", body=b"one")).repeated
    clock.pass_s(1)
    second = await accept(app, user, key="k", body=b"two")
    assert not second.repeated
    assert second.notification_ids != first.notification_ids
    assert await town.count("idempotency") == 1
    assert (await accept(app, user, key="k", body=b"two")).notification_ids == second.notification_ids


async def test_a_repeated_request_gets_its_reply_after_push_was_switched_off_or_the_quota_used_up(
    town, database, accept
):
    app = await town.add_app(quota=1)
    user = await town.add_user(app)
    first = await accept(app, user, key="k")
    assert (await accept(app, user, key="k")).quota.remaining == 0
    await database.write(lambda tx: tx.execute("UPDATE app SET push_enabled = ? WHERE id = ?", (False, app)))
    again = await accept(app, user, key="k")
    assert again.notification_ids == first.notification_ids
    assert again.released == ()


async def test_a_refused_request_leaves_its_key_free(town, accept):
    app = await town.add_app(quota=0)
    user = await town.add_user(app)
    with pytest.raises(QuotaExceeded):
        await accept(app, user, key="k", body=b"one")
    assert await town.count("idempotency") == 0


async def test_a_bulk_reply_is_repeated_with_its_ids_in_order(town, accept):
    app = await town.add_app()
    users = [await town.add_user(app) for _ in range(20)]
    first = await accept(app, *users, key="k", field="user_ids")
    assert (await accept(app, *users, key="k", field="user_ids")).notification_ids == first.notification_ids


async def test_stale_keys_are_deleted_in_pages(town, database, accept, clock):
    app = await town.add_app()
    user = await town.add_user(app)
    for number in range(5):
        await accept(app, user, key=f"k{number}")
    clock.pass_s(IDEMPOTENCY_LIFETIME.total_seconds() + 1)
    assert [await database.write(delete_stale_job(clock.now(), 2)) for _ in range(4)] == [2, 2, 1, 0]
    assert await town.count("idempotency") == 0


# Quota


async def test_of_two_hundred_sends_at_once_with_five_left_exactly_five_go_through(town, accept):
    app = await town.add_app(quota=25)
    users = [await town.add_user(app) for _ in range(10)]
    await accept(app, *users, *users, field="notifications")
    results = await asyncio.gather(*(accept(app, users[number % 10]) for number in range(200)), return_exceptions=True)
    refusals = [result for result in results if isinstance(result, QuotaExceeded)]
    assert len(refusals) == 195
    assert len([result for result in results if isinstance(result, Accepted)]) == 5
    assert await town.count("notification") == 25
    assert await town.value("SELECT used FROM quota_day WHERE app = ?", app) == 25
    assert {(refusal.limit, refusal.used, refusal.asked) for refusal in refusals} == {(25, 25, 1)}


async def test_a_bulk_send_that_does_not_fit_uses_up_nothing(town, accept):
    app = await town.add_app(quota=5)
    users = [await town.add_user(app) for _ in range(6)]
    with pytest.raises(QuotaExceeded) as refusal:
        await accept(app, *users, field="user_ids")
    assert (refusal.value.used, refusal.value.asked) == (0, 6)
    assert (await accept(app, *users[:5], field="user_ids")).quota.remaining == 0
    with pytest.raises(QuotaExceeded):
        await accept(app, users[0])


async def test_the_quota_begins_anew_at_midnight_utc(town, accept, clock):
    clock.wall = datetime(2026, 3, 1, 23, 59, 58, 500_000, tzinfo=UTC)
    app = await town.add_app(quota=1)
    user = await town.add_user(app)
    await accept(app, user)
    with pytest.raises(QuotaExceeded) as refusal:
        await accept(app, user)
    assert refusal.value.retry_after_s == 2
    assert refusal.value.reset_at == datetime(2026, 3, 2, tzinfo=UTC)
    clock.pass_s(1.5)
    assert (await accept(app, user)).quota.remaining == 0
    assert await town.count("quota_day", "used = 1") == 2


async def test_a_quota_that_was_lowered_below_its_use_refuses_and_shows_nothing_left(town, database, accept):
    app = await town.add_app(quota=5)
    user = await town.add_user(app)
    for _ in range(3):
        await accept(app, user, key="k" * 3)
    await accept(app, user)
    await database.write(lambda tx: tx.execute("UPDATE app SET daily_quota = 1 WHERE id = ?", (app,)))
    with pytest.raises(QuotaExceeded):
        await accept(app, user)
    assert (await accept(app, user, key="k" * 3)).quota.remaining == 0


# Scheduled sends


async def test_a_scheduled_send_is_numbered_when_it_is_released(town, database, accept, clock):
    app = await town.add_app()
    user = await town.add_user(app)
    at = clock.now() + timedelta(hours=1)
    scheduled = await accept(app, user, send_at=at)
    assert scheduled.released == ()
    assert (await accept(app, user)).released[0].sequence == 1
    assert await database.write(release_job(clock.now(), HUB_ONLY, 10)) == ()
    clock.pass_s(3600)
    late = await town.add_device(user, app, AddressKind.FCM_TOKEN, Platform.ANDROID)
    (released,) = await database.write(release_job(clock.now(), HUB_ONLY, 10))
    assert (released.id, released.sequence) == (scheduled.notification_ids[0], 2)
    assert [delivery.device_id for delivery in released.deliveries] == [late]
    assert released.expires_at == at + timedelta(hours=24)
    assert await database.write(release_job(clock.now(), HUB_ONLY, 10)) == ()


async def test_what_may_not_be_sent_any_more_when_its_time_comes_is_withdrawn(town, database, accept, clock):
    app = await town.add_app()
    users = [await town.add_user(app) for _ in range(3)]
    at = clock.now() + timedelta(hours=1)
    await accept(app, *users, field="user_ids", send_at=at)
    await database.write(lambda tx: tx.execute('DELETE FROM enrolment WHERE "user" = ?', (users[0],)))
    await database.write(lambda tx: tx.execute("UPDATE account SET disabled_at = ? WHERE id = ?", (at, users[1])))
    clock.pass_s(3600)
    (released,) = await database.write(release_job(clock.now(), HUB_ONLY, 10))
    assert released.user_id == users[2]
    assert await town.count("notification", "withdrawn_at IS NOT NULL") == 2


async def test_a_scheduled_send_can_be_withdrawn_until_it_is_released(town, database, accept, clock):
    app, stranger = await town.add_app(), await town.add_app()
    user = await town.add_user(app)
    (scheduled,) = (await accept(app, user, send_at=clock.now() + timedelta(hours=1))).notification_ids
    with pytest.raises(NotFound):
        await database.write(withdraw_job(stranger, scheduled, clock.now()))
    await database.write(withdraw_job(app, scheduled, clock.now()))
    clock.pass_s(3600)
    assert await database.write(release_job(clock.now(), HUB_ONLY, 10)) == ()


# Text


async def test_any_text_that_was_let_in_comes_back_unchanged(town, database, accept):
    app = await town.add_app()
    user = await town.add_user(app)
    title, body = "Ünïcode 🔔 שלום %s ? $1", "'; DROP TABLE app; -- \\ \u2028 e\u0301"
    data = {"ключ": ["значение", {"n": 1.5, "nothing": None, "percent": "%(x)s ?"}]}
    await accept(app, user, of=check_content(title=title, body=body, data=data, collapse_key="?%s"))
    assert await database.read_one("SELECT title, body, collapse_key FROM notification") == (title, body, "?%s")
