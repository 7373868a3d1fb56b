import asyncio
import threading
import time

import pytest

from appliance.domain.errors import InvalidField
from appliance.domain.secret import Secret
from appliance.security.passwords import Argon2Cost, Overloaded, PasswordHasher, Verdict, check_new_password

CHEAP = Argon2Cost(memory_kib=8, passes=1, lanes=1)
RIGHT = Secret("correct-horse-battery")


@pytest.fixture
def hasher():
    hasher = PasswordHasher(CHEAP)
    yield hasher
    hasher.close()


async def test_the_right_password_is_right_and_the_hash_names_argon2id(hasher):
    stored = await hasher.hash(RIGHT)

    assert stored.startswith("$argon2id$")
    assert await hasher.verify(stored, RIGHT) == Verdict(is_right=True)
    assert await hasher.verify(stored, Secret("wrong-horse-battery")) == Verdict(is_right=False)


async def test_the_same_password_typed_with_combining_accents_is_right(hasher):
    stored = await hasher.hash(Secret("p\u00e9ch\u00e9-mortel-1"))

    assert (await hasher.verify(stored, Secret("pe\u0301che\u0301-mortel-1"))).is_right


async def test_a_hash_of_yesterdays_cost_is_right_and_asks_to_be_hashed_anew(hasher):
    yesterday = PasswordHasher(Argon2Cost(memory_kib=16, passes=1, lanes=1))
    stored = await yesterday.hash(RIGHT)
    yesterday.close()

    assert await hasher.verify(stored, RIGHT) == Verdict(is_right=True, needs_rehash=True)


@pytest.mark.parametrize("stored", [None, "", "not a hash", "$argon2id$v=19$m=8,t=1,p=1$!$!"])
async def test_an_unknown_user_or_a_broken_hash_is_wrong(hasher, stored):
    assert await hasher.verify(stored, RIGHT) == Verdict(is_right=False)


@pytest.mark.parametrize("nothing", [None, "", "not a hash"])
async def test_an_unknown_user_costs_a_whole_verification(nothing):
    """Were there no hash to compute, the reply's time would tell which user names exist."""
    hasher = PasswordHasher(Argon2Cost(memory_kib=4096, passes=2))
    stored = await hasher.hash(RIGHT)

    async def seconds_for(against):
        # Processor time of all threads: what else the machine does is not in it.
        started = time.process_time()
        for _ in range(5):
            await hasher.verify(against, Secret("wrong-horse-battery"))
        return time.process_time() - started

    known, unknown = await seconds_for(stored), await seconds_for(nothing)
    hasher.close()

    assert unknown > known / 3


@pytest.mark.parametrize("text", ["", "\ud800" * 12, "x" * 100_000, "a\0b" * 5])
async def test_odd_passwords_are_wrong_and_not_an_error(hasher, text):
    stored = await hasher.hash(RIGHT)

    assert not (await hasher.verify(stored, Secret(text))).is_right


async def test_a_flood_is_turned_away_at_the_queues_bound_and_the_rest_is_served():
    hasher = PasswordHasher(CHEAP, workers=1, queue_limit=2)
    gate = threading.Event()
    blocker = asyncio.ensure_future(hasher._run(gate.wait))
    waiting = [asyncio.ensure_future(hasher.hash(RIGHT)) for _ in range(2)]
    await asyncio.sleep(0)

    with pytest.raises(Overloaded) as refused:
        await hasher.hash(RIGHT)
    gate.set()

    assert refused.value.status == 503
    assert refused.value.retry_after_s >= 1
    assert await blocker
    assert all(stored.startswith("$argon2id$") for stored in await asyncio.gather(*waiting))
    assert (await hasher.hash(RIGHT)).startswith("$argon2id$")
    hasher.close()


async def test_who_waits_longer_than_the_deadline_is_turned_away_and_leaves_the_queue():
    hasher = PasswordHasher(CHEAP, workers=1, queue_limit=1, deadline_s=0.02)
    gate = threading.Event()
    blocker = asyncio.ensure_future(hasher._run(gate.wait))
    await asyncio.sleep(0)

    with pytest.raises(Overloaded):
        await hasher.hash(RIGHT)
    with pytest.raises(Overloaded):
        await blocker
    assert hasher._taken == 1

    gate.set()
    hasher.close()
    assert hasher._taken == 0


async def test_at_most_two_hashes_run_at_once():
    hasher = PasswordHasher(CHEAP)
    running, most, lock = 0, 0, threading.Lock()
    both = threading.Barrier(2, timeout=5)

    def work():
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        both.wait()
        with lock:
            running -= 1

    await asyncio.gather(*(hasher._run(work) for _ in range(6)))
    hasher.close()

    assert most == 2


async def test_a_closed_hasher_says_overloaded(hasher):
    hasher.close()

    with pytest.raises(Overloaded):
        await hasher.hash(RIGHT)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("short-one", "10 to 1024"),
        ("x" * 1025, "10 to 1024"),
        ("with\0a-nul-inside", "NUL"),
        ("lone-surrogate-\ud800", "surrogates"),
        ("First.Member", "not the user name"),
        ("PassWord123", "most common"),
        ("0000000000000", "most common"),
    ],
)
def test_a_new_password_that_breaks_a_rule_is_refused_with_the_rule(text, rule):
    with pytest.raises(InvalidField, match=rule) as refused:
        check_new_password(Secret(text), username="first.member")

    assert refused.value.field == "password"
    assert text not in refused.value.detail


def test_a_long_uncommon_password_passes():
    check_new_password(Secret("tulip wagon 7 lantern"), username="first.member")
