"""E-mail over a real mail server on loopback: connections, TLS, sign-in, and one outcome for each answer."""

import asyncio
import io
import logging
import socket
import ssl
from contextlib import asynccontextmanager

import pytest

from appliance.channels.email import IDLE_S, EmailChannel
from appliance.domain.outcome import Accepted, Misconfigured, Rejected, Retry, reason_of
from appliance.security.log_format import make_log_handler
from tests.doubles.certificates import Authority
from tests.doubles.hand_clock import HandClock
from tests.doubles.letters import mail_settings, make_letter
from tests.doubles.smtp_server import PASSWORD, run_smtp

TO = "anna@example.net"


@pytest.fixture
def clock():
    return HandClock()


@asynccontextmanager
async def channel_to(port, clock, *, tls=None, **settings):
    channel = EmailChannel(mail_settings(port, **settings), clock, tls)
    try:
        yield channel
    finally:
        await channel.close()


@pytest.fixture
async def plain(clock):
    """A mail server without TLS, and a channel to it."""
    async with run_smtp() as server, channel_to(server.port, clock) as channel:
        yield server, channel


async def _until(is_so):
    async with asyncio.timeout(5):
        for _ in range(2_000):
            if is_so():
                return
            await asyncio.sleep(0.002)
    raise AssertionError("It did not come to that.")


def letter(clock, number=1, **options):
    return make_letter(TO, clock.now(), number=number, **options)


async def test_mails_share_a_kept_connection(plain, clock):
    server, channel = plain
    for number in range(1, 4):
        assert await channel.deliver(letter(clock, number)) == Accepted(code="250")
    assert (len(server.mails), server.connections) == (3, 1)
    assert (server.mails[0].sender, server.mails[0].recipients) == ("carillon@example.org", (TO,))


async def test_many_at_once_use_four_connections_which_are_kept(plain, clock):
    server, channel = plain
    server.hold = asyncio.Event()
    sends = [asyncio.create_task(channel.deliver(letter(clock, number))) for number in range(1, 5)]
    await _until(lambda: server.open_connections == 4)
    server.hold.set()
    await asyncio.gather(*sends)
    for number in range(5, 9):
        await channel.deliver(letter(clock, number))
    assert (len(server.mails), server.connections) == (8, 4)


@pytest.mark.parametrize(("security", "is_tls"), [("starttls", False), ("tls", True)])
async def test_it_signs_in_over_tls_only(authority, trusting, clock, security, is_tls):
    async with (
        run_smtp(authority.server_tls("localhost"), is_tls=is_tls, signs_in=True) as server,
        channel_to(server.port, clock, tls=trusting(), security=security, signs_in=True) as channel,
    ):
        assert await channel.deliver(letter(clock)) == Accepted(code="250")
        diagnosis = await channel.probe()
    assert [(mail.is_tls, mail.is_signed_in) for mail in server.mails] == [(True, True)]
    assert diagnosis.works
    assert "accepts SMTP_USER" in diagnosis.detail


async def test_without_starttls_nothing_is_sent_and_no_password_leaves(clock, trusting):
    async with (
        run_smtp(signs_in=False) as server,
        channel_to(server.port, clock, tls=trusting(), security="starttls", signs_in=True) as channel,
    ):
        outcome = await channel.deliver(letter(clock))
    assert (type(outcome), outcome.code) == (Misconfigured, "no_starttls")
    assert (server.mails, server.commands) == ([], ["EHLO"])


@pytest.mark.parametrize(("security", "is_tls"), [("starttls", False), ("tls", True)])
async def test_a_certificate_that_is_not_trusted_is_told_in_plain_words(authority, tmp_path, clock, security, is_tls):
    foreign = Authority(tmp_path).trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    async with (
        run_smtp(authority.server_tls("localhost"), is_tls=is_tls, signs_in=True) as server,
        channel_to(server.port, clock, tls=foreign, security=security, signs_in=True) as channel,
    ):
        outcome = await channel.deliver(letter(clock))
        diagnosis = await channel.probe()
    assert (type(outcome), outcome.code) == (Misconfigured, "certificate")
    assert "SSL_CERT_FILE" in diagnosis.detail
    assert server.mails == []


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_a_certificate_for_another_name_is_refused(authority, trusting, clock, security):
    async with (
        run_smtp(authority.server_tls("other.example.org"), is_tls=security == "tls") as server,
        channel_to(server.port, clock, tls=trusting(), security=security) as channel,
    ):
        assert (await channel.deliver(letter(clock))).code == "certificate"


async def test_tls_on_a_port_that_speaks_none_is_told(plain, clock, trusting):
    server, _ = plain
    async with channel_to(server.port, clock, tls=trusting(), security="tls") as channel:
        outcome = await channel.deliver(letter(clock))
    assert (type(outcome), outcome.code) == (Misconfigured, "tls")
    assert "465" in outcome.reason


async def test_a_wrong_password_is_told_without_it_and_stands_nowhere(authority, trusting, clock):
    stream = io.StringIO()
    handler, root = make_log_handler(stream, as_json=True), logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        async with run_smtp(authority.server_tls("localhost"), signs_in=True) as server:
            server.password = "another-password"
            async with channel_to(server.port, clock, tls=trusting(), security="starttls", signs_in=True) as channel:
                outcome = await channel.deliver(letter(clock))
                diagnosis = await channel.probe()
                shown = repr([outcome, diagnosis, channel, channel.__dict__, letter(clock)])
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
    assert (type(outcome), outcome.code) == (Misconfigured, "535")
    assert not diagnosis.works
    assert PASSWORD not in shown
    # The library of the double logs what it is sent; ours must not.
    ours = [line for line in stream.getvalue().splitlines() if '"mail.log"' not in line]
    assert PASSWORD not in "".join(ours)


ANSWERS = [
    ("GREETING", "421 4.3.2 Too busy", Retry, "421"),
    ("GREETING", "450 4.7.1 Not now", Retry, "450"),
    ("GREETING", "554 5.7.1 No service for you", Misconfigured, "554"),
    ("GREETING", "drop", Retry, "unreachable"),
    ("EHLO", "drop", Retry, "unreachable"),
    ("MAIL", "421 4.4.2 Closing", Retry, "421"),
    ("MAIL", "451 4.3.0 Try later", Retry, "451"),
    ("MAIL", "452 4.3.1 Disk full", Retry, "452"),
    ("MAIL", "530 5.7.0 Authentication required", Misconfigured, "530"),
    ("MAIL", "550 5.7.1 Sender address is not yours", Misconfigured, "550"),
    ("MAIL", "552 5.3.4 Message too big", Rejected, "552"),
    ("MAIL", "553 5.7.1 Sender address rejected: not owned by user", Misconfigured, "553"),
    ("RCPT", "421 4.4.5 Too many", Retry, "421"),
    ("RCPT", "450 4.2.0 Greylisted", Retry, "450"),
    ("RCPT", "451 4.7.1 Greylisted", Retry, "451"),
    ("RCPT", "452 4.2.2 Mailbox full", Retry, "452"),
    ("RCPT", "550 5.1.1 User unknown", Rejected, "550"),
    ("RCPT", "551 5.1.6 User not local", Rejected, "551"),
    ("RCPT", "552 5.2.2 Mailbox full", Rejected, "552"),
    ("RCPT", "553 5.1.3 Bad mailbox name", Rejected, "553"),
    ("RCPT", "554 5.7.1 <anna@example.net>: Relay access denied", Misconfigured, "554"),
    ("DATA", "451 4.3.0 Try later", Retry, "451"),
    ("DATA", "554 5.5.1 No valid recipients", Rejected, "554"),
    ("CONTENT", "421 4.4.2 Closing", Retry, "421"),
    ("CONTENT", "451 4.3.0 Try later", Retry, "451"),
    ("CONTENT", "552 5.3.4 Too big", Rejected, "552"),
    ("CONTENT", "554 5.7.1 This looks like spam", Rejected, "554"),
    ("CONTENT", "drop", Retry, "answer_lost"),
]


@pytest.mark.parametrize(("stage", "answer", "kind", "code"), ANSWERS)
async def test_each_answer_has_its_outcome_and_the_next_mail_goes_out(plain, clock, stage, answer, kind, code):
    server, channel = plain
    server.script(stage, answer)
    outcome = await channel.deliver(letter(clock, 1))
    assert (type(outcome), outcome.code) == (kind, code)
    assert TO not in reason_of(outcome)
    assert await channel.deliver(letter(clock, 2)) == Accepted(code="250")


SECURE_ANSWERS = [
    ("STARTTLS", "454 4.7.0 TLS not available for now", Retry, "454"),
    ("STARTTLS", "502 5.5.1 Not implemented", Misconfigured, "502"),
    ("AUTH", "454 4.7.0 Temporary failure", Retry, "454"),
    ("AUTH", "432 4.7.12 A password transition is needed", Retry, "432"),
    ("AUTH", "534 5.7.9 Mechanism too weak", Misconfigured, "534"),
    ("AUTH", "535 5.7.8 Credentials invalid", Misconfigured, "535"),
    ("AUTH", "drop", Retry, "unreachable"),
]


@pytest.mark.parametrize(("stage", "answer", "kind", "code"), SECURE_ANSWERS)
async def test_each_answer_to_tls_and_sign_in_has_its_outcome(authority, trusting, clock, stage, answer, kind, code):
    async with run_smtp(authority.server_tls("localhost"), signs_in=True) as server:
        server.always(stage, answer)
        async with channel_to(server.port, clock, tls=trusting(), security="starttls", signs_in=True) as channel:
            outcome = await channel.deliver(letter(clock))
    assert (type(outcome), outcome.code) == (kind, code)
    assert server.mails == []


@pytest.mark.parametrize("answer", ["450 4.2.0 Greylisted", "452 4.2.2 Mailbox full"])
async def test_what_holds_one_recipient_back_says_nothing_of_the_server(plain, clock, answer):
    server, channel = plain
    server.script("RCPT", answer)
    assert (await channel.deliver(letter(clock))).is_about_device
    server.script("MAIL", "451 4.3.0 Try later")
    assert not (await channel.deliver(letter(clock))).is_about_device


@pytest.mark.parametrize("stage", ["GREETING", "EHLO", "MAIL", "RCPT", "DATA", "CONTENT"])
async def test_a_server_that_hangs_is_left_at_the_deadline_and_its_connection_is_not_used_again(plain, clock, stage):
    server, channel = plain
    server.script(stage, "hang")
    outcome = await channel.deliver(letter(clock, 1, timeout_s=0.2))
    assert (type(outcome), outcome.code) == (Retry, "timeout")
    assert await channel.deliver(letter(clock, 2)) == Accepted(code="250")
    assert server.connections == 2


async def test_a_kept_connection_that_the_server_has_closed_is_replaced_within_the_same_try(plain, clock):
    server, channel = plain
    await channel.deliver(letter(clock, 1))
    server.drop_connections()
    assert await channel.deliver(letter(clock, 2)) == Accepted(code="250")
    assert (len(server.mails), server.connections) == (2, 2)


@pytest.mark.parametrize("answer", ["421 4.4.2 Idle too long", "drop"])
async def test_a_kept_connection_that_fails_at_its_next_mail_is_replaced_once(plain, clock, answer):
    server, channel = plain
    await channel.deliver(letter(clock, 1))
    server.script("MAIL", answer)
    assert await channel.deliver(letter(clock, 2)) == Accepted(code="250")
    assert server.connections == 2
    server.script("MAIL", answer, answer)
    outcome = await channel.deliver(letter(clock, 3))
    assert isinstance(outcome, Retry)
    assert server.connections == 3


async def test_a_mail_whose_answer_was_lost_is_not_sent_again_by_itself(plain, clock):
    server, channel = plain
    server.script("CONTENT", "drop")
    outcome = await channel.deliver(letter(clock))
    assert (outcome.code, len(server.mails)) == ("answer_lost", 1)
    await channel.deliver(letter(clock))
    assert list(server.message_ids().values()) == [2]


async def test_a_connection_that_was_idle_for_long_is_not_used_again(plain, clock):
    server, channel = plain
    await channel.deliver(letter(clock, 1))
    clock.pass_s(IDLE_S + 1)
    await channel.deliver(letter(clock, 2))
    assert server.connections == 2


async def test_a_server_that_is_not_there_is_weather(clock):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        async with channel_to(port, clock) as channel:
            outcome = await channel.deliver(letter(clock))
            diagnosis = await channel.probe()
    assert (type(outcome), outcome.code) == (Retry, "unreachable")
    assert (diagnosis.works, str(port) in diagnosis.detail) == (False, True)


async def test_closing_takes_leave_of_the_server(plain, clock):
    server, channel = plain
    await channel.deliver(letter(clock))
    await channel.close()
    await _until(lambda: server.open_connections == 0)
