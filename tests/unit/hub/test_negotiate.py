"""Ids that are given out, opened and forgotten."""

import re
from uuid import UUID

import pytest

from appliance.hub.negotiate import (
    WEBSOCKETS,
    Negotiations,
    TransportOffer,
    VersionRefused,
    choose_version,
    make_answer,
)
from tests.doubles.hand_clock import HandClock

USER, OTHER = UUID(int=1), UUID(int=2)
SHOP, OTHER_SHOP = UUID(int=7), UUID(int=8)
OFFERS = [TransportOffer("WebSockets", ("Text",))]


def make_negotiations() -> tuple[Negotiations, HandClock]:
    clock = HandClock()
    return Negotiations(clock, lifetime_s=15.0), clock


@pytest.mark.parametrize(("asked", "spoken"), [(None, 0), ("0", 0), ("1", 1), ("+1", 1), ("7", 1), ("999999999", 1)])
def test_the_version_is_the_clients_at_most_1(asked: str | None, spoken: int) -> None:
    assert choose_version(asked) == spoken


@pytest.mark.parametrize("asked", ["", "x", "1.0", "1_0", "٣", "9999999999999"])
def test_a_version_that_is_no_integer_is_told_so(asked: str) -> None:
    with pytest.raises(VersionRefused, match="non-integer"):
        choose_version(asked)


def test_a_negative_version_is_not_supported() -> None:
    with pytest.raises(VersionRefused, match="requested version '-1'"):
        choose_version("-1")


def test_version_1_keeps_the_token_apart_from_the_public_id() -> None:
    negotiations, _ = make_negotiations()
    negotiation = negotiations.begin(USER, "t", 1)
    answer = make_answer(negotiation, 1, OFFERS)
    assert answer == {
        "negotiateVersion": 1,
        "connectionId": negotiation.connection_id,
        "connectionToken": negotiation.token,
        "availableTransports": [{"transport": "WebSockets", "transferFormats": ("Text",)}],
    }
    assert negotiation.connection_id != negotiation.token
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{22}", one) for one in (negotiation.connection_id, negotiation.token))
    assert negotiations.find(negotiation.connection_id) is None


def test_in_version_0_the_connection_id_is_the_id() -> None:
    negotiations, _ = make_negotiations()
    negotiation = negotiations.begin(USER, "t", 0)
    answer = make_answer(negotiation, 0, OFFERS)
    assert "connectionToken" not in answer
    assert negotiations.find(str(answer["connectionId"])) is negotiation


def test_an_id_that_is_not_opened_is_forgotten_after_15_seconds() -> None:
    negotiations, clock = make_negotiations()
    negotiation = negotiations.begin(USER, "t", 1)
    clock.pass_s(14.9)
    assert negotiations.find(negotiation.token) is negotiation
    assert negotiations.count_pending_of(USER) == 1
    clock.pass_s(0.1)
    assert negotiations.find(negotiation.token) is None
    assert negotiations.count_pending() == negotiations.count_pending_of(USER) == 0


def test_an_open_id_stays_until_its_transport_finishes() -> None:
    negotiations, clock = make_negotiations()
    negotiation = negotiations.begin(USER, "t", 1)
    negotiations.open(negotiation, WEBSOCKETS)
    clock.pass_s(1_000)
    assert negotiations.find(negotiation.token) is negotiation
    assert negotiations.count_pending() == 0
    negotiations.finish(negotiation)
    assert negotiations.find(negotiation.token) is None


def test_revoking_a_user_or_a_credential_forgets_their_pending_ids_only() -> None:
    negotiations, _ = make_negotiations()
    mine, also_mine, other = (negotiations.begin(*one, 1) for one in ((USER, "t1"), (USER, "t2"), (OTHER, "t3")))
    negotiations.revoke(credential_id="t1")
    assert negotiations.find(mine.token) is None
    negotiations.revoke(user_id=USER)
    assert negotiations.find(also_mine.token) is None
    assert negotiations.find(other.token) is other


def test_revoking_an_app_forgets_the_pending_ids_of_its_credentials_only() -> None:
    negotiations, _ = make_negotiations()
    bound = negotiations.begin(USER, "t1", 1, app_id=SHOP)
    elsewhere = negotiations.begin(USER, "t2", 1, app_id=OTHER_SHOP)
    unbound = negotiations.begin(USER, "t3", 1)
    negotiations.revoke(app_id=SHOP)
    assert negotiations.find(bound.token) is None
    assert negotiations.find(elsewhere.token) is elsewhere
    negotiations.revoke(user_id=OTHER)
    assert negotiations.find(unbound.token) is unbound
