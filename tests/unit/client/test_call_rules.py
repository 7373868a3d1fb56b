"""The rules of one call, with a clock that a test moves and no socket."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import pytest

from appliance.client_call import (
    Call,
    Caller,
    Exchange,
    Fault,
    Patience,
    Plan,
    Renew,
    Reply,
    Surroundings,
    Wait,
    check_base_url,
    may_use_proxy,
    retry_after_s,
)
from appliance.client_calls import send_call
from appliance.client_errors import (
    InvalidRequest,
    NotSignedIn,
    OutOfSpace,
    QuotaExceeded,
    Refused,
    ServerTrouble,
    UnexpectedReply,
    Unreachable,
)
from appliance.client_grants import AppGrant, FixedToken, Grant, UserGrant
from appliance.domain.secret import Secret
from tests.doubles.hand_clock import HandClock

URL = "https://push.example.org"
ACCEPTED = Reply(202, {}, b'{"notification_id": "n1"}')
SEND = Call("POST", "/push/send", {"title": "Hello"}, "key-1")


def reply(status: int, body: object = None, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, named, b"" if body is None else json.dumps(body).encode())


def token(text: str = "t1", expires_in: int = 3600, **more: object) -> Reply:
    return reply(200, {"access_token": text, "token_type": "Bearer", "expires_in": expires_in, **more})


class Table:
    """Drives plans by hand: answers come from a list, waits move the clock, everything asked is kept."""

    def __init__(self, grant: Grant | None = None, patience: Patience | None = None, jitter: float = 0.5) -> None:
        self.clock = HandClock()
        self.asked: list[Exchange] = []
        self.waits: list[float] = []
        self.exchange_takes_s = 0.0
        surroundings = Surroundings(self.clock.monotonic, self.clock.now, lambda: jitter)
        self.caller = Caller(URL, grant or AppGrant("app-1", Secret("s1")), patience, surroundings)

    def call(self, answers: Sequence[Reply | Fault], call: Call = SEND) -> bytes:
        return self.drive(self.caller.calling(call, lambda got: got.content), list(answers))

    def drive(self, plan: Plan[Any], answers: list[Reply | Fault]) -> Any:
        came: Reply | Fault | None = None
        while True:
            try:
                step = plan.send(came)
            except StopIteration as done:
                return done.value
            came = None
            match step:
                case Exchange():
                    self.asked.append(step)
                    self.clock.pass_s(self.exchange_takes_s)
                    came = answers.pop(0)
                case Wait(seconds):
                    self.waits.append(seconds)
                    self.clock.pass_s(seconds)
                case Renew():
                    self.drive(self.caller.renewing(step), answers)

    @property
    def paths(self) -> list[str]:
        return [exchange.path for exchange in self.asked]


def test_the_first_call_gets_a_token_and_the_second_uses_it_again() -> None:
    table = Table()
    assert table.call([token(), ACCEPTED]) == ACCEPTED.content
    assert table.call([ACCEPTED]) == ACCEPTED.content
    assert table.paths == ["/oauth/token", "/push/send", "/push/send"]
    form = parse_qs(table.asked[0].content.decode())
    assert form["grant_type"] == ["client_credentials"]
    assert form["scope"] == ["push:send"]
    assert [sent.headers["authorization"] for sent in table.asked[1:]] == ["Bearer t1", "Bearer t1"]


def test_a_token_is_renewed_half_a_minute_before_it_runs_out() -> None:
    table = Table()
    table.call([token("t1", expires_in=100), ACCEPTED])
    table.clock.pass_s(69)
    table.call([ACCEPTED])
    table.clock.pass_s(1.5)
    table.call([token("t2"), ACCEPTED])
    assert table.paths[-2:] == ["/oauth/token", "/push/send"]
    assert table.asked[-1].headers["authorization"] == "Bearer t2"


def test_a_refused_token_is_renewed_once_and_the_call_made_again_with_the_same_key() -> None:
    table = Table()
    table.call([token("t1"), reply(401), token("t2"), ACCEPTED])
    sends = [exchange for exchange in table.asked if exchange.path == "/push/send"]
    assert [sent.headers["authorization"] for sent in sends] == ["Bearer t1", "Bearer t2"]
    assert {sent.headers["idempotency-key"] for sent in sends} == {"key-1"}


def test_a_second_401_is_told_to_the_caller() -> None:
    table = Table()
    with pytest.raises(NotSignedIn):
        table.call([token("t1"), reply(401), token("t2"), reply(401)])
    assert len(table.asked) == 4


@pytest.mark.parametrize("status", [429, 502, 503, 504, 507])
def test_weather_is_tried_again_with_the_same_body_and_key(status: int) -> None:
    table = Table()
    table.call([token(), reply(status), reply(status), ACCEPTED])
    sends = table.asked[1:]
    assert len(sends) == 3
    assert len({(sent.content, sent.headers["idempotency-key"]) for sent in sends}) == 1
    assert table.waits == [0.125, 0.25]


@pytest.mark.parametrize("status", [400, 403, 404, 409, 413, 415, 422, 500, 501])
def test_what_no_second_try_mends_is_raised_at_once(status: int) -> None:
    table = Table()
    with pytest.raises(Refused) as raised:
        table.call([token(), reply(status, {"detail": "why"})])
    assert raised.value.status == status
    assert table.waits == []


def test_a_lost_answer_is_asked_for_again() -> None:
    table = Table()
    table.call([token(), Fault("connection reset"), ACCEPTED])
    assert len(table.asked) == 3


def test_a_lost_first_try_that_still_runs_is_waited_for() -> None:
    table = Table()
    table.call([token(), Fault("timed out"), reply(409), ACCEPTED])
    assert table.paths[1:] == ["/push/send"] * 3


def test_a_certificate_that_does_not_count_is_not_tried_again() -> None:
    table = Table()
    with pytest.raises(Unreachable, match="self-signed"):
        table.call([Fault("self-signed certificate", is_final=True)])
    assert len(table.asked) == 1


def test_retry_after_is_a_floor_with_the_jitter_on_top() -> None:
    table = Table()
    table.call([token(), reply(503, retry_after="3"), ACCEPTED])
    assert table.waits == [3.125]


def test_retry_after_as_a_date_counts_from_now() -> None:
    table = Table()
    table.call([token(), reply(503, retry_after="Sun, 01 Mar 2026 12:00:07 GMT"), ACCEPTED])
    assert table.waits == [7.125]


def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    table = Table()
    problem = {"code": "quota_exceeded", "title": "The daily quota is used up", "detail": "Tomorrow."}
    with pytest.raises(QuotaExceeded) as raised:
        table.call([token(), reply(429, problem, retry_after="40000")])
    assert raised.value.retry_after_s == 40_000
    assert table.waits == []


def test_tries_end_with_the_deadline_and_the_last_error_is_raised() -> None:
    table = Table(patience=Patience(deadline_s=10, attempt_s=4), jitter=1.0)
    table.exchange_takes_s = 1.0
    with pytest.raises(ServerTrouble):
        table.call([token(), *[reply(503)] * 20])
    assert table.clock.monotonic() - 1_000 <= 10
    assert table.waits == sorted(table.waits)


def test_a_try_is_given_no_more_time_than_is_left() -> None:
    table = Table(patience=Patience(deadline_s=5, attempt_s=4))
    table.exchange_takes_s = 3.0
    table.call([token(), ACCEPTED])
    assert [exchange.timeout_s for exchange in table.asked] == [4, 2]


def test_the_wait_grows_no_longer_than_its_bound() -> None:
    table = Table(patience=Patience(deadline_s=1_000), jitter=1.0)
    table.call([token(), *[reply(503)] * 8, ACCEPTED])
    assert table.waits == [0.25, 0.5, 1, 2, 4, 8, 8, 8]


def test_a_token_that_cannot_be_had_is_the_calls_error() -> None:
    table = Table()
    answer = reply(401, {"error": "invalid_client", "error_description": "Unknown app."})
    with pytest.raises(NotSignedIn, match="Unknown app") as raised:
        table.call([answer])
    assert raised.value.code == "invalid_client"


def test_a_user_signs_in_once_and_then_refreshes() -> None:
    table = Table(UserGrant("anna", Secret("a secret")))
    table.call([token("t1", 60, refresh_token="r1"), ACCEPTED])
    table.clock.pass_s(59)
    table.call([token("t2", 60, refresh_token="r2"), ACCEPTED])
    table.clock.pass_s(59)
    table.call([token("t3", 60, refresh_token="r3"), ACCEPTED])
    forms = [parse_qs(exchange.content.decode()) for exchange in table.asked if exchange.path == "/oauth/token"]
    assert [form["grant_type"] for form in forms] == [["password"], ["refresh_token"], ["refresh_token"]]
    assert [form.get("refresh_token") for form in forms] == [None, ["r1"], ["r2"]]


def test_a_user_whose_refresh_token_is_refused_signs_in_again() -> None:
    table = Table(UserGrant("anna", Secret("a secret")))
    table.call([token("t1", 60, refresh_token="r1"), ACCEPTED])
    table.clock.pass_s(60)
    table.call([reply(400, {"error": "invalid_grant"}), token("t2"), ACCEPTED])
    assert table.asked[-1].headers["authorization"] == "Bearer t2"
    with pytest.raises(NotSignedIn):
        Table(UserGrant("anna", Secret("wrong"))).call([reply(400, {"error": "invalid_grant"})])


def test_a_fixed_token_is_never_renewed() -> None:
    table = Table(FixedToken(lambda: "from elsewhere"))
    with pytest.raises(NotSignedIn):
        table.call([reply(401)])
    assert table.paths == ["/push/send"]


def test_somebody_elses_renewal_is_used_instead_of_a_second_one() -> None:
    table = Table()
    renewal = Renew(None, table.clock.monotonic() + 10, 10)
    table.drive(table.caller.renewing(renewal), [token("t1")])
    table.drive(table.caller.renewing(renewal), [])
    assert table.drive(table.caller.token(), []) == "t1"
    assert len(table.asked) == 1


def test_an_answer_of_another_shape_is_an_unexpected_reply() -> None:
    table = Table()
    with pytest.raises(UnexpectedReply):
        table.call([Reply(200, {}, b"<html>captive portal</html>")])
    with pytest.raises(UnexpectedReply, match="301"):
        Table().call([Reply(301, {"location": "https://elsewhere"}, b"")])


def test_a_problem_names_its_field_and_its_code() -> None:
    problem = {"code": "invalid_field", "title": "Not valid", "detail": "Shorten title.", "field": "title"}
    with pytest.raises(InvalidRequest, match="Shorten title") as raised:
        Table().call([token(), reply(422, problem)])
    assert (raised.value.code, raised.value.field) == ("invalid_field", "title")
    assert raised.value.problem == problem
    with pytest.raises(OutOfSpace):
        Table(patience=Patience(deadline_s=0.1)).call([token(), reply(507, {"code": "out_of_space"})])


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"\xff", b"[" * 100_000, b'{"code": 7, "title": null}'])
def test_a_refusal_with_any_body_is_still_a_refusal(body: bytes) -> None:
    with pytest.raises(Refused) as raised:
        Table().call([token(), Reply(422, {}, body)])
    assert raised.value.code == "http_422"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("120", 120.0),
        (" 5 ", 5.0),
        ("-5", None),
        ("soon", None),
        ("9" * 40, None),
        ("\u0665", None),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0.0),
        ("Sun, 01 Mar 2026 12:01:00 GMT", 60.0),
    ],
)
def test_retry_after_is_read_in_both_forms(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header, datetime(2026, 3, 1, 12, tzinfo=UTC)) == seconds


@pytest.mark.parametrize("url", ["", "push.example.org", "ftp://x", "https://", "https://u:p@x", "https://x/?a=1"])
def test_what_is_no_server_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="address"):
        check_base_url(url)


def test_no_proxy_stands_between_this_machine_and_itself() -> None:
    assert [may_use_proxy(f"http://{host}:80") for host in ("127.0.0.1", "[::1]", "localhost", "a.localhost")] == [
        False
    ] * 4
    assert may_use_proxy("https://push.example.org")


def test_every_call_has_a_key_of_its_own_unless_one_is_given() -> None:
    keys = {send_call("u", "t", "b", None, {}).idempotency_key for _ in range(20)}
    assert len(keys) == 20
    assert send_call("u", "t", "b", None, {"idempotency_key": "mine"}).idempotency_key == "mine"


def test_options_are_written_as_the_api_reads_them() -> None:
    from datetime import timedelta

    at = datetime(2026, 3, 1, 13, tzinfo=UTC)
    call = send_call("u", "t", "b", {"a": 1}, {"ttl": timedelta(minutes=2), "send_at": at, "priority": "high"})
    assert call.body == {
        "user_id": "u",
        "title": "t",
        "body": "b",
        "data": {"a": 1},
        "ttl": 120,
        "send_at": "2026-03-01T13:00:00Z",
        "priority": "high",
    }


def test_an_instant_without_a_zone_and_an_unknown_option_are_refused_before_anything_is_sent() -> None:
    with pytest.raises(ValueError, match="time zone"):
        send_call("u", "t", "b", None, {"send_at": datetime(2026, 3, 1)})
    wrong: Callable[..., Call] = send_call
    with pytest.raises(TypeError, match="colour"):
        wrong("u", "t", "b", None, {"colour": "red"})
