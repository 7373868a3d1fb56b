"""Receipts: told once for each status, signed, repeated for two days, and one app's webhook is no other's trouble."""

import asyncio
import base64
import hashlib
import hmac
import json
from contextlib import asynccontextmanager
from datetime import timedelta
from random import Random

import pytest

from appliance.delivery.app_keys import make_app_keys, make_sealed_webhook_secret, open_webhook_secret
from appliance.delivery.receipts import ReceiptSender
from appliance.domain.outcome import Accepted, Gone, Rejected
from appliance.domain.receipt import SECRETS_OVERLAP, TRIED_FOR, ReceiptState, next_receipt_try_at
from appliance.security.outbound import OutboundClient, OutboundRules
from appliance.storage.app_config import rotate_webhook_secret_job
from appliance.storage.receipts import list_receipts, replay_receipts_job
from appliance.storage.retention import delete_old_notifications_job
from tests.doubles.channel import ScriptedChannel
from tests.doubles.http_peer import plain_reply, run_http_peer

PATIENCE_S = 10


@pytest.fixture
async def hook():
    async with run_http_peer() as peer:
        yield peer


@asynccontextmanager
async def telling(house):
    """Run the sender of receipts beside the house's engine."""
    outbound = OutboundClient(OutboundRules(["127.0.0.1"]))
    sender = ReceiptSender(house.database, outbound, house.sealer, house.clock, Random(3))
    task = asyncio.create_task(sender.run())
    try:
        yield sender
    finally:
        sender.stop()
        await asyncio.wait_for(task, PATIENCE_S)
        await outbound.close()


async def add_hooked_app(house, url):
    app_id = await house.add_app()
    keys = make_app_keys(house.sealer)
    await house.database.write(
        lambda tx: tx.execute(
            "UPDATE app SET webhook_url = ?, webhook_secret_sealed = ? WHERE id = ?",
            (url, keys.webhook_secret_sealed, app_id),
        )
    )
    return app_id, open_webhook_secret(house.sealer, keys.webhook_secret_sealed)


async def until(condition, sender=None):
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            if sender is not None:
                sender.wake()
            await asyncio.sleep(0.01)


async def receipts_of(house, app_id, state=None):
    return await list_receipts(house.database, app_id, state=state, after=None, limit=100)


async def until_state(house, app_id, state, sender):
    async with asyncio.timeout(PATIENCE_S):
        while not await receipts_of(house, app_id, state):
            sender.wake()
            await asyncio.sleep(0.01)


async def until_nothing_is_due(house, sender):
    """Wait until every receipt is done, dead, or to be tried later."""
    sql = "SELECT COUNT(*) FROM receipt WHERE next_try_at <= ? OR state = ?"
    async with asyncio.timeout(PATIENCE_S):
        while (await house.database.read(sql, (house.clock.now(), ReceiptState.CLAIMED)))[0][0]:
            sender.wake()
            house.clock.pass_s(1)
            await asyncio.sleep(0.01)


async def until_answered(house, app_id, sender):
    """Wait until a try of the app's newest receipt was recorded, and give the receipt."""
    async with asyncio.timeout(PATIENCE_S):
        while not (rows := await receipts_of(house, app_id)) or rows[0].answer is None:
            sender.wake()
            await asyncio.sleep(0.01)
    return rows[0]


def url_of(peer, path="/hooks/push-receipts"):
    return f"http://127.0.0.1:{peer.port}{path}"


@pytest.mark.parametrize(
    ("outcome", "status", "error"),
    [
        (Accepted("p/1"), "delivered", None),
        (
            Gone("The provider says that the token is unregistered."),
            "invalid_token",
            "The provider says that the token",
        ),
        (Rejected("The payload is refused."), "failed", "The payload is refused."),
    ],
    ids=["accepted", "gone", "rejected"],
)
async def test_each_outcome_is_told_with_keymasters_fields_and_signature(open_house, hook, outcome, status, error):
    async with open_house(ScriptedChannel(outcome)) as house, house.running(), telling(house) as sender:
        app_id, secret = await add_hooked_app(house, url_of(hook))
        user_id = await house.add_user(app_id)
        device_id = await house.add_device(user_id, app_id, "token")
        notification_id = await house.send(app_id, user_id)
        await house.settle()
        await until(lambda: bool(hook.asked), sender)
        (asked,) = hook.asked
        body = json.loads(asked.body)
        assert (body["notification_id"], body["user_id"]) == (str(notification_id), str(user_id))
        assert (body["device_id"], body["app_id"], body["number"]) == (str(device_id), str(app_id), 1)
        assert body["status"] == status
        assert (body["error"] is None) if error is None else body["error"].startswith(error)
        assert set(body) == {
            "notification_id", "user_id", "device_id", "app_id", "status", "error", "timestamp", "number",
        }  # fmt: skip
        expected = hmac.new(secret.reveal().encode(), asked.body, hashlib.sha256).hexdigest()
        assert asked.headers["x-keymaster-signature"] == f"sha256={expected}"
        key = base64.b64decode(secret.reveal().removeprefix("whsec_"))
        signed = f"{asked.headers['webhook-id']}.{asked.headers['webhook-timestamp']}.".encode() + asked.body
        expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        assert asked.headers["webhook-signature"] == f"v1,{expected}"
        await until_state(house, app_id, ReceiptState.DONE, sender)


async def test_what_expires_is_told_as_failed_and_what_was_withdrawn_not_at_all(open_house, hook):
    async with open_house(ScriptedChannel()) as house, house.running(), telling(house) as sender:
        app_id, _ = await add_hooked_app(house, url_of(hook))
        user_id = await house.add_user(app_id)
        await house.add_hub_device(user_id)
        expiring = await house.send(app_id, user_id, ttl_s=60)
        withdrawn = await house.send(app_id, user_id, ttl_s=60)
        await house.acceptor.withdraw(app_id, withdrawn)
        await house.pass_s(61)
        await until(lambda: bool(hook.asked), sender)
        await house.settle()
        assert [json.loads(asked.body)["notification_id"] for asked in hook.asked] == [str(expiring)]
        assert json.loads(hook.asked[0].body)["status"] == "failed"
        assert "expired" in json.loads(hook.asked[0].body)["error"]


async def test_what_was_accepted_and_then_confirmed_is_told_once(open_house, hook):
    async with open_house(ScriptedChannel()) as house, house.running(), telling(house) as sender:
        app_id, _ = await add_hooked_app(house, url_of(hook))
        user_id = await house.add_user(app_id)
        device_id = await house.add_device(user_id, app_id, "token")
        notification_id = await house.send(app_id, user_id)
        await house.settle()
        await until(lambda: bool(hook.asked), sender)
        assert await house.backend.acknowledge(device_id, notification_id, None)
        again = await house.send(app_id, user_id)
        await house.settle()
        await until(lambda: len(hook.asked) == 2, sender)
        bodies = [json.loads(asked.body) for asked in hook.asked]
        assert [(body["notification_id"], body["number"]) for body in bodies] == [
            (str(notification_id), 1),
            (str(again), 2),
        ]


async def test_a_failing_webhook_gets_the_same_body_and_id_again_until_it_takes_it(open_house, hook):
    hook.answer = plain_reply(status=503, headers={"Retry-After": "60"})
    async with open_house(ScriptedChannel()) as house, house.running(), telling(house) as sender:
        app_id, _ = await add_hooked_app(house, url_of(hook))
        user_id = await house.add_user(app_id)
        await house.add_device(user_id, app_id, "token")
        await house.send(app_id, user_id)
        await house.settle()
        row = await until_answered(house, app_id, sender)
        assert len(hook.asked) == 1
        assert row.answer == "The webhook answered 503 instead of 2xx."
        assert row.next_try_at >= house.clock.now() + timedelta(seconds=59)
        hook.answer = plain_reply(status=204)
        house.clock.pass_s(61)
        await until_state(house, app_id, ReceiptState.DONE, sender)
        first, second = hook.asked
        assert first.body == second.body
        assert first.headers["webhook-id"] == second.headers["webhook-id"]


async def test_after_two_days_a_receipt_is_a_dead_letter_that_can_be_sent_again(open_house, hook):
    hook.answer = plain_reply(status=500)
    async with open_house(ScriptedChannel()) as house, house.running(), telling(house) as sender:
        app_id, _ = await add_hooked_app(house, url_of(hook))
        user_id = await house.add_user(app_id)
        await house.add_device(user_id, app_id, "token")
        await house.send(app_id, user_id)
        await house.settle()
        for _ in range(40):
            if await receipts_of(house, app_id, ReceiptState.DEAD):
                break
            await until_nothing_is_due(house, sender)
            house.clock.pass_s(4.9 * 3600)
        [dead] = await receipts_of(house, app_id, ReceiptState.DEAD)
        assert 8 <= dead.tries <= 20
        assert house.clock.now() >= dead.created_at + TRIED_FOR
        hook.answer = plain_reply(status=200)
        assert await house.database.write(replay_receipts_job(app_id, [dead.id], house.clock.now(), 10)) == 1
        house.clock.pass_s(300)
        await until_state(house, app_id, ReceiptState.DONE, sender)
        assert hook.asked[-1].body == hook.asked[0].body


async def test_a_webhook_that_hangs_does_not_hold_up_another_apps_receipts(open_house, hook):
    released = asyncio.Event()

    async def hang(asked, writer):
        await released.wait()

    async with (
        run_http_peer(hang) as sick,
        open_house(ScriptedChannel()) as house,
        house.running(),
        telling(house) as sender,
    ):
        sick_app, _ = await add_hooked_app(house, url_of(sick))
        well_app, _ = await add_hooked_app(house, url_of(hook))
        user_id = await house.add_user(sick_app, well_app)
        await house.add_device(user_id, sick_app, "one")
        await house.add_device(user_id, well_app, "two")
        for _ in range(100):
            await house.send(sick_app, user_id)
        await house.settle()
        await until(lambda: bool(sick.asked), sender)
        for _ in range(10):
            await house.send(well_app, user_id)
        await house.settle()
        await until(lambda: len(hook.asked) == 10, sender)
        assert len(sick.asked) == 1
        released.set()
        sick.drop_connections()


async def test_many_webhooks_that_hang_do_not_hold_up_another_apps_receipts(open_house, hook):
    async def hang(asked, writer):
        await asyncio.Event().wait()

    async with (
        run_http_peer(hang) as sick,
        open_house(ScriptedChannel()) as house,
        house.running(),
        telling(house) as sender,
    ):
        sick_apps = [(await add_hooked_app(house, url_of(sick)))[0] for _ in range(7)]
        well_app, _ = await add_hooked_app(house, url_of(hook))
        user_id = await house.add_user(*sick_apps, well_app)
        for number, app_id in enumerate([*sick_apps, well_app]):
            await house.add_device(user_id, app_id, f"token-{number}")
            house.clock.pass_s(3_600)
        for _ in range(6):
            for app_id in sick_apps:
                await house.send(app_id, user_id)
        await house.settle()
        await until(lambda: len(sick.asked) == 7, sender)
        await house.send(well_app, user_id)
        await house.settle()
        await until(lambda: len(hook.asked) == 1, sender)
        assert len(sick.asked) == 7
        sick.drop_connections()


async def test_receipts_that_nobody_takes_all_die_after_two_days(open_house, hook):
    hook.answer = plain_reply(status=500)
    async with open_house(ScriptedChannel()) as house, house.running(), telling(house) as sender:
        app_id, _ = await add_hooked_app(house, url_of(hook))
        user_id = await house.add_user(app_id)
        await house.add_device(user_id, app_id, "token")
        for _ in range(30):
            await house.send(app_id, user_id)
        await house.settle()
        for _ in range(10):
            for _ in range(20):
                sender.wake()
                await asyncio.sleep(0.005)
            house.clock.pass_s(6 * 3600)
        async with asyncio.timeout(PATIENCE_S):
            while len(dead := await receipts_of(house, app_id, ReceiptState.DEAD)) < 30:
                sender.wake()
                house.clock.pass_s(60)
                await asyncio.sleep(0.01)
        assert all(one.answer for one in dead)


async def test_a_far_retry_after_puts_a_receipt_off_and_does_not_kill_it(open_house, hook):
    hook.answer = plain_reply(status=503, headers={"Retry-After": str(7 * 24 * 3600)})
    async with open_house(ScriptedChannel()) as house, house.running(), telling(house) as sender:
        app_id, _ = await add_hooked_app(house, url_of(hook))
        user_id = await house.add_user(app_id)
        await house.add_device(user_id, app_id, "token")
        await house.send(app_id, user_id)
        await house.settle()
        row = await until_answered(house, app_id, sender)
        assert row.state is ReceiptState.PENDING
        assert row.next_try_at == row.tell_until


async def test_many_that_expire_at_once_are_told_with_numbers_in_a_row(open_house, hook):
    async with open_house(ScriptedChannel()) as house, house.running():
        one, _ = await add_hooked_app(house, url_of(hook))
        other, _ = await add_hooked_app(house, url_of(hook))
        silent = await house.add_app()
        user_id = await house.add_user(one, other, silent)
        await house.add_hub_device(user_id)
        for _ in range(7):
            for app_id in (one, other, silent):
                await house.send(app_id, user_id, ttl_s=60)
        await house.pass_s(61)
        for app_id, count in ((one, 7), (other, 7), (silent, 0)):
            rows = await receipts_of(house, app_id)
            assert sorted(row.number for row in rows) == list(range(1, count + 1))
            assert {row.status.name for row in rows} == ({"FAILED"} if count else set())


async def test_what_is_still_to_be_told_outlives_the_retention_of_its_notification(open_house, hook):
    async with open_house(ScriptedChannel()) as house, house.running():
        app_id, _ = await add_hooked_app(house, url_of(hook))
        user_id = await house.add_user(app_id)
        await house.add_device(user_id, app_id, "token")
        await house.send(app_id, user_id)
        await house.settle()
        house.clock.pass_s(36 * 3600)
        now = house.clock.now()
        assert await house.database.write(delete_old_notifications_job(now, 100)) == 0
        async with telling(house) as sender:
            await until_state(house, app_id, ReceiptState.DONE, sender)
        assert await house.database.write(delete_old_notifications_job(now, 100)) == 1
        assert await receipts_of(house, app_id) == []


async def test_while_secrets_overlap_either_one_verifies(open_house, hook):
    async with open_house(ScriptedChannel()) as house, house.running(), telling(house) as sender:
        app_id, old = await add_hooked_app(house, url_of(hook))
        user_id = await house.add_user(app_id)
        await house.add_device(user_id, app_id, "token")
        sealed = make_sealed_webhook_secret(house.sealer)
        new = open_webhook_secret(house.sealer, sealed)
        await house.database.write(
            rotate_webhook_secret_job(app_id, sealed, actor="", address="", now=house.clock.now())
        )
        for wanted in ([new, old], [new]):
            before = len(hook.asked)
            await house.send(app_id, user_id)
            await house.settle()
            await until(lambda before=before: len(hook.asked) > before, sender)
            asked = hook.asked[-1]
            signed = f"{asked.headers['webhook-id']}.{asked.headers['webhook-timestamp']}.".encode() + asked.body
            keys = [base64.b64decode(secret.reveal().removeprefix("whsec_")) for secret in wanted]
            signatures = [base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode() for key in keys]
            assert asked.headers["webhook-signature"].split() == [f"v1,{signature}" for signature in signatures]
            assert ("x-keymaster-signature-previous" in asked.headers) == (len(wanted) == 2)
            await house.pass_s((SECRETS_OVERLAP + timedelta(seconds=1)).total_seconds())


async def test_a_webhook_inside_the_house_is_not_contacted_unless_the_operator_allows_it(open_house, hook):
    async with open_house(ScriptedChannel()) as house, house.running():
        app_id, _ = await add_hooked_app(house, url_of(hook))
        user_id = await house.add_user(app_id)
        await house.add_device(user_id, app_id, "token")
        await house.send(app_id, user_id)
        await house.settle()
        outbound = OutboundClient(OutboundRules())
        sender = ReceiptSender(house.database, outbound, house.sealer, house.clock, Random(3))
        task = asyncio.create_task(sender.run())
        assert "OUTBOUND_ALLOW" in (await until_answered(house, app_id, sender)).answer
        assert hook.connections == 0
        sender.stop()
        await asyncio.wait_for(task, PATIENCE_S)
        await outbound.close()


async def test_a_stop_in_the_middle_gives_the_receipt_back_uncounted(open_house, hook):
    begun = asyncio.Event()

    async def hang(asked, writer):
        begun.set()
        await asyncio.Event().wait()

    hook.answer = hang
    async with open_house(ScriptedChannel()) as house, house.running():
        app_id, _ = await add_hooked_app(house, url_of(hook))
        user_id = await house.add_user(app_id)
        await house.add_device(user_id, app_id, "token")
        await house.send(app_id, user_id)
        await house.settle()
        async with telling(house) as sender:
            await until(begun.is_set, sender)
        [row] = await receipts_of(house, app_id)
        assert (row.state, row.tries) == (ReceiptState.PENDING, 0)
        hook.answer = plain_reply()
        async with telling(house) as sender:
            await until_state(house, app_id, ReceiptState.DONE, sender)


async def test_what_a_dead_process_had_claimed_is_told_after_its_lease(open_house, hook):
    async with open_house(ScriptedChannel()) as house, house.running():
        app_id, _ = await add_hooked_app(house, url_of(hook))
        user_id = await house.add_user(app_id)
        await house.add_device(user_id, app_id, "token")
        await house.send(app_id, user_id)
        await house.settle()
        now = house.clock.now()
        await house.database.write(
            lambda tx: tx.execute(
                "UPDATE receipt SET state = ?, lease_until = ?, next_try_at = ?",
                (ReceiptState.CLAIMED, now + timedelta(seconds=60), now + timedelta(seconds=60)),
            )
        )
        async with telling(house) as sender:
            await house.settle()
            assert not hook.asked
            house.clock.pass_s(61)
            await until_state(house, app_id, ReceiptState.DONE, sender)


def test_the_pauses_grow_to_hours_and_end_after_two_days(clock):
    now = created = clock.now()
    pauses = []
    for tries in range(1, 100):
        at = next_receipt_try_at(tries=tries, tell_until=created + TRIED_FOR, now=now, random=Random(tries))
        if at is None:
            break
        pauses.append((at - now).total_seconds())
        now = at
    assert 4 <= pauses[0] <= 6 and 24 <= pauses[1] <= 36
    assert all(11_000 <= pause <= 17_300 for pause in pauses[8:])
    assert 14 <= len(pauses) <= 24
