"""People of an external issuer: made on first sight, never mixed up with our own, refused when disabled."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from appliance.api.identity.service import Identity, open_identity
from appliance.domain.principal import PrincipalKind, Role
from appliance.security.oidc_keys import IssuerUnavailable
from appliance.settings import Settings
from appliance.storage.database import Database
from tests.doubles.hand_clock import HandClock
from tests.doubles.oidc_issuer import OidcIssuer, run_oidc_issuer
from tests.unit.identity.conftest import PASSWORD


@pytest.fixture
async def issuer() -> AsyncIterator[OidcIssuer]:
    async with run_oidc_issuer() as running:
        running.keys["k"] = ed25519.Ed25519PrivateKey.generate()
        yield running


@pytest.fixture
async def trusting(
    issuer: OidcIssuer, database: Database, settings: Settings, clock: HandClock
) -> AsyncIterator[Identity]:
    trusts = replace(settings, oidc_issuer=issuer.url, oidc_audience="push", outbound_allow=("127.0.0.1",))
    async with open_identity(database, trusts, clock, is_server=False) as identity:
        yield identity


def token(issuer: OidcIssuer, clock: HandClock, **changes: Any) -> str:
    claims = {"iss": issuer.url, "aud": "push", "sub": "subject-1", "exp": clock.now().timestamp() + 600, **changes}
    return issuer.token("k", "EdDSA", **claims)


async def test_a_user_is_made_on_first_sight_and_found_again(trusting: Identity, issuer: OidcIssuer, clock: HandClock):
    first = await trusting.authenticate(token(issuer, clock, email="zoe@example.test", email_verified=True))
    again = await trusting.authenticate(token(issuer, clock, name="Another Name"))
    assert first is not None and again is not None
    assert (first.user_id, first.kind, first.role) == (again.user_id, PrincipalKind.USER, Role.MEMBER)
    users = await trusting.list_users()
    assert [(user.username, user.external_subject) for user in users] == [
        ("zoe@example.test", f"{issuer.url}|subject-1")
    ]


async def test_fifty_first_sights_at_once_make_one_user(trusting: Identity, issuer: OidcIssuer, clock: HandClock):
    sights = [trusting.authenticate(token(issuer, clock, jti=str(number))) for number in range(50)]
    principals = await asyncio.gather(*sights)
    assert len({principal.user_id for principal in principals if principal is not None}) == 1
    assert None not in principals
    assert len(await trusting.list_users()) == 1


async def test_an_account_of_ours_with_the_same_name_is_not_taken_over(
    trusting: Identity, issuer: OidcIssuer, clock: HandClock
):
    own = await trusting.create_user("zoe@example.test", PASSWORD, role=Role.ADMIN, email="zoe@example.test")
    bearer = await trusting.authenticate(token(issuer, clock, email="ZOE@example.test", email_verified=True))
    assert bearer is not None
    assert bearer.user_id != own.id
    assert not bearer.is_admin


@pytest.mark.parametrize("name", [None, "", "a\nb", "x" * 400, "\u202eevil"])
async def test_a_name_that_cannot_be_kept_is_replaced(
    trusting: Identity, issuer: OidcIssuer, clock: HandClock, name: str | None
):
    claims = {} if name is None else {"name": name}
    assert await trusting.authenticate(token(issuer, clock, **claims)) is not None
    (user,) = await trusting.list_users()
    assert user.username.startswith("user ")


@pytest.mark.parametrize(
    "changes", [{"aud": "another"}, {"iss": "https://evil.example"}, {"exp": 1}], ids=["audience", "issuer", "expired"]
)
async def test_a_token_for_others_makes_no_user(
    trusting: Identity, issuer: OidcIssuer, clock: HandClock, changes: dict[str, Any]
):
    assert await trusting.authenticate(token(issuer, clock, **changes)) is None
    assert await trusting.list_users() == []


async def test_a_disabled_external_user_is_refused_at_once(trusting: Identity, issuer: OidcIssuer, clock: HandClock):
    text = token(issuer, clock)
    bearer = await trusting.authenticate(text)
    assert bearer is not None and bearer.user_id is not None
    await trusting.disable_user(bearer.user_id)
    assert await trusting.authenticate(text) is None
    assert await trusting.authenticate(token(issuer, clock, jti="another")) is None


async def test_a_verified_token_is_remembered_until_it_runs_out(
    trusting: Identity, issuer: OidcIssuer, clock: HandClock
):
    text = token(issuer, clock)
    assert await trusting.authenticate(text) is not None
    issuer.keys["k"] = ed25519.Ed25519PrivateKey.generate()
    assert await trusting.authenticate(text) is not None
    clock.pass_s(661)
    assert await trusting.authenticate(text) is None


async def test_our_own_tokens_need_no_issuer(trusting: Identity, issuer: OidcIssuer):
    issuer.is_down = True
    await trusting.create_user("anna", PASSWORD)
    grant = await trusting.grants.for_password("anna", PASSWORD, app_id=None, address="192.0.2.7")
    assert await trusting.authenticate(grant.access_token.reveal()) is not None
    assert await trusting.grants.revoke(grant.access_token, client=None, address="192.0.2.7")
    assert await trusting.authenticate(grant.access_token.reveal()) is None


async def test_an_issuer_that_is_down_is_told_apart_from_a_bad_token(
    trusting: Identity, issuer: OidcIssuer, clock: HandClock
):
    issuer.is_down = True
    with pytest.raises(IssuerUnavailable):
        await trusting.authenticate(token(issuer, clock))


async def test_without_the_setting_an_external_token_is_nothing(
    identity: Identity, issuer: OidcIssuer, clock: HandClock
):
    assert await identity.authenticate(token(issuer, clock)) is None
    assert issuer.key_fetches == 0
