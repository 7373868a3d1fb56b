"""Sign-ins that a password change or a disabling overtakes.

The story: a log-in checks a password for some milliseconds. When the owner changed the password, or an admin disabled
the user, in just that time, the log-in went on and stored a session or a refresh token *after* everything had been
revoked; whoever held the old password was in for thirty days.
"""

import asyncio
from collections.abc import AsyncIterator

import argon2
import pytest

from appliance.api.identity.accounts import WrongPassword
from appliance.api.identity.grants import GrantError, GrantRefused
from appliance.api.identity.service import Identity, open_identity
from appliance.domain.secret import Secret
from appliance.security.passwords import Argon2Cost, PasswordHasher, Verdict
from appliance.settings import Settings
from appliance.storage.database import Database
from tests.doubles.hand_clock import HandClock
from tests.unit.identity.conftest import PASSWORD

OTHER_PASSWORD = Secret("another long password")
HOME = "192.0.2.7"


class PausingHasher(PasswordHasher):
    """The real hasher, which stops behind a check until it may go on."""

    def __init__(self) -> None:
        super().__init__(Argon2Cost(memory_kib=8, passes=1, lanes=1))
        self.checked = asyncio.Semaphore(0)
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def verify(self, stored_hash: str | None, password: Secret) -> Verdict:
        verdict = await super().verify(stored_hash, password)
        self.checked.release()
        await self.may_go_on.wait()
        return verdict


@pytest.fixture
async def passwords() -> AsyncIterator[PausingHasher]:
    hasher = PausingHasher()
    yield hasher
    hasher.close()


@pytest.fixture
async def identity(
    database: Database, settings: Settings, clock: HandClock, passwords: PausingHasher
) -> AsyncIterator[Identity]:
    async with open_identity(database, settings, clock, passwords=passwords, is_server=False) as opened:
        yield opened


async def rows(database: Database, table: str) -> int:
    found = await database.read_one(f"SELECT COUNT(*) FROM {table}")
    return int(found[0]) if found else 0


@pytest.mark.parametrize("overtaker", ["password", "disabling"])
async def test_a_password_grant_that_is_overtaken_gives_no_token(
    identity: Identity, passwords: PausingHasher, clock: HandClock, database: Database, overtaker: str
):
    user = await identity.create_user("anna", PASSWORD)
    passwords.may_go_on.clear()
    grant = asyncio.create_task(identity.grants.for_password("anna", PASSWORD, app_id=None, address=HOME))
    await passwords.checked.acquire()
    if overtaker == "password":
        await identity.set_password(user.id, OTHER_PASSWORD)
    else:
        await identity.disable_user(user.id)
    clock.pass_s(1)
    passwords.may_go_on.set()
    with pytest.raises(WrongPassword):
        await grant
    assert await rows(database, "refresh_token") == 0


@pytest.mark.parametrize("overtaker", ["password", "disabling"])
async def test_a_session_on_an_overtaken_sign_in_is_not_opened(
    identity: Identity, clock: HandClock, database: Database, overtaker: str
):
    user = await identity.create_user("anna", PASSWORD)
    signed_in = await identity.sign_in("anna", PASSWORD, HOME)
    if overtaker == "password":
        await identity.set_password(user.id, OTHER_PASSWORD)
    else:
        await identity.disable_user(user.id)
    with pytest.raises(WrongPassword):
        await identity.sessions.open(signed_in, address=HOME, user_agent="")
    assert await rows(database, "web_session") == 0


async def test_a_change_of_the_password_is_overtaken_by_an_earlier_one(identity: Identity):
    # Whoever knew the old password could otherwise set one after the owner had, and have the account.
    user = await identity.create_user("anna", PASSWORD)
    proven = await identity.sign_in("anna", PASSWORD, HOME)
    await identity.set_password(user.id, OTHER_PASSWORD)
    with pytest.raises(WrongPassword):
        await identity.accounts.set_password(user.id, Secret("the intruder's password"), proven=proven)
    assert (await identity.sign_in("anna", OTHER_PASSWORD, HOME)).id == user.id


async def test_a_grant_for_an_app_that_is_disabled_meanwhile_gives_no_token(
    identity: Identity, passwords: PausingHasher, database: Database
):
    await identity.create_user("anna", PASSWORD)
    app = (await identity.create_app("Shop")).app
    passwords.may_go_on.clear()
    grant = asyncio.create_task(identity.grants.for_password("anna", PASSWORD, app_id=app.id, address=HOME))
    await passwords.checked.acquire()
    await identity.apps.disable_app(app.id)
    passwords.may_go_on.set()
    with pytest.raises(GrantRefused) as refusal:
        await grant
    assert refusal.value.error is GrantError.INVALID_CLIENT
    assert await rows(database, "refresh_token") == 0


async def test_two_sign_ins_that_both_renew_an_old_hash_are_both_let_in(
    identity: Identity, passwords: PausingHasher, database: Database
):
    user = await identity.create_user("anna", PASSWORD)
    old = argon2.PasswordHasher(time_cost=2, memory_cost=16, parallelism=1).hash(PASSWORD.reveal())
    await database.write(lambda tx: tx.execute("UPDATE account SET password_hash = ? WHERE id = ?", (old, user.id)))
    passwords.may_go_on.clear()
    grants = [
        asyncio.create_task(identity.grants.for_password("anna", PASSWORD, app_id=None, address=HOME)) for _ in range(2)
    ]
    for _ in range(2):
        await passwords.checked.acquire()
    passwords.may_go_on.set()
    assert all(grant.refresh_token is not None for grant in await asyncio.gather(*grants))


async def test_a_sign_in_that_renews_its_hash_while_the_password_is_changed_is_refused(
    identity: Identity, passwords: PausingHasher, clock: HandClock, database: Database
):
    user = await identity.create_user("anna", PASSWORD)
    old = argon2.PasswordHasher(time_cost=2, memory_cost=16, parallelism=1).hash(PASSWORD.reveal())
    await database.write(lambda tx: tx.execute("UPDATE account SET password_hash = ? WHERE id = ?", (old, user.id)))
    passwords.may_go_on.clear()
    signing_in = asyncio.create_task(identity.sign_in("anna", PASSWORD, HOME))
    await passwords.checked.acquire()
    await identity.set_password(user.id, OTHER_PASSWORD)
    passwords.may_go_on.set()
    with pytest.raises(WrongPassword):
        await signing_in
    assert (await identity.sign_in("anna", OTHER_PASSWORD, HOME)).id == user.id
