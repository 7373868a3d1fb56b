"""The face of identity: tickets, keys, sessions, and what another process has changed."""

import asyncio
from datetime import timedelta

import pytest

from appliance.api.identity import revocation_feed, service
from appliance.api.identity.service import Identity, open_identity
from appliance.api.identity.web_sessions import principal_of_session
from appliance.domain.secret import Secret
from appliance.security.sealing import SealError
from appliance.settings import Settings
from appliance.storage import audit
from appliance.storage.database import Database
from appliance.storage.retention import delete_stale_job
from tests.doubles.hand_clock import HandClock
from tests.unit.identity.conftest import PASSWORD, OpenIdentity

HOME = "192.0.2.7"


async def test_a_ticket_opens_one_connection(identity: Identity):
    user = await identity.create_user("anna", PASSWORD)
    opened = await identity.sessions.open(user, address=HOME, user_agent="")
    ticket = identity.issue_ticket(principal_of_session(opened.session))
    bearer = await identity.authenticate(ticket.ticket.reveal())
    assert bearer is not None and bearer.user_id == user.id
    assert await identity.authenticate(ticket.ticket.reveal()) is None


async def test_a_ticket_dies_with_the_session_it_came_from(identity: Identity):
    user = await identity.create_user("anna", PASSWORD)
    opened = await identity.sessions.open(user, address=HOME, user_agent="")
    ticket = identity.issue_ticket(principal_of_session(opened.session))
    await identity.sessions.end(opened.session, address=HOME)
    assert await identity.authenticate(ticket.ticket.reveal()) is None


async def test_signing_out_closes_the_connections_of_that_browser_only(identity: Identity):
    closed: list[str] = []

    class Watcher:
        def close_user(self, user_id: object, reason: str) -> None:
            raise AssertionError("the user stays signed in elsewhere")

        def close_app(self, app_id: object, reason: str) -> None: ...

        def close_token(self, token_id: str, reason: str) -> None:
            closed.append(token_id)

    user = await identity.create_user("anna", PASSWORD)
    here = await identity.sessions.open(user, address=HOME, user_agent="")
    elsewhere = await identity.sessions.open(user, address=HOME, user_agent="")
    identity.watch(Watcher())
    await identity.sessions.end(here.session, address=HOME)
    assert closed == [here.session.id]
    assert await identity.sessions.find(here.cookie) is None
    assert await identity.sessions.find(elsewhere.cookie) is not None


async def test_a_session_slides_for_thirty_days_from_its_last_use(identity: Identity, clock: HandClock):
    user = await identity.create_user("anna", PASSWORD)
    opened = await identity.sessions.open(user, address=HOME, user_agent="")
    for _ in range(3):
        clock.pass_s(timedelta(days=29).total_seconds())
        session = await identity.sessions.find(opened.cookie)
        assert session is not None
        assert await identity.sessions.prolong(session) is not None
    clock.pass_s(timedelta(days=30).total_seconds())
    assert await identity.sessions.find(opened.cookie) is None


async def test_a_session_is_written_to_at_most_once_an_hour(identity: Identity, clock: HandClock):
    user = await identity.create_user("anna", PASSWORD)
    opened = await identity.sessions.open(user, address=HOME, user_agent="")
    clock.pass_s(3599)
    session = await identity.sessions.find(opened.cookie)
    assert session is not None and await identity.sessions.prolong(session) is None


async def test_a_user_keeps_at_most_a_hundred_sessions(identity: Identity, database: Database, clock: HandClock):
    user = await identity.create_user("anna", PASSWORD)
    first = await identity.sessions.open(user, address=HOME, user_agent="")
    for _ in range(100):
        clock.pass_s(1)
        last = await identity.sessions.open(user, address=HOME, user_agent="")
    assert await database.read_one("SELECT COUNT(*) FROM web_session") == (100,)
    assert await identity.sessions.find(first.cookie) is None
    assert await identity.sessions.find(last.cookie) is not None


async def test_the_key_is_rotated_after_ninety_days_and_old_tokens_still_count(identity: Identity, clock: HandClock):
    user = await identity.create_user("anna", PASSWORD)
    clock.pass_s(timedelta(days=90).total_seconds() - 60)
    await identity.keep_house()
    assert len(identity.public_keys()["keys"]) == 1
    old = await identity.issue_user_token(user.id, timedelta(hours=24))
    clock.pass_s(120)
    await identity.keep_house()
    new = await identity.issue_user_token(user.id, timedelta(hours=24))
    assert len(identity.public_keys()["keys"]) == 2
    assert await identity.verify_bearer(old.token.reveal()) is not None
    assert await identity.verify_bearer(new.token.reveal()) is not None
    clock.pass_s(timedelta(hours=25).total_seconds())
    await identity.keep_house()
    assert len(identity.public_keys()["keys"]) == 1


async def test_keys_outlive_a_restart_and_a_rotation_of_the_secret_key(
    identity: Identity, database: Database, settings: Settings, clock: HandClock, open_another: OpenIdentity
):
    user = await identity.create_user("anna", PASSWORD)
    token = (await identity.issue_user_token(user.id, timedelta(hours=1))).token.reveal()
    async with open_another() as restarted:
        assert await restarted.verify_bearer(token) is not None
    rotated = Settings(data_dir=settings.data_dir, secret_key=Secret("n" * 43), secret_key_previous=settings.secret_key)
    async with open_identity(database, rotated, clock, is_server=False) as restarted:
        assert await restarted.verify_bearer(token) is not None
    alone = Settings(data_dir=settings.data_dir, secret_key=Secret("n" * 43), secret_key_previous=Secret(""))
    async with open_identity(database, alone, clock, is_server=False) as restarted:
        assert await restarted.verify_bearer(token) is not None


async def test_another_secret_key_stops_the_start_and_says_what_to_do(
    identity: Identity, database: Database, settings: Settings, clock: HandClock
):
    wrong = Settings(data_dir=settings.data_dir, secret_key=Secret("w" * 43), secret_key_previous=Secret(""))
    with pytest.raises(SealError, match="SECRET_KEY"):
        async with open_identity(database, wrong, clock, is_server=False):
            pass


async def test_a_running_server_follows_what_the_command_line_revokes(
    identity: Identity, open_another: OpenIdentity, clock: HandClock
):
    user, made = await identity.create_user("anna", PASSWORD), await identity.create_app("Shop")
    user_grant = await identity.grants.for_password("anna", PASSWORD, app_id=None, address=HOME)
    app_grant = await identity.grants.for_app(str(made.app.id), made.client_secret, None)
    clock.pass_s(1)
    async with open_another() as command_line:
        await command_line.disable_user(user.id)
        await command_line.rotate_secret(made.app.id)
    assert await identity.follow_revocations() == 2
    assert await identity.verify_bearer(user_grant.access_token.reveal()) is None
    assert await identity.verify_bearer(app_grant.access_token.reveal()) is None
    assert await identity.follow_revocations() == 0


async def test_what_was_issued_after_a_revocation_counts_although_the_feed_sees_it_again(
    identity: Identity, open_another: OpenIdentity, clock: HandClock
):
    user = await identity.create_user("anna", PASSWORD)
    async with open_another() as command_line:
        await command_line.set_password(user.id, Secret("another long password"))
    clock.pass_s(1)
    token = (await identity.issue_user_token(user.id, timedelta(hours=1))).token.reveal()
    for _ in range(3):
        await identity.follow_revocations()
        clock.pass_s(20)
    assert await identity.verify_bearer(token) is not None


async def test_a_running_server_follows_by_itself(
    database: Database,
    settings: Settings,
    clock: HandClock,
    open_another: OpenIdentity,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(service, "POLL_EVERY_S", 0.01)
    followed = asyncio.Event()

    class Watcher:
        def close_user(self, user_id: object, reason: str) -> None:
            followed.set()

        def close_app(self, app_id: object, reason: str) -> None: ...

        def close_token(self, token_id: str, reason: str) -> None: ...

    async with open_identity(database, settings, clock) as server, open_another() as command_line:
        server.watch(Watcher())
        user = await command_line.create_user("anna", PASSWORD)
        await command_line.disable_user(user.id)
        async with asyncio.timeout(5):
            await followed.wait()


@pytest.mark.parametrize("change", ["disabling", "rotation"])
async def test_what_ends_an_apps_tokens_closes_the_connections_made_with_them(identity: Identity, change: str):
    # The story: the tokens of an app's users stopped counting when the app was disabled or got another secret, but the
    # hub connections that they had opened stayed open, and got notifications, until the tokens ran out.
    closed: list[tuple[object, str]] = []

    class Watcher:
        def close_user(self, user_id: object, reason: str) -> None:
            raise AssertionError("the user stays signed in elsewhere")

        def close_app(self, app_id: object, reason: str) -> None:
            closed.append((app_id, reason))

        def close_token(self, token_id: str, reason: str) -> None:
            raise AssertionError("the app was revoked, not a token")

    app = (await identity.create_app("Shop")).app
    identity.watch(Watcher())
    if change == "disabling":
        await identity.apps.disable_app(app.id)
        assert closed == [(app.id, "This app was disabled.")]
    else:
        await identity.rotate_secret(app.id)
        assert closed == [(app.id, "The app's secret was changed. Sign in again.")]


async def test_a_watcher_that_fails_does_not_keep_the_revocation_from_the_next(identity: Identity):
    told: list[object] = []

    class Broken:
        def close_user(self, user_id: object, reason: str) -> None:
            raise RuntimeError("a bug in a watcher")

        def close_app(self, app_id: object, reason: str) -> None: ...

        def close_token(self, token_id: str, reason: str) -> None: ...

    class Sound(Broken):
        def close_user(self, user_id: object, reason: str) -> None:
            told.append(user_id)

    user = await identity.create_user("anna", PASSWORD)
    identity.watch(Broken())
    identity.watch(Sound())
    await identity.disable_user(user.id)
    assert told == [user.id]


async def test_a_restart_learns_of_more_revocations_than_fit_a_page(
    identity: Identity, open_another: OpenIdentity, monkeypatch: pytest.MonkeyPatch
):
    made = await identity.create_app("Shop")
    grants = [await identity.grants.for_app(str(made.app.id), made.client_secret, None) for _ in range(7)]
    for grant in grants:
        await identity.grants.revoke(grant.access_token, client=None, address=HOME)
    monkeypatch.setattr(revocation_feed, "MAX_PAGE", 3)
    monkeypatch.setattr("appliance.storage.audit.MAX_PAGE", 3)
    async with open_another() as restarted:
        assert [await restarted.verify_bearer(grant.access_token.reveal()) for grant in grants] == [None] * 7


async def test_a_start_does_not_tell_the_revocations_of_the_past_again(
    identity: Identity, open_another: OpenIdentity, clock: HandClock, caplog: pytest.LogCaptureFixture
):
    """Each start once logged every revocation of the last day at INFO, as if it had just happened."""
    caplog.set_level("INFO", logger="appliance.api.identity.revocation_feed")
    made = await identity.create_app("Shop")
    grant = await identity.grants.for_app(str(made.app.id), made.client_secret, None)
    await identity.grants.revoke(grant.access_token, client=None, address=HOME)
    assert [record.message for record in caplog.records] == ["revocation_applied"]
    caplog.clear()
    clock.pass_s(60)
    async with open_another() as restarted:
        assert await restarted.verify_bearer(grant.access_token.reveal()) is None
        assert caplog.records == []
        later = await identity.grants.for_app(str(made.app.id), made.client_secret, None)
        await identity.grants.revoke(later.access_token, client=None, address=HOME)
        caplog.clear()
        clock.pass_s(1)
        assert await restarted.follow_revocations() == 1
        assert [record.message for record in caplog.records] == ["revocation_applied"]


async def test_housekeeping_drops_what_has_run_out(identity: Identity, database: Database, clock: HandClock):
    user = await identity.create_user("anna", PASSWORD)
    await identity.sessions.open(user, address=HOME, user_agent="")
    await identity.grants.for_password("anna", PASSWORD, app_id=None, address=HOME)
    clock.pass_s(timedelta(days=91).total_seconds())
    await identity.keep_house()
    await database.write(delete_stale_job(clock.now(), 500))
    for table in ("web_session", "refresh_token"):
        assert await database.read_one(f"SELECT COUNT(*) FROM {table}") == (0,)
    assert await database.read("SELECT action FROM audit WHERE action = 'user_signed_in'") == []


async def test_a_damaged_entry_does_not_keep_the_next_from_being_followed(
    identity: Identity, open_another: OpenIdentity, database: Database, clock: HandClock
):
    user = await identity.create_user("anna", PASSWORD)
    token = (await identity.issue_user_token(user.id, timedelta(hours=1))).token.reveal()
    await database.write(
        lambda tx: audit.record(tx, at=clock.now(), actor="cli", action="user_disabled", target="user:nobody")
    )
    clock.pass_s(1)
    async with open_another() as command_line:
        await command_line.disable_user(user.id)
    assert await identity.follow_revocations() == 1
    assert await identity.verify_bearer(token) is None
