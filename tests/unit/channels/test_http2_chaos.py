"""What the three answers promise, against a server that does everything at random.

NotSent: the server never acted on it. Answered: it acted exactly once. Ambiguous: at most once. And every request gets
one answer, whatever happens.
"""

import asyncio
from collections import Counter
from random import Random

import pytest
from h2.errors import ErrorCodes

from appliance.channels.http2_messages import Ambiguous, Answered, Http2Request, NotSent
from tests.doubles.http2_server import ServerLimits, run_http2_server

REQUESTS = 600


class Moody:
    """Answers most requests, and mistreats the rest and their connections; writes down what it acted on."""

    def __init__(self, random):
        self.random = random
        self.acted: Counter[int] = Counter()

    def __call__(self, asked):
        mood = self.random.random()
        connection = asked.connection
        if mood < 0.02:
            asked.reset(ErrorCodes.REFUSED_STREAM)
            return
        self.acted[int(asked.headers["apns-id"])] += 1
        if mood < 0.70:
            asyncio.get_running_loop().call_later(self.random.random() / 50, asked.reply, 200, {}, b"{}")
        elif mood < 0.90:
            asked.reply(400, {}, b'{"reason":"BadDeviceToken"}', parts=3)
        elif mood < 0.93:
            asked.reset(self.random.choice([ErrorCodes.INTERNAL_ERROR, ErrorCodes.CANCEL]))
        elif mood < 0.95:
            asked.headers_only()
        elif mood < 0.96:
            connection.go_away()
            asked.reply()
        elif mood < 0.965:
            connection.go_away(2**31 - 1)
            asyncio.get_running_loop().call_later(0.005, connection.go_away)
            asked.reply()
        elif mood < 0.97:
            connection.drop()
        elif mood < 0.975:
            asked.reply(200, {}, b"x" * 100_000)
        elif mood < 0.98:
            connection.tell_streams(self.random.choice([5, 20, 100]))
            asked.reply()
        elif mood < 0.985:
            connection.write_raw(self.random.randbytes(30))
        # Else it says nothing.


@pytest.mark.parametrize("seed", range(4))
async def test_every_request_gets_one_answer_that_is_true(make_sender, authority, seed):
    random = Random(seed)
    moody = Moody(random)
    tls = authority.server_tls("localhost")
    async with run_http2_server(moody, tls=tls, limits=ServerLimits(streams=50)) as server:
        server.window_delay_s = random.choice([0, 0.01])
        sender = make_sender(server.port, backoff_first_s=0.005, backoff_most_s=0.02, failures_told=50, connections=3)

        async def ask(number):
            await asyncio.sleep(random.random() / 2)
            body = b"x" * random.choice([0, 10, 4_096, 20_000])
            request = Http2Request(b"/3/device/ab", body, (), ((b"apns-id", b"%d" % number),))
            asking = asyncio.create_task(sender.send(request, random.choice([0.2, 0.5, 2.0])))
            if random.random() < 0.05:
                await asyncio.sleep(random.random() / 10)
                asking.cancel()
            return await asyncio.gather(asking, return_exceptions=True)

        async with asyncio.timeout(30):
            answers = await asyncio.gather(*(ask(number) for number in range(REQUESTS)))
        kinds: Counter[type] = Counter()
        for number, (answer,) in enumerate(answers):
            kinds[type(answer)] += 1
            match answer:
                case Answered():
                    assert moody.acted[number] == 1, number
                case NotSent():
                    assert moody.acted[number] == 0, (number, answer)
                case Ambiguous():
                    assert moody.acted[number] <= 1, (number, answer)
                case asyncio.CancelledError():
                    assert moody.acted[number] <= 1, number
                case _:
                    raise AssertionError(answer)
        # Some of the rubbish swallows the answers behind it, until the connection is given up for its silence.
        assert kinds[Answered] > 50
        assert (sender.queued, sender.in_flight) == (0, 0)
