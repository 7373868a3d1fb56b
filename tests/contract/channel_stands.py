"""One stand for each channel of the registry: the channel as the settings build it, before its double or a bad peer."""

import asyncio
import base64
import contextlib
import gzip
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from appliance.channels.contract import Channel, ChannelName, Push
from appliance.channels.registry import ChannelParts, build_channels
from appliance.channels.webpush import VapidKey
from appliance.clock import SystemClock
from appliance.domain.device import Platform
from appliance.security.outbound import OutboundClient, OutboundRules
from appliance.settings import load_settings
from tests.doubles.apns import device_token, run_apns
from tests.doubles.certificates import Authority
from tests.doubles.fcm import registration_token, run_fcm
from tests.doubles.http_peer import Answer, Asked, HttpPeer, plain_reply
from tests.doubles.letters import make_letter
from tests.doubles.push_service import run_push_service
from tests.doubles.pushes import make_push
from tests.doubles.relay import run_relay
from tests.doubles.smtp_server import PASSWORD, USER, SmtpDouble, run_smtp

TITLE: Final = "canary-of-the-title"
BODY: Final = "canary-of-the-body"
DATA: Final = "canary-of-the-data"
TIMEOUT_S: Final = 0.6
HUGE: Final = b"x" * 5_000_000
# A hundred megabytes in a hundred kilobytes.
BOMB: Final = gzip.compress(b"\0" * 100_000_000, 9)
GZIP: Final = {"content-encoding": "gzip", "content-type": "application/json"}


@dataclass(slots=True)
class Stand:
    """A channel at its double. `faults` do one thing at the next push; `ids` tells what the double took, by id."""

    channel: Channel
    address: str
    platform: Platform | None
    ids: Callable[[], list[str]]
    faults: dict[str, Callable[[], None]]
    swallow: Callable[[], None]
    secrets: list[str] = field(default_factory=list)
    seen_secrets: Callable[[], list[str]] = list

    def push(self, number: int = 1, *, timeout_s: float = TIMEOUT_S) -> Push:
        now = datetime.now(UTC)
        content: dict[str, Any] = {
            "number": number, "title": TITLE, "body": BODY, "data": {"canary": DATA}, "timeout_s": timeout_s,
        }  # fmt: skip
        if self.platform is None:
            return make_letter(self.address, now, **content)
        return make_push(self.address, now, platform=self.platform, **content)

    def canaries(self) -> list[str]:
        """Give what must never be told: content, address, credentials, and what was signed with them."""
        return [TITLE, BODY, DATA, self.address, *self.secrets, *self.seen_secrets()]


class VapidPair:
    """One key pair for every app."""

    def __init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        self.pair = VapidKey(private, base64.urlsafe_b64encode(point).decode().rstrip("="))

    async def vapid_key_of(self, app_id: object) -> VapidKey:
        return self.pair


@asynccontextmanager
async def build_channel(
    name: ChannelName, folder: Path, environ: dict[str, str], keys: VapidPair | None = None
) -> AsyncIterator[Channel]:
    """Build the channel of this name as the program does from its settings."""
    settings = load_settings(folder, {"OUTBOUND_ALLOW": "localhost,127.0.0.1", **environ})
    outbound = OutboundClient(OutboundRules(settings.outbound_allow))
    channels = build_channels(ChannelParts(settings, SystemClock(), outbound, keys or VapidPair()))
    try:
        [channel] = [one for one in channels.channels if one.name is name]
        yield channel
    finally:
        await channels.close()
        await outbound.close()


@asynccontextmanager
async def fcm_stand(authority: Authority, folder: Path, bad_port: int | None) -> AsyncIterator[Stand]:
    async with AsyncExitStack() as stack:
        google = await stack.enter_async_context(run_fcm(authority))
        url = google.url if bad_port is None else f"https://localhost:{bad_port}"
        account = google.service_account(token_uri=f"{url}/token") if bad_port else google.service_account()
        environ = {
            "DELIVERY_MODE": "firebase", "FIREBASE_CREDENTIALS_JSON": json.dumps(account), "FCM_BASE_URL": url,
        }  # fmt: skip
        channel = await stack.enter_async_context(build_channel(ChannelName.FCM, folder, environ))
        yield Stand(
            channel,
            registration_token(number=7),
            Platform.ANDROID,
            ids=lambda: [taken.payload["data"]["notificationId"] for taken in google.control.accepted],  # type: ignore[index]
            faults=_http2_faults(google),
            swallow=lambda: google.control.script.append("swallow"),
            secrets=_lines_of(account["private_key"]),
            seen_secrets=lambda: list(google._bearers),
        )


@asynccontextmanager
async def apns_stand(authority: Authority, folder: Path, bad_port: int | None) -> AsyncIterator[Stand]:
    async with AsyncExitStack() as stack:
        apple = await stack.enter_async_context(run_apns(authority))
        environ = {
            "DELIVERY_MODE": "firebase",
            "APNS_AUTH_KEY_P8": apple.key.p8,
            "APNS_KEY_ID": apple.key.key_id,
            "APNS_TEAM_ID": apple.key.team_id,
            "APNS_BASE_URL": apple.url if bad_port is None else f"https://localhost:{bad_port}",
        }
        channel = await stack.enter_async_context(build_channel(ChannelName.APNS, folder, environ))
        yield Stand(
            channel,
            device_token(number=7),
            Platform.IOS,
            ids=lambda: [taken.headers["apns-id"] for taken in apple.control.accepted],
            faults=_http2_faults(apple),
            swallow=lambda: apple.control.script.append("swallow"),
            secrets=_lines_of(apple.key.p8),
            seen_secrets=lambda: list(apple.provider_tokens),
        )


@asynccontextmanager
async def web_push_stand(authority: Authority, folder: Path, bad_port: int | None) -> AsyncIterator[Stand]:
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(run_push_service(authority.server_tls("localhost")))
        browser, subscription = service.subscribe()
        if bad_port is not None:
            subscription = subscription.replace(str(service.peer.port), str(bad_port))
        keys = VapidPair()
        environ = {"DELIVERY_MODE": "firebase", "VAPID_SUBJECT": "mailto:admin@push.example"}
        channel = await stack.enter_async_context(build_channel(ChannelName.WEB_PUSH, folder, environ, keys))
        told = json.loads(subscription)
        yield Stand(
            channel,
            subscription,
            Platform.WEB,
            ids=lambda: [told["id"] for told in browser.received],
            faults=_http1_faults(service.peer),
            swallow=lambda: _answer_once(service.peer, _cut_after(service.peer.answer)),
            secrets=[
                base64.b64encode(keys.pair.private_key).decode()[-40:],
                told["endpoint"],
                told["keys"]["auth"],
                told["keys"]["p256dh"],
            ],
            seen_secrets=lambda: list(service.tokens),
        )


@asynccontextmanager
async def relay_stand(authority: Authority, folder: Path, bad_port: int | None) -> AsyncIterator[Stand]:
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(run_relay(authority.server_tls("localhost")))
        instance_id, key = relay.register()
        environ = {
            "DELIVERY_MODE": "relay",
            "PUSH_RELAY_URL": relay.url if bad_port is None else f"https://localhost:{bad_port}",
            "PUSH_RELAY_API_KEY": key,
            "PUSH_RELAY_INSTANCE_ID": instance_id,
        }
        channel = await stack.enter_async_context(build_channel(ChannelName.RELAY, folder, environ))
        yield Stand(
            channel,
            registration_token(number=7),
            Platform.ANDROID,
            ids=lambda: [str(push["id"]) for push in relay.pushes],
            faults=_http1_faults(relay.peer),
            swallow=lambda: _answer_once(relay.peer, _cut_after(relay.peer.answer)),
            secrets=[key],
            seen_secrets=lambda: [asked.headers.get("x-relay-signature", key) for asked in relay.peer.asked],
        )


@asynccontextmanager
async def email_stand(authority: Authority, folder: Path, bad_port: int | None) -> AsyncIterator[Stand]:
    async with AsyncExitStack() as stack:
        tls = authority.server_tls("localhost")
        server = await stack.enter_async_context(run_smtp(tls, is_tls=True, signs_in=True))
        environ = {
            "SMTP_HOST": "localhost",
            "SMTP_PORT": str(bad_port or server.port),
            "SMTP_SECURITY": "tls",
            "SMTP_USER": USER,
            "SMTP_PASSWORD": PASSWORD,
            "SMTP_FROM": "Carillon <carillon@example.org>",
        }
        channel = await stack.enter_async_context(build_channel(ChannelName.EMAIL, folder, environ))
        faults: dict[str, Callable[[], None]] = {}
        for stage in ("GREETING", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "CONTENT"):
            for answer in ("hang", "drop", "999 what is this", "450 " + "x" * 100_000):
                faults[f"{stage} {answer[:5]}"] = partial(_script_mail, server, stage, answer)
        yield Stand(
            channel,
            "anna@example.net",
            None,
            ids=lambda: [str(mail.message["Message-ID"]) for mail in server.mails],
            faults=faults,
            swallow=lambda: server.script("CONTENT", "drop"),
            secrets=[PASSWORD, base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()).decode()],
        )


def _script_mail(server: SmtpDouble, stage: str, answer: str) -> None:
    if stage in ("GREETING", "EHLO", "AUTH"):
        # They are met by new connections only.
        server.drop_connections()
    server.script(stage, answer)


STANDS: Final = {
    ChannelName.FCM: fcm_stand,
    ChannelName.APNS: apns_stand,
    ChannelName.WEB_PUSH: web_push_stand,
    ChannelName.RELAY: relay_stand,
    ChannelName.EMAIL: email_stand,
}


def _http2_faults(double: Any) -> dict[str, Callable[[], None]]:
    names = ("silent", "reset", "refuse", "drop", "html", "empty", "garbage", "huge", "drip", "goaway")
    script: deque[str] = double.control.script
    faults: dict[str, Callable[[], None]] = {name: partial(script.append, name) for name in names}

    def bomb() -> None:
        usual = double.server.answer

        def answer(asked: Any) -> None:
            if asked.path.startswith("/token"):
                usual(asked)
                return
            double.server.answer = usual
            asked.reply(200, GZIP, BOMB)

        double.server.answer = answer

    return faults | {"bomb": bomb}


def _http1_faults(peer: HttpPeer) -> dict[str, Callable[[], None]]:
    answers: dict[str, Answer] = {
        "silent": _silent,
        "drop": _drop,
        "drip": _drip,
        "half": _half,
        "html": plain_reply(b"<html>Bad gateway</html>", status=502, headers={"Content-Type": "text/html"}),
        "empty": plain_reply(b"", status=500),
        "garbage": plain_reply(b"\x00\xff not what was promised"),
        "deep": plain_reply(b"[" * 60_000, status=400, headers={"Content-Type": "application/json"}),
        "huge": plain_reply(HUGE, status=503),
        "bomb": plain_reply(BOMB, status=503, headers=GZIP),
        "redirect": plain_reply(b"", status=302, headers={"Location": "https://localhost:1/elsewhere"}),
        "early": _early_hints,
    }
    return {name: partial(_answer_once, peer, answer) for name, answer in answers.items()}


def _answer_once(peer: HttpPeer, answer: Answer) -> None:
    usual = peer.answer

    async def once(asked: Asked, writer: Any) -> None:
        peer.answer = usual
        with contextlib.suppress(OSError):
            await answer(asked, writer)

    peer.answer = once


def _cut_after(usual: Answer) -> Answer:
    class Nowhere:
        def write(self, data: bytes) -> None: ...

        async def drain(self) -> None: ...

    async def answer(asked: Asked, writer: Any) -> None:
        await usual(asked, Nowhere())  # type: ignore[arg-type]
        writer.transport.abort()

    return answer


async def _silent(asked: Asked, writer: Any) -> None:
    await asyncio.sleep(TIMEOUT_S * 4)


async def _drop(asked: Asked, writer: Any) -> None:
    writer.transport.abort()


async def _half(asked: Asked, writer: Any) -> None:
    writer.write(b"HTTP/1.1 201 Created\r\nContent-Le")
    await writer.drain()
    writer.transport.abort()


async def _early_hints(asked: Asked, writer: Any) -> None:
    writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 200_000)
    await writer.drain()


async def _drip(asked: Asked, writer: Any) -> None:
    writer.write(b"HTTP/1.1 503 Told\r\nContent-Length: 60000\r\n\r\n")
    for _ in range(round(TIMEOUT_S * 4 / 0.05)):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


def _lines_of(pem: str) -> list[str]:
    return [line for line in pem.splitlines() if len(line) > 20 and "-----" not in line]
