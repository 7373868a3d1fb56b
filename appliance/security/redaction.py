"""The one place that takes secrets out of texts: logs, error texts, timelines.

Two nets: patterns that know secrets by their look (tokens, key blocks, URL parts, named fields), and the very texts of
registered secrets in the forms in which they travel. Masking too much is a nuisance, masking too little a leak; in
doubt it masks. `appliance.security.log_format` puts it between the program and its log.
"""

import json
import re
import threading
from collections.abc import Mapping
from datetime import datetime
from typing import Final, TypeAlias
from urllib.parse import quote, quote_plus
from uuid import UUID

from appliance.domain.secret import Secret

MASK: Final = "[redacted]"
MAX_TEXT_CHARS: Final = 32_768
MAX_REGISTERED_TEXTS: Final = 2048

_MIN_REGISTERED_CHARS: Final = 4
_MIN_LINE_CHARS: Final = 20
_OVERLAP_CHARS: Final = 1024
_MAX_DEPTH: Final = 5
_MAX_ITEMS: Final = 100

Fact: TypeAlias = "bool | int | float | str | list[Fact] | dict[str, Fact] | None"

# Names whose value is secret wherever it stands; `token_id`, `key_id` and the like end otherwise and stay readable.
_SENSITIVE_NAME: Final = (
    r"(?:password|passwd|passphrase|secret|token|ticket|authorization|cookie|(?:api|admin|private|secret)_?key|p256dh|"
    r"credentials?(?:_json)?|auth_key_p8|subscription|claim_?code|assertion)"
)
_IS_SENSITIVE: Final = re.compile(rf".*{_SENSITIVE_NAME}s?|auth", re.IGNORECASE | re.DOTALL)

_QUOTED: Final = r"(?:b?\"(?:[^\"\\]|\\.)*\"?|b?'(?:[^'\\]|\\.)*'?)"
_PUSH_SERVICE: Final = (
    r"(?:push\.services\.mozilla\.com|push\.apple\.com|notify\.windows\.com|"
    r"(?:fcm|jmt17)\.google(?:apis)?\.com/(?:fcm/send|wp))"
)

# Needle, pattern, replacement: where the needle is not in the text, the pattern need not look. Each pattern begins with
# a literal or has a bounded prefix, so that the cost grows with the text, not with its square.
_PATTERNS: Final = tuple(
    (needle, re.compile(pattern, re.IGNORECASE | re.DOTALL), replacement)
    for needle, pattern, replacement in (
        ("-----", r"-----BEGIN [A-Z0-9 ]{1,40}-----.*?(?:-----END [A-Z0-9 ]{1,40}-----|\Z)", MASK),
        ("", r"\b(bearer|basic|vapid)(\s{1,8}|%20|\+)[^\s\"',]{4,}", rf"\1 {MASK}"),
        ("", r"\b((?:set-)?cookie|(?:proxy-)?authorization)(\s{0,4}[:=]\s{0,4})[^\r\n\"'}]{1,4096}", rf"\1\2{MASK}"),
        ("eyJ", r"\beyJ[\w-]{6,}(?:\.[\w-]*){0,4}", MASK),
        ("_", r"\b(?:whsec|cs|rt|sid|tk)_[\w+/=-]{20,}", MASK),
        (":APA91", r"\b[\w-]{8,64}:APA91[\w-]{20,}", MASK),
        ("/3/device/", r"(/3/device/)[0-9a-f]{8,}", rf"\1{MASK}"),
        ("://", rf"(://(?:[\w.-]{{0,100}}\.)?{_PUSH_SERVICE}/)[^\s\"'<>]+", rf"\1{MASK}"),
        ("://", r"://[^\s/\"'<>:@]{0,256}:[^\s\"'<>]{1,512}@", f"://{MASK}@"),
        ("://", r"://[^\s/?#\"'<>@]{1,512}@", f"://{MASK}@"),
        ("=", r"([?&;](?:id|key|code|sig|signature)=)[^&\s\"'#<>]+", rf"\1{MASK}"),
        ("=", rf"(\b[\w%-]{{0,40}}?{_SENSITIVE_NAME}s?=)(?:{_QUOTED}|[^&\s\"'#<>,;]+)", rf"\1{MASK}"),
        (":", rf"(([\"'])(?:[\w-]{{0,40}}?{_SENSITIVE_NAME}s?|auth)\2\s{{0,4}}:\s{{0,4}}){_QUOTED}", rf'\1"{MASK}"'),
        # Pairs, as libraries write the headers that they have seen.
        ("', ", rf"('[\w-]{{0,40}}?{_SENSITIVE_NAME}s?',\s){_QUOTED}", rf"\1'{MASK}'"),
        # The same inside a JSON text that is itself quoted in another.
        (
            '\\"',
            rf"(\\\"(?:[\w-]{{0,40}}?{_SENSITIVE_NAME}s?|auth)\\\"\s{{0,4}}:\s{{0,4}})\\\"(?:[^\"\\]|\\[^\"])*(?:\\\")?",
            rf'\1\\"{MASK}\\"',
        ),
    )
)


class Redactor:
    """Masks what must not be shown. Safe to share between threads; no method raises for any text.

    Registered texts shorter than 4 characters are left alone, for masking them would make logs unreadable. At most 2048
    forms of registered secrets are held; beyond that the oldest is let go.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._registered: dict[str, None] = {}
        self._longest_first: tuple[str, ...] = ()

    def register(self, secret: Secret) -> None:
        """Mask this secret's text from now on: as it is, URL-quoted, JSON-escaped, and line by line."""
        forms = _forms(secret.reveal())
        with self._lock:
            for form in forms:
                self._registered.pop(form, None)
                self._registered[form] = None
            while len(self._registered) > MAX_REGISTERED_TEXTS:
                del self._registered[next(iter(self._registered))]
            self._longest_first = tuple(sorted(self._registered, key=len, reverse=True))

    def redact(self, text: str) -> str:
        """Give the text without secrets; what is longer than 32 768 characters is cut."""
        is_long = len(text) > MAX_TEXT_CHARS
        if is_long:
            text = text[:MAX_TEXT_CHARS]
        for registered in self._longest_first:
            if registered in text:
                text = text.replace(registered, MASK)
        for needle, pattern, replacement in _PATTERNS:
            if needle in text:
                text = pattern.sub(replacement, text)
        # A secret that the cut went through is no longer known by its look, so the end goes too.
        return text[:-_OVERLAP_CHARS] + "…[cut]" if is_long else text

    def redact_fact(self, name: str, value: object) -> Fact:
        """Give a log fact as plain data without secrets: nested to depth 5, at most 100 items a level."""
        try:
            return self._redact_value(name, value, _MAX_DEPTH)
        except Exception:
            # A value whose own text cannot be made must not cost the log line.
            return "[unreadable]"

    def _redact_value(self, name: str, value: object, depth: int) -> Fact:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, Secret):
            return str(value)
        if is_secret_name(name):
            return MASK
        if isinstance(value, int | float) and type(value) in (int, float):
            return value
        if isinstance(value, UUID | datetime):
            return str(value)
        if depth > 0 and isinstance(value, Mapping):
            items = list(value.items())[:_MAX_ITEMS]
            return {self.redact(str(key)): self._redact_value(str(key), item, depth - 1) for key, item in items}
        if depth > 0 and isinstance(value, list | tuple | set | frozenset):
            return [self._redact_value("", item, depth - 1) for item in list(value)[:_MAX_ITEMS]]
        if isinstance(value, bytes | bytearray | memoryview):
            return f"[{len(value)} bytes]"
        return self.redact(str(value))


def is_secret_name(name: str) -> bool:
    """Tell whether a field of this name holds a secret, by its last words: `push_token` does, `token_id` does not."""
    return _IS_SENSITIVE.fullmatch(name[-64:]) is not None


def _forms(text: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines() if len(line.strip()) >= _MIN_LINE_CHARS]
    forms: list[str] = []
    for part in (text, *lines):
        if len(part) < _MIN_REGISTERED_CHARS:
            continue
        safe = part.encode("utf-8", "replace")
        forms += [part, quote(safe, safe=""), quote_plus(safe), quote(safe), json.dumps(part)[1:-1], repr(part)[1:-1]]
        forms.append(json.dumps(part, ensure_ascii=False)[1:-1])
    return list(dict.fromkeys(forms))


# One for the whole process, because a process has one log.
_PROCESS_WIDE: Final = Redactor()


def redact(text: str) -> str:
    """Give the text without secrets, by patterns and by every secret registered in this process."""
    return _PROCESS_WIDE.redact(text)


def register(secret: Secret) -> None:
    """Mask this secret's text in all logs of this process from now on."""
    _PROCESS_WIDE.register(secret)


def process_redactor() -> Redactor:
    """Give the redactor that `redact` and `register` use."""
    return _PROCESS_WIDE
