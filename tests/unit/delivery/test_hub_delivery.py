"""Offers on the hub and what devices answer."""

import asyncio
from datetime import timedelta
from uuid import UUID

from appliance.domain.principal import Principal, PrincipalKind, Role
from appliance.hub.backend import Hello
from appliance.storage.deliveries import load_next_due_at


def _principal(house, user_id):
    expires_at = house.clock.now() + timedelta(hours=1)
    return Principal(PrincipalKind.USER, user_id, None, Role.MEMBER, frozenset(), expires_at, "token")


async def test_a_live_device_is_offered_at_once_and_its_acknowledgement_confirms(house):
    app_id = await house.add_app()
    user_id = await house.add_user(app_id)
    device_id = await house.add_hub_device(user_id)
    house.hub.connect(device_id)

    notification_id = await house.send(app_id, user_id)
    await house.settle()
    assert [envelope.id for _, envelope in house.hub.offers] == [notification_id]
    assert await house.state(notification_id) == ["offered"]

    house.clock.pass_s(0.25)
    assert await house.backend.acknowledge(device_id, notification_id, None)
    story = await house.story(notification_id)
    assert story.state == "delivered"
    assert [(attempt.layer, attempt.outcome, attempt.latency_ms) for attempt in story.deliveries[0].attempts] == [
        ("hub", "confirmed", 250)
    ]


async def test_an_unanswered_offer_is_recorded_and_waits_for_the_device_to_come_back(house):
    app_id = await house.add_app()
    user_id = await house.add_user(app_id)
    device_id = await house.add_hub_device(user_id)
    house.hub.connect(device_id, window_s=4.0)

    notification_id = await house.send(app_id, user_id)
    await house.pass_s(5)
    story = await house.story(notification_id)
    assert story.deliveries[0].state == "queued"
    assert story.deliveries[0].attempts[0].code == "no_acknowledgement"
    assert "connect" in story.deliveries[0].explanation


async def test_a_late_acknowledgement_still_confirms(house):
    app_id = await house.add_app()
    user_id = await house.add_user(app_id)
    device_id = await house.add_hub_device(user_id)
    house.hub.connect(device_id)
    notification_id = await house.send(app_id, user_id)
    await house.pass_s(60)

    assert await house.backend.acknowledge(device_id, notification_id, None)
    assert await house.state(notification_id) == ["confirmed"]


async def test_acknowledging_twice_records_once(house):
    app_id = await house.add_app()
    user_id = await house.add_user(app_id)
    device_id = await house.add_hub_device(user_id)
    house.hub.connect(device_id)
    notification_id = await house.send(app_id, user_id)
    await house.settle()

    assert await house.backend.acknowledge(device_id, notification_id, None)
    assert await house.backend.acknowledge(device_id, notification_id, None)
    assert len((await house.story(notification_id)).deliveries[0].attempts) == 1


async def test_a_device_cannot_acknowledge_somebody_else_s_notification(house):
    app_id = await house.add_app()
    anna, bartek = await house.add_user(app_id), await house.add_user(app_id)
    anna_phone = await house.add_hub_device(anna)
    bartek_phone = await house.add_hub_device(bartek)
    house.hub.connect(anna_phone)
    notification_id = await house.send(app_id, anna)
    await house.settle()

    assert not await house.backend.acknowledge(bartek_phone, notification_id, None)
    assert await house.state(notification_id) == ["offered"]


async def test_a_lost_connection_passes_its_windows_at_once(house):
    app_id = await house.add_app()
    user_id = await house.add_user(app_id)
    device_id = await house.add_hub_device(user_id)
    house.hub.connect(device_id, window_s=10.0)
    notification_id = await house.send(app_id, user_id)
    await house.settle()

    house.backend.device_disconnected(user_id, device_id, "socket lost")
    await house.settle()
    story = await house.story(notification_id)
    assert story.deliveries[0].state == "queued"
    assert story.deliveries[0].attempts[0].code == "connection_lost"


async def test_a_client_that_cannot_acknowledge_is_done_when_its_socket_took_it(house):
    app_id = await house.add_app()
    user_id = await house.add_user(app_id)
    device_id = await house.add_hub_device(user_id)
    house.hub.connect(device_id, acknowledges=False)
    notification_id = await house.send(app_id, user_id)
    await house.settle()
    assert await house.state(notification_id) == ["offered"]
    await house.pass_s(5)
    assert await house.state(notification_id) == ["sent"]


async def test_a_cut_offer_to_a_client_that_cannot_acknowledge_is_not_taken_for_sent(house):
    """It was once settled as sent the moment it was offered, though the hub said later that it was never written."""
    app_id = await house.add_app()
    user_id = await house.add_user(app_id)
    device_id = await house.add_hub_device(user_id)
    house.hub.connect(device_id, acknowledges=False)
    notification_id = await house.send(app_id, user_id)
    await house.settle()
    house.backend.offer_cut(device_id, [notification_id], "slow_reader")
    await house.pass_s(60)
    story = await house.story(notification_id)
    assert story.deliveries[0].state == "queued"
    assert [attempt.code for attempt in story.deliveries[0].attempts] == ["slow_reader"]
    missed = await house.backend.load_missed(user_id, device_id, 0, 100, is_open_only=True)
    assert [n.envelope.id for n in missed.notifications] == [notification_id]


async def test_a_long_cursor_is_settled_in_pages_so_that_nobody_waits_for_it(house, monkeypatch):
    """A cursor over 30 000 open deliveries once held the writer for more than a second: everybody's sends waited."""
    monkeypatch.setattr("appliance.delivery.live.SEEN_PAGE", 3)
    app_id = await house.add_app()
    user_id = await house.add_user(app_id)
    device_id = await house.add_hub_device(user_id)
    ids = [await house.send(app_id, user_id, body=f"{number}") for number in range(10)]
    jobs = house.database.writer.jobs
    await house.backend.register_hello(_principal(house, user_id), Hello("phone", cursor=10, acknowledges=True))
    assert house.database.writer.jobs - jobs >= 4
    assert [await house.state(notification_id) for notification_id in ids] == [["confirmed"]] * 10
    assert device_id


async def test_acknowledging_what_was_withdrawn_is_recorded_once(house):
    app_id = await house.add_app()
    user_id = await house.add_user(app_id)
    device_id = await house.add_hub_device(user_id)
    house.hub.connect(device_id)
    notification_id = await house.send(app_id, user_id)
    await house.settle()
    await house.acceptor.withdraw(app_id, notification_id)
    for _ in range(5):
        assert await house.backend.acknowledge(device_id, notification_id, None)
    story = await house.story(notification_id)
    assert story.deliveries[0].state == "withdrawn"
    assert len(story.deliveries[0].attempts) == 1


async def test_a_schedule_whose_time_ran_out_while_the_server_was_down_is_never_shown(house):
    """A server that was off for three hours once showed a reminder of one minute, two hours late, to everybody."""
    app_id = await house.add_app()
    user_id = await house.add_user(app_id)
    house.hub.connect(await house.add_hub_device(user_id))
    late = await house.send(app_id, user_id, send_at=house.clock.now() + timedelta(hours=1), ttl_s=60)
    live_only = await house.send(app_id, user_id, send_at=house.clock.now() + timedelta(hours=1), ttl_s=0)
    await house.pass_s(3 * 3_600)
    assert (house.hub.offers, house.hub.plain_offers) == ([], [])
    assert [(await house.story(one)).state for one in (late, live_only)] == ["expired", "expired"]


async def test_a_live_only_schedule_is_offered_when_its_moment_comes(house):
    app_id = await house.add_app()
    user_id = await house.add_user(app_id)
    house.hub.connect(await house.add_hub_device(user_id))
    notification_id = await house.send(app_id, user_id, send_at=house.clock.now() + timedelta(hours=1), ttl_s=0)
    await house.pass_s(3_602)
    assert [envelope.id for _, envelope in house.hub.offers] == [notification_id]


async def test_live_only_expires_at_once_where_nobody_is_connected_and_after_the_window_where_nobody_answers(house):
    app_id = await house.add_app()
    user_id = await house.add_user(app_id)
    device_id = await house.add_hub_device(user_id)
    away = await house.send(app_id, user_id, ttl_s=0)
    await house.settle()
    assert await house.state(away) == ["expired"]

    house.hub.connect(device_id, window_s=4.0)
    silent = await house.send(app_id, user_id, ttl_s=0)
    await house.settle()
    assert await house.state(silent) == ["offered"]
    await house.pass_s(5)
    assert await house.state(silent) == ["expired"]


async def test_what_nobody_fetched_expires_with_its_time_to_live(house):
    app_id = await house.add_app()
    user_id = await house.add_user(app_id)
    device_id = await house.add_hub_device(user_id)
    notification_id = await house.send(app_id, user_id, ttl_s=60)
    await house.pass_s(59)
    assert await house.state(notification_id) == ["queued"]
    await house.pass_s(2)
    story = await house.story(notification_id)
    assert story.deliveries[0].state == "expired"
    missed = await house.backend.load_missed(user_id, device_id, 0, 100)
    assert (list(missed.notifications), missed.complete) == ([], True)


async def test_a_user_s_notifications_are_offered_in_the_order_of_their_numbers(house):
    app_id = await house.add_app()
    user_id = await house.add_user(app_id)
    house.hub.connect(await house.add_hub_device(user_id))
    await asyncio.gather(*(house.send(app_id, user_id, body=f"{number}") for number in range(300)))
    await house.settle()
    assert [envelope.sequence for _, envelope in house.hub.offers] == list(range(1, 301))


async def test_a_scheduled_send_gets_its_number_and_devices_when_it_is_released(house):
    app_id = await house.add_app()
    user_id = await house.add_user(app_id)
    later = await house.send(app_id, user_id, send_at=house.clock.now() + timedelta(hours=1))
    house.hub.connect(await house.add_hub_device(user_id))
    first = await house.send(app_id, user_id)
    await house.settle()
    assert (await house.story(later)).state == "scheduled"

    await house.pass_s(3_601)
    assert [(envelope.id, envelope.sequence) for _, envelope in house.hub.offers] == [(first, 1), (later, 2)]


async def test_a_withdrawn_schedule_is_never_released(house):
    app_id = await house.add_app()
    user_id = await house.add_user(app_id)
    later = await house.send(app_id, user_id, send_at=house.clock.now() + timedelta(hours=1))
    await house.acceptor.withdraw(app_id, later)
    house.hub.connect(await house.add_hub_device(user_id))
    await house.pass_s(7_200)
    assert house.hub.offers == []
    assert (await house.story(later)).state == "withdrawn"


async def test_a_withdrawal_stops_what_was_not_shown_and_counts_what_was(house):
    app_id = await house.add_app()
    user_id = await house.add_user(app_id)
    shown = await house.add_hub_device(user_id, "shown")
    away = await house.add_hub_device(user_id, "away")
    house.hub.connect(shown)
    notification_id = await house.send(app_id, user_id)
    await house.settle()
    await house.backend.acknowledge(shown, notification_id, None)

    withdrawal = await house.acceptor.withdraw(app_id, notification_id)
    assert (withdrawal.withdrawn, withdrawal.already_shown) == (1, 1)
    missed = await house.backend.load_missed(user_id, away, 0, 100)
    assert list(missed.notifications) == []


async def test_hello_with_a_cursor_settles_what_the_device_has_and_replays_the_rest_in_order(house):
    app_id = await house.add_app()
    user_id = await house.add_user(app_id)
    device_id = await house.add_hub_device(user_id)
    ids = [await house.send(app_id, user_id, body=f"{number}") for number in range(5)]
    await house.settle()

    hello = Hello(device_id="phone", cursor=2, acknowledges=True)
    assert (await house.backend.register_hello(_principal(house, user_id), hello)).device_id == device_id
    assert await house.state(ids[1]) == ["confirmed"]
    assert await house.state(ids[2]) == ["queued"]
    missed = await house.backend.load_missed(user_id, device_id, 2, 100)
    assert [n.envelope.id for n in missed.notifications] == ids[2:]
    assert (missed.complete, missed.cursor) == (True, 5)


async def test_the_cursor_after_a_page_of_a_long_history_confirms_that_page_and_nothing_else(house):
    """1500 were missed, the newest 1000 came, and the next Hello marked all 1500 as confirmed by the device."""
    app_id = await house.add_app()
    user_id = await house.add_user(app_id)
    device_id = await house.add_hub_device(user_id)
    ids = [await house.send(app_id, user_id, body=f"{number}") for number in range(5)]
    missed = await house.backend.load_missed(user_id, device_id, 0, 3)
    assert [n.envelope.id for n in missed.notifications] == ids[:3]
    assert (missed.complete, missed.cursor, missed.has_more) == (True, 3, True)
    assert await house.backend.count_missed(user_id, device_id, missed.cursor) == 2

    hello = Hello("phone", cursor=missed.cursor, acknowledges=True)
    await house.backend.register_hello(_principal(house, user_id), hello)
    states = [(await house.state(notification_id))[0] for notification_id in ids]
    assert states == ["confirmed"] * 3 + ["queued"] * 2


async def test_what_expired_before_the_replay_is_not_confirmed_by_the_cursor_that_follows(house):
    """The replay leaves an expired notification out; the next cursor lies behind it and once claimed it as shown."""
    app_id = await house.add_app()
    user_id = await house.add_user(app_id)
    device_id = await house.add_hub_device(user_id)
    lost = await house.send(app_id, user_id, ttl_s=60)
    await house.send(app_id, user_id)
    house.clock.pass_s(61)
    missed = await house.backend.load_missed(user_id, device_id, 0, 100)
    assert [n.envelope.sequence for n in missed.notifications] == [2]
    await house.backend.register_hello(_principal(house, user_id), Hello("phone", 2, acknowledges=True))
    await house.settle()
    assert await house.state(lost) == ["expired"]


async def test_a_cursor_from_another_life_of_the_database_is_told_that_history_is_incomplete(house):
    app_id = await house.add_app()
    user_id = await house.add_user(app_id)
    device_id = await house.add_hub_device(user_id)
    notification_id = await house.send(app_id, user_id)
    await house.backend.register_hello(_principal(house, user_id), Hello("phone", cursor=999, acknowledges=True))
    assert await house.state(notification_id) == ["queued"]
    missed = await house.backend.load_missed(user_id, device_id, 999, 100)
    assert [n.envelope.id for n in missed.notifications] == [notification_id]
    assert (missed.complete, missed.cursor) == (False, 1)


async def test_without_a_cursor_a_device_gets_what_is_still_open_for_it(house):
    app_id = await house.add_app()
    user_id = await house.add_user(app_id)
    device_id = await house.add_hub_device(user_id)
    done = await house.send(app_id, user_id)
    await house.backend.acknowledge(device_id, done, None)
    open_still = await house.send(app_id, user_id)
    missed = await house.backend.load_missed(user_id, device_id, 0, 100, is_open_only=True)
    assert [n.envelope.id for n in missed.notifications] == [open_still]


async def test_a_device_that_was_registered_later_can_acknowledge_what_it_was_replayed(house):
    app_id = await house.add_app()
    user_id = await house.add_user(app_id)
    notification_id = await house.send(app_id, user_id)
    device_id = await house.add_hub_device(user_id)
    missed = await house.backend.load_missed(user_id, device_id, 0, 100)
    assert [n.envelope.id for n in missed.notifications] == [notification_id]
    assert await house.backend.acknowledge(device_id, notification_id, None)
    assert await house.state(notification_id) == ["confirmed"]


async def test_a_newer_notification_with_the_same_collapse_key_replaces_what_was_not_shown_yet(house):
    app_id, other_app = await house.add_app(), await house.add_app()
    user_id = await house.add_user(app_id, other_app)
    shown = await house.add_hub_device(user_id, "shown")
    await house.add_hub_device(user_id, "away")
    house.hub.connect(shown)
    old = await house.send(app_id, user_id, collapse_key="score")
    foreign = await house.send(other_app, user_id, collapse_key="score")
    plain = await house.send(app_id, user_id)
    await house.settle()
    await house.backend.acknowledge(shown, old, None)
    new = await house.send(app_id, user_id, collapse_key="score")
    await house.settle()
    assert sorted(await house.state(old)) == ["confirmed", "suppressed"]
    told = {delivery.state: delivery.explanation for delivery in (await house.story(old)).deliveries}
    assert "newer notification" in told["suppressed"]
    for untouched in (foreign, plain, new):
        assert sorted(await house.state(untouched)) == ["offered", "queued"]
    away = await house.add_hub_device(user_id, "away")
    missed = await house.backend.load_missed(user_id, away, 0, 100)
    assert [n.envelope.id for n in missed.notifications] == [foreign, plain, new]
    assert await house.backend.count_missed(user_id, away, 0) == 3


async def test_what_is_handed_over_while_the_engine_reads_what_is_due_expires_on_time(house, monkeypatch):
    """The answer of the reads, older than the hand-over, once overwrote when the engine had to look next."""
    app_id = await house.add_app()
    user_id, other = await house.add_user(app_id), await house.add_user(app_id)
    await house.add_hub_device(user_id)
    await house.settle()
    sent: list[UUID] = []

    async def read_and_be_overtaken(database):
        seen = await load_next_due_at(database)
        if not sent:
            sent.append(await house.send(app_id, user_id, ttl_s=5))
        return seen

    monkeypatch.setattr("appliance.delivery.engine.load_next_due_at", read_and_be_overtaken)
    await house.settle()
    house.clock.pass_s(6)
    # Wakes the engine without asking it to look.
    await house.send(app_id, other)
    await asyncio.sleep(0.2)
    assert await house.state(sent[0]) == ["expired"]


async def test_an_offer_that_fails_neither_holds_up_the_others_nor_is_tried_for_ever(house, caplog):
    # The story: one notification that could not be encoded stopped the engine for a second, at each of its tries.
    app_id = await house.add_app()
    user_id = await house.add_user(app_id)
    device_id = await house.add_hub_device(user_id)
    house.hub.connect(device_id)
    house.hub.faulty_titles.add("Unwritable")
    await house.send(app_id, user_id, title="Unwritable")
    fine = await house.send(app_id, user_id, title="Fine")
    await house.settle()
    await house.pass_s(60)
    assert [envelope.id for _, envelope in house.hub.offers] == [fine]
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == ["engine_offer_failed"]


async def test_stored_data_that_no_layer_could_carry_counts_as_empty_and_hides_nothing_else(house):
    app_id = await house.add_app()
    user_id = await house.add_user(app_id)
    device_id = await house.add_hub_device(user_id)
    spoilt = await house.send(app_id, user_id, title="Spoilt")
    fine = await house.send(app_id, user_id, title="Fine")
    deep = '{"a":' + "[" * 970 + "]" * 970 + "}"
    await house.database.write(lambda tx: tx.execute("UPDATE notification SET data = ? WHERE id = ?", (deep, spoilt)))
    missed = await house.backend.load_missed(user_id, device_id, 0, 100)
    assert [(one.id, dict(one.envelope.data)) for one in missed.notifications] == [(spoilt, {}), (fine, {})]
