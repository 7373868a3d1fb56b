"""The ladder: what may follow what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.ladder import (
    OPEN,
    SETTLED,
    TRANSITIONS,
    DeliveryState,
    Event,
    IllegalTransition,
    advance,
    event_of,
    is_settled,
    may,
    sources,
)
from appliance.domain.outcome import Accepted, Gone, Misconfigured, Rejected, Retry


def test_every_open_state_has_a_way_out_and_every_state_can_be_reached():
    assert {state for state, _ in TRANSITIONS} >= OPEN
    assert set(TRANSITIONS.values()) | {DeliveryState.QUEUED} == set(DeliveryState)


def test_an_acknowledgement_wins_over_everything_but_a_withdrawal():
    for state in DeliveryState:
        if state in (DeliveryState.CONFIRMED, DeliveryState.WITHDRAWN):
            assert not may(state, Event.ACKNOWLEDGE)
        else:
            assert advance(state, Event.ACKNOWLEDGE) is DeliveryState.CONFIRMED


def test_a_settled_delivery_only_ever_becomes_confirmed():
    for (state, event), target in TRANSITIONS.items():
        if state in SETTLED:
            assert event is Event.ACKNOWLEDGE
            assert target is DeliveryState.CONFIRMED


def test_only_a_claimed_delivery_can_be_taken_or_refused_for_good_by_a_provider():
    assert sources(Event.PROVIDER_REJECTED) == (DeliveryState.CLAIMED,)
    assert sources(Event.PROVIDER_DEFERRED) == (DeliveryState.CLAIMED,)
    assert DeliveryState.QUEUED not in sources(Event.PROVIDER_ACCEPTED)


def test_weather_and_misconfiguration_wait_while_evidence_and_refusal_settle():
    claimed = DeliveryState.CLAIMED
    assert advance(claimed, event_of(Retry("busy"))) is DeliveryState.QUEUED
    assert advance(claimed, event_of(Misconfigured("bad key"))) is DeliveryState.QUEUED
    assert advance(claimed, event_of(Gone("UNREGISTERED"))) is DeliveryState.GONE
    assert advance(claimed, event_of(Rejected("too big"))) is DeliveryState.FAILED
    assert advance(claimed, event_of(Accepted())) is DeliveryState.SENT


def test_each_event_leads_to_one_state_only_so_that_storage_can_guard_with_it():
    for event in Event:
        assert len({target for (_, other), target in TRANSITIONS.items() if other is event}) == 1


@given(st.lists(st.sampled_from(Event), max_size=40))
def test_no_sequence_of_events_leaves_the_table(events):
    state = DeliveryState.QUEUED
    for event in events:
        if may(state, event):
            state = advance(state, event)
        else:
            with pytest.raises(IllegalTransition):
                advance(state, event)
    assert state in DeliveryState
    assert is_settled(state) == (state not in OPEN)
