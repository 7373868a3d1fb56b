"""Google's push service on loopback: the OAuth token endpoint and FCM HTTP v1, over HTTP/2 and HTTP/1.1 on one port.

The rules are Google's by default: the assertion's signature and claims, the bearer's age, the message's shape and size.
The registration token chooses a behaviour: one that begins with `UNREGISTERED:` is always answered 404. Sources:
firebase.google.com, "FCM error codes" and "REST Resource: projects.messages".
"""

import json
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.doubles.certificates import Authority
from tests.doubles.http2_server import Asked, Http2Server, ServerLimits, run_http2_server
from tests.doubles.push_behaviour import FAULTS, ServiceControl, Taken, answer_control, misbehave

FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
QUOTA_FAILURE = "type.googleapis.com/google.rpc.QuotaFailure"
SCOPES = frozenset(
    {"https://www.googleapis.com/auth/firebase.messaging", "https://www.googleapis.com/auth/cloud-platform"}
)
TOKEN_LIFETIME = timedelta(seconds=3599)
GOOGLES_AUDIENCE = "https://oauth2.googleapis.com/token"
"""What Google's own libraries name, whatever the account says."""
MOST_BYTES = 4096
_TARGETS = ("token", "fid", "topic", "condition")
_TTL = re.compile(r"\d+(?:\.\d{1,9})?s")
_RESERVED = ("google", "gcm", "from", "message_type", "collapse_key", "notification")


@dataclass(frozen=True, slots=True)
class Refusal:
    """One of the service's errors: what the status line, the headers and the body say."""

    status: int
    name: str
    message: str
    details: tuple[dict[str, object], ...] = ()
    headers: dict[str, str] = field(default_factory=dict)


def _fcm(code: str, *more: dict[str, object]) -> tuple[dict[str, object], ...]:
    return ({"@type": FCM_ERROR, "errorCode": code}, *more)


def _bad_field(name: str, fault: str) -> tuple[dict[str, object], ...]:
    return ({"@type": BAD_REQUEST, "fieldViolations": [{"field": name, "description": fault}]},)


_QUOTA: dict[str, object] = {
    "@type": QUOTA_FAILURE,
    "violations": [{"subject": "project", "description": "Quota exceeded."}],
}
_AFTER_120 = {"retry-after": "120"}
_NO_TOKEN = "The registration token is not a valid FCM registration token"

REFUSALS: dict[str, Refusal] = {
    "INVALID_TOKEN": Refusal(400, "INVALID_ARGUMENT", _NO_TOKEN, _fcm("INVALID_ARGUMENT")),
    "INVALID_PAYLOAD": Refusal(
        400, "INVALID_ARGUMENT", "Invalid JSON payload received.", _bad_field("message.data", "Invalid value")
    ),
    "UNREGISTERED": Refusal(404, "NOT_FOUND", "Requested entity was not found.", _fcm("UNREGISTERED")),
    "NOT_FOUND": Refusal(404, "NOT_FOUND", "Requested entity was not found."),
    "SENDER_ID_MISMATCH": Refusal(403, "PERMISSION_DENIED", "SenderId mismatch", _fcm("SENDER_ID_MISMATCH")),
    "PERMISSION_DENIED": Refusal(403, "PERMISSION_DENIED", "Permission 'cloudmessaging.messages.create' denied."),
    "THIRD_PARTY_AUTH_ERROR": Refusal(
        401, "UNAUTHENTICATED", "Auth error from APNS or Web Push Service", _fcm("THIRD_PARTY_AUTH_ERROR")
    ),
    "UNAUTHENTICATED": Refusal(401, "UNAUTHENTICATED", "Request had invalid authentication credentials."),
    "QUOTA_EXCEEDED": Refusal(429, "RESOURCE_EXHAUSTED", "Quota exceeded.", _fcm("QUOTA_EXCEEDED", _QUOTA)),
    "QUOTA_LATER": Refusal(429, "RESOURCE_EXHAUSTED", "Quota exceeded.", _fcm("QUOTA_EXCEEDED", _QUOTA), _AFTER_120),
    "INTERNAL": Refusal(500, "INTERNAL", "Internal error encountered.", _fcm("INTERNAL")),
    "UNAVAILABLE": Refusal(503, "UNAVAILABLE", "The service is currently unavailable.", _fcm("UNAVAILABLE")),
    "UNAVAILABLE_LATER": Refusal(
        503, "UNAVAILABLE", "The service is currently unavailable.", _fcm("UNAVAILABLE"), _AFTER_120
    ),
}
"""Every error of the send method, also in the forms that look alike and mean something else."""

BEHAVIOURS = (*REFUSALS, *FAULTS)


def registration_token(behaviour: str = "", number: int = 0) -> str:
    """Make a registration token that is answered as `behaviour` says; the numbers tell devices apart."""
    return f"{behaviour}:device-{number}" if behaviour else f"device-{number}:APA91b"


@dataclass(slots=True)
class FcmDouble:
    """The running service with one project and one service account."""

    project: str
    now: Callable[[], datetime]
    control: ServiceControl = field(default_factory=ServiceControl)
    token_answer: str = ""
    """What the token endpoint does instead of its work: invalid_grant, unavailable, silent, garbage."""
    token_latency_s: float = 0.0
    token_requests: int = 0
    server: Http2Server = field(init=False)
    is_plain: bool = False
    _bearers: dict[str, datetime] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}" if self.is_plain else f"https://localhost:{self.server.port}"

    def service_account(self, **changes: str) -> dict[str, str]:
        """Give the service account's JSON as Google's console gives it, with this service's token endpoint."""
        account = {
            "type": "service_account",
            "project_id": self.project,
            "private_key_id": "0123456789abcdef",
            "private_key": _private_pem(),
            "client_email": f"firebase-adminsdk@{self.project}.iam.gserviceaccount.com",
            "client_id": "100000000000000000001",
            "auth_uri": f"{self.url}/auth",
            "token_uri": f"{self.url}/token",
        }
        return account | changes

    def make_bearer(self) -> str:
        """Give an access token of the length of Google's, good for an hour."""
        bearer = f"ya29.double-{len(self._bearers)}-" + "x" * 900
        self._bearers[bearer] = self.now() + TOKEN_LIFETIME
        return bearer

    def expire_bearers(self) -> None:
        """Forget every access token given so far."""
        for bearer in self._bearers:
            self._bearers[bearer] = self.now()

    def take(self, asked: Asked) -> None:
        if asked.path == "/token":
            self._take_token_request(asked)
        elif asked.path.startswith("/_"):
            more = {"expire_bearers": self.expire_bearers, "goaway": self._go_away}
            answer_control(asked, self.server, self.control, more)
        else:
            self._take_message(asked)

    # The token endpoint.

    def _take_token_request(self, asked: Asked) -> None:
        self.token_requests += 1
        match self.token_answer:
            case "invalid_grant":
                _answer_json(asked, 400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."})
            case "unavailable":
                asked.reply(503, {"content-type": "text/html"}, b"<html>Service unavailable</html>")
            case "garbage":
                asked.reply(200, {"content-type": "application/json"}, b"not json")
            case "silent":
                return
            case _:
                self.server.later(self.token_latency_s, self._grant, asked)

    def _grant(self, asked: Asked) -> None:
        form = {name: values[0] for name, values in parse_qs(bytes(asked.body).decode("utf-8", "replace")).items()}
        fault = self._fault_of_assertion(form)
        if fault:
            _answer_json(asked, 400, {"error": "invalid_grant", "error_description": fault})
            return
        told = {
            "access_token": self.make_bearer(),
            "expires_in": int(TOKEN_LIFETIME.total_seconds()),
            "token_type": "Bearer",
        }
        _answer_json(asked, 200, told)

    def _fault_of_assertion(self, form: dict[str, str]) -> str:
        if form.get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer":
            return "Unsupported grant type."
        account = self.service_account()
        try:
            claims = jwt.decode(
                form.get("assertion", ""),
                _public_pem(),
                algorithms=["RS256"],
                audience=[account["token_uri"], GOOGLES_AUDIENCE],
                issuer=account["client_email"],
                # The assertion is made by the machine's own clock.
                options={"require": ["exp", "iat", "iss", "aud"], "verify_exp": False, "verify_iat": False},
            )
        except jwt.PyJWTError as fault:
            return f"Invalid JWT: {fault}"
        if claims["exp"] - claims["iat"] > 3600:
            return "Invalid JWT: the token lives longer than an hour."
        if not SCOPES & set(str(claims.get("scope", "")).split()):
            return "Invalid OAuth scope."
        return ""

    # The send method.

    def _take_message(self, asked: Asked) -> None:
        matched = re.fullmatch(r"/v1/projects/([^/]+)/messages:send", asked.path)
        if matched is None or asked.method != "POST":
            asked.reply(404, {"content-type": "text/html"}, b"<html>404. That's an error.</html>")
            return
        bearer = asked.headers.get("authorization", "").removeprefix("Bearer ")
        if self._bearers.get(bearer, datetime.min.replace(tzinfo=UTC)) <= self.now():
            self._refuse(asked, "UNAUTHENTICATED")
            return
        if matched[1] != self.project:
            self._refuse(asked, "PERMISSION_DENIED")
            return
        message, fault = _read_message(bytes(asked.body))
        if fault is not None:
            self._answer_refusal(asked, "INVALID_ARGUMENT", fault)
            return
        target = str(message.get("token") or message.get("fid") or "")
        accept = self._accept_once(asked, message, target)
        behaviour = self.control.behaviour_for(_told_by(target))
        if behaviour in FAULTS:
            misbehave(asked, behaviour, accept, lambda: self._send(asked, accept))
        elif behaviour:
            self._refuse(asked, behaviour)
        else:
            self._send(asked, accept)

    def _send(self, asked: Asked, accept: Callable[[], None]) -> None:
        if json.loads(bytes(asked.body)).get("validate_only") is not True:
            accept()
        self.control.answers["200"] += 1
        number = sum(self.control.ids.values())
        _answer_json(asked, 200, {"name": f"projects/{self.project}/messages/0:{number:016d}%double"})

    def _accept_once(self, asked: Asked, message: dict[str, object], target: str) -> Callable[[], None]:
        def accept() -> None:
            data = message.get("data")
            told = data.get("notification_id", "") if isinstance(data, dict) else ""
            payload = message if self.control.is_keeping else {}
            self.control.accept(Taken(f"{told}/{target}", target, asked.headers, payload, id(asked.connection)))

        return accept

    def _refuse(self, asked: Asked, name: str) -> None:
        self._answer_refusal(asked, name, REFUSALS[name])

    def _answer_refusal(self, asked: Asked, name: str, refusal: Refusal) -> None:
        self.control.answers[f"{refusal.status} {name}"] += 1
        error: dict[str, object] = {"code": refusal.status, "message": refusal.message, "status": refusal.name}
        if refusal.details:
            error["details"] = list(refusal.details)
        _answer_json(asked, refusal.status, {"error": error}, refusal.headers)

    def _go_away(self) -> None:
        for connection in list(self.server.connections):
            connection.go_away()


def _told_by(target: str) -> str:
    behaviour = target.partition(":")[0]
    return behaviour if behaviour in BEHAVIOURS else ""


def _read_message(body: bytes) -> tuple[dict[str, object], Refusal | None]:
    try:
        asked_for = json.loads(body)
        message = asked_for["message"]
        targets = [name for name in _TARGETS if message.get(name)]
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}, REFUSALS["INVALID_PAYLOAD"]
    if len(targets) != 1:
        return {}, _invalid("message", "Exactly one of token, fid, topic or condition must be set.")
    for name, fault in _faults_of(message):
        return {}, _invalid(name, fault)
    return message, None


def _faults_of(message: dict) -> list[tuple[str, str]]:
    faults = []
    data = message.get("data", {})
    android = message.get("android", {})
    if not isinstance(data, dict) or not all(isinstance(value, str) for value in data.values()):
        faults.append(("message.data", "Values must be strings."))
    elif any(key in _RESERVED[2:] or key.startswith(_RESERVED[:2]) for key in data):
        faults.append(("message.data", "A reserved key is used."))
    if "ttl" in android and not _TTL.fullmatch(str(android["ttl"])):
        faults.append(("message.android.ttl", "Not a duration."))
    if android.get("priority", "NORMAL").upper() not in ("NORMAL", "HIGH"):
        faults.append(("message.android.priority", "Not a priority."))
    size = len(json.dumps([message.get("notification"), data], ensure_ascii=False).encode())
    if size > MOST_BYTES:
        faults.append(("message", f"Message is too big: {size} bytes."))
    return faults


def _invalid(name: str, fault: str) -> Refusal:
    return Refusal(400, "INVALID_ARGUMENT", "Request contains an invalid argument.", _bad_field(name, fault))


def _answer_json(asked: Asked, status: int, told: dict, headers: dict[str, str] | None = None) -> None:
    named = {"content-type": "application/json; charset=UTF-8", **(headers or {})}
    asked.reply(status, named, json.dumps(told).encode())


@cache
def _key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65_537, 2048)


@cache
def _private_pem() -> str:
    return _key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@cache
def _public_pem() -> bytes:
    return _key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@asynccontextmanager
async def run_fcm(
    authority: Authority | None,
    *,
    project: str = "carillon-test",
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    port: int = 0,
) -> AsyncIterator[FcmDouble]:
    """Run the service on a loopback port until the block ends; without an authority there is no TLS."""
    double = FcmDouble(project, now, is_plain=authority is None)
    tls: ssl.SSLContext | None = authority.server_tls("localhost", "127.0.0.1") if authority else None
    async with run_http2_server(double.take, tls=tls, limits=ServerLimits(streams=100), port=port) as server:
        double.server = server
        yield double
