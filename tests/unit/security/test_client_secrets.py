import base64

import pytest

from appliance.domain.secret import Secret
from appliance.security.client_secrets import (
    SecretHasher,
    SecretKind,
    SecretVerdict,
    make_app_secret,
    make_refresh_token,
    make_session_id,
    make_ticket,
    make_webhook_secret,
    webhook_signing_key,
)
from appliance.security.sealing import Sealer

OLD = Secret("old-key-0123456789-0123456789-0123456789")
NEW = Secret("new-key-0123456789-0123456789-0123456789")


@pytest.mark.parametrize(
    ("make", "prefix"),
    [(make_app_secret, "cs_"), (make_refresh_token, "rt_"), (make_session_id, "sid_"), (make_ticket, "tk_")],
)
def test_random_secrets_carry_their_prefix_and_256_bits(make, prefix):
    text = make().reveal()

    assert text.startswith(prefix)
    assert len(base64.urlsafe_b64decode(text.removeprefix(prefix) + "=")) == 32
    assert make() != make()


def test_a_webhook_secret_has_the_standard_webhooks_form():
    secret = make_webhook_secret()

    assert secret.reveal().startswith("whsec_")
    assert len(webhook_signing_key(secret)) == 32


@pytest.mark.parametrize("text", ["", "abc", "whsec_not base64!", "WHSEC_AAAA"])
def test_a_malformed_webhook_secret_is_refused_without_being_quoted(text):
    with pytest.raises(ValueError) as refused:
        webhook_signing_key(Secret(text))

    assert not text or text not in str(refused.value)


def test_the_right_app_secret_is_right_and_its_hash_does_not_contain_it():
    hasher = SecretHasher(Sealer(NEW))
    secret = make_app_secret()
    stored = hasher.hash(secret, SecretKind.APP_SECRET)

    assert hasher.verify(secret, stored, SecretKind.APP_SECRET) == SecretVerdict(is_right=True)
    assert len(stored) == 32


def test_a_wrong_secret_and_an_unknown_app_are_both_just_wrong():
    hasher = SecretHasher(Sealer(NEW))
    stored = hasher.hash(make_app_secret(), SecretKind.APP_SECRET)

    assert not hasher.verify(make_app_secret(), stored, SecretKind.APP_SECRET).is_right
    assert not hasher.verify(make_app_secret(), None, SecretKind.APP_SECRET).is_right


def test_a_refresh_token_does_not_pass_as_an_app_secret():
    hasher = SecretHasher(Sealer(NEW))
    secret = make_refresh_token()

    stored = hasher.hash(secret, SecretKind.REFRESH_TOKEN)

    assert not hasher.verify(secret, stored, SecretKind.APP_SECRET).is_right


def test_after_a_key_rotation_the_secret_is_still_right_and_asks_to_be_hashed_anew():
    secret = make_app_secret()
    stored = SecretHasher(Sealer(OLD)).hash(secret, SecretKind.APP_SECRET)
    rotated = SecretHasher(Sealer(NEW, [OLD]))

    assert rotated.verify(secret, stored, SecretKind.APP_SECRET) == SecretVerdict(is_right=True, needs_rehash=True)
    assert stored in rotated.hash_candidates(secret, SecretKind.APP_SECRET)


@pytest.mark.parametrize("text", ["", "\ud800", "x" * 1_000_000])
def test_odd_texts_are_wrong_and_not_an_error(text):
    hasher = SecretHasher(Sealer(NEW))
    stored = hasher.hash(make_app_secret(), SecretKind.APP_SECRET)

    assert not hasher.verify(Secret(text), stored, SecretKind.APP_SECRET).is_right
    assert not hasher.verify(Secret(text), None, SecretKind.APP_SECRET).is_right
