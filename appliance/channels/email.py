"""E-mail over SMTP: a few kept connections, credentials over TLS only, each answer mapped to one outcome.

A mailbox is never gone on one refusal: servers refuse for many reasons, and only a person can tell. What was sent again
after its answer was lost has the same Message-ID. Sources: RFC 5321, 3207, 4954, 3463.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from email.utils import parseaddr
from typing import Final

from aiosmtplib import SMTP, SMTPException, SMTPResponseException, SMTPServerDisconnected

from appliance.channels.contract import ChannelName, Diagnosis, Push
from appliance.channels.email_message import Sender, compose
from appliance.channels.email_outcome import (
    Closed,
    Stage,
    is_closing,
    of_certificate,
    of_lost_connection,
    of_refusal,
    of_unreachable,
    of_unsupported,
)
from appliance.domain.clock import Clock
from appliance.domain.device import AddressKind
from appliance.domain.outcome import Accepted, Outcome, Rejected, Retry, reason_of
from appliance.security.outbound import make_tls_context
from appliance.settings import Settings

SLOTS: Final = 4
"""Connections at once: each mail takes four round trips, so one connection is slow over a long way."""
IDLE_S: Final = 30.0
"""How long an unused connection is kept; many servers hang up after a minute or a few."""
PROBE_DEADLINE_S: Final = 15.0
QUIT_DEADLINE_S: Final = 2.0
_PORTS: Final = {"starttls": 587, "tls": 465, "none": 25}


class EmailChannel:
    """Sends letters through the mail server of the settings."""

    name = ChannelName.EMAIL
    address_kinds = frozenset({AddressKind.MAILBOX})
    slots = SLOTS
    has_one_lane = True

    def __init__(self, settings: Settings, clock: Clock, tls: ssl.SSLContext | None = None) -> None:
        name, address = parseaddr(settings.smtp_from)
        self._sender = Sender(address, name)
        self._settings = settings
        self._port = settings.smtp_port or _PORTS[settings.smtp_security]
        self._clock = clock
        # Loading the authorities is slow: once, not with each connection.
        self._tls = tls or make_tls_context()
        self._kept: list[tuple[SMTP, float]] = []

    def lane_of(self, push: Push) -> str:
        """One server, one lane."""
        return f"{self._settings.smtp_host}:{self._port}"

    async def deliver(self, push: Push) -> Outcome:
        """Write and send one letter. A kept connection that turns out dead before the mail is sent is replaced once."""
        if push.letter is None:
            raise ValueError("What goes to a mailbox needs a letter.")
        try:
            message = compose(push, push.letter, self._sender)
        except ValueError:
            return Rejected("The e-mail cannot be written in the form that mail servers take.", code="unwritable")
        try:
            async with asyncio.timeout(push.timeout_s):
                return await self._send(push.address.reveal(), message)
        except TimeoutError:
            return Retry("The mail server did not answer in time.", code="timeout")

    async def probe(self) -> Diagnosis:
        """Connect, greet and sign in as a mail would; nothing is sent."""
        server = f"The mail server {self._settings.smtp_host}:{self._port}"
        try:
            async with asyncio.timeout(PROBE_DEADLINE_S):
                connection = await self._connect()
        except Closed as closed:
            return Diagnosis(False, f"{server} cannot be used. {reason_of(closed.outcome)}")
        except TimeoutError:
            return Diagnosis(False, f"{server} did not answer within {PROBE_DEADLINE_S:.0f} s.")
        await _quit(connection)
        signed_in = " and accepts SMTP_USER" if self._settings.smtp_user else ""
        return Diagnosis(True, f"{server} answers{signed_in}.")

    async def close(self) -> None:
        """Take leave of the server on every kept connection, within two seconds."""
        kept, self._kept = self._kept, []
        await asyncio.gather(*(_quit(connection) for connection, _ in kept))

    async def _send(self, recipient: str, message: bytes) -> Outcome:
        try:
            connection = self._take_kept()
            if connection is not None:
                outcome = await self._begin(connection, recipient)
                if outcome is None:
                    return await self._finish(connection, message)
                if not is_closing(outcome):
                    return await self._keep_after(connection, outcome)
                connection.close()
            connection = await self._connect()
            outcome = await self._begin(connection, recipient)
            if outcome is None:
                return await self._finish(connection, message)
            return await self._keep_after(connection, outcome)
        except Closed as closed:
            return closed.outcome

    async def _begin(self, connection: SMTP, recipient: str) -> Outcome | None:
        """Tell the server of sender and recipient; None where it takes both."""
        stage = Stage.SENDER
        try:
            with _closing_on_cancel(connection):
                await connection.mail(self._sender.address)
                stage = Stage.RECIPIENT
                await connection.rcpt(recipient)
        except SMTPResponseException as refusal:
            return of_refusal(stage, refusal)
        except (SMTPException, OSError):
            connection.close()
            return of_lost_connection(is_sent=False)
        return None

    async def _finish(self, connection: SMTP, message: bytes) -> Outcome:
        """Hand over the mail itself. Whatever is not answered from here on may have been taken."""
        try:
            with _closing_on_cancel(connection):
                answer = await connection.data(message)
        except SMTPResponseException as refusal:
            return await self._keep_after(connection, of_refusal(Stage.CONTENT, refusal))
        except (SMTPException, OSError):
            connection.close()
            return of_lost_connection(is_sent=True)
        self._keep(connection)
        return Accepted(code=str(answer.code))

    async def _keep_after(self, connection: SMTP, outcome: Outcome) -> Outcome:
        """After a refusal the server still holds half a mail, which it is told to forget."""
        if not connection.is_connected or is_closing(outcome):
            connection.close()
            return outcome
        try:
            with _closing_on_cancel(connection):
                await connection.rset()
        except (SMTPException, OSError):
            connection.close()
        else:
            self._keep(connection)
        return outcome

    def _take_kept(self) -> SMTP | None:
        now = self._clock.monotonic()
        while self._kept:
            connection, kept_at = self._kept.pop()
            if connection.is_connected and now - kept_at <= IDLE_S:
                return connection
            connection.close()
        return None

    def _keep(self, connection: SMTP) -> None:
        if connection.is_connected and len(self._kept) < SLOTS:
            self._kept.append((connection, self._clock.monotonic()))
        else:
            connection.close()

    async def _connect(self) -> SMTP:
        """Open a connection that may send. Raises `Closed` with what stands in the way."""
        settings = self._settings
        connection = SMTP(
            hostname=settings.smtp_host,
            port=self._port,
            use_tls=settings.smtp_security == "tls",
            # Explicit at every step below: left to itself the library would go on in clear where TLS is not offered.
            start_tls=False,
            tls_context=self._tls,
            # Else the machine's own name is looked up, which may take long and tells the server what it need not know.
            local_hostname=self._sender.domain,
            timeout=None,
        )
        with _closing_on_cancel(connection):
            try:
                await self._greet(connection)
                if settings.smtp_security == "starttls":
                    await self._start_tls(connection)
                if settings.smtp_user:
                    await self._sign_in(connection)
            except ssl.SSLError as error:
                raise Closed(of_certificate(error)) from error
            except (SMTPServerDisconnected, OSError) as error:
                inner = error.__cause__
                outcome = of_certificate(inner) if isinstance(inner, ssl.SSLError) else of_unreachable()
                raise Closed(outcome) from error
            except SMTPException as error:
                raise Closed(of_unreachable()) from error
        return connection

    async def _greet(self, connection: SMTP) -> None:
        try:
            await connection.connect()
            await connection.ehlo()
        except SMTPResponseException as refusal:
            raise Closed(of_refusal(Stage.GREETING, refusal)) from refusal

    async def _start_tls(self, connection: SMTP) -> None:
        if not connection.supports_extension("starttls"):
            raise Closed(of_unsupported("starttls"))
        try:
            await connection.starttls()
            await connection.ehlo()
        except SMTPResponseException as refusal:
            raise Closed(of_refusal(Stage.TLS, refusal)) from refusal

    async def _sign_in(self, connection: SMTP) -> None:
        if not connection.supported_auth_methods:
            raise Closed(of_unsupported("auth"))
        try:
            await connection.login(self._settings.smtp_user, self._settings.smtp_password.reveal())
        except SMTPResponseException as refusal:
            raise Closed(of_refusal(Stage.SIGN_IN, refusal)) from None


@contextlib.contextmanager
def _closing_on_cancel(connection: SMTP) -> Iterator[None]:
    """Whoever gives up in the middle of a command leaves an answer behind that would be taken for the next one's."""
    try:
        yield
    except (asyncio.CancelledError, Closed, ssl.SSLError, OSError):
        connection.close()
        raise


async def _quit(connection: SMTP) -> None:
    with contextlib.suppress(SMTPException, OSError, TimeoutError):
        async with asyncio.timeout(QUIT_DEADLINE_S):
            await connection.quit()
    connection.close()
