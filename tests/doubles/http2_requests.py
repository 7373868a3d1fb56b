"""Numbered requests to the HTTP/2 server under test, a ledger of what it took, and waiting for what has no event."""

import asyncio
from collections import Counter

from appliance.channels.http2_messages import Http2Request

WITHIN_S = 60
SOON_S = 10


def request(number=0, *, body=b"{}", path=b"/3/device/abc"):
    return Http2Request(path, body, [(b"apns-topic", b"org.example")], [(b"apns-id", b"%d" % number)])


def number_of(asked):
    return int(asked.headers["apns-id"])


async def send_many(sender, count, deadline_s=WITHIN_S, **options):
    return await asyncio.gather(*(sender.send(request(number, **options), deadline_s) for number in range(count)))


async def until(condition):
    async with asyncio.timeout(WITHIN_S):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


class Ledger:
    """Answers 200 and counts how often each request was taken."""

    def __init__(self):
        self.taken: Counter[int] = Counter()

    def __call__(self, asked):
        self.taken[number_of(asked)] += 1
        asked.reply()
