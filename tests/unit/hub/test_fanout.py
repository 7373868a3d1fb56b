"""Large fan-outs give way, small ones do not wait, and every target sees the order of the submissions."""

import asyncio
import random
from collections.abc import Iterable

from appliance.hub.fanout import BATCH, Fanout


class Post:
    def __init__(self, most_pending: int = 1_000) -> None:
        self.sent: list[tuple[int, str]] = []
        self.fanout: Fanout[int, str] = Fanout(lambda target, parcel: self.sent.append((target, parcel)), most_pending)

    def submit(self, targets: Iterable[int], parcel: str) -> None:
        several = list(targets)
        if len(several) == 1:
            self.fanout.submit_one(several[0], parcel)
        else:
            self.fanout.submit((target, parcel) for target in several)


async def test_a_small_set_goes_out_at_once() -> None:
    post = Post()
    post.submit(range(BATCH), "a")
    assert post.sent == [(target, "a") for target in range(BATCH)]


async def test_a_large_set_gives_way_after_each_batch() -> None:
    post = Post()
    post.submit(range(200), "a")
    assert len(post.sent) == BATCH
    await asyncio.sleep(0)
    assert len(post.sent) == 2 * BATCH
    for _ in range(200 // BATCH):
        await asyncio.sleep(0)
    assert post.sent == [(target, "a") for target in range(200)]


async def test_a_target_that_waits_gets_later_sends_after_it_and_others_get_theirs_at_once() -> None:
    post = Post()
    post.submit(range(200), "a")
    post.submit([199, 0, 500], "b")
    assert post.sent[BATCH:] == [(0, "b"), (500, "b")]
    for _ in range(5):
        await asyncio.sleep(0)
    assert [parcel for target, parcel in post.sent if target == 199] == ["a", "b"]
    post.submit([199], "c")
    assert post.sent[-1] == (199, "c")


async def test_every_target_sees_the_order_of_the_submissions_however_they_overlap() -> None:
    post = Post(most_pending=300)
    randomness = random.Random(64)
    wanted: dict[int, list[str]] = {}
    for number in range(200):
        targets = randomness.choices(range(120), k=randomness.choice((1, 5, 150)))
        post.submit(targets, str(number))
        for target in targets:
            wanted.setdefault(target, []).append(str(number))
        for _ in range(randomness.randrange(4)):
            await asyncio.sleep(0)
    post.fanout.run_out()
    got: dict[int, list[str]] = {}
    for target, parcel in post.sent:
        got.setdefault(target, []).append(parcel)
    assert got == wanted


async def test_beyond_the_bound_the_oldest_go_out_without_giving_way() -> None:
    post = Post(most_pending=10)
    post.submit(range(200), "a")
    assert len(post.sent) == 190
    assert len(post.fanout) == 10


async def test_running_out_sends_the_rest_now() -> None:
    post = Post()
    post.submit(range(200), "a")
    post.fanout.run_out()
    assert len(post.sent) == 200
    await asyncio.sleep(0)
    assert len(post.sent) == 200


async def test_a_target_that_cannot_be_sent_to_is_told_of_and_keeps_nothing_from_the_others() -> None:
    # The story: an exception in the middle of a batch ended the schedule, and nothing that was pending went out again.
    sent: list[int] = []
    failed: list[int] = []

    def send(target: int, _: str) -> None:
        if target in (3, BATCH + 3):
            raise RecursionError
        sent.append(target)

    fanout: Fanout[int, str] = Fanout(send, 1_000, failed=lambda target, _: failed.append(target))
    fanout.submit((target, "a") for target in range(3 * BATCH))
    for _ in range(3):
        await asyncio.sleep(0)
    assert (len(sent), failed, len(fanout)) == (3 * BATCH - 2, [3, BATCH + 3], 0)
    fanout.submit_one(3, "b")
    assert failed == [3, BATCH + 3, 3]
