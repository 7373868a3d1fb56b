"""Making a notification fit a provider's limit: the text is cut where a person can tell, the data goes or stays whole.

An app may send more than a phone's push service carries (some 4 KB in all). Such a push still alerts: it carries as
much of the body as fits, and says `truncated`, so that the client fetches the rest from the inbox by the id.
"""

from collections.abc import Callable
from typing import Final

from appliance.domain.notification import Envelope

ELLIPSIS: Final = "…"
_LEAST_BODY_CHARS: Final = 64

Encode = Callable[[str, bool, bool], bytes]
"""Encodes a push with this body, with the data or without it, marked as truncated or not."""


class DoesNotFit(Exception):
    """Even without data and with hardly any body it is too large; `size` is what is left, in bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(f"{size} bytes")
        self.size = size


def fit(envelope: Envelope, most_bytes: int, encode: Encode) -> bytes:
    """Give the encoded push, whole where it fits within `most_bytes`, else with as much of the body as does.

    The data is left out only where it would leave less than 64 characters of the body. Raises `DoesNotFit`.
    """
    whole = encode(envelope.body, True, False)
    if len(whole) <= most_bytes:
        return whole
    with_data = _shorten(envelope, most_bytes, lambda body: encode(body, True, True), least_chars=_LEAST_BODY_CHARS)
    shortened = with_data or _shorten(envelope, most_bytes, lambda body: encode(body, False, True), least_chars=0)
    if shortened is None:
        raise DoesNotFit(len(encode(ELLIPSIS, False, True)))
    return shortened


def _shorten(envelope: Envelope, most_bytes: int, encode: Callable[[str], bytes], *, least_chars: int) -> bytes | None:
    body = envelope.body
    whole = encode(body)
    if len(whole) <= most_bytes:
        return whole
    least, most = min(least_chars, len(body)), len(body)
    if len(encode(_cut(body, least))) > most_bytes:
        return None
    while most - least > 1:
        middle = (least + most) // 2
        if len(encode(_cut(body, middle))) <= most_bytes:
            least = middle
        else:
            most = middle
    return encode(_cut(body, least))


def _cut(body: str, chars: int) -> str:
    """Cut between whole characters as people see them: not inside a joined emoji or before a combining mark."""
    end = chars
    while end > 0 and _joins(body, end):
        end -= 1
    return body[:end].rstrip() + ELLIPSIS


def _joins(body: str, at: int) -> bool:
    if at >= len(body):
        return False
    before, after = body[at - 1], body[at]
    is_mark = "\u0300" <= after <= "\u036f" or after in "\u200d\ufe0e\ufe0f" or "\U0001f3fb" <= after <= "\U0001f3ff"
    return is_mark or before == "\u200d"
