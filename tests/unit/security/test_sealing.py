import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.secret import Secret
from appliance.security.sealing import SealedDataAltered, Sealer, UnknownSealKey

OLD = Secret("old-key-0123456789-0123456789-0123456789")
NEW = Secret("new-key-0123456789-0123456789-0123456789")


@given(plaintext=st.binary(max_size=300), purpose=st.text(max_size=20).filter(str.isascii))
def test_what_is_sealed_opens_again_for_the_same_purpose(plaintext, purpose):
    sealer = Sealer(NEW)

    assert sealer.unseal(sealer.seal(plaintext, purpose=purpose), purpose=purpose) == plaintext


def test_the_same_text_sealed_twice_gives_different_blobs_without_the_text_in_them():
    sealer = Sealer(NEW)

    first = sealer.seal_text("canary-text", purpose="address")
    second = sealer.seal_text("canary-text", purpose="address")

    assert first != second
    assert b"canary-text" not in first


def test_a_secret_comes_back_wrapped():
    sealer = Sealer(NEW)

    assert sealer.unseal_secret(sealer.seal_secret(Secret("pa ß"), purpose="smtp"), purpose="smtp") == Secret("pa ß")


def test_a_blob_does_not_open_for_another_purpose():
    sealer = Sealer(NEW)
    blob = sealer.seal(b"x", purpose="address")

    with pytest.raises(SealedDataAltered):
        sealer.unseal(blob, purpose="webhook-secret")


def test_a_blob_with_any_single_bit_flipped_does_not_open():
    sealer = Sealer(NEW)
    blob = sealer.seal(b"four", purpose="address")

    for position in range(len(blob) * 8):
        altered = bytearray(blob)
        altered[position // 8] ^= 1 << position % 8
        with pytest.raises((SealedDataAltered, UnknownSealKey)):
            sealer.unseal(bytes(altered), purpose="address")


def test_a_blob_cut_short_at_any_byte_does_not_open():
    sealer = Sealer(NEW)
    blob = sealer.seal(b"four", purpose="address")

    for length in range(len(blob)):
        with pytest.raises(SealedDataAltered):
            sealer.unseal(blob[:length], purpose="address")


def test_after_a_rotation_old_blobs_open_and_are_named_for_resealing():
    blob = Sealer(OLD).seal(b"kept", purpose="address")
    rotated = Sealer(NEW, [OLD])

    assert rotated.unseal(blob, purpose="address") == b"kept"
    assert rotated.needs_resealing(blob)
    assert not rotated.needs_resealing(rotated.seal(b"kept", purpose="address"))


def test_a_blob_under_a_lost_key_names_the_key_and_the_way_out():
    blob = Sealer(OLD).seal(b"lost", purpose="address")

    with pytest.raises(UnknownSealKey) as refused:
        Sealer(NEW).unseal(blob, purpose="address")

    assert refused.value.key_id == Sealer(OLD).key_id
    assert "SECRET_KEY" in str(refused.value)


def test_fingerprints_are_stable_keyed_and_apart_by_purpose():
    sealer = Sealer(NEW)
    fingerprint = sealer.fingerprint(b"token", purpose="address")

    assert len(fingerprint) == 32
    assert fingerprint == Sealer(NEW).fingerprint(b"token", purpose="address")
    assert fingerprint != sealer.fingerprint(b"token", purpose="other")
    assert fingerprint != sealer.fingerprint(b"tokem", purpose="address")
    assert fingerprint != Sealer(OLD).fingerprint(b"token", purpose="address")


def test_after_a_rotation_a_value_is_still_found_by_its_old_fingerprint():
    stored = Sealer(OLD).fingerprint(b"token", purpose="address")

    rotated = Sealer(NEW, [OLD])

    assert rotated.fingerprints(b"token", purpose="address") == (
        rotated.fingerprint(b"token", purpose="address"),
        stored,
    )


def test_a_short_secret_key_is_refused():
    with pytest.raises(ValueError, match="32 random characters"):
        Sealer(Secret("short"))


def test_the_blob_format_of_version_1_stays_readable():
    """Data folders outlive releases: this blob was written by the first one."""
    blob = bytes.fromhex(
        "01bf2d1b9927ed34c3a01c80237d91e233752bd072bb1fd7171ecd778c4ef69111fee7"
        "76cfcc85f487601cc0afbc2a0eb5bf4d3c430eb2d1859a05f62e"
    )

    assert Sealer(NEW).unseal(blob, purpose="address") == b"written by the first release"
