"""Sending over HTTP: what is accepted, what is refused and how, and what headers say."""

import time
import uuid

import httpx
import pytest

from tests.doubles.appliance import RunningAppliance, TestApp, TestUser


def _send(user: TestUser, **changes: object) -> dict[str, object]:
    return {"user_id": str(user.id), "title": "Shift approved", "body": "See you at nine.", **changes}


async def test_a_send_is_accepted_with_the_id_its_location_and_the_quota(
    http: httpx.AsyncClient, app: TestApp, user: TestUser
) -> None:
    body = _send(user, data={"route": "/some-page"}, ttl=3600)
    reply = await http.post("/push/send", json=body, headers=app.headers)
    assert reply.status_code == 202
    notification_id = reply.json()["notification_id"]
    assert reply.json() == {"notification_id": str(uuid.UUID(notification_id))}
    assert reply.headers["location"] == f"/push/notifications/{notification_id}"
    assert reply.headers["x-quota-limit"] == "10000"
    assert reply.headers["x-quota-remaining"] == "9999"
    assert 0 < int(reply.headers["x-quota-reset"]) - time.time() <= 86_400
    assert int(reply.headers["x-quota-reset"]) % 86_400 == 0


async def test_all_options_of_a_send_reach_the_inbox(http: httpx.AsyncClient, app: TestApp, user: TestUser) -> None:
    options = {"type": "shift", "priority": "high", "collapse_key": "shift-7", "data": {"n": 1, "deep": {"x": [None]}}}
    reply = await http.post("/push/send", json=_send(user, **options), headers=app.headers)
    assert reply.status_code == 202
    inbox = (await http.get("/account/notifications", headers=user.headers)).json()
    (entry,) = inbox["notifications"]
    assert entry["id"] == reply.json()["notification_id"]
    assert (entry["type"], entry["priority"], entry["data"]) == ("shift", "high", options["data"])
    assert (entry["sequence"], inbox["cursor"]) == (1, 1)


@pytest.mark.parametrize(
    ("changes", "field", "fix"),
    [
        ({"title": ""}, "title", "visible character"),
        ({"title": " \u2003\n"}, "title", "visible character"),
        ({"title": "x" * 257}, "title", "256 characters; it has 257"),
        ({"body": ""}, "body", "visible character"),
        ({"body": "x" * 4097}, "body", "4096 characters; it has 4097"),
        ({"title": "a\0b"}, "title", "NUL"),
        ({"data": {"k": "x" * 4096}}, "data", "4096 bytes; it has 4104"),
        ({"data": []}, "data", "an object or null; it is a list"),
        ({"ttl": -1}, "ttl", "from 0"),
        ({"ttl": 2_419_201}, "ttl", "28 days"),
        ({"ttl": "1"}, "ttl", "a number or null; it is a string"),
        ({"ttl": 1.5}, "ttl", "a whole number"),
        ({"priority": "urgent"}, "priority", "documented values"),
        ({"type": ""}, "type", "visible character"),
        ({"collapse_key": "x" * 65}, "collapse_key", "64 bytes"),
        ({"collapse_key": "ż"}, "collapse_key", "printable ASCII"),
        ({"send_at": "2026-03-17T12:00:00"}, "send_at", "time zone"),
        ({"send_at": "2026-02-30T12:00:00Z"}, "send_at", "RFC 3339"),
        ({"send_at": "2999-01-01T00:00:00Z"}, "send_at", "28 days ahead"),
        ({"user_id": "42"}, "user_id", "as a UUID"),
        ({"user_id": None}, "user_id", "as a UUID; it is null"),
        ({"colour": "red"}, "colour", "does not know it"),
    ],
)
async def test_a_broken_rule_is_422_and_names_the_field_and_the_fix(
    http: httpx.AsyncClient, app: TestApp, user: TestUser, changes: dict[str, object], field: str, fix: str
) -> None:
    reply = await http.post("/push/send", json=_send(user, **changes), headers=app.headers)
    assert reply.status_code == 422, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    problem = reply.json()
    assert problem["field"] == field
    assert fix in problem["detail"]
    assert problem["errors"] == [{"field": field, "detail": problem["detail"]}]
    assert problem["type"] == f"/problems/{problem['code']}"


async def test_sizes_are_characters_for_texts_and_bytes_for_data(
    http: httpx.AsyncClient, app: TestApp, user: TestUser
) -> None:
    largest = {"title": "🔔" * 256, "body": "ą" * 4096, "data": {"k": "🔔" * 1022}}
    reply = await http.post("/push/send", json=_send(user, **largest), headers=app.headers)
    assert reply.status_code == 202, reply.text
    reply = await http.post("/push/send", json=_send(user, title="🔔" * 257), headers=app.headers)
    assert (reply.status_code, reply.json()["field"]) == (422, "title")
    reply = await http.post("/push/send", json=_send(user, data={"k": "🔔" * 1023}), headers=app.headers)
    assert (reply.status_code, reply.json()["code"], reply.json()["actual_bytes"]) == (422, "payload_too_large", 4100)


@pytest.mark.parametrize("missing", ["user_id", "title", "body"])
async def test_a_missing_field_is_named(http: httpx.AsyncClient, app: TestApp, user: TestUser, missing: str) -> None:
    body = {name: value for name, value in _send(user).items() if name != missing}
    reply = await http.post("/push/send", json=body, headers=app.headers)
    assert (reply.status_code, reply.json()["field"], reply.json()["detail"]) == (422, missing, f"Give {missing}.")


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b"", "is empty"),
        (b"{", "too early"),
        (b'{"title": nope}', "byte"),
        (b'{"title": "\xff"}', "UTF-8"),
        (b'{"data": {"deep": ' + b"[" * 50_000 + b"]" * 50_000 + b"}}", "nested less deeply"),
    ],
)
async def test_a_body_that_is_no_json_is_400(
    http: httpx.AsyncClient, app: TestApp, content: bytes, detail: str
) -> None:
    headers = {**app.headers, "content-type": "application/json"}
    reply = await http.post("/push/send", content=content, headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (400, "malformed_body")
    assert detail in reply.json()["detail"]


async def test_a_body_of_another_media_type_is_415(http: httpx.AsyncClient, app: TestApp, user: TestUser) -> None:
    reply = await http.post("/push/send", data={"title": "x"}, headers=app.headers)
    assert (reply.status_code, reply.json()["code"]) == (415, "unsupported_media_type")
    assert "Content-Type: application/json" in reply.json()["detail"]


async def test_a_body_over_the_limit_is_413_however_it_is_sent(http: httpx.AsyncClient, app: TestApp) -> None:
    headers = {**app.headers, "content-type": "application/json"}

    async def chunks():
        for _ in range(20):
            yield b" " * 16_384

    for content in (b" " * 200_000, chunks()):
        reply = await http.post("/push/send", content=content, headers=headers)
        assert (reply.status_code, reply.json()["limit_bytes"]) == (413, 131_072)


async def test_without_a_token_it_is_401_with_a_challenge(http: httpx.AsyncClient, user: TestUser) -> None:
    for path in ("/push/send", "/push/send/bulk", "/push/send/batch"):
        reply = await http.post(path, json=_send(user))
        assert reply.status_code == 401
        assert reply.headers["www-authenticate"] == 'Bearer realm="carillon"'
        reply = await http.post(path, json=_send(user), headers={"authorization": "Bearer nonsense"})
        assert reply.status_code == 401
        assert 'error="invalid_token"' in reply.headers["www-authenticate"]


async def test_a_users_token_may_not_send(http: httpx.AsyncClient, admin: TestUser, user: TestUser) -> None:
    for who in (admin, user):
        reply = await http.post("/push/send", json=_send(user), headers=who.headers)
        assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")


async def test_a_user_who_is_not_enrolled_is_refused_like_one_who_does_not_exist(
    server: RunningAppliance, http: httpx.AsyncClient, app: TestApp
) -> None:
    stranger = await server.make_user()
    for user_id in (stranger.id, uuid.uuid4()):
        body = {"user_id": str(user_id), "title": "t", "body": "b", "send_at": "2999-01-01T00:00:00Z"}
        reply = await http.post("/push/send", json=body, headers=app.headers)
        problem = reply.json()
        assert (reply.status_code, problem["code"], problem["field"]) == (403, "not_enrolled", "user_id")


async def test_a_send_while_push_is_off_is_refused(
    http: httpx.AsyncClient, admin: TestUser, app: TestApp, user: TestUser
) -> None:
    await http.patch(f"/push/config/{app.id}", json={"enabled": False}, headers=admin.headers)
    reply = await http.post("/push/send", json=_send(user), headers=app.headers)
    assert (reply.status_code, reply.json()["code"]) == (403, "push_disabled")


async def test_a_bulk_send_answers_with_an_id_for_each_user_in_order(
    server: RunningAppliance, http: httpx.AsyncClient, app: TestApp, user: TestUser
) -> None:
    other = await server.make_user(app)
    body = {"user_ids": [str(other.id), str(user.id)], "title": "Gym closes", "body": "at 6pm", "data": {}}
    reply = await http.post("/push/send/bulk", json=body, headers=app.headers)
    assert reply.status_code == 202
    assert reply.headers["x-quota-remaining"] == "9998"
    for who, notification_id in zip((other, user), reply.json()["notification_ids"], strict=True):
        timeline = (await http.get(f"/push/notifications/{notification_id}", headers=app.headers)).json()
        assert timeline["user_id"] == str(who.id)


async def test_a_bulk_send_with_a_stranger_sends_nothing_and_lists_the_index(
    server: RunningAppliance, http: httpx.AsyncClient, app: TestApp, user: TestUser
) -> None:
    stranger = await server.make_user()
    body = {"user_ids": [str(user.id), str(stranger.id)], "title": "t", "body": "b"}
    reply = await http.post("/push/send/bulk", json=body, headers=app.headers)
    assert (reply.status_code, reply.json()["code"]) == (403, "invalid_targets")
    assert [error["field"] for error in reply.json()["errors"]] == ["user_ids[1]"]
    assert (await http.get("/account/notifications", headers=user.headers)).json()["notifications"] == []


async def test_a_bulk_send_that_names_a_user_twice_is_refused(
    http: httpx.AsyncClient, app: TestApp, user: TestUser
) -> None:
    body = {"user_ids": [str(user.id)] * 2, "title": "t", "body": "b"}
    reply = await http.post("/push/send/bulk", json=body, headers=app.headers)
    assert reply.status_code == 422
    assert [error["field"] for error in reply.json()["errors"]] == ["user_ids[1]"]


@pytest.mark.parametrize(("path", "field"), [("bulk", "user_ids"), ("batch", "notifications")])
async def test_a_call_with_none_or_with_more_than_500_is_refused(
    http: httpx.AsyncClient, app: TestApp, user: TestUser, path: str, field: str
) -> None:
    for count, fix in ((0, "at least 1"), (501, "at most 500 entries; it has 501")):
        body: dict[str, object]
        if path == "bulk":
            body = {"user_ids": [str(uuid.uuid4()) for _ in range(count)], "title": "t", "body": "b"}
        else:
            body = {"notifications": [_send(user) for _ in range(count)]}
        reply = await http.post(f"/push/send/{path}", json=body, headers=app.headers)
        assert (reply.status_code, reply.json()["field"]) == (422, field)
        assert fix in reply.json()["detail"]


async def test_a_batch_sends_different_notifications_and_500_fit(
    http: httpx.AsyncClient, app: TestApp, user: TestUser
) -> None:
    body = {"notifications": [_send(user, title=f"Number {number}") for number in range(500)]}
    reply = await http.post("/push/send/batch", json=body, headers=app.headers)
    assert reply.status_code == 202
    ids = reply.json()["notification_ids"]
    assert len(set(ids)) == 500
    inbox = (await http.get("/account/notifications?cursor=0&limit=200", headers=user.headers)).json()
    assert [entry["id"] for entry in inbox["notifications"]] == ids[:200]
    assert [entry["title"] for entry in inbox["notifications"]][:2] == ["Number 0", "Number 1"]


async def test_a_fault_in_a_batch_is_named_with_its_index_and_nothing_is_sent(
    http: httpx.AsyncClient, app: TestApp, user: TestUser
) -> None:
    for changes, field in (
        ({"title": ""}, "notifications[1].title"),
        ({"user_id": 7}, "notifications[1].user_id"),
        ({"colour": "red"}, "notifications[1].colour"),
        ({"send_at": "2999-01-01T00:00:00Z"}, "notifications[1].send_at"),
    ):
        body = {"notifications": [_send(user), _send(user, **changes)]}
        reply = await http.post("/push/send/batch", json=body, headers=app.headers)
        assert (reply.status_code, reply.json()["field"]) == (422, field)
    assert (await http.get("/account/notifications", headers=user.headers)).json()["notifications"] == []


async def test_a_send_over_the_quota_is_429_until_midnight_and_a_bulk_is_refused_whole(
    server: RunningAppliance, http: httpx.AsyncClient, admin: TestUser
) -> None:
    app = await server.make_app(admin, daily_quota=2)
    users = [await server.make_user(app) for _ in range(3)]
    bulk = {"user_ids": [str(user.id) for user in users], "title": "t", "body": "b"}
    reply = await http.post("/push/send/bulk", json=bulk, headers=app.headers)
    assert (reply.status_code, reply.json()["code"]) == (429, "quota_exceeded")
    assert (reply.headers["x-quota-limit"], reply.headers["x-quota-remaining"]) == ("2", "2")
    assert reply.json()["retry_after_s"] == int(reply.headers["retry-after"])
    wait = int(reply.headers["retry-after"]) - (86_400 - time.time() % 86_400)
    assert -5 < wait < 5
    for remaining in ("1", "0"):
        reply = await http.post("/push/send", json=_send(users[0]), headers=app.headers)
        assert (reply.status_code, reply.headers["x-quota-remaining"]) == (202, remaining)
    assert (await http.post("/push/send", json=_send(users[0]), headers=app.headers)).status_code == 429


async def test_the_same_idempotency_key_gives_the_same_reply_and_sends_once(
    http: httpx.AsyncClient, app: TestApp, user: TestUser
) -> None:
    headers = {**app.headers, "idempotency-key": f"key-{uuid.uuid4()}"}
    first = await http.post("/push/send", json=_send(user, data={"a": 1, "b": 2}), headers=headers)
    # The same meaning in another order of fields and with other white space.
    text = f'{{"body":"See you at nine.", "data":{{"b":2,"a":1}}, "title":"Shift approved","user_id":"{user.id}"}}'
    again = await http.post(
        "/push/send", content=text.encode(), headers={**headers, "content-type": "application/json"}
    )
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["x-quota-remaining"] == first.headers["x-quota-remaining"]
    other = await http.post("/push/send", json=_send(user, title="Another"), headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    inbox = (await http.get("/account/notifications", headers=user.headers)).json()
    assert len(inbox["notifications"]) == 1


async def test_an_idempotency_key_belongs_to_one_app_and_one_call(
    server: RunningAppliance, http: httpx.AsyncClient, admin: TestUser, app: TestApp, user: TestUser
) -> None:
    key = {"idempotency-key": "same"}
    other_app = await server.make_app(admin)
    friend = await server.make_user(app, other_app)
    ids = set()
    for sender in (app, other_app):
        reply = await http.post("/push/send", json=_send(friend), headers={**sender.headers, **key})
        assert reply.status_code == 202
        ids.add(reply.json()["notification_id"])
    assert len(ids) == 2
    bulk = {"user_ids": [str(user.id)], "title": "t", "body": "b"}
    reply = await http.post("/push/send/bulk", json=bulk, headers={**app.headers, **key})
    assert (reply.status_code, reply.json()["code"]) == (422, "idempotency_mismatch")


@pytest.mark.parametrize("key", ["", "two words", "x" * 256, "ż"])
async def test_an_idempotency_key_that_could_change_on_its_way_is_refused(
    http: httpx.AsyncClient, app: TestApp, user: TestUser, key: str
) -> None:
    headers = {b"authorization": f"Bearer {app.token}".encode(), b"idempotency-key": key.encode()}
    reply = await http.post("/push/send", json=_send(user), headers=headers)
    assert (reply.status_code, reply.json()["field"]) == (422, "Idempotency-Key")
