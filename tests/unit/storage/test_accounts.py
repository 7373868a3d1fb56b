"""Users, claims and the audit log, as they are stored."""

from datetime import timedelta

import pytest

from appliance.domain.errors import Conflict
from appliance.domain.identifier import make_id
from appliance.domain.principal import Role
from appliance.storage import audit, claims, users
from appliance.storage.users import UserRow


def user_row(clock, name, subject=None, role=Role.MEMBER):
    return UserRow(make_id(clock.now()), name, "hash", role, None, subject, clock.now())


async def test_a_user_comes_back_as_stored_and_the_hash_stays_out_of_sight(database, clock):
    row = user_row(clock, "Anna", "issuer|subject")
    await database.write(lambda tx: users.insert_user(tx, row))
    found = await users.load_user(database, row.id)
    assert found == row
    assert await users.load_user_by_name(database, "ANNA") == row
    assert await users.load_user_by_subject(database, "issuer|subject") == row
    assert "hash" not in repr(found).replace("password_hash", "")


async def test_a_taken_name_or_subject_is_a_conflict_that_changes_nothing(database, clock):
    await database.write(lambda tx: users.insert_user(tx, user_row(clock, "anna", "issuer|one")))
    for taken in (user_row(clock, "ANNA", "issuer|two"), user_row(clock, "other", "issuer|one")):
        with pytest.raises(Conflict):
            await database.write(lambda tx, taken=taken: users.insert_user(tx, taken))
    assert len(await users.list_users(database)) == 1


async def test_users_are_listed_page_by_page_in_the_order_of_their_making(database, clock):
    names = []
    for number in range(5):
        clock.pass_s(1)
        names.append(f"user-{number}")
        await database.write(lambda tx, name=names[-1]: users.insert_user(tx, user_row(clock, name)))
    first = await users.list_users(database, limit=3)
    rest = await users.list_users(database, after=first[-1].id, limit=3)
    assert [user.username for user in (*first, *rest)] == names


async def test_a_claim_is_burned_once_and_only_before_it_runs_out(database, clock):
    now = clock.now()
    until = now + timedelta(hours=1)
    await database.write(lambda tx: claims.replace_claim(tx, "old", at=now, expires_at=until))
    await database.write(lambda tx: claims.replace_claim(tx, "new", at=now, expires_at=until))
    assert not await database.write(lambda tx: claims.burn_claim(tx, ["old"], now))
    assert not await database.write(lambda tx: claims.burn_claim(tx, ["new"], until))
    assert await claims.is_claim_open(database, ["other", "new"], now)
    assert await database.write(lambda tx: claims.burn_claim(tx, ["other", "new"], now))
    assert not await database.write(lambda tx: claims.burn_claim(tx, ["new"], now))
    assert not await claims.is_claim_open(database, ["new"], now)


async def test_the_audit_log_is_read_in_order_and_page_by_page(database, clock, monkeypatch):
    monkeypatch.setattr(audit, "MAX_PAGE", 2)
    began = clock.now()
    for number in range(5):
        clock.pass_s(number % 2)
        await database.write(
            lambda tx, number=number: audit.record(
                tx, at=clock.now(), actor="cli", action="wanted", target=f"user:{number}"
            )
        )
        await database.write(
            lambda tx: audit.record(tx, at=clock.now(), actor="cli", action="unwanted", target="nothing")
        )
    read, after = [], None
    while page := await audit.list_since(database, began, ["wanted", "other"], after=after):
        read.extend(page)
        after = (page[-1].at, page[-1].id)
    assert sorted(entry.target for entry in read) == [f"user:{number}" for number in range(5)]
    assert [(entry.at, entry.id) for entry in read] == sorted((entry.at, entry.id) for entry in read)
    assert await audit.list_since(database, clock.now() + timedelta(seconds=1), ["wanted"]) == []


async def test_an_audit_entry_that_is_too_long_is_cut_not_refused(database, clock):
    entry = await database.write(
        lambda tx: audit.record(
            tx, at=clock.now(), actor="a" * 200, action="x", target="t" * 900, address="2001:db8::1%" + "z" * 90
        )
    )
    (stored,) = await audit.list_latest(database, "x", limit=5)
    assert stored == entry
    assert (len(stored.actor), len(stored.target), len(stored.address)) == (80, 500, 64)
