"""Apple's push service on loopback: HTTP/2 over TLS, provider tokens or client certificates, every documented reason.

The rules are Apple's by default: sizes, header syntax, topics, one new provider token in 20 minutes and connection, one
stream until the first good token, GOAWAY with a reason. The device token chooses a behaviour: what
`device_token("Unregistered")` makes is always answered 410. Sources: Apple, "Sending notification requests to APNs",
"Handling notification responses from APNs", "Establishing a token-based connection to APNs".
"""

import json
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID
from h2.errors import ErrorCodes

from tests.doubles.certificates import Authority
from tests.doubles.http2_server import Asked, Http2Server, ServerLimits, run_http2_server
from tests.doubles.push_behaviour import FAULTS, ServiceControl, Taken, answer_control, misbehave

REASONS: dict[str, int] = {
    "BadCollapseId": 400,
    "BadDeviceToken": 400,
    "BadExpirationDate": 400,
    "BadMessageId": 400,
    "BadPriority": 400,
    "BadTopic": 400,
    "DeviceTokenNotForTopic": 400,
    "DuplicateHeaders": 400,
    "IdleTimeout": 400,
    "InvalidPushType": 400,
    "MissingDeviceToken": 400,
    "MissingTopic": 400,
    "PayloadEmpty": 400,
    "TopicDisallowed": 400,
    "BadCertificate": 403,
    "BadCertificateEnvironment": 403,
    "ExpiredProviderToken": 403,
    "Forbidden": 403,
    "InvalidProviderToken": 403,
    "MissingProviderToken": 403,
    "UnrelatedKeyIdInToken": 403,
    "BadEnvironmentKeyIdInToken": 403,
    "BadPath": 404,
    "MethodNotAllowed": 405,
    "ExpiredToken": 410,
    "Unregistered": 410,
    "PayloadTooLarge": 413,
    "TooManyProviderTokenUpdates": 429,
    "TooManyRequests": 429,
    "InternalServerError": 500,
    "ServiceUnavailable": 503,
    "Shutdown": 503,
}
"""Every reason that Apple documents, with its status."""

BEHAVIOURS = (*REASONS, *FAULTS)
TOPIC_ENDINGS = {
    "voip": ".voip",
    "complication": ".complication",
    "fileprovider": ".pushkit.fileprovider",
    "location": ".location-query",
    "liveactivity": ".push-type.liveactivity",
    "pushtotalk": ".voip-ptt",
    "widgets": ".push-type.widgets",
    "controls": ".push-type.controls",
    "mdm": "",
    "alert": "",
    "background": "",
}
MOST_BYTES = 4096
MOST_VOIP_BYTES = 5120
TOKEN_LIFETIME = timedelta(hours=1)
TOKEN_PAUSE = timedelta(minutes=20)
STREAMS = 1000

_MARK = "be4a"
_FINE = "f19e"
_NOBODYS = "0" * 64
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_HEX = re.compile(r"(?:[0-9a-f]{2})+")


def device_token(behaviour: str = "", number: int = 0) -> str:
    """Make a device token that is answered as `behaviour` says; the numbers tell devices apart."""
    if not behaviour:
        return f"{_FINE}{number:060x}"
    return f"{_MARK}{BEHAVIOURS.index(behaviour):04x}{number:056x}"


@dataclass(frozen=True, slots=True)
class ProviderKey:
    """An authentication key as Apple's developer site gives it: the .p8 file's text and its two ids."""

    p8: str
    key_id: str = "KEY0000001"
    team_id: str = "TEAM000001"

    @property
    def public_pem(self) -> bytes:
        key = jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA256).prepare_key(self.p8)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def make_provider_key(key_id: str = "KEY0000001", team_id: str = "TEAM000001") -> ProviderKey:
    """Make a fresh key."""
    key = ec.generate_private_key(ec.SECP256R1())
    return ProviderKey(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(), key_id, team_id)


@dataclass(slots=True)
class ApnsDouble:
    """The running service."""

    authority: Authority
    key: ProviderKey
    topics: frozenset[str]
    now: Callable[[], datetime]
    control: ServiceControl = field(default_factory=ServiceControl)
    unregistered_at: datetime | None = None
    """When Apple says that a 410's token became invalid; now, when not set."""
    token_lifetime: timedelta = TOKEN_LIFETIME
    provider_tokens: list[str] = field(default_factory=list)
    """The different provider tokens seen, in order."""
    server: Http2Server = field(init=False)
    _judged: dict[str, tuple[str, datetime]] = field(default_factory=dict)
    _sessions: dict[int, "_Session"] = field(default_factory=dict)
    _distrusted_before: datetime | None = None

    @property
    def url(self) -> str:
        return f"https://localhost:{self.server.port}"

    def expire_tokens(self) -> None:
        """From now on treat every provider token made until now as expired."""
        self._distrusted_before = self.now()

    def go_away(self, reason: str = "Shutdown") -> None:
        """Send GOAWAY on every connection."""
        for connection in list(self.server.connections):
            connection.go_away(said=json.dumps({"reason": reason}).encode())

    def shrink_streams(self, streams: int = 1) -> None:
        """Tell every connection that it may only have so many streams at once from now on."""
        for connection in list(self.server.connections):
            self._session_of(connection).allow(streams)

    def client_certificate(self, topic: str) -> tuple[str, str]:
        """Give a certificate and key, PEM, that may push to this topic and what begins with it."""
        return self.authority.client_certificate(f"Apple Push Services: {topic}", user_id=topic)

    # One request.

    def take(self, asked: Asked) -> None:
        if asked.path.startswith("/_"):
            more = {"expire_tokens": self.expire_tokens, "goaway": self.go_away, "shrink": self.shrink_streams}
            answer_control(asked, self.server, self.control, more)
            return
        session = self._session_of(asked.connection)
        token = asked.path.removeprefix("/3/device/")
        behaviour = self.control.behaviour_for(_told_by(token))
        if behaviour in FAULTS:
            accept = self._accept_once(asked, token)
            misbehave(asked, behaviour, accept, lambda: self._judge(asked, session, token, "", accept))
        else:
            self._judge(asked, session, token, behaviour, self._accept_once(asked, token))

    def _judge(self, asked: Asked, session: "_Session", token: str, behaviour: str, accept: Callable[[], None]) -> None:
        # Apple never gave that token to a device; it says so once it has accepted the sender.
        reason = self._fault_of(asked, session, token) or behaviour or ("BadDeviceToken" if token == _NOBODYS else "")
        if reason:
            self._refuse(asked, session, reason)
            return
        session.allow(STREAMS)
        accept()
        self.control.answers["200"] += 1
        asked.reply(200, {"apns-id": asked.headers.get("apns-id") or str(uuid4()).upper()})

    def _accept_once(self, asked: Asked, token: str) -> Callable[[], None]:
        def accept() -> None:
            payload = json.loads(bytes(asked.body)) if self.control.is_keeping else {}
            # One notification goes to several devices under one id.
            taken_id = f"{asked.headers.get('apns-id', '')}/{token}"
            self.control.accept(Taken(taken_id, token, asked.headers, payload, id(asked.connection)))

        return accept

    def _refuse(self, asked: Asked, session: "_Session", reason: str) -> None:
        body: dict[str, object] = {"reason": reason}
        status = REASONS[reason]
        if status == 410:
            body["timestamp"] = round((self.unregistered_at or self.now()).timestamp() * 1000)
        self.control.answers[f"{status} {reason}"] += 1
        asked.reply(status, {"apns-id": asked.headers.get("apns-id") or str(uuid4())}, json.dumps(body).encode())
        if reason in ("ExpiredProviderToken", "InvalidProviderToken"):
            session.distrust()

    def _fault_of(self, asked: Asked, session: "_Session", token: str) -> str:
        if asked.method != "POST":
            return "MethodNotAllowed"
        if not asked.path.startswith("/3/device"):
            return "BadPath"
        if not token or token == "/3/device":
            return "MissingDeviceToken"
        if not _HEX.fullmatch(token.lower()):
            return "BadDeviceToken"
        return self._trust_fault(asked, session) or _header_fault(asked) or self._topic_fault(asked, session)

    def _trust_fault(self, asked: Asked, session: "_Session") -> str:
        authorization = asked.headers.get("authorization", "")
        if not authorization:
            return "" if session.certificate_topic else "MissingProviderToken"
        scheme, _, provider_token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return "InvalidProviderToken"
        if provider_token not in self._judged:
            self._judged[provider_token] = self._read_token(provider_token)
            self.provider_tokens.append(provider_token)
        fault, issued_at = self._judged[provider_token]
        if fault:
            return fault
        now = self.now()
        is_distrusted = self._distrusted_before is not None and issued_at <= self._distrusted_before
        if now - issued_at > self.token_lifetime or is_distrusted:
            return "ExpiredProviderToken"
        return session.note_token(provider_token, now)

    def _read_token(self, provider_token: str) -> tuple[str, datetime]:
        nothing = datetime.fromtimestamp(0, UTC)
        try:
            if jwt.get_unverified_header(provider_token).get("kid") != self.key.key_id:
                return "InvalidProviderToken", nothing
            claims = jwt.decode(
                provider_token,
                self.key.public_pem,
                algorithms=["ES256"],
                options={"verify_iat": False, "require": ["iss", "iat"]},
                issuer=self.key.team_id,
            )
            return "", datetime.fromtimestamp(claims["iat"], UTC)
        except (jwt.PyJWTError, ValueError, TypeError):
            return "InvalidProviderToken", nothing

    def _topic_fault(self, asked: Asked, session: "_Session") -> str:
        topic = asked.headers.get("apns-topic") or session.certificate_topic
        if not topic:
            return "MissingTopic"
        kind = asked.headers.get("apns-push-type", "alert")
        ending = TOPIC_ENDINGS[kind]
        allowed = {session.certificate_topic} if session.certificate_topic else self.topics
        if not any(topic == bundle + ending for bundle in allowed):
            return "TopicDisallowed"
        most = MOST_VOIP_BYTES if kind == "voip" else MOST_BYTES
        return "PayloadTooLarge" if len(asked.body) > most else ""

    def _session_of(self, connection: object) -> "_Session":
        session = self._sessions.get(id(connection))
        if session is None or session.connection is not connection:
            session = self._sessions[id(connection)] = _Session(connection)
        return session

    def most_streams(self, connection: object) -> int:
        return self._session_of(connection).streams


class _Session:
    """What Apple remembers of one connection."""

    def __init__(self, connection) -> None:
        self.connection = connection
        self.certificate_topic = _topic_of(connection.transport)
        self.streams = STREAMS if self.certificate_topic else 1
        self._token = ""
        self._token_at: datetime | None = None

    def allow(self, streams: int) -> None:
        if streams != self.streams:
            self.streams = streams
            self.connection.tell_streams(streams)

    def distrust(self) -> None:
        """Go back to one stream, and refuse what is beyond it."""
        self.allow(1)
        for asked in list(self.connection.streams.values())[1:]:
            asked.reset(ErrorCodes.REFUSED_STREAM)

    def note_token(self, provider_token: str, now: datetime) -> str:
        if provider_token == self._token:
            return ""
        if self._token_at is not None and now - self._token_at < TOKEN_PAUSE:
            return "TooManyProviderTokenUpdates"
        self._token, self._token_at = provider_token, now
        return ""


def _told_by(token: str) -> str:
    if not token.startswith(_MARK):
        return ""
    index = int(token[4:8], 16)
    return BEHAVIOURS[index] if index < len(BEHAVIOURS) else ""


def _header_fault(asked: Asked) -> str:
    headers = asked.headers
    if "apns-id" in headers and not _UUID.fullmatch(headers["apns-id"]):
        return "BadMessageId"
    if not headers.get("apns-expiration", "0").isdecimal():
        return "BadExpirationDate"
    kind = headers.get("apns-push-type", "alert")
    if kind not in TOPIC_ENDINGS:
        return "InvalidPushType"
    priority = headers.get("apns-priority", "10")
    if priority not in ("1", "5", "10") or (kind == "background" and priority == "10"):
        return "BadPriority"
    if len(headers.get("apns-collapse-id", "").encode()) > 64:
        return "BadCollapseId"
    try:
        payload = json.loads(bytes(asked.body))
    except ValueError:
        return "PayloadEmpty"
    return "" if isinstance(payload, dict) and payload else "PayloadEmpty"


def _topic_of(transport) -> str:
    tls = transport.get_extra_info("ssl_object")
    encoded = tls.getpeercert(binary_form=True) if tls is not None else None
    if not encoded:
        return ""
    names = x509.load_der_x509_certificate(encoded).subject.get_attributes_for_oid(NameOID.USER_ID)
    return str(names[0].value) if names else ""


@asynccontextmanager
async def run_apns(
    authority: Authority,
    *,
    key: ProviderKey | None = None,
    topics: tuple[str, ...] = ("com.openksef.mobile",),
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    port: int = 0,
) -> AsyncIterator[ApnsDouble]:
    """Run the service on a loopback port until the block ends."""
    double = ApnsDouble(authority, key or make_provider_key(), frozenset(topics), now)
    tls = authority.trust(authority.server_tls("localhost", "127.0.0.1"))
    tls.verify_mode = ssl.CERT_OPTIONAL
    async with run_http2_server(double.take, tls=tls, limits=ServerLimits(streams=1), port=port) as server:
        double.server = server
        server.on_stream_limit = double.most_streams
        yield double
