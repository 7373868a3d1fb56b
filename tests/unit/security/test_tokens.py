import base64
import json
import timeit
from datetime import UTC, datetime, timedelta
from uuid import UUID

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from appliance.domain.principal import SCOPE_PUSH_SEND, PrincipalKind, Role
from appliance.security.revocations import Revocations
from appliance.security.signing_keys import (
    SigningKey,
    generate_signing_key,
    pack_signing_key,
    rotate_signing_keys,
    unpack_signing_key,
)
from appliance.security.tokens import RefusalReason, TokenIssuer, TokenRefused

NOW = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
APP = UUID("01900000-0000-7000-8000-00000000000a")
USER = UUID("01900000-0000-7000-8000-00000000000b")
ISSUER = "https://push.example.test"


@pytest.fixture(scope="module")
def key():
    return generate_signing_key(NOW)


@pytest.fixture
def issuer(key):
    return TokenIssuer([key], ISSUER)


def refusal(issuer: TokenIssuer, token: str, now: datetime = NOW) -> RefusalReason:
    with pytest.raises(TokenRefused) as refused:
        issuer.verify(token, now)
    return refused.value.reason


def forged(key: SigningKey, *, headers: dict | None = None, **changes) -> str:
    """A token signed with the real key whose claims are changed; a claim set to None is left out."""
    claims = {
        "iss": ISSUER,
        "aud": "carillon",
        "sub": str(APP),
        "client_id": str(APP),
        "jti": "j",
        "iat": int(NOW.timestamp()),
        "exp": int(NOW.timestamp()) + 600,
        "scope": "push:send",
        **changes,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    headers = {"typ": "at+jwt", "kid": key.kid} if headers is None else headers
    return jwt.encode(claims, key.private_key, algorithm="EdDSA", headers=headers)


def test_an_app_token_names_the_app_and_its_scopes_for_an_hour(issuer):
    issued = issuer.issue_app_token(APP, [SCOPE_PUSH_SEND], NOW)

    bearer = issuer.verify(issued.token.reveal(), NOW)

    assert bearer.kind is PrincipalKind.APP
    assert (bearer.app_id, bearer.user_id, bearer.role) == (APP, None, None)
    assert bearer.may_send
    assert issued.lifetime_s == 3600
    assert bearer.token_id == issued.token_id
    claims = jwt.decode(issued.token.reveal(), options={"verify_signature": False})
    assert claims["sub"] == claims["client_id"] == str(APP)


def test_a_user_token_names_the_user_role_app_and_session(issuer):
    issued = issuer.issue_user_token(USER, Role.ADMIN, NOW, app_id=APP, session_id="session-1")

    bearer = issuer.verify(issued.token.reveal(), NOW)

    assert bearer.kind is PrincipalKind.USER
    assert (bearer.user_id, bearer.app_id, bearer.token_id) == (USER, APP, "session-1")
    assert bearer.is_admin
    assert not bearer.may_send
    assert issued.lifetime_s == 1800


def test_a_member_is_not_an_admin(issuer):
    issued = issuer.issue_user_token(USER, Role.MEMBER, NOW)

    assert not issuer.verify(issued.token.reveal(), NOW).is_admin


def test_a_token_counts_until_the_very_instant_that_its_principal_names(issuer):
    issued = issuer.issue_app_token(APP, [], NOW)
    ends_at = issuer.verify(issued.token.reveal(), NOW).expires_at

    issuer.verify(issued.token.reveal(), ends_at - timedelta(milliseconds=1))

    assert ends_at == issued.expires_at
    assert refusal(issuer, issued.token.reveal(), ends_at) is RefusalReason.EXPIRED
    assert refusal(TokenIssuer([issuer._newest], ISSUER), issued.token.reveal(), ends_at) is RefusalReason.EXPIRED


@pytest.mark.parametrize("lifetime_s", [1, 1800, 24 * 3600])
def test_exp_minus_iat_is_the_lifetime_in_whole_seconds(issuer, lifetime_s):
    """A token for a day once said iat 12:00:00.25 and exp 12:00:00 of the next day, so it lived 86 399.75 s."""
    issued = issuer.issue_user_token(USER, Role.MEMBER, NOW, timedelta(seconds=lifetime_s))

    claims = jwt.decode(issued.token.reveal(), options={"verify_signature": False})

    assert (type(claims["iat"]), type(claims["exp"])) == (int, int)
    assert claims["iat"] == int(NOW.timestamp())
    assert claims["exp"] - claims["iat"] == issued.lifetime_s == lifetime_s
    assert issued.expires_at == NOW.replace(microsecond=0) + timedelta(seconds=lifetime_s)


def test_a_token_of_an_earlier_version_with_a_fraction_in_iat_keeps_its_instant(issuer, key):
    token = forged(key, iat=NOW.timestamp())

    issuer.revoke_app(APP, NOW)
    assert issuer.verify(token, NOW).app_id == APP
    issuer.revoke_app(APP, NOW + timedelta(microseconds=1))
    assert refusal(issuer, token) is RefusalReason.REVOKED


def test_a_token_survives_a_clock_that_jumps_back_an_hour(issuer):
    issued = issuer.issue_app_token(APP, [], NOW)

    assert issuer.verify(issued.token.reveal(), NOW - timedelta(hours=1)).app_id == APP


@pytest.mark.parametrize("lifetime", [timedelta(0), timedelta(seconds=-1), timedelta(hours=24, seconds=1)])
def test_a_lifetime_beyond_a_day_or_none_at_all_is_refused(issuer, lifetime):
    with pytest.raises(ValueError, match="lives up to"):
        issuer.issue_user_token(USER, Role.MEMBER, NOW, lifetime)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iss": "https://elsewhere.example.test"}, RefusalReason.WRONG_ISSUER),
        ({"aud": "another"}, RefusalReason.WRONG_AUDIENCE),
        ({"exp": int(NOW.timestamp()) - 60}, RefusalReason.EXPIRED),
        ({"aud": ["carillon", "another"]}, RefusalReason.MALFORMED),
        ({"iss": None}, RefusalReason.MALFORMED),
        ({"aud": None}, RefusalReason.MALFORMED),
        ({"exp": None}, RefusalReason.MALFORMED),
        ({"sub": None}, RefusalReason.MALFORMED),
        ({"jti": None}, RefusalReason.MALFORMED),
        ({"iat": None}, RefusalReason.MALFORMED),
        ({"sub": "not-a-uuid"}, RefusalReason.MALFORMED),
        ({"exp": "never"}, RefusalReason.MALFORMED),
        ({"exp": 10**40}, RefusalReason.MALFORMED),
        ({"exp": 10**17}, RefusalReason.MALFORMED),
        ({"role": 7}, RefusalReason.MALFORMED),
    ],
)
def test_a_well_signed_token_with_wrong_claims_is_refused(issuer, key, changes, reason):
    assert issuer.verify(forged(key), NOW)

    assert refusal(issuer, forged(key, **changes)) is reason


@pytest.mark.parametrize(
    "headers",
    [
        {"typ": "JWT"},
        {"typ": "at+jwt", "crit": ["exp"]},
        {"typ": "at+jwt", "jku": "https://evil.example.test/keys"},
        {"typ": "at+jwt", "jwk": {"kty": "OKP"}},
    ],
)
def test_any_other_header_form_is_refused(issuer, key, headers):
    headers = {"kid": key.kid, **headers}

    assert refusal(issuer, forged(key, headers=headers)) is RefusalReason.MALFORMED


def test_a_header_without_a_kid_is_refused(issuer, key):
    assert refusal(issuer, forged(key, headers={"typ": "at+jwt"})) is RefusalReason.MALFORMED


def test_an_unsigned_token_is_refused(issuer, key):
    header, payload, _ = forged(key).split(".")
    none = base64.urlsafe_b64encode(json.dumps({"alg": "none", "typ": "at+jwt", "kid": key.kid}).encode())

    assert refusal(issuer, f"{none.decode().rstrip('=')}.{payload}.") is RefusalReason.MALFORMED
    assert refusal(issuer, f"{header}.{payload}.") is RefusalReason.BAD_SIGNATURE


def test_the_public_key_used_as_an_hmac_secret_gives_nothing(issuer, key):
    """The classic confusion: a verifier that lets the header choose takes the public key for a shared secret."""
    raw = key.public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    token = forged(key)
    claims = jwt.decode(token, options={"verify_signature": False})

    hmac_token = jwt.encode(claims, raw, algorithm="HS256", headers={"typ": "at+jwt", "kid": key.kid})

    assert refusal(issuer, hmac_token) is RefusalReason.MALFORMED


def test_a_token_of_another_algorithm_is_refused(issuer, key):
    claims = jwt.decode(forged(key), options={"verify_signature": False})
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    token = jwt.encode(claims, rsa_key, algorithm="RS256", headers={"typ": "at+jwt", "kid": key.kid})

    assert refusal(issuer, token) is RefusalReason.MALFORMED


def test_a_token_of_a_foreign_key_is_refused_under_its_own_and_under_our_kid(issuer, key):
    foreign = generate_signing_key(NOW)

    assert refusal(issuer, forged(foreign)) is RefusalReason.UNKNOWN_KEY
    stolen_kid = forged(foreign, headers={"typ": "at+jwt", "kid": key.kid})
    assert refusal(issuer, stolen_kid) is RefusalReason.BAD_SIGNATURE


def test_a_token_with_any_character_changed_is_refused(issuer, key):
    token = forged(key)
    issuer.verify(token, NOW)

    for position in range(len(token) - 1):
        changed = "A" if token[position] != "A" else "B"
        with pytest.raises(TokenRefused):
            issuer.verify(token[:position] + changed + token[position + 1 :], NOW)


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "a.b.c", "....", "é.é.é", "\ud800.a.b", "x" * 5000, "bm9wZQ.bm9wZQ.bm9wZQ", "[" * 3000 + ".a.b"],
)
def test_what_is_no_token_is_refused_as_malformed(issuer, text):
    assert refusal(issuer, text) is RefusalReason.MALFORMED


def test_every_refusal_tells_the_bearer_the_same(issuer, key):
    expired = forged(key, exp=int(NOW.timestamp()) - 60)
    texts = set()
    for token in (expired, "a.b.c", forged(generate_signing_key(NOW))):
        with pytest.raises(TokenRefused) as refused:
            issuer.verify(token, NOW)
        texts.add((str(refused.value), refused.value.detail, refused.value.status))

    assert len(texts) == 1


def test_after_a_rotation_the_new_key_signs_and_the_old_tokens_count_until_they_run_out(key):
    issuer = TokenIssuer([key], ISSUER)
    old = issuer.issue_user_token(USER, Role.MEMBER, NOW, timedelta(hours=24)).token.reveal()

    keys = rotate_signing_keys([key], NOW)
    issuer.replace_keys(keys)
    new = issuer.issue_app_token(APP, [], NOW).token.reveal()

    assert jwt.get_unverified_header(new)["kid"] == keys[0].kid != key.kid
    assert issuer.verify(old, NOW + timedelta(hours=23, minutes=59)).user_id == USER
    assert issuer.verify(new, NOW).app_id == APP
    assert {entry["kid"] for entry in issuer.jwks(NOW)["keys"]} == {keys[0].kid, key.kid}


def test_a_retired_key_verifies_nothing_even_what_is_remembered(key):
    retiring = rotate_signing_keys([key], NOW)
    issuer = TokenIssuer(retiring, ISSUER)
    token = forged(key, exp=int((NOW + timedelta(days=9)).timestamp()))
    assert issuer.verify(token, NOW).app_id == APP

    later = NOW + timedelta(hours=25)

    assert refusal(issuer, token, later) is RefusalReason.EXPIRED
    assert refusal(issuer, token, later) is RefusalReason.UNKNOWN_KEY
    assert [entry["kid"] for entry in issuer.jwks(later)["keys"]] == [retiring[0].kid]
    assert [k.kid for k in rotate_signing_keys(retiring, later)][1:] == [retiring[0].kid]


def test_dropping_a_key_refuses_its_remembered_tokens_at_once(issuer, key):
    token = issuer.issue_app_token(APP, [], NOW).token.reveal()
    issuer.verify(token, NOW)

    issuer.replace_keys([generate_signing_key(NOW)])

    assert refusal(issuer, token) is RefusalReason.UNKNOWN_KEY


def test_keys_of_which_none_may_sign_are_refused(key):
    with pytest.raises(ValueError, match="signing key"):
        TokenIssuer(rotate_signing_keys([key], NOW)[1:], ISSUER)


def test_a_revoked_token_is_refused_at_once_although_it_is_remembered(issuer):
    first = issuer.issue_app_token(APP, [], NOW)
    second = issuer.issue_app_token(APP, [], NOW)
    issuer.verify(first.token.reveal(), NOW)
    issuer.verify(second.token.reveal(), NOW)

    issuer.revoke_token(first.token_id, NOW)

    assert refusal(issuer, first.token.reveal()) is RefusalReason.REVOKED
    assert refusal(issuer, first.token.reveal()) is RefusalReason.REVOKED
    assert issuer.verify(second.token.reveal(), NOW)


def test_a_shared_register_of_revocations_is_asked_even_if_it_was_empty_at_first(key):
    """An empty register once counted as none given, and each issuer kept to its own."""
    shared = Revocations()
    issuer = TokenIssuer([key], ISSUER, revocations=shared)
    issued = issuer.issue_app_token(APP, [], NOW)

    shared.revoke_token(issued.token_id, NOW)

    assert refusal(issuer, issued.token.reveal()) is RefusalReason.REVOKED


def test_revoking_a_session_refuses_all_its_tokens(issuer):
    tokens = [issuer.issue_user_token(USER, Role.MEMBER, NOW, session_id="s").token.reveal() for _ in range(2)]
    other = issuer.issue_user_token(USER, Role.MEMBER, NOW, session_id="t").token.reveal()

    issuer.revoke_token("s", NOW)

    assert [refusal(issuer, token) for token in tokens] == [RefusalReason.REVOKED] * 2
    assert issuer.verify(other, NOW)


def test_revoking_a_user_refuses_the_earlier_tokens_and_lets_one_issued_in_the_same_instant_count(issuer):
    """A changed password revokes everything and logs its owner in again in the same request."""
    early = issuer.issue_user_token(USER, Role.MEMBER, NOW - timedelta(microseconds=1)).token.reveal()
    issuer.verify(early, NOW)

    issuer.revoke_user(USER, NOW)
    fresh = issuer.issue_user_token(USER, Role.MEMBER, NOW).token.reveal()

    assert refusal(issuer, early) is RefusalReason.REVOKED
    assert issuer.verify(fresh, NOW).user_id == USER


def test_an_older_revocation_does_not_undo_a_newer_one(issuer):
    token = issuer.issue_user_token(USER, Role.MEMBER, NOW).token.reveal()

    issuer.revoke_user(USER, NOW + timedelta(seconds=1))
    issuer.revoke_user(USER, NOW - timedelta(hours=1))

    assert refusal(issuer, token) is RefusalReason.REVOKED


def test_revoking_an_app_refuses_its_tokens_and_those_of_users_in_it(issuer):
    app_token = issuer.issue_app_token(APP, [], NOW).token.reveal()
    user_in_app = issuer.issue_user_token(USER, Role.MEMBER, NOW, app_id=APP).token.reveal()
    user_alone = issuer.issue_user_token(USER, Role.MEMBER, NOW).token.reveal()

    issuer.revoke_app(APP, NOW + timedelta(seconds=1))

    assert refusal(issuer, app_token) is RefusalReason.REVOKED
    assert refusal(issuer, user_in_app) is RefusalReason.REVOKED
    assert issuer.verify(user_alone, NOW)


def test_revocations_are_forgotten_once_no_token_can_live_that_they_concern():
    revocations = Revocations()
    for number in range(1000):
        revocations.revoke_token(f"t{number}", NOW + timedelta(hours=number))
    revocations.revoke_user(USER, NOW)
    revocations.revoke_app(APP, NOW)

    assert revocations.count < 400
    revocations.forget_past(NOW + timedelta(hours=1025))
    assert revocations.count == 0


def test_only_so_many_tokens_are_remembered_and_the_least_used_goes_first(key):
    issuer = TokenIssuer([key], ISSUER, cache_size=3)
    tokens = [issuer.issue_app_token(APP, [], NOW).token.reveal() for _ in range(4)]
    for token in (*tokens[:3], tokens[0], tokens[3]):
        issuer.verify(token, NOW)

    assert list(issuer._cache) == [tokens[2], tokens[0], tokens[3]]


def test_a_repeated_verification_is_cheap(issuer):
    token = issuer.issue_app_token(APP, [], NOW).token.reveal()
    issuer.verify(token, NOW)

    cost_s = min(timeit.repeat(lambda: issuer.verify(token, NOW), number=1000, repeat=5)) / 1000

    assert cost_s < 10e-6


def test_a_signing_key_survives_packing_and_its_repr_shows_no_private_part(key):
    again = unpack_signing_key(pack_signing_key(key))

    assert (again.kid, again.created_at, again.retire_after) == (key.kid, key.created_at, key.retire_after)
    token = TokenIssuer([again], ISSUER).issue_app_token(APP, [], NOW).token.reveal()
    assert TokenIssuer([key], ISSUER).verify(token, NOW).app_id == APP
    assert "private" not in repr(key)


@pytest.mark.parametrize(
    "packed", [b"", b"{}", b'{"kid":"k","private_key":"AAAA","created_at":"2026-01-01T00:00:00Z"}']
)
def test_what_is_no_packed_key_is_refused_without_being_quoted(packed):
    with pytest.raises(ValueError, match=r"not a packed signing key"):
        unpack_signing_key(packed)


def test_the_published_keys_verify_our_tokens_with_any_jwt_library(issuer):
    token = issuer.issue_app_token(APP, [SCOPE_PUSH_SEND], datetime.now(UTC)).token.reveal()
    published = jwt.PyJWK(issuer.jwks(NOW)["keys"][0])

    claims = jwt.decode(token, published, algorithms=["EdDSA"], audience="carillon", issuer=ISSUER)

    assert claims["scope"] == "push:send"
    assert published.key_id == jwt.get_unverified_header(token)["kid"]
