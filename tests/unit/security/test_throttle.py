import random

import pytest

from appliance.security.throttle import (
    ALLOWED,
    Allowance,
    LogInRules,
    LogInThrottle,
    RateLimiter,
    Retry,
    TokenBucket,
    source_of,
    wide_block_of,
)

OWNER_AT = "198.51.100.7"
STRANGER_AT = "203.0.113.50"


def guess(throttle: LogInThrottle, account: str, address: str, now_s: float) -> bool:
    """One wrong password; tells whether it was let through."""
    if throttle.begin(account, address, now_s) != ALLOWED:
        return False
    throttle.fail(account, address, now_s)
    return True


def test_the_sliding_window_lets_exactly_the_limit_through():
    limiter = RateLimiter(10, 3600)
    passed = [limiter.take("user", float(second)) == ALLOWED for second in range(11)]

    assert passed == [True] * 10 + [False]
    assert limiter.take("user", 3599.5) == Retry(1)
    assert limiter.take("user", 3600) == ALLOWED
    assert limiter.take("user", 3600) == Retry(1)
    assert limiter.take("other", 3600) == ALLOWED


def test_no_window_of_an_hour_ever_holds_more_than_the_limit():
    limiter, chance, now_s = RateLimiter(10, 3600), random.Random(7), 0.0
    passed: list[float] = []
    for _ in range(5000):
        now_s += chance.expovariate(1 / 60)
        if limiter.take("user", now_s) == ALLOWED:
            passed.append(now_s)

    assert len(passed) > 500
    assert all(later - earlier >= 3600 for earlier, later in zip(passed, passed[10:], strict=False))


def test_the_told_wait_is_enough():
    limiter = RateLimiter(1, 3600)
    limiter.take("user", 0.4)
    refused = limiter.take("user", 17.1)

    assert isinstance(refused, Retry)
    assert limiter.take("user", 17.1 + refused.after_s) == ALLOWED


def test_a_passage_given_back_is_not_counted():
    limiter = RateLimiter(1, 3600)
    limiter.take("user", 0)
    limiter.give_back("user")

    assert limiter.take("user", 1) == ALLOWED
    limiter.give_back("nobody")


def test_the_rate_limiter_remembers_only_so_many_keys():
    limiter = RateLimiter(1, 3600, max_keys=100)
    for number in range(1000):
        limiter.take(str(number), 0)

    assert limiter.key_count == 100


def test_a_token_bucket_bears_a_burst_and_then_its_rate():
    allowance = Allowance(tries=3, refill_s=10)
    bucket = TokenBucket(allowance, 0)
    for _ in range(3):
        assert bucket.wait_s(allowance, 0) == 0
        bucket.take()

    assert bucket.wait_s(allowance, 0) == 10
    assert bucket.wait_s(allowance, 4) == pytest.approx(6)
    assert bucket.wait_s(allowance, 10) == 0
    assert bucket.wait_s(allowance, 5) == 0


def test_one_stranger_is_stopped_after_a_few_guesses():
    throttle = LogInThrottle()
    let_through = sum(guess(throttle, "owner", STRANGER_AT, now_s) for now_s in range(60))

    assert let_through == LogInRules().account_at_source.tries


def test_a_stranger_in_the_same_office_harms_only_himself():
    """An IPv4 /24 was once counted as one: in an office, whoever mistyped often enough locked out everybody there."""
    throttle = LogInThrottle()
    for _ in range(8):
        guess(throttle, "zoe", "192.168.1.2", 0)
    for number in range(40):
        guess(throttle, f"made-up-{number}", "192.168.1.3", 0)

    assert throttle.begin("zoe", "192.168.1.2", 0) != ALLOWED
    assert throttle.begin("zoe", "192.168.1.3", 0) != ALLOWED
    assert throttle.begin("zoe", "192.168.1.4", 0) == ALLOWED
    throttle.succeed("zoe", "192.168.1.4", 0)


def test_a_source_that_has_not_failed_is_let_through_whatever_all_others_have_done():
    throttle = LogInThrottle()
    strangers = [f"198.51.{net}.{host}" for net in range(20) for host in range(50)]
    strangers += [f"2001:db8:1:{number:x}::1" for number in range(1, 1000)]
    for address in strangers:
        for account in ("owner", "made-up", address):
            while guess(throttle, account, address, 0):
                pass

    for address in ("198.51.0.99", "192.0.2.1", "2001:db8:1:ffff::1"):
        assert throttle.begin("owner", address, 0) == ALLOWED
        throttle.cancel("owner", address, 0)


def test_an_ipv6_stranger_moving_within_the_own_64_stays_stopped():
    throttle = LogInThrottle()
    let_through = sum(guess(throttle, "owner", f"2001:db8:1:2::{host:x}", 0) for host in range(1, 200))

    assert let_through == LogInRules().account_at_source.tries


def test_strangers_guessing_for_a_day_from_many_sources_never_delay_the_owners_known_address():
    throttle, chance = LogInThrottle(), random.Random(3)
    throttle.succeed("owner", OWNER_AT, 0)

    for now_s in range(0, 86_400, 20):
        guess(throttle, "owner", f"203.{chance.randrange(256)}.113.9", now_s)
        # Even from the owner's own office, and at the owner's very worst day: a typo each hour.
        guess(throttle, "owner", "198.51.100.99", now_s)
        if now_s % 3600 == 0:
            assert guess(throttle, "owner", OWNER_AT, now_s)
            assert throttle.begin("owner", OWNER_AT, now_s) == ALLOWED
            throttle.cancel("owner", OWNER_AT, now_s)


def test_the_owner_on_a_new_network_still_gets_a_try_at_once_while_strangers_guess():
    throttle = LogInThrottle()
    for block in range(200):
        guess(throttle, "owner", f"203.{block}.113.9", 0)

    assert throttle.begin("owner", "192.0.2.1", 1) == ALLOWED
    throttle.succeed("owner", "192.0.2.1", 1)
    assert throttle.begin("owner", "192.0.2.1", 2) == ALLOWED


def test_under_attack_each_strange_source_gets_a_few_tries_and_then_waits_long():
    rules, throttle = LogInRules(), LogInThrottle()
    for block in range(100):
        guess(throttle, "owner", f"203.{block}.113.9", 0)
    allowance = rules.account_at_source_under_attack

    assert sum(guess(throttle, "owner", "192.0.2.1", 1) for _ in range(10)) == allowance.tries
    assert throttle.begin("owner", "192.0.2.1", 2) == Retry(int(allowance.refill_s) - 1)
    assert sum(guess(throttle, "owner", "192.0.2.1", now_s) for now_s in range(2, 3600)) <= 12


def test_an_attack_on_one_account_leaves_others_alone():
    throttle = LogInThrottle()
    for block in range(100):
        guess(throttle, "owner", f"203.{block}.113.9", 0)

    assert sum(guess(throttle, "another", "192.0.2.1", 1) for _ in range(5)) == 5


def test_an_attack_is_forgotten_after_a_while():
    throttle = LogInThrottle()
    for block in range(1000):
        guess(throttle, "owner", f"203.{block % 256}.{block // 256}.9", 0)

    assert sum(guess(throttle, "owner", "192.0.2.1", 3 * 3600) for _ in range(5)) == 5


def test_one_source_trying_many_accounts_is_stopped_too():
    throttle = LogInThrottle()

    assert sum(guess(throttle, f"user-{number}", STRANGER_AT, 0) for number in range(500)) == LogInRules().source.tries


def test_an_ipv6_stranger_with_a_whole_48_is_slowed_to_a_try_an_hour_from_each_64():
    rules, throttle = LogInRules(), LogInThrottle()
    sources = [f"2001:db8:1:{number:x}::1" for number in range(1000)]

    def let_through(now_s: float) -> int:
        return sum(guess(throttle, f"user-{number}", address, now_s) for number, address in enumerate(sources))

    assert let_through(0) == len(sources)
    assert let_through(1) == 0
    assert let_through(60) == 60 / rules.wide_block.refill_s
    assert let_through(rules.wide_block_binds_for_s + 60) == len(sources)


def test_parallel_guesses_count_before_their_verdict():
    throttle = LogInThrottle()
    allowed = [throttle.begin("owner", STRANGER_AT, 0) for _ in range(50)]

    assert allowed.count(ALLOWED) == LogInRules().account_at_source.tries


def test_an_office_behind_one_address_logs_in_without_end():
    throttle = LogInThrottle()
    for number in range(500):
        account = f"member-{number}"
        assert throttle.begin(account, OWNER_AT, 0) == ALLOWED
        throttle.succeed(account, OWNER_AT, 0)


def test_an_attacker_with_an_account_does_not_wash_the_source_clean_by_logging_in():
    throttle = LogInThrottle()
    let_through = 0
    for _ in range(200):
        if throttle.begin("own", STRANGER_AT, 0) == ALLOWED:
            throttle.succeed("own", STRANGER_AT, 0)
        let_through += guess(throttle, "owner", STRANGER_AT, 0)

    assert let_through == LogInRules().account_at_source.tries


def test_the_account_name_is_counted_whatever_its_case():
    throttle = LogInThrottle()
    names = ["owner", "Owner", "OWNER ", " oWNER", "\uff4fwner", "ownER", "OwNeR"]

    assert sum(guess(throttle, name, STRANGER_AT, 0) for name in names) == LogInRules().account_at_source.tries


def test_a_flood_of_invented_names_cannot_push_out_the_buckets_that_count():
    throttle = LogInThrottle(max_keys=100)
    while guess(throttle, "owner", STRANGER_AT, 0):
        pass
    for number in range(10_000):
        guess(throttle, f"invented-{number}", STRANGER_AT, 0)

    assert not guess(throttle, "owner", STRANGER_AT, 0)
    assert len(throttle._buckets) <= 100


def test_the_memory_stays_bounded_whoever_comes():
    throttle = LogInThrottle(max_keys=100)
    for number in range(2000):
        address = f"2001:{number:x}:1::1"
        guess(throttle, f"user-{number}" + "x" * 5000, address, 0)
        throttle.remember_address(f"user-{number}", address)
    for number in range(100):
        throttle.remember_address("owner", f"192.0.2.{number}")

    assert len(throttle._buckets) == len(throttle._pressure) == len(throttle._known) == 100
    assert len(throttle._failed_at_s) == 100
    assert max(len(account) for _, account, _ in throttle._buckets._entries) <= 256
    known = throttle._known.get("owner")
    assert known is not None and len(known) == LogInRules().known_per_account


@pytest.mark.parametrize(
    ("address", "source", "wide"),
    [
        ("203.0.113.50", "203.0.113.50", None),
        ("::ffff:203.0.113.50", "203.0.113.50", None),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64", "2001:db8:1::/48"),
        ("fe80::1%eth0", "fe80::/64", "fe80::/48"),
        ("", "no-address", None),
        ("unix:", "no-address", None),
    ],
)
def test_an_address_counts_as_its_source(address, source, wide):
    assert source_of(address) == source
    assert wide_block_of(address) == wide
