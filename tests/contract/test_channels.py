"""What every channel of the registry promises, whatever its peer does. What each code means stands with the channel."""

import asyncio
import io
import logging
import time
from contextlib import asynccontextmanager

import pytest

from appliance.channels.contract import ChannelName, Diagnosis
from appliance.channels.registry import BUILDERS
from appliance.domain.outcome import Accepted, Gone, Misconfigured, Rejected, Retry, reason_of
from appliance.ops.logs import set_up_logging
from appliance.settings import load_settings
from tests.contract.channel_stands import STANDS, TIMEOUT_S
from tests.doubles.bad_peer import FAULTS, run_bad_peer
from tests.doubles.certificates import Authority

CHANNELS = [name for name in ChannelName if name is not ChannelName.HUB]

WITHIN_S = TIMEOUT_S + 1.5
"""The deadline, and what a busy machine is late with."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(autouse=True)
def trusted(authority, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.write_certificate()))


@pytest.fixture
def open_stand(authority, tmp_path):
    @asynccontextmanager
    async def opened(name, fault=None):
        if fault is None:
            async with STANDS[name](authority, tmp_path, None) as stand:
                yield stand
            return
        owner = Authority(tmp_path) if fault == "stranger" else authority
        async with run_bad_peer(fault, owner.server_tls("localhost")) as peer:
            async with STANDS[name](authority, tmp_path, peer.port) as stand:
                yield stand
            # With a stranger there is not even TLS, before which the peer is not told of it.
            assert peer.connections > 0 or fault == "stranger"

    return opened


@pytest.fixture
def log(tmp_path):
    """What the program would log, at the level that tells most."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    set_up_logging(load_settings(tmp_path, {"LOG_LEVEL": "debug"}))
    written = io.StringIO()
    handler = root.handlers[0]
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(written)
    # The mail server under test speaks of what it takes; the program does not.
    logging.getLogger("mail.log").setLevel(logging.WARNING)
    yield written
    root.handlers[:] = handlers
    root.setLevel(level)


def check_told(stand, outcome, log):
    assert isinstance(outcome, Accepted | Retry | Gone | Rejected | Misconfigured)
    told = f"{outcome!r} {reason_of(outcome)} {log.getvalue()}"
    for canary in stand.canaries():
        assert canary not in told
    assert len(reason_of(outcome)) < 500
    assert 0 < len(outcome.code) <= 64


async def deliver(stand, number=1, timeout_s=TIMEOUT_S):
    began = time.monotonic()
    outcome = await stand.channel.deliver(stand.push(number, timeout_s=timeout_s))
    return outcome, time.monotonic() - began


def test_every_channel_that_can_be_built_stands_here():
    assert set(STANDS) == set(CHANNELS)
    assert len(STANDS) == len(BUILDERS)


@pytest.mark.parametrize("name", CHANNELS, ids=lambda name: name.name)
async def test_a_push_is_accepted_and_shows_nothing_of_itself(open_stand, log, name):
    async with open_stand(name) as stand:
        outcome, _ = await deliver(stand, timeout_s=15)
        assert isinstance(outcome, Accepted), outcome
        assert len(stand.ids()) == 1
        check_told(stand, outcome, log)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", CHANNELS, ids=lambda name: name.name)
async def test_a_peer_that_speaks_no_protocol_is_weather_told_in_time(open_stand, log, name, fault):
    async with open_stand(name, fault) as stand:
        # What is loaded once is not the peer's fault.
        await deliver(stand)
        outcome, took_s = await deliver(stand, 2)
        assert isinstance(outcome, Retry) or (isinstance(outcome, Misconfigured) and fault in ("stranger", "babble"))
        assert not outcome.is_about_device
        assert took_s < WITHIN_S
        check_told(stand, outcome, log)


@pytest.mark.parametrize("name", CHANNELS, ids=lambda name: name.name)
async def test_whatever_is_answered_there_is_one_outcome_in_time_and_no_device_lost(open_stand, log, name):
    async with open_stand(name) as stand:
        assert isinstance((await deliver(stand, timeout_s=15))[0], Accepted)
        for number, (fault, prepare) in enumerate(stand.faults.items(), start=2):
            prepare()
            outcome, took_s = await deliver(stand, number)
            assert took_s < WITHIN_S, fault
            assert not isinstance(outcome, Gone), fault
            check_told(stand, outcome, log)
            # The fault was the peer's, and is over: the channel has not taken harm.
            after, _ = await deliver(stand, 1_000 + number, timeout_s=15)
            assert isinstance(after, Accepted), (fault, after)


@pytest.mark.parametrize("name", CHANNELS, ids=lambda name: name.name)
async def test_a_push_whose_answer_was_lost_is_repeated_under_the_same_ids(open_stand, name):
    async with open_stand(name) as stand:
        stand.swallow()
        lost, _ = await deliver(stand, timeout_s=15)
        assert isinstance(lost, Retry)
        assert len(stand.ids()) == 1
        repeated, _ = await deliver(stand, timeout_s=15)
        assert isinstance(repeated, Accepted)
        assert len(stand.ids()) == 2
        assert len(set(stand.ids())) == 1


@pytest.mark.parametrize("fault", ["reset", "stranger"])
@pytest.mark.parametrize("name", [name for name in CHANNELS if name is not ChannelName.WEB_PUSH], ids=lambda n: n.name)
async def test_a_probe_says_that_it_does_not_work_and_never_raises(open_stand, log, name, fault):
    async with open_stand(name, fault) as stand, asyncio.timeout(15):
        diagnosis = await stand.channel.probe()
        assert isinstance(diagnosis, Diagnosis)
        assert not diagnosis.works
        for canary in stand.canaries():
            assert canary not in f"{diagnosis!r} {log.getvalue()}"


@pytest.mark.parametrize("fault", [None, "mute", "flood"])
@pytest.mark.parametrize("name", CHANNELS, ids=lambda name: name.name)
async def test_closing_ends_all_that_the_channel_began(open_stand, name, fault):
    async with open_stand(name, fault) as stand:
        await deliver(stand)
        before = asyncio.all_tasks()
        async with asyncio.timeout(15):
            await stand.channel.close()
            await stand.channel.close()
        assert asyncio.all_tasks() <= before


@pytest.mark.parametrize("name", CHANNELS, ids=lambda name: name.name)
async def test_the_lane_holds_no_secret_and_is_the_same_for_the_same_service(open_stand, name):
    async with open_stand(name) as stand:
        channel = stand.channel
        lanes = {channel.lane_of(stand.push(number)) for number in range(1, 4)}
        assert len(lanes) == 1
        assert channel.slots >= 1
        assert channel.address_kinds
        [lane] = lanes
        assert not any(canary in lane for canary in stand.canaries())
        assert isinstance(channel.has_one_lane, bool)
