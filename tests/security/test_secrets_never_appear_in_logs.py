"""A canary is planted wherever a secret can stand, and everything that comes out is searched for it.

Two lines of defence are held to it apart: our own errors and reprs do not carry the secret in the first place, and the
log masks it when somebody else's text does.
"""

import io
import logging
import string
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.domain.principal import Principal, PrincipalKind, Role
from appliance.domain.secret import Secret
from appliance.security.client_secrets import SecretHasher, SecretKind, webhook_signing_key
from appliance.security.log_format import make_log_handler
from appliance.security.outbound import OutboundClient, OutboundError, OutboundRules, check_url
from appliance.security.passwords import Argon2Cost, PasswordHasher, check_new_password
from appliance.security.redaction import register
from appliance.security.revocations import Revocations
from appliance.security.sealing import Sealer
from appliance.security.signing_keys import generate_signing_key, pack_signing_key, unpack_signing_key
from appliance.security.tickets import TicketOffice
from appliance.security.tokens import TokenIssuer
from tests.doubles.http_peer import plain_reply, run_http_peer

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = "key-0123456789-0123456789-0123456789"
CANARIES = st.text(string.ascii_letters + string.digits, min_size=16, max_size=40)


@contextmanager
def everything_logged(*, as_json: bool = True) -> Iterator[io.StringIO]:
    """All loggers of the process at their most talkative, through the real handler."""
    stream = io.StringIO()
    handler, root = make_log_handler(stream, as_json=as_json), logging.getLogger()
    names = ("httpcore", "httpx", "asyncio", "hpack")
    levels = {name: logging.getLogger(name).level for name in (None, *names)}
    root.addHandler(handler)
    for name in levels:
        logging.getLogger(name).setLevel(logging.DEBUG)
    try:
        yield stream
    finally:
        root.removeHandler(handler)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def bearer() -> Principal:
    return Principal(PrincipalKind.USER, UUID(int=1), None, Role.MEMBER, frozenset(), NOW, "session")


# Each plants the canary as a secret and makes the code refuse it; what is raised must not carry it.
REFUSALS: dict[str, Callable[[str], object]] = {
    "short secret key": lambda canary: Sealer(Secret(canary[:20])),
    "altered blob": lambda canary: Sealer(Secret(KEY)).unseal(b"\1" + canary.encode() * 3, purpose="p"),
    "blob of another purpose": lambda canary: Sealer(Secret(KEY)).unseal(
        Sealer(Secret(KEY)).seal_text(canary, purpose="one"), purpose="two"
    ),
    "blob of a lost key": lambda canary: Sealer(Secret(KEY)).unseal(
        Sealer(Secret(KEY + "x")).seal_text(canary, purpose="p"), purpose="p"
    ),
    "packed signing key": lambda canary: unpack_signing_key(b'{"private_key": "' + canary.encode() + b'"}'),
    "webhook secret": lambda canary: webhook_signing_key(Secret(canary + "!")),
    "new password as user name": lambda canary: check_new_password(Secret(canary), username=canary),
    "new password with NUL": lambda canary: check_new_password(Secret(canary + "\0"), username="u"),
    "new password too long": lambda canary: check_new_password(Secret(canary * 100), username="u"),
    "access token": lambda canary: TokenIssuer([generate_signing_key(NOW)], "i").verify(f"{canary}.a.b", NOW),
    "access token as a whole": lambda canary: TokenIssuer([generate_signing_key(NOW)], "i").verify(canary, NOW),
    "ticket": lambda canary: TicketOffice(SecretHasher(Sealer(Secret(KEY))), Revocations()).redeem(canary, NOW),
    "url with a password": lambda canary: check_url(f"https://user:{canary}@hooks.example.test/"),
    "url of another scheme": lambda canary: check_url(f"ftp://hooks.example.test/{canary}"),
}


@pytest.mark.parametrize("place", REFUSALS)
@given(canary=CANARIES)
@settings(max_examples=15, deadline=None)
def test_no_refusal_carries_the_secret_that_it_refuses(place, canary):
    with pytest.raises(Exception) as refused:
        REFUSALS[place](canary)

    error: BaseException | None = refused.value
    while error is not None:
        shown = " ".join(map(repr, [str(error), error, error.args, vars(error)]))
        assert canary[:16] not in shown
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert canary[:16] not in "".join(traceback.format_exception(refused.value))


@given(canary=CANARIES)
@settings(max_examples=15, deadline=None)
def test_no_object_shows_its_secret_in_its_repr(canary):
    sealer = Sealer(Secret(KEY + canary))
    hasher = SecretHasher(sealer)
    key = generate_signing_key(NOW)
    issuer = TokenIssuer([key], "https://push.example.test")
    token = issuer.issue_user_token(UUID(int=1), Role.MEMBER, NOW)
    ticket = TicketOffice(hasher, Revocations()).issue(bearer(), NOW)

    shown = repr(
        [sealer, hasher, key, issuer, token, ticket, Secret(canary), hasher.hash(Secret(canary), SecretKind.TICKET)]
    )

    private = pack_signing_key(key).split(b'"')[7].decode()
    for secret in (canary, token.token.reveal(), ticket.ticket.reveal(), private):
        assert secret not in shown


# Each writes the canary the way careless code or a library does; the log must not show it.
LOGGED: dict[str, Callable[[logging.Logger, str], None]] = {
    "argument": lambda log, canary: log.info("got %s", f"access_token={canary}"),
    "fact by name": lambda log, canary: log.info("event", extra={"push_token": canary}),
    "nested fact": lambda log, canary: log.info("event", extra={"body": [{"client_secret": canary}]}),
    "headers": lambda log, canary: log.info("event", extra={"headers": {"Authorization": f"Bearer {canary}"}}),
    "secret type": lambda log, canary: log.info("event %s", Secret(canary), extra={"given": Secret(canary)}),
    "url": lambda log, canary: log.info(f"GET /hubs/notifications?id={canary}&access_token={canary} 101"),
    "database url": lambda log, canary: log.info("no connection", extra={"dsn": f"postgres://u:{canary}@db/x"}),
    "key file": lambda log, canary: log.info(f"-----BEGIN PRIVATE KEY-----\n{canary}\n-----END PRIVATE KEY-----"),
    "bytes": lambda log, canary: log.info("event", extra={"frame": canary.encode()}),
    "app secret": lambda log, canary: log.info(f"wrong secret cs_{canary * 2}"),
    "registered": lambda log, canary: _log_registered(log, canary),
    "exception": lambda log, canary: log.info("event", exc_info=ValueError(f"password={canary}")),
    "chained exception": lambda log, canary: log.info("event", exc_info=_chained(f"Bearer {canary}")),
}


def _log_registered(log: logging.Logger, canary: str) -> None:
    register(Secret(canary))
    log.info(f"the word was {canary} indeed")


def _chained(text: str) -> Exception:
    try:
        try:
            raise OSError(text)
        except OSError as inner:
            raise RuntimeError("outer") from inner
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("place", LOGGED)
@given(canary=CANARIES)
@settings(max_examples=10, deadline=None)
def test_no_log_line_shows_a_secret_wherever_it_stood(place, as_json, canary):
    with everything_logged(as_json=as_json) as log:
        LOGGED[place](logging.getLogger("appliance.canary"), canary)

    assert "canary" in log.getvalue()
    assert canary not in log.getvalue()


async def test_outbound_requests_with_secrets_leave_none_in_the_most_talkative_log():
    canary = "CanaryCanary0123456789"
    cookie = plain_reply(b"x", headers={"Set-Cookie": f"sid={canary}", "X-Token": canary})
    with everything_logged() as log:
        async with run_http_peer(cookie) as peer, run_http_peer() as gone:
            client = OutboundClient(OutboundRules([f"127.0.0.1:{peer.port}"]))
            for url in (
                f"http://127.0.0.1:{peer.port}/in?access_token={canary}",
                f"http://127.0.0.1:{gone.port}/{canary}",
                f"http://user:{canary}@127.0.0.1:{peer.port}/",
                f"https://127.0.0.1:{peer.port}/{canary}",
            ):
                try:
                    headers = {"Authorization": f"Bearer {canary}"}
                    await client.request("POST", url, headers=headers, body=canary.encode(), deadline_s=1)
                except OutboundError:
                    logging.getLogger("appliance.canary").exception("not_sent")
            await client.close()

    assert "httpcore" in log.getvalue()
    assert "not_sent" in log.getvalue()
    assert len(peer.asked) == 1
    assert canary not in log.getvalue()


async def test_passwords_leave_none_in_the_most_talkative_log():
    canary = Secret("CanaryCanary0123456789")
    with everything_logged() as log:
        hasher = PasswordHasher(Argon2Cost(memory_kib=8))
        stored = await hasher.hash(canary)
        await hasher.verify(stored, canary)
        await hasher.verify(None, canary)
        logging.getLogger("appliance.canary").info("verified", extra={"password_hash": stored, "password": canary})
        hasher.close()

    assert "verified" in log.getvalue()
    assert canary.reveal() not in log.getvalue()
