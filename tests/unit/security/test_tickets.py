from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from appliance.domain.principal import Principal, PrincipalKind, Role
from appliance.domain.secret import Secret
from appliance.security.client_secrets import SecretHasher
from appliance.security.revocations import Revocations
from appliance.security.sealing import Sealer
from appliance.security.tickets import TICKET_PREFIX, TicketOffice, TicketRefused

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HASHER = SecretHasher(Sealer(Secret("key-0123456789-0123456789-0123456789")))


def bearer(number: int = 1, *, expires_at: datetime = NOW + timedelta(minutes=30)) -> Principal:
    return Principal(
        kind=PrincipalKind.USER,
        user_id=UUID(int=number),
        app_id=None,
        role=Role.MEMBER,
        scopes=frozenset(),
        expires_at=expires_at,
        token_id=f"session-{number}",
    )


def make_office(revocations: Revocations | None = None, *, per_bearer: int = 32, total: int = 1000) -> TicketOffice:
    return TicketOffice(
        HASHER, Revocations() if revocations is None else revocations, per_bearer=per_bearer, total=total
    )


def redeems(office: TicketOffice, ticket: Secret, now: datetime = NOW) -> bool:
    try:
        office.redeem(ticket.reveal(), now)
    except TicketRefused:
        return False
    return True


def test_a_ticket_passes_its_bearer_on_exactly_once():
    office = make_office()
    issued = office.issue(bearer(), NOW)

    assert office.redeem(issued.ticket.reveal(), NOW) == bearer()
    assert not redeems(office, issued.ticket)
    assert office.open_count == 0


def test_a_ticket_is_known_by_its_prefix_and_not_kept_in_the_clear():
    office = make_office()
    issued = office.issue(bearer(), NOW)

    assert issued.ticket.reveal().startswith(TICKET_PREFIX)
    assert issued.ticket.reveal().encode() not in repr(vars(office)).encode()


def test_a_ticket_counts_for_sixty_seconds():
    office = make_office()
    first, second = office.issue(bearer(), NOW), office.issue(bearer(), NOW)

    assert redeems(office, first.ticket, NOW + timedelta(seconds=59.9))
    assert not redeems(office, second.ticket, NOW + timedelta(seconds=60))


def test_a_ticket_never_outlives_the_token_it_was_asked_with():
    office = make_office()
    issued = office.issue(bearer(expires_at=NOW + timedelta(seconds=10)), NOW)

    assert issued.expires_at == NOW + timedelta(seconds=10)
    assert not redeems(office, issued.ticket, NOW + timedelta(seconds=10))


@pytest.mark.parametrize("text", ["", "tk_", "tk_" + "A" * 43, "\ud800", "x" * 100_000])
def test_an_invented_ticket_is_refused(text):
    office = make_office()
    office.issue(bearer(), NOW)

    assert not redeems(office, Secret(text))


def test_revoking_the_user_or_the_session_voids_open_tickets():
    revocations = Revocations()
    office = make_office(revocations)
    of_user, of_session, other = (office.issue(bearer(number), NOW).ticket for number in (1, 2, 3))

    revocations.revoke_user(UUID(int=1), NOW + timedelta(seconds=1))
    revocations.revoke_token("session-2", NOW + timedelta(seconds=1))

    assert not redeems(office, of_user)
    assert not redeems(office, of_session)
    assert redeems(office, other)


def test_one_bearer_keeps_only_so_many_and_loses_the_own_oldest():
    office = make_office(per_bearer=2)
    others = office.issue(bearer(9), NOW).ticket
    mine = [office.issue(bearer(1), NOW).ticket for _ in range(3)]

    assert [redeems(office, ticket) for ticket in mine] == [False, True, True]
    assert redeems(office, others)


def test_all_together_keep_only_so_many_and_the_oldest_goes():
    office = make_office(total=3)
    tickets = [office.issue(bearer(number), NOW).ticket for number in range(1, 6)]

    assert office.open_count == 3
    assert [redeems(office, ticket) for ticket in tickets] == [False, False, True, True, True]


def test_run_out_tickets_leave_no_trace():
    office = make_office()
    for number in range(1, 100):
        office.issue(bearer(number), NOW)

    office.issue(bearer(1), NOW + timedelta(seconds=61))

    assert office.open_count == 1
    assert len(office._by_bearer) == 1
