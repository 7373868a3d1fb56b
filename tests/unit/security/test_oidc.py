import asyncio
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from appliance.security.oidc import ExternalIdentity, ExternalTokenRefused, OidcVerifier
from appliance.security.oidc_keys import IssuerUnavailable
from appliance.security.outbound import OutboundClient, OutboundRules, make_tls_context
from tests.doubles.hand_clock import HandClock
from tests.doubles.oidc_issuer import OidcIssuer, run_oidc_issuer

TLS = make_tls_context()
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


@asynccontextmanager
async def signing_in(**keys):
    """An issuer with the keys, a verifier that trusts it, and the verifier's clock."""
    clock = HandClock()
    client = OutboundClient(OutboundRules(["127.0.0.1"]), tls=TLS)
    async with run_oidc_issuer() as issuer:
        issuer.keys.update(keys or {"rsa": RSA})
        yield issuer, OidcVerifier(issuer.url, "carillon", client, clock), clock
        await client.close()


def good(issuer: OidcIssuer, clock: HandClock, **changes) -> dict:
    """The claims of a good token; a change to None leaves the claim out."""
    now_s = int(clock.now().timestamp())
    claims = {"iss": issuer.url, "aud": "carillon", "sub": "subject-1", "iat": now_s, "exp": now_s + 300, **changes}
    return {name: value for name, value in claims.items() if value is not None}


async def refusal(verifier: OidcVerifier, token: str) -> str:
    with pytest.raises(ExternalTokenRefused) as refused:
        await verifier.verify(token)
    return refused.value.reason


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [("RS256", RSA), ("PS256", RSA), ("ES256", EC), ("EdDSA", ED)],
    ids=lambda value: str(value)[:5],
)
async def test_a_good_token_of_each_algorithm_names_its_bearer(algorithm, key):
    async with signing_in(k=key) as (issuer, verifier, clock):
        claims = good(issuer, clock, email="first@example.test", email_verified=True, name="First Member")

        identity = await verifier.verify(issuer.token("k", algorithm, **claims))

    ends = datetime.fromtimestamp(claims["exp"], UTC) + timedelta(seconds=60)
    assert identity == ExternalIdentity("subject-1", "first@example.test", "First Member", ends)


async def test_a_token_that_never_ends_counts_for_a_day():
    async with signing_in(k=ED) as (issuer, verifier, clock):
        claims = good(issuer, clock, exp=9e15)

        identity = await verifier.verify(issuer.token("k", "EdDSA", **claims))

    assert identity.expires_at == clock.now() + timedelta(days=1)


@pytest.mark.parametrize(
    ("flag", "email"), [(True, "a@b.test"), ("true", "a@b.test"), (False, None), ("false", None), (None, None)]
)
async def test_an_address_counts_only_when_the_issuer_has_verified_it(flag, email):
    async with signing_in() as (issuer, verifier, clock):
        claims = good(issuer, clock, email="a@b.test", email_verified=flag)

        assert (await verifier.verify(issuer.token("rsa", "RS256", **claims))).email == email


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iss": "https://elsewhere.example.test"}, "wrong_issuer"),
        ({"iss": "http://127.0.0.1/realm"}, "wrong_issuer"),
        ({"aud": "another"}, "wrong_audience"),
        ({"aud": ["another", "carillon-2"]}, "wrong_audience"),
        ({"aud": []}, "wrong_audience"),
        ({"exp": 1}, "expired"),
        ({"nbf": 4_000_000_000}, "not_yet_valid"),
        ({"sub": ""}, "bad_subject"),
        ({"sub": "x" * 256}, "bad_subject"),
        ({"sub": "a\0b"}, "bad_subject"),
        ({"iss": None}, "malformed"),
        ({"aud": None}, "malformed"),
        ({"exp": None}, "malformed"),
        ({"sub": None}, "malformed"),
        ({"sub": 7}, "malformed"),
        ({"exp": "soon"}, "malformed"),
    ],
)
async def test_a_well_signed_token_with_wrong_claims_is_refused(changes, reason):
    async with signing_in() as (issuer, verifier, clock):
        claims = good(issuer, clock) | changes
        claims = {name: value for name, value in claims.items() if value is not None}
        # Written by hand: the library refuses to sign some of these claims.
        token = jwt.PyJWS().encode(json.dumps(claims).encode(), RSA, algorithm="RS256", headers={"kid": "rsa"})

        assert await refusal(verifier, token) == reason


async def test_one_of_several_audiences_is_enough_and_a_minute_of_skew_is_borne():
    async with signing_in() as (issuer, verifier, clock):
        now_s = int(clock.now().timestamp())
        several = good(issuer, clock, aud=["another", "carillon"], nbf=now_s + 59, exp=now_s - 59)

        assert (await verifier.verify(issuer.token("rsa", "RS256", **several))).sub == "subject-1"

        clock.pass_s(1)
        assert await refusal(verifier, issuer.token("rsa", "RS256", **several)) == "expired"


async def test_weak_and_symmetric_algorithms_are_refused_before_any_key_is_fetched():
    async with signing_in() as (issuer, verifier, clock):
        claims = good(issuer, clock)
        modulus = RSA.public_key().public_numbers().n.to_bytes(256)
        tokens = [
            jwt.encode(claims, "", algorithm="none", headers={"kid": "rsa"}),
            jwt.encode(claims, modulus, algorithm="HS256", headers={"kid": "rsa"}),
            issuer.token("rsa", "RS512", **claims),
            issuer.token("rsa", "RS256", headers={"crit": ["x"], "x": 1}, **claims),
        ]

        assert [await refusal(verifier, token) for token in tokens] == ["algorithm"] * 4
        assert issuer.key_fetches == 0


async def test_an_algorithm_that_does_not_fit_the_kind_of_key_finds_none():
    async with signing_in(k=RSA) as (issuer, verifier, clock):
        token = jwt.encode(good(issuer, clock), EC, algorithm="ES256", headers={"kid": "k"})

        assert await refusal(verifier, token) == "unknown_key"


async def test_a_token_of_a_foreign_key_under_a_known_id_is_refused():
    async with signing_in() as (issuer, verifier, clock):
        foreign = rsa.generate_private_key(public_exponent=65537, key_size=2048)

        token = jwt.encode(good(issuer, clock), foreign, algorithm="RS256", headers={"kid": "rsa"})

        assert await refusal(verifier, token) == "bad_signature"


async def test_a_short_rsa_key_is_not_used():
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - that is the point
    async with signing_in(k=short) as (issuer, verifier, clock):
        with pytest.warns(jwt.warnings.InsecureKeyLengthWarning):
            token = issuer.token("k", "RS256", **good(issuer, clock))

        assert await refusal(verifier, token) == "bad_signature"


async def test_without_a_key_id_a_sole_key_is_meant_and_of_two_none():
    async with signing_in(**{}) as (issuer, verifier, clock):
        issuer.keys = {None: RSA}
        assert (await verifier.verify(issuer.token(None, "RS256", **good(issuer, clock)))).sub == "subject-1"

    async with signing_in() as (issuer, verifier, clock):
        issuer.keys = {None: RSA, "other": rsa.generate_private_key(public_exponent=65537, key_size=2048)}
        assert await refusal(verifier, issuer.token(None, "RS256", **good(issuer, clock))) == "unknown_key"


async def test_odd_entries_in_the_key_set_do_not_hide_the_good_ones():
    async with signing_in() as (issuer, verifier, clock):
        issuer.odd_entries = [
            7,
            None,
            {"kty": "quantum", "kid": "rsa"},
            {"kty": "RSA", "kid": "rsa", "n": "!", "e": "AQAB"},
            {"kty": "RSA", "kid": "rsa", "use": "enc", "n": "AQAB", "e": "AQAB"},
            {"kid": "rsa"},
        ]

        assert (await verifier.verify(issuer.token("rsa", "RS256", **good(issuer, clock)))).sub == "subject-1"


@pytest.mark.parametrize(
    "token", ["", "a", "a.b.c", "..", "\ud800.a.b", "é.é.é", "x" * 20_000, "bnVsbA.e30.x", "[" * 9000 + ".a.b"]
)
async def test_what_is_no_token_is_refused_without_asking_the_issuer(token):
    async with signing_in() as (issuer, verifier, _):
        assert await refusal(verifier, token) == "malformed"
        assert issuer.peer.asked == []


async def test_keys_are_fetched_once_for_many_callers_at_the_same_time():
    async with signing_in() as (issuer, verifier, clock):
        token = issuer.token("rsa", "RS256", **good(issuer, clock))

        identities = await asyncio.gather(*(verifier.verify(token) for _ in range(50)))

        assert len(identities) == 50
        assert issuer.key_fetches == 1


@pytest.mark.parametrize(
    ("cache_control", "fresh_s"),
    [
        (None, 300),
        ("max-age=3600", 3600),
        ("public, max-age=3600, must-revalidate", 3600),
        ('max-age="3600"', 3600),
        ("max-age=1", 300),
        ("max-age=999999999", 86_400),
        ("no-store, max-age=3600", 300),
        ("x-max-age=3600", 300),
        ("nonsense", 300),
    ],
)
async def test_keys_stay_fresh_as_long_as_the_issuer_says_within_bounds(cache_control, fresh_s):
    async with signing_in() as (issuer, verifier, clock):
        issuer.cache_control = cache_control
        token = issuer.token("rsa", "RS256", **good(issuer, clock, exp=4_000_000_000))
        await verifier.verify(token)

        clock.pass_s(fresh_s - 1)
        await verifier.verify(token)
        assert issuer.key_fetches == 1
        clock.pass_s(1)
        await verifier.verify(token)
        assert issuer.key_fetches == 2


async def test_a_new_key_is_found_at_once_and_invented_ids_ask_at_most_every_30_seconds():
    async with signing_in() as (issuer, verifier, clock):
        await verifier.verify(issuer.token("rsa", "RS256", **good(issuer, clock)))
        clock.pass_s(31)

        issuer.keys["new"] = EC
        await verifier.verify(issuer.token("new", "ES256", **good(issuer, clock)))
        assert issuer.key_fetches == 2

        for number in range(100):
            token = jwt.encode(good(issuer, clock), ED, algorithm="EdDSA", headers={"kid": f"invented-{number}"})
            assert await refusal(verifier, token) == "unknown_key"
        assert issuer.key_fetches == 2

        clock.pass_s(30)
        await refusal(verifier, jwt.encode(good(issuer, clock), ED, algorithm="EdDSA", headers={"kid": "invented"}))
        assert issuer.key_fetches == 3


async def test_a_withdrawn_key_stops_counting_with_the_next_refresh():
    async with signing_in() as (issuer, verifier, clock):
        token = issuer.token("rsa", "RS256", **good(issuer, clock, exp=4_000_000_000))
        await verifier.verify(token)

        issuer.keys = {"other": EC}
        clock.pass_s(300)

        assert await refusal(verifier, token) == "unknown_key"


async def test_while_the_issuer_is_down_the_old_keys_count_for_a_day_more():
    async with signing_in() as (issuer, verifier, clock):
        token = issuer.token("rsa", "RS256", **good(issuer, clock, exp=4_000_000_000))
        await verifier.verify(token)
        issuer.is_down = True

        clock.pass_s(300 + 86_400 - 1)
        assert (await verifier.verify(token)).sub == "subject-1"
        clock.pass_s(1)
        with pytest.raises(IssuerUnavailable) as refused:
            await verifier.verify(token)
        assert refused.value.status == 503

        issuer.is_down = False
        clock.pass_s(30)
        assert (await verifier.verify(token)).sub == "subject-1"


async def test_an_issuer_that_was_never_reached_is_asked_again_only_after_a_while():
    async with signing_in() as (issuer, verifier, clock):
        issuer.is_down = True
        token = issuer.token("rsa", "RS256", **good(issuer, clock))

        for _ in range(20):
            with pytest.raises(IssuerUnavailable):
                await verifier.verify(token)

        assert len(issuer.peer.asked) == 1


async def test_while_one_caller_refreshes_stale_keys_the_others_go_on():
    async with signing_in() as (issuer, verifier, clock):
        token = issuer.token("rsa", "RS256", **good(issuer, clock, exp=4_000_000_000))
        await verifier.verify(token)
        clock.pass_s(300)
        issuer.gate = asyncio.Event()

        refreshing = asyncio.ensure_future(verifier.verify(token))
        await asyncio.sleep(0)
        others = [await asyncio.wait_for(verifier.verify(token), 1) for _ in range(10)]

        assert len(others) == 10
        assert not refreshing.done()
        issuer.gate.set()
        assert (await refreshing).sub == "subject-1"


async def test_a_caller_who_gives_up_while_asking_does_not_block_the_next():
    async with signing_in() as (issuer, verifier, clock):
        token = issuer.token("rsa", "RS256", **good(issuer, clock))
        issuer.gate = asyncio.Event()
        first = asyncio.ensure_future(verifier.verify(token))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        issuer.gate.set()

        assert (await verifier.verify(token)).sub == "subject-1"


async def test_a_discovery_document_of_another_issuer_is_not_believed():
    async with signing_in() as (issuer, verifier, clock):
        issuer.claimed_issuer = "https://elsewhere.example.test"

        with pytest.raises(IssuerUnavailable):
            await verifier.verify(issuer.token("rsa", "RS256", **good(issuer, clock)))
        assert issuer.key_fetches == 0
