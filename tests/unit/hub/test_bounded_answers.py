"""What a client says about itself comes back shortened: an answer is not as large as its question likes."""

import asyncio
import json

import pytest

from tests.doubles.hub_house import House, call, ending_of, settle

HUGE = "x" * 30_000
MOST_BYTES = 400


def size_of(record: object) -> int:
    return len(json.dumps(record, ensure_ascii=False).encode())


async def test_an_unknown_method_with_a_huge_name_is_named_by_its_beginning(house: House) -> None:
    connection, wire = await house.connect()
    await call(connection, HUGE)
    (answer,) = wire.take()
    assert answer["error"].startswith("Unknown hub method 'xxx")
    assert size_of(answer) < MOST_BYTES


@pytest.mark.parametrize(
    "handshake", [{"protocol": HUGE, "version": 1}, {"protocol": "json", "version": 10**4_000}], ids=["name", "version"]
)
async def test_a_handshake_with_something_huge_in_it_gets_a_short_error(
    house: House, handshake: dict[str, object]
) -> None:
    connection, wire = house.let_in()
    await connection.receive(json.dumps(handshake) + "\x1e")
    (answer,) = wire.take()
    assert "not support" in answer["error"]
    assert size_of(answer) < MOST_BYTES
    assert ending_of(connection) == "handshake_refused"


@pytest.mark.parametrize(
    "argument",
    [
        {"deviceId": HUGE},
        {"deviceId": "a", "cursor": 10**4_000},
        {"deviceId": "a", "label": HUGE},
        {HUGE: 1},
        [HUGE],
    ],
    ids=["device", "cursor", "label", "key", "list"],
)
async def test_hello_with_something_huge_in_it_gets_a_short_error(house: House, argument: object) -> None:
    connection, wire = await house.connect()
    await call(connection, "Hello", argument)
    (answer,) = wire.take()
    assert answer["error"]
    assert size_of(answer) < MOST_BYTES
    assert ending_of(connection) is None


async def test_an_invocation_id_of_256_characters_is_answered_and_a_longer_one_ends_the_connection(
    house: House,
) -> None:
    connection, wire = await house.connect()
    await call(connection, "X", call_id="i" * 256)
    assert [record["invocationId"] for record in wire.take()] == ["i" * 256]
    await call(connection, "X", call_id="i" * 257)
    assert ending_of(connection) == "protocol_violation"


async def test_a_client_that_asks_faster_than_it_reads_is_not_read_until_it_does(house: House) -> None:
    # The story: its answers filled the outbox, and a client that was merely slow was cut.
    house.limit(outbox_bytes=4_000)
    connection, wire = await house.connect()
    wire.is_stalled = True
    asked = '{"type":1,"target":"X","arguments":[],"invocationId":"1"}\x1e' * 200
    reading = asyncio.ensure_future(connection.receive(asked))
    await settle()
    assert not reading.done()
    assert connection.queued_bytes < 4_000
    wire.is_stalled = False
    wire.stuck[0].set_result(None)
    await reading
    await settle()
    # What stood in the write that was stuck is not in this wire's records.
    assert len(wire.take()) == 199
    assert ending_of(connection) is None


async def test_one_that_asks_and_never_reads_is_cut_at_the_write_deadline(house: House) -> None:
    house.limit(outbox_bytes=4_000)
    connection, wire = await house.connect()
    wire.is_stalled = True
    asked = '{"type":1,"target":"X","arguments":[],"invocationId":"1"}\x1e' * 200
    reading = asyncio.ensure_future(connection.receive(asked))
    await settle()
    house.pass_s(house.limits.write_deadline_s)
    await reading
    assert ending_of(connection) == "slow_reader"
