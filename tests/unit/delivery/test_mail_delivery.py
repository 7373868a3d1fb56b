"""E-mail in the ladder: by the app's policy, over a real mail server, retried and told like every other delivery."""

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from appliance.channels.email import EmailChannel
from appliance.delivery.app_keys import make_app_keys
from appliance.domain.mailbox import CONFIRM_GRACE, MOST_MAILS, STORM_SPAN, EmailPolicy
from appliance.domain.outcome import Accepted, Gone, Rejected, Retry
from appliance.domain.receipt import ReceiptStatus
from appliance.storage.mailboxes import mute_job
from appliance.storage.receipts import list_receipts
from tests.doubles.channel import ScriptedChannel
from tests.doubles.letters import mail_settings
from tests.doubles.smtp_server import run_smtp

OFFICE = "office@example.net"
ANNA = "Anna@Example.net"
PATIENCE_S = 10
SPAN_S = STORM_SPAN.total_seconds()


@pytest.fixture
async def server():
    async with run_smtp() as running:
        yield running


class MailHouse:
    """A house with a mail server, one app, one user, and what a test asks of them."""

    def __init__(self, house, server):
        self.house = house
        self.server = server
        self.clock = house.clock

    async def furnish(self, *, address=OFFICE, policy=EmailPolicy.ALWAYS, user_address=None, is_verified=True):
        self.app_id = await self.add_app(address=address, policy=policy)
        self.user_id = await self.house.add_user(self.app_id)
        if user_address is not None:
            verified_at = self.clock.now() if is_verified else None
            await self.execute(
                "UPDATE account SET email = ?, email_verified_at = ? WHERE id = ?",
                (user_address, verified_at, self.user_id),
            )

    async def add_app(self, *, address, policy=EmailPolicy.ALWAYS):
        app_id = await self.house.add_app()
        await self.execute(
            "UPDATE app SET notification_email = ?, email_policy = ? WHERE id = ?", (address, policy, app_id)
        )
        return app_id

    async def execute(self, sql, parameters):
        await self.house.database.write(lambda tx: tx.execute(sql, parameters))

    async def phone(self, token="token-1"):
        return await self.house.add_device(self.user_id, self.app_id, token)

    async def send(self, **options):
        return await self.house.send(self.app_id, self.user_id, **options)

    async def until_mails(self, count):
        await self.until(lambda: len(self.server.mails) >= count)

    async def until(self, is_so):
        async with asyncio.timeout(PATIENCE_S):
            while not is_so():
                self.house.engine.wake()
                await asyncio.sleep(0.005)

    async def mail_of(self, notification_id):
        [mail] = [one for one in (await self.house.story(notification_id)).deliveries if one.device_id is None]
        return mail

    async def until_mail_is(self, notification_id, state):
        async with asyncio.timeout(PATIENCE_S):
            while (await self.mail_of(notification_id)).state != state:
                self.house.engine.wake()
                await asyncio.sleep(0.005)

    def titles(self):
        return [str(mail.message["Subject"]) for mail in self.server.mails]


@pytest.fixture
def open_mail_house(open_house, clock, server):
    @asynccontextmanager
    async def opened(*channels):
        channel = EmailChannel(mail_settings(server.port), clock)
        try:
            async with open_house(channel, *channels) as house:
                yield MailHouse(house, server)
        finally:
            await channel.close()

    return opened


@pytest.fixture
async def mail_house(open_mail_house):
    async with open_mail_house() as opened, opened.house.running():
        yield opened


async def test_always_mails_the_app_s_address_though_the_user_has_no_device(mail_house):
    """OpenKSeF promised an e-mail whatever came of the pushes, and sent none to people without a phone."""
    await mail_house.furnish()
    notification_id = await mail_house.send(title="New invoice")
    await mail_house.until_mail_is(notification_id, "sent")
    [mail] = mail_house.server.mails
    assert mail.recipients == (OFFICE,)
    assert mail.message["Message-ID"] == f"<{notification_id}@example.org>"
    assert mail.message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    story = await mail_house.house.story(notification_id)
    assert story.state == "delivered"
    assert [(a.layer, a.channel, a.code) for a in story.deliveries[0].attempts] == [("e-mail", "email", "250")]
    assert story.deliveries[0].device_label == "e-mail"


async def test_always_mails_beside_a_push_that_was_accepted(open_mail_house):
    async with open_mail_house(ScriptedChannel(Accepted())) as rooms, rooms.house.running():
        await rooms.furnish()
        await rooms.phone()
        notification_id = await rooms.send()
        await rooms.until_mails(1)
        await rooms.until_mail_is(notification_id, "sent")
        assert await rooms.house.state(notification_id) == ["sent", "sent"]


@pytest.mark.parametrize(
    ("policy", "address", "user_address", "is_verified", "asked", "goes_to"),
    [
        (EmailPolicy.ALWAYS, OFFICE, ANNA, True, None, OFFICE),
        (EmailPolicy.ALWAYS, None, ANNA, True, None, None),
        (EmailPolicy.ALWAYS, None, ANNA, True, True, "Anna@example.net"),
        (EmailPolicy.ALWAYS, None, ANNA, False, True, None),
        (EmailPolicy.ALWAYS, None, None, True, True, None),
        (EmailPolicy.ALWAYS, OFFICE, None, True, False, None),
        (EmailPolicy.IF_UNCONFIRMED, OFFICE, ANNA, True, None, OFFICE),
        (EmailPolicy.IF_UNCONFIRMED, None, ANNA, True, None, "Anna@example.net"),
        (EmailPolicy.IF_UNCONFIRMED, None, ANNA, False, None, None),
        (EmailPolicy.IF_UNCONFIRMED, None, ANNA, True, False, None),
        (EmailPolicy.NEVER, OFFICE, ANNA, True, None, None),
        (EmailPolicy.NEVER, OFFICE, ANNA, True, True, OFFICE),
        (EmailPolicy.NEVER, None, "bad address", True, True, None),
    ],
)
async def test_who_is_mailed_hangs_on_policy_addresses_and_the_sender_s_word(
    mail_house, policy, address, user_address, is_verified, asked, goes_to
):
    await mail_house.furnish(policy=policy, address=address, user_address=user_address, is_verified=is_verified)
    notification_id = await mail_house.send(email=asked)
    if goes_to is None:
        assert (await mail_house.house.story(notification_id)).deliveries == []
    else:
        await mail_house.until_mail_is(notification_id, "sent")
        assert [mail.recipients for mail in mail_house.server.mails] == [(goes_to,)]


async def test_what_is_for_live_connections_only_is_not_mailed(mail_house):
    await mail_house.furnish()
    notification_id = await mail_house.send(ttl_s=0, email=True)
    assert (await mail_house.house.story(notification_id)).deliveries == []


async def test_without_a_mail_server_nothing_is_planned_for_mailboxes(open_house):
    async with open_house(ScriptedChannel()) as house, house.running():
        rooms = MailHouse(house, None)
        await rooms.furnish()
        notification_id = await rooms.send(email=True)
        assert (await house.story(notification_id)).deliveries == []


async def test_what_was_planned_before_the_mail_server_was_taken_out_waits_for_its_end(open_mail_house, open_house):
    async with open_mail_house() as rooms:
        await rooms.furnish()
        notification_id = await rooms.send(ttl_s=600)
    async with open_house() as house, house.running():
        await house.settle()
        story = await house.story(notification_id)
        assert story.deliveries[0].state == "queued"
        assert "not set up" in story.deliveries[0].explanation
        await house.pass_s(601)
        assert await house.state(notification_id) == ["expired"]


async def test_a_scheduled_notification_is_mailed_when_it_is_released_by_the_word_of_its_sender(mail_house):
    await mail_house.furnish(policy=EmailPolicy.NEVER)
    at = mail_house.clock.now() + timedelta(hours=1)
    asked = await mail_house.send(send_at=at, email=True, title="Asked")
    silent = await mail_house.send(send_at=at, title="Silent")
    await mail_house.house.pass_s(3_601)
    await mail_house.until_mail_is(asked, "sent")
    assert mail_house.titles() == ["Asked"]
    assert (await mail_house.house.story(silent)).deliveries == []


async def test_weather_is_retried_under_the_same_message_id(mail_house):
    await mail_house.furnish()
    mail_house.server.script("CONTENT", "451 4.3.0 Later", "drop")
    notification_id = await mail_house.send()
    await mail_house.until(lambda: mail_house.server.commands.count("DATA") == 1)
    await mail_house.house.settle()
    mail = await mail_house.mail_of(notification_id)
    assert (mail.state, mail.attempts[0].code) == ("queued", "451")
    for _ in range(3):
        await mail_house.house.pass_s(10)
    await mail_house.until_mail_is(notification_id, "sent")
    # The second try was taken and its answer lost: the third repeats it as itself.
    assert mail_house.server.message_ids() == {f"<{notification_id}@example.org>": 2}


async def test_a_refused_recipient_fails_the_delivery_and_the_next_notification_is_mailed_again(mail_house):
    await mail_house.furnish()
    mail_house.server.script("RCPT", "550 5.1.1 User unknown")
    refused = await mail_house.send()
    await mail_house.until_mail_is(refused, "failed")
    after = await mail_house.send()
    await mail_house.until_mail_is(after, "sent")


async def test_a_sick_mail_server_does_not_hold_up_pushes(open_mail_house):
    push = ScriptedChannel()
    async with open_mail_house(push) as rooms, rooms.house.running():
        await rooms.furnish()
        await rooms.phone()
        rooms.server.always("MAIL", "hang")
        for _ in range(12):
            await rooms.send()
        await rooms.until(lambda: len(push.pushes) == 12)
        assert rooms.server.mails == []


async def test_a_withdrawn_notification_is_not_mailed_any_more(mail_house):
    await mail_house.furnish()
    mail_house.server.script("MAIL", "451 4.3.0 Later")
    notification_id = await mail_house.send()
    await mail_house.until(lambda: "MAIL" in mail_house.server.commands)
    await mail_house.house.settle()
    await mail_house.house.acceptor.withdraw(mail_house.app_id, notification_id)
    await mail_house.house.pass_s(60)
    assert (await mail_house.mail_of(notification_id)).state == "withdrawn"
    assert mail_house.server.mails == []


async def test_what_is_withdrawn_while_it_is_tried_is_not_tried_again(mail_house):
    await mail_house.furnish()
    mail_house.server.hold = asyncio.Event()
    mail_house.server.script("CONTENT", "451 4.3.0 Later")
    notification_id = await mail_house.send()
    await mail_house.until_mail_is(notification_id, "claimed")
    await mail_house.until(lambda: "DATA" in mail_house.server.commands)
    await mail_house.house.acceptor.withdraw(mail_house.app_id, notification_id)
    mail_house.server.hold.set()
    await mail_house.until_mail_is(notification_id, "queued")
    await mail_house.house.pass_s(60)
    await mail_house.until_mail_is(notification_id, "withdrawn")
    assert mail_house.server.mails == []


async def test_the_webhook_is_told_of_a_mail_as_of_no_device(mail_house):
    await mail_house.furnish()
    keys = make_app_keys(mail_house.house.sealer)
    await mail_house.execute(
        "UPDATE app SET webhook_url = ?, webhook_secret_sealed = ? WHERE id = ?",
        ("https://hooks.example.org/", keys.webhook_secret_sealed, mail_house.app_id),
    )
    mail_house.server.script("RCPT", "550 5.1.1 User unknown")
    refused = await mail_house.send()
    await mail_house.until_mail_is(refused, "failed")
    taken = await mail_house.send()
    await mail_house.until_mail_is(taken, "sent")
    told = await list_receipts(mail_house.house.database, mail_house.app_id, state=None, after=None, limit=10)
    assert [(one.notification_id, one.device_id, one.status, one.error) for one in told] == [
        (taken, None, ReceiptStatus.DELIVERED, None),
        (refused, None, ReceiptStatus.FAILED, "The mail server refuses this recipient (550: 5.1.1 User unknown)."),
    ]


async def test_the_reader_s_language_is_that_of_the_newest_device(mail_house):
    await mail_house.furnish()
    await mail_house.phone()
    await mail_house.execute('UPDATE device SET locale = ? WHERE "user" = ?', ("pl-PL", mail_house.user_id))
    await mail_house.send()
    await mail_house.until_mails(1)
    assert mail_house.server.mails[0].message["Content-Language"] == "pl"


async def test_if_unconfirmed_is_not_mailed_when_a_device_has_it(open_mail_house):
    async with open_mail_house(ScriptedChannel(Accepted())) as rooms, rooms.house.running():
        await rooms.furnish(policy=EmailPolicy.IF_UNCONFIRMED)
        await rooms.phone()
        notification_id = await rooms.send()
        await rooms.house.pass_s(20)
        await rooms.until_mail_is(notification_id, "suppressed")
        await rooms.house.pass_s(CONFIRM_GRACE.total_seconds())
        story = await rooms.house.story(notification_id)
        assert rooms.server.mails == []
        assert story.state == "delivered"
        assert (await rooms.mail_of(notification_id)).explanation == "A device has it, so no e-mail was needed."


@pytest.mark.parametrize("outcome", [Rejected("too big"), Gone("FCM says UNREGISTERED.")])
async def test_if_unconfirmed_is_mailed_at_once_when_the_last_device_will_not_have_it(open_mail_house, outcome):
    async with open_mail_house(ScriptedChannel(outcome)) as rooms, rooms.house.running():
        await rooms.furnish(policy=EmailPolicy.IF_UNCONFIRMED)
        await rooms.phone()
        notification_id = await rooms.send()
        await rooms.until_mail_is(notification_id, "sent")


async def test_if_unconfirmed_is_mailed_when_the_grace_has_passed_and_not_before(open_mail_house):
    sick = ScriptedChannel(*[Retry("down", after=timedelta(hours=2))] * 9)
    async with open_mail_house(sick) as rooms, rooms.house.running():
        await rooms.furnish(policy=EmailPolicy.IF_UNCONFIRMED)
        await rooms.phone()
        notification_id = await rooms.send()
        assert (await rooms.mail_of(notification_id)).explanation == "It is mailed if no device gets it."
        for _ in range(29):
            await rooms.house.pass_s(10)
        assert rooms.server.mails == []
        await rooms.house.pass_s(11)
        await rooms.until_mail_is(notification_id, "sent")


async def test_if_unconfirmed_waits_for_the_other_devices_when_one_will_not_have_it(open_mail_house):
    channel = ScriptedChannel(Rejected("too big"), Retry("down", after=timedelta(seconds=30)), Accepted())
    async with open_mail_house(channel) as rooms, rooms.house.running():
        await rooms.furnish(policy=EmailPolicy.IF_UNCONFIRMED)
        await rooms.phone("token-1")
        await rooms.phone("token-2")
        notification_id = await rooms.send()
        for _ in range(13):
            await rooms.house.pass_s(10)
        await rooms.until_mail_is(notification_id, "suppressed")
        assert rooms.server.mails == []


async def _storm(rooms, count, first=1):
    return [await rooms.send(title=f"Shift {number}") for number in range(first, first + count)]


async def _until_gathered(rooms, notification_ids):
    for notification_id in notification_ids:
        async with asyncio.timeout(PATIENCE_S):
            while "next one tells" not in (await rooms.mail_of(notification_id)).explanation:
                rooms.house.engine.wake()
                await asyncio.sleep(0.005)


async def test_a_storm_is_ten_mails_and_one_digest_that_settles_all_the_others(mail_house):
    await mail_house.furnish()
    ids = await _storm(mail_house, 25)
    await mail_house.until_mails(MOST_MAILS)
    await _until_gathered(mail_house, ids[-15:])
    await mail_house.house.pass_s(SPAN_S - 5)
    assert len(mail_house.server.mails) == MOST_MAILS
    await mail_house.house.pass_s(6)
    await mail_house.until_mails(MOST_MAILS + 1)
    digest = mail_house.server.mails[-1]
    gathered = [one for one in ids if str(one) not in "".join(mail_house.server.message_ids())]
    assert digest.message["Subject"] == "15 notifications from App"
    assert len(gathered) == 15
    text = digest.text()
    positions = [text.index(f"Shift {ids.index(one) + 1}\n") for one in gathered]
    assert positions == sorted(positions)
    for notification_id in ids:
        await mail_house.until_mail_is(notification_id, "sent")
    last = await mail_house.mail_of(gathered[-1])
    assert last.attempts[0].reason == "The mail server accepted it, in one e-mail of 15."
    await mail_house.house.pass_s(SPAN_S)
    assert len(mail_house.server.mails) == MOST_MAILS + 1


async def test_what_comes_while_a_digest_is_gathered_joins_it(mail_house):
    await mail_house.furnish()
    ids = await _storm(mail_house, 12)
    await mail_house.until_mails(MOST_MAILS)
    await _until_gathered(mail_house, ids[-2:])
    await mail_house.house.pass_s(300)
    late = await _storm(mail_house, 3, first=13)
    await _until_gathered(mail_house, late)
    await mail_house.house.pass_s(301)
    await mail_house.until_mails(MOST_MAILS + 1)
    assert mail_house.titles()[-1] == "5 notifications from App"


async def test_a_digest_is_retried_as_itself_and_takes_up_no_others(mail_house):
    await mail_house.furnish()
    ids = await _storm(mail_house, 13)
    await mail_house.until_mails(MOST_MAILS)
    await _until_gathered(mail_house, ids[-3:])
    mail_house.server.script("CONTENT", "drop")
    await mail_house.house.pass_s(SPAN_S + 1)
    await mail_house.until_mails(MOST_MAILS + 1)
    await mail_house.house.settle()
    after = await mail_house.send(title="After")
    await mail_house.until_mail_is(after, "sent")
    await mail_house.house.pass_s(5)
    for notification_id in ids:
        await mail_house.until_mail_is(notification_id, "sent")
    digests = [mail for mail in mail_house.server.mails if "notifications" in str(mail.message["Subject"])]
    assert [str(mail.message["Subject"]) for mail in digests] == ["3 notifications from App"] * 2
    assert len({str(mail.message["Message-ID"]) for mail in digests}) == 1


async def test_a_restart_in_the_middle_of_a_storm_neither_forgets_nor_repeats(open_mail_house):
    async with open_mail_house() as rooms:
        async with rooms.house.running():
            await rooms.furnish()
            ids = await _storm(rooms, 15)
            await rooms.until_mails(MOST_MAILS)
            await _until_gathered(rooms, ids[-5:])
            await rooms.house.pass_s(200)
        app_id, user_id = rooms.app_id, rooms.user_id
    async with open_mail_house() as rooms:
        rooms.app_id, rooms.user_id = app_id, user_id
        await rooms.house.engine.recover()
        async with rooms.house.running():
            ids += await _storm(rooms, 2, first=16)
            await rooms.house.pass_s(SPAN_S - 210)
            assert len(rooms.server.mails) == MOST_MAILS
            await rooms.house.pass_s(11)
            await rooms.until_mails(MOST_MAILS + 1)
            for notification_id in ids:
                await rooms.until_mail_is(notification_id, "sent")
            assert rooms.titles()[-1] == "7 notifications from App"
            assert set(rooms.server.message_ids().values()) == {1}


async def test_a_storm_of_one_mailbox_is_not_that_of_another(mail_house):
    await mail_house.furnish()
    await _storm(mail_house, 12)
    await mail_house.until_mails(MOST_MAILS)
    other = await mail_house.add_app(address="other@example.net")
    user_id = await mail_house.house.add_user(other)
    notification_id = await mail_house.house.send(other, user_id)
    await mail_house.until_mail_is(notification_id, "sent")


async def test_two_apps_that_write_to_one_mailbox_share_its_measure_and_its_digest(mail_house):
    await mail_house.furnish()
    await _storm(mail_house, 10)
    await mail_house.until_mails(MOST_MAILS)
    other = await mail_house.add_app(address="office@EXAMPLE.net")
    await mail_house.execute("UPDATE app SET name = ? WHERE id = ?", ("Invoices", other))
    user_id = await mail_house.house.add_user(other)
    gathered = [await mail_house.house.send(other, user_id, title="Invoice"), await mail_house.send(title="Shift 11")]
    await _until_gathered(mail_house, gathered)
    await mail_house.house.pass_s(SPAN_S + 1)
    await mail_house.until_mails(MOST_MAILS + 1)
    text = mail_house.server.mails[-1].text()
    assert "Invoices and App" in text
    assert mail_house.titles()[-1] == "2 notifications"


async def test_what_is_withdrawn_or_expired_while_it_is_gathered_is_not_in_the_digest(mail_house):
    await mail_house.furnish()
    await _storm(mail_house, 10)
    await mail_house.until_mails(MOST_MAILS)
    kept = await mail_house.send(title="Kept")
    withdrawn = await mail_house.send(title="Withdrawn")
    expired = await mail_house.send(title="Expired", ttl_s=60)
    await _until_gathered(mail_house, [kept, withdrawn])
    await mail_house.house.acceptor.withdraw(mail_house.app_id, withdrawn)
    await mail_house.house.pass_s(61)
    await mail_house.house.pass_s(SPAN_S - 60)
    await mail_house.until_mail_is(kept, "sent")
    # What is left is one notification, which is mailed as itself.
    assert mail_house.server.mails[-1].message["Message-ID"] == f"<{kept}@example.org>"
    assert [(await mail_house.mail_of(one)).state for one in (withdrawn, expired)] == ["withdrawn", "expired"]


async def test_who_has_unsubscribed_gets_no_e_mail_of_that_app_and_the_timeline_says_so(mail_house):
    await mail_house.furnish()
    first = await mail_house.send()
    await mail_house.until_mail_is(first, "sent")
    url = str(mail_house.server.mails[0].message["List-Unsubscribe"]).strip("<>")
    unsubscription = mail_house.house.links.read(url.rpartition("/")[2])
    assert unsubscription.app_ids == (mail_house.app_id,)
    assert await mail_house.house.database.write(
        mute_job(unsubscription.mailbox_id, unsubscription.app_ids, mail_house.clock.now())
    )
    muted = await mail_house.send()
    await mail_house.until_mail_is(muted, "suppressed")
    assert "switched the app's e-mail off" in (await mail_house.mail_of(muted)).explanation
    other = await mail_house.add_app(address=OFFICE)
    user_id = await mail_house.house.add_user(other)
    await mail_house.until_mail_is(await mail_house.house.send(other, user_id), "sent")
    assert len(mail_house.server.mails) == 2
