"""Claiming mails where several nodes look at the same mailboxes."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta

from appliance.channels.contract import ChannelName
from appliance.domain.device import AddressKind
from appliance.domain.mailbox import MOST_MAILS, STORM_SPAN
from appliance.domain.notification import check_content
from appliance.domain.secret import Secret
from appliance.storage.database import open_database
from appliance.storage.deliveries import lapse_job
from appliance.storage.mail_claims import claim_mails_job, load_due_mails
from appliance.storage.sending import Plan, Target, accept_job
from tests.unit.storage.conftest import Town

LEASE = timedelta(seconds=60)
PLAN = Plan(frozenset({AddressKind.MAILBOX}), timedelta(seconds=10))


async def _look(database, now, room=4):
    due = await load_due_mails(database, now, 200)
    job = claim_mails_job(due, now, now + LEASE, room=room, channel=ChannelName.EMAIL)
    return await database.write(job)


async def _storm(database, clock, count):
    town = Town(database, clock)
    app_id = await town.add_app()
    user_id = await town.add_user(app_id)
    await database.write(
        lambda tx: tx.execute("UPDATE app SET notification_email = ? WHERE id = ?", ("office@example.net", app_id))
    )
    targets = [Target(user_id, check_content(title=f"Shift {number}", body="b")) for number in range(count)]
    job = accept_job(app_id, targets, field="notifications", idempotency=None, now=clock.now(), plan=PLAN)
    return await database.write(job)


async def test_three_nodes_begin_ten_mails_between_them_and_one_digest(tmp_path, clock, postgresql):
    url = Secret(postgresql.make_database())
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(open_database(tmp_path / str(n), url)) for n in range(3)]
        await _storm(nodes[0], clock, 40)
        claimed = []
        for _ in range(6):
            for claims in await asyncio.gather(*(_look(node, clock.now()) for node in nodes)):
                claimed += claims.claimed
        assert len(claimed) == MOST_MAILS
        assert len({one.id for one in claimed}) == MOST_MAILS
        clock.pass_s(STORM_SPAN.total_seconds())
        later = []
        for _ in range(2):
            for claims in await asyncio.gather(*(_look(node, clock.now()) for node in nodes)):
                later += claims.claimed
        assert [len(one.delivery_ids) for one in later] == [30]


async def test_a_mail_counts_once_however_often_it_is_tried(database, clock):
    await _storm(database, clock, 9)
    begun = (await _look(database, clock.now(), room=9)).claimed
    assert len(begun) == 9
    for _ in range(3):
        clock.pass_s(61)
        await database.write(lapse_job(clock.now()))
        again = (await _look(database, clock.now(), room=9)).claimed
        assert [one.id for one in again] == [one.id for one in begun]
    rows = await database.read("SELECT COUNT(*) FROM mail")
    assert rows[0][0] == 9


async def test_a_digest_whose_node_died_is_claimed_again_whole_and_under_the_same_id(database, clock):
    await _storm(database, clock, 15)
    for _ in range(4):
        await _look(database, clock.now(), room=9)
    clock.pass_s(STORM_SPAN.total_seconds())
    [digest] = (await _look(database, clock.now())).claimed
    assert len(digest.delivery_ids) == 5
    clock.pass_s(61)
    await database.write(lapse_job(clock.now()))
    claimed = (await _look(database, clock.now(), room=50)).claimed
    assert digest in claimed
