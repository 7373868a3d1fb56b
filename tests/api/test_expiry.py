"""Time to live, as a caller sees it run out."""

import asyncio
import time

import httpx

from tests.doubles.appliance import TestApp, TestUser


async def test_a_delivery_expires_when_its_time_is_up_and_not_half_a_minute_later(
    http: httpx.AsyncClient, app: TestApp, user: TestUser
) -> None:
    """The engine once looked at what was due every thirty seconds only, unless something else woke it."""
    token = {"app_id": str(app.id), "platform": "android", "push_token": f"device-{'0' * 32}"}
    assert (await http.post("/push/devices/register", json=token, headers=user.headers)).status_code == 201
    send = {"user_id": str(user.id), "title": "Soon over", "body": "In a second.", "ttl": 1}
    sent = await http.post("/push/send", json=send, headers=app.headers)
    story = sent.headers["location"]
    until = time.monotonic() + 10
    while (told := (await http.get(story, headers=app.headers)).json())["deliveries"][0]["state"] != "expired":
        assert time.monotonic() < until, told
        await asyncio.sleep(0.1)
    assert "Its time to live ran out" in told["deliveries"][0]["explanation"]
