"""Large fan-outs give way, small ones do not wait, and order is kept."""

import asyncio

from appliance.hub.fanout import BATCH, Fanout


async def test_a_small_set_goes_out_at_once() -> None:
    sent: list[int] = []
    fanout = Fanout(sent.append, most_pending=1_000)
    fanout.submit(range(BATCH))
    assert sent == list(range(BATCH))


async def test_a_large_set_gives_way_after_each_batch_and_later_sets_queue_behind_it() -> None:
    sent: list[int] = []
    fanout = Fanout(sent.append, most_pending=1_000)
    fanout.submit(range(200))
    fanout.submit([200])
    assert len(sent) == BATCH
    await asyncio.sleep(0)
    assert BATCH < len(sent) < 200
    for _ in range(200 // BATCH):
        await asyncio.sleep(0)
    assert sent == list(range(201))


async def test_beyond_the_bound_the_oldest_go_out_without_giving_way() -> None:
    sent: list[int] = []
    fanout = Fanout(sent.append, most_pending=10)
    fanout.submit(range(200))
    assert len(sent) == 190
    assert len(fanout) == 10
    fanout.close()
    await asyncio.sleep(0)
    assert len(sent) == 190
