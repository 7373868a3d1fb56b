"""The keys that an app gets when push is switched on for the first time."""

import base64
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from appliance.domain.secret import Secret
from appliance.security.client_secrets import make_webhook_secret
from appliance.security.sealing import Sealer
from appliance.storage.app_config import FreshKeys

_WEBHOOK_PURPOSE: Final = "app-webhook-secret"
_VAPID_PURPOSE: Final = "app-vapid-private-key"


def make_app_keys(sealer: Sealer) -> FreshKeys:
    """Make a webhook secret (Standard Webhooks form) and a VAPID key pair (P-256, RFC 8292)."""
    pair = ec.generate_private_key(ec.SECP256R1())
    private = pair.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    point = pair.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return FreshKeys(
        webhook_secret_sealed=make_sealed_webhook_secret(sealer),
        vapid_private_key_sealed=sealer.seal(private, purpose=_VAPID_PURPOSE),
        vapid_public_key=base64.urlsafe_b64encode(point).decode().rstrip("="),
    )


def make_sealed_webhook_secret(sealer: Sealer) -> bytes:
    """Make a webhook secret, as it is stored."""
    return sealer.seal_secret(make_webhook_secret(), purpose=_WEBHOOK_PURPOSE)


def open_vapid_private_key(sealer: Sealer, sealed: bytes) -> bytes:
    """Open an app's VAPID private key: PKCS #8 in DER."""
    return sealer.unseal(sealed, purpose=_VAPID_PURPOSE)


def open_webhook_secret(sealer: Sealer, sealed: bytes) -> Secret:
    """Open an app's webhook secret: for signing receipts, and for showing it to an admin."""
    return sealer.unseal_secret(sealed, purpose=_WEBHOOK_PURPOSE)
