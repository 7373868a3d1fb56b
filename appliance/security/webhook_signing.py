"""The signatures of a webhook: Keymaster's header, and beside it those of Standard Webhooks.

Sources: Keymaster's push receipts (`X-Keymaster-Signature: sha256=` and the hex of HMAC-SHA256 over the raw body, keyed
with the secret as it is written); the Standard Webhooks specification (`v1,` and the base64 of HMAC-SHA256 over
`id.timestamp.body`, keyed with the bytes behind `whsec_`).
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from appliance.domain.secret import Secret
from appliance.security.client_secrets import webhook_signing_key

KEYMASTER_HEADER: Final = "x-keymaster-signature"
KEYMASTER_PREVIOUS_HEADER: Final = "x-keymaster-signature-previous"


def sign_webhook(body: bytes, *, message_id: str, sent_at: datetime, secrets: Sequence[Secret]) -> dict[str, str]:
    """Give the headers that prove where a body comes from; the first secret is the current one, then the previous.

    While two secrets overlap, `webhook-signature` carries a signature with each, so a receiver may hold either one.
    """
    timestamp = str(int(sent_at.timestamp()))
    signed = f"{message_id}.{timestamp}.".encode() + body
    headers = {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{_standard(signed, secret)}" for secret in secrets),
    }
    for name, secret in zip((KEYMASTER_HEADER, KEYMASTER_PREVIOUS_HEADER), secrets, strict=False):
        headers[name] = f"sha256={hmac.new(secret.reveal().encode(), body, hashlib.sha256).hexdigest()}"
    return headers


def _standard(signed: bytes, secret: Secret) -> str:
    return base64.b64encode(hmac.digest(webhook_signing_key(secret), signed, "sha256")).decode()
