"""The claim desk: the one way in to a new appliance."""

import asyncio
from datetime import timedelta

import pytest

from appliance.api.identity.service import Identity
from appliance.domain.errors import Conflict, InvalidField, TooMany
from appliance.domain.principal import Role
from appliance.domain.secret import Secret
from appliance.storage.database import Database
from tests.doubles.hand_clock import HandClock
from tests.unit.identity.conftest import PASSWORD
from wizard.claim import AlreadySetUp, ClaimDesk, ClaimRefused, setup_link

BASE = "https://push.example.test/"


async def code_of(identity: Identity) -> Secret:
    link = await setup_link(identity, BASE)
    assert link is not None
    return Secret(link.partition("#code=")[2])


async def redeem(identity: Identity, code: Secret, *, name: str = "owner", address: str = "192.0.2.7") -> str:
    desk = ClaimDesk(identity)
    opened = await desk.redeem(code, name, PASSWORD, address=address, user_agent="")
    return opened.session.username


async def test_the_link_carries_256_random_bits_in_the_fragment_and_none_is_stored(
    identity: Identity, database: Database
):
    link = await setup_link(identity, BASE)
    assert link is not None and link.startswith("https://push.example.test/setup#code=")
    code = link.partition("#code=")[2]
    assert len(code) == 43
    for table in ("claim", "audit"):
        assert code not in repr(await database.read(f"SELECT * FROM {table}"))


async def test_the_code_runs_out_after_a_day(identity: Identity, clock: HandClock):
    code = await code_of(identity)
    clock.pass_s(timedelta(hours=24).total_seconds())
    with pytest.raises(ClaimRefused):
        await redeem(identity, code)
    assert await redeem(identity, await code_of(identity)) == "owner"


async def test_of_two_claims_at_once_one_wins_and_the_loser_leaves_nothing(identity: Identity, database: Database):
    code = await code_of(identity)
    outcomes = await asyncio.gather(
        redeem(identity, code, name="first"), redeem(identity, code, name="second"), return_exceptions=True
    )
    refusals = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert len(refusals) == 1 and isinstance(refusals[0], AlreadySetUp)
    assert await database.read_one("SELECT COUNT(*) FROM account") == (1,)
    assert await database.read_one("SELECT COUNT(*) FROM web_session") == (1,)


async def test_a_claim_that_fails_half_way_leaves_the_code(identity: Identity):
    await identity.create_user("owner", PASSWORD)
    code = await code_of(identity)
    with pytest.raises(Conflict):
        await redeem(identity, code, name="OWNER")
    with pytest.raises(InvalidField):
        await redeem(identity, code, name="")
    assert await redeem(identity, code, name="another") == "another"


async def test_a_member_does_not_close_the_setup_but_an_admin_does(identity: Identity):
    await identity.create_user("anna", PASSWORD)
    code = await code_of(identity)
    await identity.create_user("root", PASSWORD, role=Role.ADMIN)
    with pytest.raises(AlreadySetUp):
        await redeem(identity, code)
    assert await setup_link(identity, BASE) is None


async def test_wrong_codes_are_limited_for_each_address_alone(identity: Identity):
    desk = ClaimDesk(identity)
    await code_of(identity)
    guess = Secret("guess")
    for _ in range(10):
        with pytest.raises(ClaimRefused):
            await desk.redeem(guess, "x", PASSWORD, address="203.0.113.9", user_agent="")
    with pytest.raises(TooMany):
        await desk.redeem(guess, "x", PASSWORD, address="203.0.113.9", user_agent="")
    with pytest.raises(ClaimRefused):
        await desk.redeem(guess, "x", PASSWORD, address="203.0.113.200", user_agent="")


async def test_the_right_code_is_taken_even_from_an_address_that_guessed_too_often(identity: Identity):
    """Tries were once counted before the code was looked at, so guesses kept out the owner who had the code."""
    desk = ClaimDesk(identity)
    code = await code_of(identity)
    for _ in range(14):
        with pytest.raises((ClaimRefused, TooMany)):
            await desk.redeem(Secret("guess"), "x", PASSWORD, address="203.0.113.9", user_agent="")
    opened = await desk.redeem(code, "owner", PASSWORD, address="203.0.113.9", user_agent="")
    assert opened.session.role is Role.ADMIN
