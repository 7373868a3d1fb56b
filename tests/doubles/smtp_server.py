"""A mail server on loopback: STARTTLS, TLS from the first byte, sign-in, and the ways in which mail servers fail.

It speaks the real protocol (aiosmtpd) and keeps what it took. `script` tells it how to answer next at a stage:

    double.script("RCPT", "450 4.2.0 Greylisted, come back later")
    double.script("CONTENT", "drop")     # takes the mail, and the connection breaks before the answer

Stages: GREETING EHLO STARTTLS AUTH MAIL RCPT DATA CONTENT RSET. Faults besides an answer: hang, drop.
"""

import asyncio
import email
import email.policy
import ssl
import warnings
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult

USER = "carillon@example.org"
PASSWORD = "smtp-password-0123456789"


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail that the server took."""

    sender: str
    recipients: tuple[str, ...]
    raw: bytes
    is_tls: bool
    is_signed_in: bool

    @property
    def message(self) -> EmailMessage:
        parsed = email.message_from_bytes(self.raw, policy=email.policy.default)
        assert isinstance(parsed, EmailMessage)
        return parsed

    def text(self, kind: str = "plain") -> str:
        part = self.message.get_body((kind,))
        assert part is not None
        return str(part.get_content()).replace("\r\n", "\n")


@dataclass(slots=True)
class SmtpDouble:
    """The running server: what it took, how often it was connected to, and what it does next."""

    port: int = 0
    mails: list[Mail] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    connections: int = 0
    open_connections: int = 0
    most_at_once: int = 0
    password: str = PASSWORD
    hold: asyncio.Event | None = None
    """While it is there and not set, mails are taken in but not answered."""
    on_mail: Callable[[Mail], None] | None = None
    _script: dict[str, deque[str]] = field(default_factory=lambda: defaultdict(deque))
    _always: dict[str, str] = field(default_factory=dict)
    _sessions: "set[_Session]" = field(default_factory=set)

    def script(self, stage: str, *answers: str) -> None:
        """Answer so the next times at this stage."""
        self._script[stage].extend(answers)

    def always(self, stage: str, answer: str | None) -> None:
        """Answer so each time at this stage, until told None."""
        if answer is None:
            self._always.pop(stage, None)
        else:
            self._always[stage] = answer

    def next_answer(self, stage: str) -> str | None:
        queue = self._script[stage]
        return queue.popleft() if queue else self._always.get(stage)

    def message_ids(self) -> Counter[str]:
        """Count what was taken by Message-ID."""
        return Counter(str(mail.message["Message-ID"]) for mail in self.mails)

    def drop_connections(self) -> None:
        """Cut every open connection."""
        for session in list(self._sessions):
            session.cut()


class _Handler:
    def __init__(self, double: SmtpDouble) -> None:
        self._double = double

    async def handle_DATA(self, server: "_Session", session: Any, envelope: Any) -> str:
        double = self._double
        mail = Mail(
            sender=envelope.mail_from,
            recipients=tuple(envelope.rcpt_tos),
            raw=bytes(envelope.original_content),
            is_tls=server.is_tls,
            is_signed_in=bool(session.authenticated),
        )
        answer = double.next_answer("CONTENT")
        if answer is None or answer == "drop":
            double.mails.append(mail)
            if double.on_mail is not None:
                double.on_mail(mail)
        if double.hold is not None:
            await double.hold.wait()
        if answer is not None:
            return await server.misbehave(answer) or "250 never seen"
        return f"250 2.0.0 queued as {len(double.mails)}"


class _Session(SMTP):
    def __init__(self, double: SmtpDouble, *, tls: ssl.SSLContext | None, is_tls: bool, signs_in: bool) -> None:
        self._double = double
        self._is_implicit_tls = is_tls
        self._is_greeted = False
        with warnings.catch_warnings():
            # Behind TLS from the first byte the library does not know that there is TLS.
            warnings.simplefilter("ignore")
            super().__init__(
                _Handler(double),
                hostname="mail.example.org",
                tls_context=None if is_tls else tls,
                require_starttls=tls is not None and not is_tls,
                auth_required=signs_in,
                auth_require_tls=not is_tls,
                authenticator=self._check_login,
                loop=asyncio.get_running_loop(),
            )

    @property
    def is_tls(self) -> bool:
        return self._is_implicit_tls or self._tls_protocol is not None

    def _check_login(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        is_known = data.login.decode() == USER and data.password.decode() == self._double.password
        # `handled=False`: the library is to answer.
        return AuthResult(success=is_known, handled=False)

    def connection_made(self, transport: Any) -> None:
        if self not in self._double._sessions:
            self._double._sessions.add(self)
            self._double.connections += 1
            self._double.open_connections += 1
            self._double.most_at_once = max(self._double.most_at_once, self._double.open_connections)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self in self._double._sessions:
            self._double._sessions.discard(self)
            self._double.open_connections -= 1
        super().connection_lost(error)

    def cut(self) -> None:
        if self.transport is not None:
            self.transport.close()

    async def push(self, status: Any) -> None:
        if not self._is_greeted:
            self._is_greeted = True
            answer = self._double.next_answer("GREETING")
            if answer is not None:
                if said := await self.misbehave(answer):
                    await super().push(said)
                    self.cut()
                return
        await super().push(status)
        if str(status).startswith("421"):
            self.cut()

    async def misbehave(self, answer: str) -> str | None:
        """Do what the script says; gives the answer to send, if it is one."""
        if answer == "hang":
            await asyncio.Event().wait()
        if answer == "drop":
            self.cut()
            return None
        return answer

    async def _does(self, stage: str) -> bool:
        self._double.commands.append(stage)
        answer = self._double.next_answer(stage)
        if answer is None:
            return False
        if said := await self.misbehave(answer):
            await self.push(said)
        return True

    async def smtp_EHLO(self, hostname: str) -> None:
        if not await self._does("EHLO"):
            await super().smtp_EHLO(hostname)

    async def smtp_STARTTLS(self, arg: str) -> None:
        if not await self._does("STARTTLS"):
            await super().smtp_STARTTLS(arg)

    async def smtp_AUTH(self, arg: str) -> None:
        if not await self._does("AUTH"):
            await super().smtp_AUTH(arg)

    async def smtp_MAIL(self, arg: str | None) -> None:
        if not await self._does("MAIL"):
            await super().smtp_MAIL(arg)

    async def smtp_RCPT(self, arg: str | None) -> None:
        if not await self._does("RCPT"):
            await super().smtp_RCPT(arg)

    async def smtp_DATA(self, arg: str) -> None:
        if not await self._does("DATA"):
            await super().smtp_DATA(arg)

    async def smtp_RSET(self, arg: str) -> None:
        if not await self._does("RSET"):
            await super().smtp_RSET(arg)


@asynccontextmanager
async def run_smtp(
    tls: ssl.SSLContext | None = None,
    *,
    is_tls: bool = False,
    signs_in: bool = False,
    port: int = 0,
    on_mail: Callable[[Mail], None] | None = None,
) -> AsyncIterator[SmtpDouble]:
    """Run a mail server on a free port of the loopback address until the block ends.

    With `tls` it offers STARTTLS and insists on it; with `is_tls` it speaks TLS from the first byte instead.
    """
    double = SmtpDouble(on_mail=on_mail)
    server = await asyncio.get_running_loop().create_server(
        lambda: _Session(double, tls=tls, is_tls=is_tls, signs_in=signs_in),
        "127.0.0.1",
        port,
        ssl=tls if is_tls else None,
    )
    double.port = server.sockets[0].getsockname()[1]
    try:
        yield double
    finally:
        server.close()
        double.drop_connections()
        await server.wait_closed()
