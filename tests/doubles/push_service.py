"""A push service for browsers, over real HTTPS: verifies the sender's VAPID token, decrypts, and answers as told."""

import base64
import json
import secrets
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import http_ece
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.doubles.http_peer import Asked, HttpPeer, plain_reply, run_http_peer

MOST_BODY_BYTES = 4_096
MOST_TTL_S = 2_592_000


@dataclass(slots=True)
class Browser:
    """One subscription: the key pair that only the browser knows, and what it was sent."""

    path: str
    key: ec.EllipticCurvePrivateKey
    auth: bytes
    received: list[dict] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    is_gone: bool = False


class PushService:
    """Answers 201 for what a real one would take, and says what is wrong with the rest, as Mozilla's does."""

    def __init__(self) -> None:
        self.browsers: dict[str, Browser] = {}
        self.script: list[tuple[int, dict[str, str], bytes]] = []
        self.peer: HttpPeer
        self.tokens: set[str] = set()

    @property
    def origin(self) -> str:
        return f"https://localhost:{self.peer.port}"

    def subscribe(self) -> tuple[Browser, str]:
        """Make a subscription; gives it as a browser's `toJSON` does, too."""
        browser = Browser(
            f"/wpush/v2/{secrets.token_urlsafe(16)}", ec.generate_private_key(ec.SECP256R1()), secrets.token_bytes(16)
        )
        self.browsers[browser.path] = browser
        point = browser.key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        keys = {"p256dh": _b64(point), "auth": _b64(browser.auth)}
        return browser, json.dumps({"endpoint": self.origin + browser.path, "keys": keys})

    async def answer(self, asked: Asked, writer) -> None:
        status, headers, body = self._judge(asked)
        await plain_reply(body, status=status, headers=headers)(asked, writer)

    def _judge(self, asked: Asked) -> tuple[int, dict[str, str], bytes]:
        if self.script:
            return self.script.pop(0)
        browser = self.browsers.get(asked.path)
        if browser is None:
            return _error(404, 102, "Not Found")
        if browser.is_gone:
            return _error(410, 103, "Gone")
        if (refusal := self._check_vapid(asked)) is not None:
            return refusal
        if (refusal := _check_headers(asked)) is not None:
            return refusal
        plain = http_ece.decrypt(asked.body, private_key=browser.key, auth_secret=browser.auth, version="aes128gcm")
        browser.received.append(json.loads(plain))
        browser.headers.append(asked.headers)
        return 201, {"Location": f"{self.origin}/m/{secrets.token_urlsafe(8)}"}, b""

    def _check_vapid(self, asked: Asked) -> tuple[int, dict[str, str], bytes] | None:
        scheme, _, parameters = asked.headers.get("authorization", "").partition(" ")
        given = dict(part.strip().split("=", 1) for part in parameters.split(",") if "=" in part)
        if scheme != "vapid" or not {"t", "k"} <= set(given):
            return _error(401, 109, "Missing VAPID")
        self.tokens.add(given["t"])
        point = base64.urlsafe_b64decode(given["k"] + "==")
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        try:
            claims = jwt.decode(given["t"], key, algorithms=["ES256"], audience=self.origin)
        except jwt.InvalidTokenError as error:
            return _error(401, 109, f"Bad VAPID: {type(error).__name__}")
        if not str(claims.get("sub", "")).startswith(("mailto:", "https://")):
            return _error(403, 109, "Bad sub")
        return None


def _check_headers(asked: Asked) -> tuple[int, dict[str, str], bytes] | None:
    ttl = asked.headers.get("ttl", "")
    if not ttl:
        return _error(400, 111, "Missing TTL")
    if not ttl.isdigit() or int(ttl) > MOST_TTL_S:
        return _error(400, 112, "Invalid TTL")
    topic = asked.headers.get("topic")
    if topic is not None and (len(topic) > 32 or set(topic) - set(_TOPIC_CHARS)):
        return _error(400, 113, "Invalid Topic")
    if asked.headers.get("urgency", "normal") not in ("very-low", "low", "normal", "high"):
        return _error(400, 110, "Invalid Urgency")
    if asked.headers.get("content-encoding") != "aes128gcm":
        return _error(400, 110, "Invalid Encoding")
    return _error(413, 104, "Too large") if len(asked.body) > MOST_BODY_BYTES else None


_TOPIC_CHARS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def _error(status: int, errno: int, message: str) -> tuple[int, dict[str, str], bytes]:
    body = json.dumps({"code": status, "errno": errno, "error": message, "message": message}).encode()
    return status, {"Content-Type": "application/json"}, body


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@asynccontextmanager
async def run_push_service(tls: ssl.SSLContext, *, port: int = 0) -> AsyncIterator[PushService]:
    """Run a push service on loopback over TLS until the block ends."""
    service = PushService()
    async with run_http_peer(service.answer, port=port, tls=tls) as peer:
        service.peer = peer
        yield service
