"""User names: what may be one, and when two are the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.errors import InvalidField
from appliance.domain.username import MAX_USERNAME_KEY_CHARS, check_username, username_key


@pytest.mark.parametrize(
    ("one", "other"),
    [("anna", "ANNA"), ("Straße", "STRASSE"), ("Zoe\u0308", "Zoë"), ("ａｎｎａ", "anna"), (" anna ", "anna")],
)
def test_names_that_look_alike_by_case_or_form_are_one_name(one: str, other: str):
    assert username_key(one) == username_key(other)


@pytest.mark.parametrize("name", ["", " ", "\u200b", "a\u202eb", "a\tb", "a\0", "\ud800", "x" * 151])
def test_what_cannot_be_seen_or_kept_is_no_name(name: str):
    with pytest.raises(InvalidField):
        check_username(name)


@given(st.text(max_size=160))
def test_a_name_that_passes_is_kept_as_it_is_and_its_key_is_stable(name: str):
    try:
        kept = check_username(name)
    except InvalidField:
        return
    assert check_username(kept) == kept
    assert username_key(username_key(kept)) == username_key(kept)
    assert 0 < len(username_key(kept)) <= MAX_USERNAME_KEY_CHARS
