"""Grants: tokens for apps and people, refresh tokens that are used once, and what is taken back."""

from datetime import timedelta
from uuid import UUID

import pytest

from appliance.api.identity.changes import Change
from appliance.api.identity.grants import Grant, GrantError, GrantRefused
from appliance.api.identity.service import Identity
from appliance.domain.principal import PrincipalKind
from appliance.domain.secret import Secret
from appliance.storage.audit import list_since
from appliance.storage.database import Database
from tests.doubles.hand_clock import HandClock
from tests.unit.identity.conftest import PASSWORD, OpenIdentity

HOME = "192.0.2.7"


async def sign_in(identity: Identity, app_id: UUID | None = None) -> Grant:
    if await identity.find_user("anna") is None:
        await identity.create_user("anna", PASSWORD)
    return await identity.grants.for_password("anna", PASSWORD, app_id=app_id, address=HOME)


async def refresh(identity: Identity, grant: Grant) -> Grant:
    assert grant.refresh_token is not None
    return await identity.grants.for_refresh_token(grant.refresh_token, client=None, address=HOME)


async def is_refused(identity: Identity, grant: Grant) -> bool:
    try:
        await refresh(identity, grant)
    except GrantRefused as refusal:
        assert refusal.error is GrantError.INVALID_GRANT
        return True
    return False


async def counts(identity: Identity, grant: Grant) -> bool:
    return await identity.verify_bearer(grant.access_token.reveal()) is not None


async def reuses(database: Database, clock: HandClock) -> int:
    return len(await list_since(database, clock.now() - timedelta(days=1), [Change.REFRESH_TOKEN_REUSED]))


async def test_an_app_gets_an_hour_of_push_send(identity: Identity):
    made = await identity.create_app("Shop")
    grant = await identity.grants.for_app(str(made.app.id), made.client_secret, None)
    bearer = await identity.verify_bearer(grant.access_token.reveal())
    assert bearer is not None
    assert (bearer.kind, bearer.app_id, bearer.may_send) == (PrincipalKind.APP, made.app.id, True)
    assert (grant.expires_in_s, grant.scope, grant.refresh_token) == (3600, "push:send", None)


@pytest.mark.parametrize("wrong", ["secret", "id", "no-id", "disabled"])
async def test_a_wrong_client_is_refused_alike_whatever_is_wrong(identity: Identity, wrong: str):
    made = await identity.create_app("Shop")
    client_id, secret = str(made.app.id), made.client_secret
    if wrong == "secret":
        secret = Secret("cs_" + "A" * 43)
    elif wrong == "id":
        client_id = str(UUID(int=5))
    elif wrong == "no-id":
        client_id = "shop"
    else:
        await identity.apps.disable_app(made.app.id)
    with pytest.raises(GrantRefused) as refusal:
        await identity.grants.for_app(client_id, secret, None)
    assert refusal.value.error is GrantError.INVALID_CLIENT
    assert refusal.value.description == "The client id or the client secret is not right."


async def test_a_scope_that_does_not_exist_is_refused(identity: Identity):
    made = await identity.create_app("Shop")
    with pytest.raises(GrantRefused) as refusal:
        await identity.grants.for_app(str(made.app.id), made.client_secret, "push:send push:admin")
    assert refusal.value.error is GrantError.INVALID_SCOPE


async def test_rotating_a_secret_voids_the_old_one_and_its_tokens(identity: Identity, clock: HandClock):
    made = await identity.create_app("Shop")
    grant = await identity.grants.for_app(str(made.app.id), made.client_secret, None)
    clock.pass_s(1)
    rotated = await identity.rotate_secret(made.app.id)
    assert not await counts(identity, grant)
    with pytest.raises(GrantRefused):
        await identity.grants.for_app(str(made.app.id), made.client_secret, None)
    assert await counts(identity, await identity.grants.for_app(str(made.app.id), rotated.client_secret, None))


async def test_a_refresh_token_gives_a_fresh_pair(identity: Identity, clock: HandClock):
    first = await sign_in(identity)
    clock.pass_s(60)
    second = await refresh(identity, first)
    assert await counts(identity, second) and await counts(identity, first)
    assert second.refresh_token != first.refresh_token
    clock.pass_s(60)
    assert await counts(identity, await refresh(identity, second))


async def test_a_used_token_that_comes_again_at_once_revokes_its_whole_family(
    identity: Identity, clock: HandClock, database: Database
):
    """A grace of ten seconds for lost replies once gave a thief a living branch beside the owner's."""
    first = await sign_in(identity)
    second = await refresh(identity, first)
    assert await is_refused(identity, first)
    assert not await counts(identity, second) and not await counts(identity, first)
    assert await is_refused(identity, second)
    assert await reuses(database, clock) == 1


async def test_a_used_token_is_reuse_at_once_when_its_successor_was_used(
    identity: Identity, clock: HandClock, database: Database
):
    first = await sign_in(identity)
    second = await refresh(identity, first)
    clock.pass_s(2)
    third = await refresh(identity, second)
    clock.pass_s(1)
    assert await is_refused(identity, first)
    assert not await counts(identity, third)
    assert await reuses(database, clock) == 1


async def test_another_sign_in_of_the_same_user_outlives_a_reuse(identity: Identity, clock: HandClock):
    first, other = await sign_in(identity), await sign_in(identity)
    await refresh(identity, first)
    clock.pass_s(11)
    assert await is_refused(identity, first)
    assert await counts(identity, other)
    assert await counts(identity, await refresh(identity, other))


async def test_a_refresh_token_runs_out(identity: Identity, clock: HandClock):
    grant = await sign_in(identity)
    clock.pass_s(timedelta(days=60).total_seconds())
    assert await is_refused(identity, grant)


async def test_a_refresh_token_belongs_to_the_app_it_was_issued_for(identity: Identity):
    shop, other = await identity.create_app("Shop"), await identity.create_app("Other")
    grant = await sign_in(identity, app_id=shop.app.id)
    assert grant.refresh_token is not None
    with pytest.raises(GrantRefused):
        await identity.grants.for_refresh_token(grant.refresh_token, client=other.app, address=HOME)
    fresh = await identity.grants.for_refresh_token(grant.refresh_token, client=shop.app, address=HOME)
    bearer = await identity.verify_bearer(fresh.access_token.reveal())
    assert bearer is not None and bearer.app_id == shop.app.id


async def test_a_disabled_app_ends_the_sign_ins_made_for_it(identity: Identity, clock: HandClock):
    shop = await identity.create_app("Shop")
    grant = await sign_in(identity, app_id=shop.app.id)
    clock.pass_s(1)
    await identity.apps.disable_app(shop.app.id)
    assert not await counts(identity, grant)
    assert await is_refused(identity, grant)


async def test_revoking_a_refresh_token_ends_its_access_tokens_too(identity: Identity):
    grant = await sign_in(identity)
    assert grant.refresh_token is not None
    assert await identity.grants.revoke(grant.refresh_token, client=None, address=HOME)
    assert not await counts(identity, grant)
    assert await is_refused(identity, grant)
    assert not await identity.grants.revoke(grant.refresh_token, client=None, address=HOME)


async def test_revoking_an_access_token_ends_its_sign_in(identity: Identity):
    grant = await sign_in(identity)
    assert await identity.grants.revoke(grant.access_token, client=None, address=HOME)
    assert not await counts(identity, grant)
    assert await is_refused(identity, grant)


async def test_an_app_cannot_revoke_what_belongs_to_another(identity: Identity):
    shop, other = await identity.create_app("Shop"), await identity.create_app("Other")
    grant = await identity.grants.for_app(str(shop.app.id), shop.client_secret, None)
    assert not await identity.grants.revoke(grant.access_token, client=other.app, address=HOME)
    assert await counts(identity, grant)
    assert await identity.grants.revoke(grant.access_token, client=shop.app, address=HOME)
    assert not await counts(identity, grant)


async def test_a_revoked_access_token_stays_revoked_after_a_restart(identity: Identity, open_another: OpenIdentity):
    made = await identity.create_app("Shop")
    grant = await identity.grants.for_app(str(made.app.id), made.client_secret, None)
    await identity.grants.revoke(grant.access_token, client=None, address=HOME)
    async with open_another() as restarted:
        assert not await counts(restarted, grant)


async def test_only_hashes_of_refresh_tokens_and_app_secrets_are_stored(identity: Identity, database: Database):
    grant = await sign_in(identity)
    made = await identity.create_app("Shop")
    assert grant.refresh_token is not None
    for table in ("refresh_token", "app", "audit", "account", "signing_key"):
        text = repr(await database.read(f"SELECT * FROM {table}"))
        assert grant.refresh_token.reveal() not in text
        assert made.client_secret.reveal() not in text
        assert PASSWORD.reveal() not in text
