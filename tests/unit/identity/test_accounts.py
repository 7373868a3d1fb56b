"""Accounts: who may sign in, and how somebody is shut out."""

from datetime import timedelta

import pytest

from appliance.api.identity.accounts import WrongPassword
from appliance.api.identity.service import Identity
from appliance.domain.errors import Conflict, InvalidField, NotFound, TooMany
from appliance.domain.principal import Role
from appliance.domain.secret import Secret
from appliance.storage.database import Database
from tests.doubles.hand_clock import HandClock
from tests.unit.identity.conftest import PASSWORD, OpenIdentity

OTHER_PASSWORD = Secret("another long password")
HOME = "192.0.2.7"
STRANGER = "203.0.113.9"


async def test_a_user_signs_in_under_any_case_of_the_name(identity: Identity):
    made = await identity.create_user("Zoë", PASSWORD)
    assert (await identity.sign_in("zOË", PASSWORD, HOME)).id == made.id


@pytest.mark.parametrize("name", ["", "   ", "x" * 151, "a\0b", "a\nb", "a\u202eb", "\ufdfa" * 150])
async def test_a_name_that_breaks_the_rules_is_refused_by_field(identity: Identity, name: str):
    with pytest.raises(InvalidField) as refusal:
        await identity.create_user(name, PASSWORD)
    assert refusal.value.field == "username"


async def test_a_taken_name_in_another_case_is_a_conflict(identity: Identity):
    await identity.create_user("anna", PASSWORD)
    with pytest.raises(Conflict):
        await identity.create_user("ANNA", PASSWORD)


@pytest.mark.parametrize("password", ["short", "password123", "anna-the-first"])
async def test_a_weak_password_is_refused_by_field(identity: Identity, password: str):
    with pytest.raises(InvalidField) as refusal:
        await identity.create_user("anna-the-first", Secret(password))
    assert refusal.value.field == "password"


async def test_unknown_user_wrong_password_disabled_user_and_user_without_password_are_told_alike(identity: Identity):
    await identity.create_user("anna", PASSWORD)
    await identity.create_user("no-password", None)
    disabled = await identity.create_user("gone", PASSWORD)
    await identity.disable_user(disabled.id)
    refusals = []
    for name, password in (
        ("nobody", PASSWORD),
        ("anna", OTHER_PASSWORD),
        ("gone", PASSWORD),
        ("no-password", PASSWORD),
    ):
        with pytest.raises(WrongPassword) as refusal:
            await identity.sign_in(name, password, HOME)
        refusals.append((refusal.value.code, refusal.value.detail, refusal.value.status))
    assert len(set(refusals)) == 1


async def test_a_stranger_who_guesses_is_slowed_down_and_does_not_lock_the_owner_out(identity: Identity):
    user = await identity.create_user("anna", PASSWORD)
    await identity.sign_in("anna", PASSWORD, HOME)
    with pytest.raises(TooMany) as refusal:
        for _ in range(100):
            try:
                await identity.sign_in("anna", OTHER_PASSWORD, STRANGER)
            except WrongPassword:
                continue
    assert refusal.value.retry_after_s > 0
    assert (await identity.sign_in("anna", PASSWORD, HOME)).id == user.id


async def test_a_known_address_is_still_known_after_a_restart(identity: Identity, open_another: OpenIdentity):
    await identity.create_user("anna", PASSWORD)
    await identity.grants.for_password("anna", PASSWORD, app_id=None, address=HOME)
    async with open_another() as restarted:
        for number in range(60):
            with pytest.raises((WrongPassword, TooMany)):
                await restarted.sign_in("anna", OTHER_PASSWORD, f"203.0.{number}.9")
        neighbour = HOME.rsplit(".", 1)[0] + ".200"
        for _ in range(10):
            with pytest.raises((WrongPassword, TooMany)):
                await restarted.sign_in("anna", OTHER_PASSWORD, neighbour)
        with pytest.raises(TooMany):
            await restarted.sign_in("anna", PASSWORD, neighbour)
        await restarted.sign_in("anna", PASSWORD, HOME)


async def test_setting_a_password_ends_what_was_issued_on_the_old_one(identity: Identity, clock: HandClock):
    user = await identity.create_user("anna", PASSWORD)
    grant = await identity.grants.for_password("anna", PASSWORD, app_id=None, address=HOME)
    kept = await identity.sessions.open(user, address=HOME, user_agent="")
    ended = await identity.sessions.open(user, address=HOME, user_agent="")
    clock.pass_s(1)
    await identity.set_password(user.id, OTHER_PASSWORD, keep_session=kept.session.id)

    assert await identity.verify_bearer(grant.access_token.reveal()) is None
    assert await identity.sessions.find(ended.cookie) is None
    assert await identity.sessions.find(kept.cookie) is not None
    with pytest.raises(WrongPassword):
        await identity.sign_in("anna", PASSWORD, HOME)
    fresh = await identity.grants.for_password("anna", OTHER_PASSWORD, app_id=None, address=HOME)
    assert await identity.verify_bearer(fresh.access_token.reveal()) is not None


async def test_setting_a_password_of_nobody_is_not_found(identity: Identity):
    admin = await identity.create_user("anna", PASSWORD)
    stranger = admin.id.__class__(int=7)
    with pytest.raises(NotFound):
        await identity.set_password(stranger, OTHER_PASSWORD)


async def test_disabling_a_user_ends_tokens_sessions_and_connections_at_once(identity: Identity, clock: HandClock):
    closed: list[tuple[str, str]] = []

    class Watcher:
        def close_user(self, user_id: object, reason: str) -> None:
            closed.append((str(user_id), reason))

        def close_app(self, app_id: object, reason: str) -> None: ...

        def close_token(self, token_id: str, reason: str) -> None:
            raise AssertionError("nothing but the user was revoked")

    user = await identity.create_user("anna", PASSWORD)
    grant = await identity.grants.for_password("anna", PASSWORD, app_id=None, address=HOME)
    session = await identity.sessions.open(user, address=HOME, user_agent="")
    identity.watch(Watcher())
    clock.pass_s(1)
    await identity.disable_user(user.id)
    await identity.disable_user(user.id)

    assert closed == [(str(user.id), "This account was disabled.")]
    assert await identity.verify_bearer(grant.access_token.reveal()) is None
    assert await identity.sessions.find(session.cookie) is None
    with pytest.raises(NotFound):
        await identity.issue_user_token(user.id, timedelta(hours=1))


async def test_the_only_admin_cannot_be_disabled(identity: Identity):
    admin = await identity.create_user("root", PASSWORD, role=Role.ADMIN)
    with pytest.raises(Conflict):
        await identity.disable_user(admin.id)
    await identity.create_user("second", PASSWORD, role=Role.ADMIN)
    await identity.disable_user(admin.id)
    assert await identity.is_set_up()


async def test_a_hash_of_yesterdays_cost_is_replaced_at_the_next_sign_in(identity: Identity, database: Database):
    import argon2

    user = await identity.create_user("anna", PASSWORD)
    old = argon2.PasswordHasher(time_cost=2, memory_cost=16, parallelism=1).hash(PASSWORD.reveal())
    await database.write(lambda tx: tx.execute("UPDATE account SET password_hash = ? WHERE id = ?", (old, user.id)))
    await identity.sign_in("anna", PASSWORD, HOME)
    row = await database.read_one("SELECT password_hash FROM account WHERE id = ?", (user.id,))
    assert row is not None and row[0] != old
    await identity.sign_in("anna", PASSWORD, HOME)
