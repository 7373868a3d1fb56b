"""Crash truth: publishers never stop, devices never stop, and the server is killed again and again."""

import asyncio
import random

import httpx
import pytest

from tests.crash import launcher
from tests.crash.launched import check_integrity, copy_data, kept_ids

pytestmark = [pytest.mark.crash, pytest.mark.slow]

POINTS = (
    ("between_notification_and_deliveries", 40),
    ("before_commit", 40),
    ("after_commit", 40),
    ("before_hand_over", 40),
    ("before_reply", 40),
    ("after_reply", 40),
    ("before_offer", 40),
    ("mid_fan_out", 80),
    ("after_offer", 40),
    ("before_acknowledgement", 60),
    ("after_acknowledgement", 60),
    ("after_hello", 12),
    ("mid_replay", 12),
    ("before_upkeep", 10),
)
RANDOM_KILLS = 18
REPEATED_KEYS = 200


def test_every_labelled_point_is_in_the_program():
    assert [
        label for label, (owner, name, _) in launcher.POINTS.items() if not callable(getattr(owner, name, None))
    ] == []


async def test_nothing_that_got_a_202_is_lost_or_doubled_over_thirty_two_kills(scene, tmp_path):
    chance = random.Random(20260301)
    plan: list[tuple[str, int]] = [(point, chance.randint(1, most)) for point, most in POINTS]
    plan += [("", 0)] * RANDOM_KILLS
    chance.shuffle(plan)
    appliance = scene.appliance
    await asyncio.sleep(0.5)
    await asyncio.to_thread(appliance.kill)
    for number, (point, passes) in enumerate(plan):
        appliance.arm(point, passes)
        if point:
            appliance.spawn()
            await asyncio.to_thread(appliance.wait_killed, 30)
        else:
            await asyncio.to_thread(appliance.start)
            await asyncio.sleep(chance.uniform(0, 0.8))
            await asyncio.to_thread(appliance.kill)
        if number % 8 == 0:
            await asyncio.to_thread(check_integrity, copy_data(appliance.data_dir, tmp_path / f"killed-{number}"))
    appliance.arm("")
    await asyncio.to_thread(appliance.start)
    await asyncio.sleep(0.5)
    await scene.calm_down()
    scene.check()
    assert len(plan) + 1 >= 30
    assert len(scene.book.accepted) > 500
    assert set(scene.book.refused) <= {503}
    await _repeat_keys(scene, chance)
    scene.check()
    assert await asyncio.to_thread(appliance.stop) == 0, appliance.output[-3_000:]
    database = copy_data(appliance.data_dir, tmp_path / "at-the-end")
    check_integrity(database)
    assert set(scene.book.accepted.values()) <= kept_ids(database)


async def _repeat_keys(scene, chance):
    """Every key that had its 202 before some crash gives the same reply now, and sends nothing."""
    keys = list(scene.book.keys)
    async with httpx.AsyncClient(base_url=scene.appliance.base_url, headers=scene.app.headers) as client:
        for key in chance.sample(keys, min(REPEATED_KEYS, len(keys))):
            path, body, answer = scene.book.keys[key]
            reply = await client.post(path, json=body, headers={"Idempotency-Key": key})
            assert (reply.status_code, reply.json()) == (202, answer)
