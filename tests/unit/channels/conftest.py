"""What tests of the HTTP/2 sender share: an authority, clients that trust it, senders that are closed, and time."""

import asyncio
import ssl

import pytest

from appliance.channels.http2_messages import Http2Limits
from appliance.channels.http2_sender import Http2Sender
from tests.doubles.certificates import Authority


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def trusting(authority):
    """Make TLS settings of a client that trusts the test authority."""
    return lambda: authority.trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


@pytest.fixture
async def make_sender(trusting):
    """Make senders to a loopback server; each is closed at the end, whatever it still holds."""
    senders = []

    def make(port, *, host="localhost", scheme="https", tls=None, **limits):
        sender = Http2Sender(f"{scheme}://{host}:{port}", tls or trusting(), limits=Http2Limits(**limits))
        senders.append(sender)
        return sender

    yield make
    for sender in senders:
        await sender.close(0)


@pytest.fixture
async def leap(monkeypatch):
    """Let seconds pass on the event loop's clock: every timer that falls due goes off at once, on any machine."""
    loop = asyncio.get_running_loop()
    real, passed_s = loop.time, 0.0

    def pass_s(seconds):
        nonlocal passed_s
        passed_s += seconds

    monkeypatch.setattr(loop, "time", lambda: real() + passed_s)
    return pass_s
