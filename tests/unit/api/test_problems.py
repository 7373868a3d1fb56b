"""Errors as problems: one mapping, the headers that go with it, and nothing that should stay inside."""

import logging

import msgspec
import pytest
from litestar import Litestar, Request, get, post
from litestar.testing import AsyncTestClient, RequestFactory

from appliance.api.json_body import JsonBody, read_bytes
from appliance.api.problems import exception_handlers, problem_headers, problem_of
from appliance.domain.errors import (
    CarillonError,
    InvalidTargets,
    OutOfSpace,
    TooMany,
    Unauthorized,
    Unavailable,
    not_enrolled,
)


class _Item(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    count: int | None = None


class _Order(msgspec.Struct, forbid_unknown_fields=True):
    items: list[_Item]


def _app(*handlers):
    return Litestar(
        route_handlers=list(handlers), exception_handlers=exception_handlers(), openapi_config=None, logging_config=None
    )


def test_a_full_disk_is_507_and_tells_when_to_come_back():
    problem = problem_of(OutOfSpace())
    assert (problem.status, problem.code, problem.retry_after_s) == (507, "out_of_space", 30)
    assert problem_headers(OutOfSpace())["retry-after"] == "30"


@pytest.mark.parametrize("error", [TooMany("Later.", retry_after_s=7), Unavailable("Later.", retry_after_s=7)])
def test_what_may_be_tried_again_says_when(error):
    assert problem_of(error).retry_after_s == 7
    assert problem_headers(error)["retry-after"] == "7"


def test_a_missing_token_gets_a_bare_challenge():
    assert problem_headers(Unauthorized("Sign in."))["www-authenticate"] == 'Bearer realm="carillon"'


def test_bad_targets_are_listed_by_index_up_to_a_hundred():
    problem = problem_of(InvalidTargets("200 entries …", indexes=range(200), status=403, field="user_ids"))
    assert problem.status == 403
    assert [entry.field for entry in problem.errors] == [f"user_ids[{index}]" for index in range(100)]


def test_users_who_are_not_enrolled_are_told_in_the_same_words_by_every_kind_of_send():
    # The story: the refusal was written down in three places, and which one answered hung on who noticed first.
    single, bulk = (
        problem_of(not_enrolled([0], count=1, field="user_id")),
        not_enrolled([1, 2], count=3, field="user_ids"),
    )
    assert (single.code, single.status, single.field) == ("not_enrolled", 403, "user_id")
    problem = problem_of(bulk)
    assert problem.detail == "2 of 3 entries of user_ids name a user who is not enrolled in this app."
    assert [(entry.field, entry.detail) for entry in problem.errors] == [
        ("user_ids[1]", single.detail),
        ("user_ids[2]", single.detail),
    ]


async def test_a_bug_is_500_with_an_id_and_the_log_alone_has_the_story(caplog):
    @get("/bug")
    async def bug() -> None:
        raise RuntimeError("the secret is hunter2")

    async with AsyncTestClient(_app(bug), raise_server_exceptions=False) as client:
        with caplog.at_level(logging.ERROR):
            reply = await client.get("/bug")
    problem = reply.json()
    assert (reply.status_code, problem["code"]) == (500, "internal_error")
    assert problem["error_id"] in problem["detail"]
    assert "hunter2" not in reply.text and "RuntimeError" not in reply.text and "Traceback" not in reply.text
    (record,) = (record for record in caplog.records if record.message == "request_failed")
    assert (record.error_id, record.fault, record.path) == (problem["error_id"], "RuntimeError", "/bug")


@pytest.mark.parametrize(
    ("text", "status", "field", "detail"),
    [
        ('{"items": [{"name": 1}]}', 422, "items[0].name", "Give items[0].name as a string; it is a whole number."),
        ('{"items": [{}]}', 422, "items[0].name", "Give items[0].name."),
        ('{"items": [{"name": "a"}, {"name": "b", "x": 1}]}', 400, "items[1].x", "Remove items[1].x"),
        ('{"items": [{"name": "a", "count": "7"}]}', 422, "items[0].count", "a whole number or null; it is a string"),
        ('{"items": {}}', 422, "items", "Give items as a list; it is an object."),
        ("[]", 422, "body", "Give body as an object; it is a list."),
        ("null", 422, "body", "as an object; it is null"),
    ],
)
async def test_a_body_that_breaks_a_rule_is_told_where_and_how_to_mend_it(text, status, field, detail):
    read = JsonBody(_Order, limit_bytes=1000, unknown_status=400).read
    problem = await _post(read, text)
    assert (problem["status"], problem["field"]) == (status, field)
    assert detail in problem["detail"]


async def test_a_strangers_long_field_name_is_not_given_back_whole():
    problem = await _post(JsonBody(_Order, limit_bytes=100_000).read, f'{{"{"x" * 50_000}": 1}}')
    assert len(problem["field"]) == 101


async def test_a_body_that_ends_early_is_not_taken_for_a_whole_one():
    messages = [{"type": "http.request", "body": b'{"items": []', "more_body": True}, {"type": "http.disconnect"}]

    async def receive():
        return messages.pop(0)

    request: Request = RequestFactory().post("/order")
    request.receive = receive
    with pytest.raises(CarillonError) as refusal:
        await read_bytes(request, 1000)
    assert refusal.value.status == 400


async def _post(read, text):
    @post("/order")
    async def order(request: Request) -> None:
        await read(request)

    async with AsyncTestClient(_app(order)) as client:
        reply = await client.post("/order", content=text, headers={"content-type": "application/json"})
    assert reply.headers["content-type"] == "application/problem+json"
    return reply.json()
