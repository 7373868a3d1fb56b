"""Links by which whoever reads a mailbox ends the e-mail of an app: signed, for that alone, and good for ever.

The link is the only credential, as it must be where a mail program follows it on one click (RFC 8058); it names the
mailbox and the apps by their ids, and tells nothing else. Losing SECRET_KEY makes all links void.
"""

import base64
import binascii
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from appliance.security.sealing import Sealer

UNSUBSCRIBE_PATH: Final = "/unsubscribe"
MOST_APPS: Final = 8
"""Apps that one link ends; a digest of more has none for the others."""
_ID_BYTES: Final = 16
_SIGNATURE_BYTES: Final = 16
_PURPOSE: Final = "unsubscribe"


@dataclass(frozen=True, slots=True)
class Unsubscription:
    """What a link says: no more e-mail of these apps to this mailbox."""

    mailbox_id: UUID
    app_ids: tuple[UUID, ...]


class UnsubscribeLinks:
    """Makes and reads the links; without a public address there are none."""

    def __init__(self, sealer: Sealer, public_url: str) -> None:
        self._sealer = sealer
        self._public_url = public_url.rstrip("/")

    def make_url(self, mailbox_id: UUID, app_ids: Sequence[UUID]) -> str | None:
        """Give the address that ends e-mail of these apps, None without PUBLIC_URL."""
        if not self._public_url:
            return None
        return f"{self._public_url}{UNSUBSCRIBE_PATH}/{self.make_token(mailbox_id, app_ids)}"

    def make_token(self, mailbox_id: UUID, app_ids: Sequence[UUID]) -> str:
        """Give the signed token; the same for the same mailbox and apps."""
        named = mailbox_id.bytes + b"".join(app_id.bytes for app_id in app_ids[:MOST_APPS])
        signature = self._sealer.fingerprint(named, purpose=_PURPOSE)[:_SIGNATURE_BYTES]
        return base64.urlsafe_b64encode(named + signature).decode().rstrip("=")

    def read(self, token: str) -> Unsubscription | None:
        """Read a token, also one that was signed before SECRET_KEY was rotated; None where it is not ours."""
        if len(token) > (MOST_APPS + 2) * 2 * _ID_BYTES or not token.isascii():
            return None
        try:
            blob = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        named, signature = blob[:-_SIGNATURE_BYTES], blob[-_SIGNATURE_BYTES:]
        if len(named) < 2 * _ID_BYTES or len(named) % _ID_BYTES:
            return None
        known = self._sealer.fingerprints(named, purpose=_PURPOSE)
        if not any(hmac.compare_digest(one[:_SIGNATURE_BYTES], signature) for one in known):
            return None
        mailbox_id, *app_ids = [
            UUID(bytes=named[start : start + _ID_BYTES]) for start in range(0, len(named), _ID_BYTES)
        ]
        return Unsubscription(mailbox_id, tuple(app_ids))
