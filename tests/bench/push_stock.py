"""The push SDKs as they come, sending what the channels send: the yardstick of the push benchmark."""

import asyncio
import base64
import json
import os
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.doubles.apns import device_token
from tests.doubles.fcm import registration_token

_BATCH = 500
_DATA = {"invoice": "17"}


async def spread(count: int, at_once: int, send: Callable[[int], Awaitable[object]]) -> None:
    """Send so many, so many at once."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await send(number)

    await asyncio.gather(*(work() for _ in range(min(at_once, count))))


async def cpu_of(work: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Give the processor seconds of all threads of this process, and the seconds, that a piece of work takes."""
    cpu_s, began = time.process_time(), time.monotonic()
    await work()
    return time.process_time() - cpu_s, time.monotonic() - began


def make_firebase(google: str, project: str, bearer: str) -> Callable[[int], None]:
    """Give what sends so many messages through firebase-admin, in batches as its documentation advises."""
    import firebase_admin  # type: ignore[import-untyped]
    from firebase_admin import messaging
    from google.oauth2.credentials import Credentials

    class Bearer(firebase_admin.credentials.Base):  # type: ignore[misc]
        def get_credential(self) -> Any:
            # With a service account the SDK would also call Google's own hosts.
            return Credentials(
                None, refresh_handler=lambda *_, **__: (bearer, datetime.now(UTC).replace(tzinfo=None) + timedelta(1))
            )

    messaging._MessagingService.FCM_URL = google + "/v1/projects/{0}/messages:send"
    sdk = firebase_admin.initialize_app(Bearer(), {"projectId": project}, name="bench")

    def message(number: int) -> Any:
        return messaging.Message(
            data=_DATA,
            notification=messaging.Notification(title="Invoice", body="It has come."),
            android=messaging.AndroidConfig(priority="normal", ttl=timedelta(days=1)),
            token=registration_token(number=number),
        )

    def send(count: int) -> None:
        for start in range(0, count, _BATCH):
            batch = [message(number) for number in range(start, min(start + _BATCH, count))]
            if messaging.send_each(batch, app=sdk).failure_count:
                raise RuntimeError("firebase-admin could not send to the double.")

    return send


def make_aioapns(apple: str, key: Sequence[str], trusting: Callable[[], ssl.SSLContext]) -> tuple[Any, Any]:
    """Give aioapns' client, and what sends one push with it."""
    import aioapns
    from aioapns.connection import APNsTLSClientProtocol

    tls = trusting()
    tls.set_alpn_protocols(["h2"])
    p8, key_id, team_id = key
    sdk = aioapns.APNs(key=p8, key_id=key_id, team_id=team_id, topic="com.openksef.mobile", ssl_context=tls)
    place = {"APNS_SERVER": "localhost", "APNS_PORT": int(apple.rpartition(":")[2])}
    sdk.pool.protocol_class = type("Here", (APNsTLSClientProtocol,), place)

    async def send(number: int) -> None:
        body = {"aps": {"alert": {"title": "Invoice", "body": "It has come."}, "sound": "default"}, **_DATA}
        request = aioapns.NotificationRequest(device_token(number=number), body, time_to_live=86_400)
        if not (await sdk.send_notification(request)).is_successful:
            raise RuntimeError("aioapns could not send to the double.")

    return sdk, send


def make_pywebpush(subscription: dict[str, Any], private_key: bytes, authority: str) -> Callable[[int, int], None]:
    """Give what sends so many pushes through pywebpush, from so many threads, as its documentation shows."""
    from pywebpush import webpush

    os.environ["REQUESTS_CA_BUNDLE"] = authority
    vapid = base64.urlsafe_b64encode(private_key).decode().rstrip("=")
    payload = json.dumps({"title": "Invoice", "body": "It has come.", "data": _DATA})

    def one(_number: int) -> None:
        claims: dict[str, str | int] = {"sub": "mailto:admin@push.example"}
        webpush(subscription, payload, vapid_private_key=vapid, vapid_claims=claims, ttl=86_400)

    def send(count: int, threads: int) -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(one, range(count)))

    return send
