"""The relay: remote pushes through another instance that has Firebase and Apple credentials.

Works with OpenKSeF's relay and with Carillon's own, which takes what it knows of the further fields and tells dead
tokens from outages. Source: the relay's wire contract (paths, headers, signature over `timestamp.body`).
"""

import hashlib
import hmac
from typing import Final

import msgspec

from appliance.channels.contract import ChannelName, Diagnosis, Push
from appliance.channels.fitting import DoesNotFit, fit
from appliance.channels.plain_words import without_pieces_of
from appliance.domain.clock import Clock
from appliance.domain.device import AddressKind
from appliance.domain.outcome import Accepted, Gone, Misconfigured, Outcome, Rejected, Retry
from appliance.domain.retry_after import read_retry_after
from appliance.domain.secret import Secret
from appliance.security.outbound import OutboundFailed, OutboundRefused, Poster, Reply

SLOTS: Final = 16
MOST_BODY_BYTES: Final = 3_800
"""What FCM and APNs carry, less what the relay adds."""
PROBE_DEADLINE_S: Final = 10.0
_ALL_FAILED: Final = "All providers failed"
_WEATHER: Final = frozenset({408, 421, 425})
"""A slow network, another server's connection, too early: none is about the push itself."""
_ID_KEY: Final = "notificationId"


class RelayRefused(Exception):
    """The relay did not register this instance; the text says why and what to do."""


class Registered(msgspec.Struct, rename="camel", frozen=True):
    """What a relay gives an instance that registers."""

    instance_id: str
    api_key: str


class _RelayError(msgspec.Struct):
    error: str = ""


class RelayChannel:
    """Sends through a relay, signed with the key that it gave this instance."""

    name = ChannelName.RELAY
    address_kinds = frozenset({AddressKind.FCM_TOKEN, AddressKind.APNS_TOKEN})
    slots = SLOTS
    has_one_lane = True

    def __init__(self, poster: Poster, clock: Clock, *, url: str, api_key: Secret, instance_id: str) -> None:
        self._poster = poster
        self._clock = clock
        self._url = url.rstrip("/")
        self._api_key = api_key
        self._instance_id = instance_id

    def lane_of(self, push: Push) -> str:
        """One key, one lane."""
        return self._url

    async def deliver(self, push: Push) -> Outcome:
        """Sign and post one push; the same notification has the same id and collapse key each time."""
        try:
            body = _make_body(push, self._clock)
        except DoesNotFit as too_large:
            text = f"It is too large for a push, even without its data ({too_large})."
            return Rejected(text, code="too_large", was_asked=False)
        try:
            reply = await self._poster.request(
                "POST", f"{self._url}/api/push", headers=self._sign(body), body=body, deadline_s=push.timeout_s
            )
        except OutboundRefused as refused:
            return Misconfigured(str(refused), code="outbound_refused", was_asked=False)
        except OutboundFailed as failed:
            return Retry(f"The relay: {failed}", code=failed.reason.value)
        return self._outcome_of(reply, push.address.reveal())

    async def probe(self) -> Diagnosis:
        """Ask whether the relay is there and knows this instance: an empty push is refused only after its signature."""
        body = b"{}"
        try:
            reply = await self._poster.request(
                "POST", f"{self._url}/api/push", headers=self._sign(body), body=body, deadline_s=PROBE_DEADLINE_S
            )
        except (OutboundRefused, OutboundFailed) as failed:
            return Diagnosis(False, f"The relay at {self._url} cannot be reached. {failed}")
        if reply.status in (400, 422):
            return Diagnosis(True, f"The relay at {self._url} knows this instance.")
        outcome = self._outcome_of(reply)
        return Diagnosis(False, getattr(outcome, "reason", f"The relay answered {reply.status}."))

    async def close(self) -> None:
        """Nothing to do: the connections are the outbound client's."""

    def _sign(self, body: bytes) -> dict[str, str]:
        timestamp = str(int(self._clock.now().timestamp()))
        headers = {
            "content-type": "application/json; charset=utf-8",
            "x-relay-timestamp": timestamp,
            "x-relay-signature": sign(self._api_key, timestamp, body),
        }
        # Without an id the key is the relay's one key for everybody.
        return headers | ({"x-relay-instance": self._instance_id} if self._instance_id else {})

    def _outcome_of(self, reply: Reply, address: str = "") -> Outcome:
        status, said = reply.status, _said(reply, address)
        headers = reply.headers
        retry_after = read_retry_after(headers.get("retry-after"), self._clock.now(), sent_at=headers.get("date"))
        if 200 <= status < 300:
            return Accepted()
        if status == 410:
            return Gone(f"The relay says that the token is dead{said}.", code="410")
        if status == 429:
            return Retry("The relay asks to slow down.", after=retry_after, code="429", pauses_all=True)
        if status == 401:
            return Misconfigured(
                f"The relay does not accept this instance's signature{said}. Check PUSH_RELAY_API_KEY, "
                "PUSH_RELAY_INSTANCE_ID and this server's clock, or register again.",
                code="401",
            )
        if 300 <= status < 400:
            text = f"The relay answered {status}, a redirect: set PUSH_RELAY_URL to the address that it leads to."
            return Misconfigured(text, code=str(status))
        if status in (403, 404, 405, 407):
            return Misconfigured(
                f"The relay answered {status}{said}: this instance is disabled there, or PUSH_RELAY_URL is no relay.",
                code=str(status),
            )
        if status == 502 and _ALL_FAILED in said:
            # A dead token and an outage look the same there, so it says nothing about the relay.
            return Retry("The relay's providers did not take it.", after=retry_after, code="502", is_about_device=True)
        if status >= 500 or status in _WEATHER:
            return Retry(f"The relay answered {status}{said}.", after=retry_after, code=str(status))
        return Rejected(f"The relay answered {status}{said}.", code=str(status))


async def register_instance(poster: Poster, url: str, instance_url: str) -> Registered:
    """Register this instance with a relay; keep what it gives, it is told only once. Raises `RelayRefused`."""
    body = msgspec.json.encode({"instanceUrl": instance_url.rstrip("/")})
    headers = {"content-type": "application/json"}
    url = url.rstrip("/")
    try:
        reply = await poster.request(
            "POST", f"{url}/api/register", headers=headers, body=body, deadline_s=PROBE_DEADLINE_S
        )
    except (OutboundRefused, OutboundFailed) as failed:
        raise RelayRefused(f"The relay at {url} cannot be reached. {failed}") from failed
    if reply.status == 429:
        raise RelayRefused("The relay registers only a few instances an hour from one address. Try again in an hour.")
    if not 200 <= reply.status < 300:
        raise RelayRefused(f"The relay answered {reply.status}{_said(reply)}. Check that PUSH_RELAY_URL is a relay.")
    try:
        return msgspec.json.decode(reply.body, type=Registered)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise RelayRefused("The answer is not a relay's. Check PUSH_RELAY_URL.") from None


def sign(api_key: Secret, timestamp: str, body: bytes) -> str:
    """Give the signature: lowercase hex of HMAC-SHA256 over `timestamp.body`, keyed with the key's text as it is."""
    return hmac.new(api_key.reveal().encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


def _make_body(push: Push, clock: Clock) -> bytes:
    envelope = push.envelope
    # A relay takes strings only.
    texts = {key: value if isinstance(value, str) else _compact(value) for key, value in envelope.data.items()}
    ttl_s = max(0, int((envelope.expires_at - clock.now()).total_seconds()))

    def encode(body: str, with_data: bool, is_truncated: bool) -> bytes:
        data = {**(texts if with_data else {}), _ID_KEY: str(envelope.id)}
        if is_truncated:
            data["truncated"] = "true"
        return msgspec.json.encode(
            {
                "pushToken": push.address.reveal(),
                "title": envelope.title,
                "body": body,
                "data": data,
                # What OpenKSeF's relay skips and Carillon's uses.
                "id": envelope.id,
                "priority": envelope.priority.name.lower(),
                "ttl": ttl_s,
                "collapseKey": envelope.collapse_key,
            }
        )

    return fit(envelope, MOST_BODY_BYTES, encode)


def _compact(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _said(reply: Reply, address: str = "") -> str:
    try:
        error = msgspec.json.decode(reply.body, type=_RelayError).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    # A relay may repeat the token that it was sent.
    text = without_pieces_of((address,), error[:100])
    return f" ({text})" if text and text.isprintable() else ""
