"""An e-mail as bytes: our own text and HTML, nothing remote in it, and no header that a notification could break.

It is put together by hand: every header value is made here, and `_headers` refuses whatever holds a line break that was
not put there by folding. Sources: RFC 5322, 2045 to 2047, 2369, 3834, 8058.
"""

import hashlib
import quopri
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from email.header import Header
from email.utils import format_datetime, formataddr
from html import escape
from typing import Final

from appliance.channels.contract import Letter, LetterEntry, Push
from appliance.channels.email_words import WORDS, Words

MOST_SUBJECT_CHARS: Final = 200
MOST_ENTRY_CHARS: Final = 300
_CRLF: Final = "\r\n"
# Characters that turn the direction of what follows: a title must not rearrange the words around it.
_TURNING: Final = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

_STYLE: Final = (
    ":root{color-scheme:light dark;supported-color-schemes:light dark}"
    "body{margin:0;padding:24px 16px;background:#f4f4f1;color:#1d1d1b;"
    "font:16px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}"
    ".sheet{max-width:560px;margin:0 auto;padding:24px;background:#ffffff;border-radius:12px}"
    "h1{margin:0 0 8px;font-size:20px;line-height:1.3}h2{margin:20px 0 4px;font-size:16px}"
    "p{margin:0 0 8px;white-space:pre-wrap;overflow-wrap:anywhere}"
    ".small{color:#5c5c57;font-size:13px}.foot{max-width:560px;margin:16px auto 0}a{color:#1f5fae}"
    "@media (prefers-color-scheme:dark){body{background:#161615;color:#ececea}.sheet{background:#232321}"
    ".small{color:#a9a9a3}a{color:#8ab8f0}}"
)


@dataclass(frozen=True, slots=True)
class Sender:
    """Who writes: the address, the name shown with it (may be empty)."""

    address: str
    name: str = ""

    @property
    def domain(self) -> str:
        return self.address.rpartition("@")[2]


def compose(push: Push, letter: Letter, sender: Sender) -> bytes:
    """Give the whole message for `push.address`; the same letter gives the same bytes each time."""
    words = WORDS[letter.language]
    boundary = f"=_{letter.id.hex}"
    lines = [
        *_headers(push, letter, sender, words),
        ("MIME-Version", "1.0"),
        # "=_" cannot stand in quoted-printable text, so no text can hold the boundary.
        ("Content-Type", f'multipart/alternative; boundary="{boundary}"'),
    ]
    head = "".join(f"{name}: {value}{_CRLF}" for name, value in lines)
    text = _part("text/plain", _text(letter, words))
    html = _part("text/html", _html(letter, words))
    return f"{head}{_CRLF}--{boundary}{_CRLF}{text}--{boundary}{_CRLF}{html}--{boundary}--{_CRLF}".encode("ascii")


def one_line(text: str) -> str:
    """Give text fit for a header or a heading: one line, without control and direction characters."""
    return " ".join(_plain(text).split())


def _headers(push: Push, letter: Letter, sender: Sender, words: Words) -> list[tuple[str, str]]:
    headers = [
        ("From", formataddr((one_line(sender.name), sender.address))),
        ("To", push.address.reveal()),
        ("Date", format_datetime(push.envelope.sent_at)),
        ("Message-ID", f"<{letter.id}@{sender.domain}>"),
        # Automatic repliers are to leave it alone.
        ("Auto-Submitted", "auto-generated"),
        ("Content-Language", letter.language.value),
    ]
    if push.envelope.collapse_key is not None and letter.count == 1:
        headers.append(("References", f"<{_thread(push)}@{sender.domain}>"))
    headers.extend(_unsubscribing(letter, sender))
    for name, value in headers:
        if not value.isascii() or not value.isprintable():
            raise ValueError(f"The header {name} cannot be written.")
    return [*headers, ("Subject", _subject(letter, words))]


def _thread(push: Push) -> str:
    """Name what all notifications of one collapse key answer to, so that mail programs show them as one thread."""
    named = f"{push.app_id}|{push.envelope.user_id}|{push.envelope.collapse_key}"
    return f"thread-{hashlib.sha256(named.encode()).hexdigest()[:32]}"


def _unsubscribing(letter: Letter, sender: Sender) -> list[tuple[str, str]]:
    url = letter.unsubscribe_url
    if url is None:
        return [("List-Unsubscribe", f"<mailto:{sender.address}?subject=unsubscribe>")]
    # RFC 8058 section 3.1 knows one click over https only.
    one_click = [("List-Unsubscribe-Post", "List-Unsubscribe=One-Click")] if url.startswith("https://") else []
    return [("List-Unsubscribe", f"<{url}>"), *one_click]


def _subject(letter: Letter, words: Words) -> str:
    text = one_line(letter.entries[0].title) if letter.count == 1 else words.digest_subject(letter.count, _apps(letter))
    if len(text) > MOST_SUBJECT_CHARS:
        text = text[: MOST_SUBJECT_CHARS - 1].rstrip() + "…"
    # What looks like an encoded word would be decoded by whoever shows it.
    charset = "us-ascii" if text.isascii() and "=?" not in text else "utf-8"
    return Header(text, charset, header_name="Subject").encode(linesep=_CRLF)


def _apps(letter: Letter) -> list[str]:
    return list(dict.fromkeys(one_line(entry.app_name) for entry in letter.entries))


def _part(media_type: str, text: str) -> str:
    encoded = quopri.encodestring(text.encode(), quotetabs=False).decode("ascii").replace("\n", _CRLF)
    return (
        f"Content-Type: {media_type}; charset=utf-8{_CRLF}"
        f"Content-Transfer-Encoding: quoted-printable{_CRLF}{_CRLF}{encoded}{_CRLF}"
    )


def _text(letter: Letter, words: Words) -> str:
    if letter.count == 1:
        [entry] = letter.entries
        parts = [one_line(entry.title), "", _plain(entry.body)]
    else:
        parts = [words.digest_heading(letter.count), ""]
        for entry in letter.entries:
            parts += [one_line(entry.title), _short(entry.body), f"({_when(entry, words)})", ""]
        parts += [words.further(left)] if (left := letter.count - len(letter.entries)) else []
    parts += ["", "-- ", words.why(_apps(letter))]
    if letter.unsubscribe_url is not None:
        parts.append(f"{words.unsubscribe}: {letter.unsubscribe_url}")
    return "\n".join(parts) + "\n"


def _html(letter: Letter, words: Words) -> str:
    if letter.count == 1:
        [entry] = letter.entries
        inside = f"<h1>{_safe(one_line(entry.title))}</h1>\n<p>{_safe(_plain(entry.body))}</p>"
    else:
        inside = f"<h1>{_safe(words.digest_heading(letter.count))}</h1>" + _entries(letter.entries, words)
        if left := letter.count - len(letter.entries):
            inside += f'\n<p class="small">{_safe(words.further(left))}</p>'
    foot = _safe(words.why(_apps(letter)))
    if letter.unsubscribe_url is not None:
        foot += f' <a href="{_safe(letter.unsubscribe_url)}">{_safe(words.unsubscribe)}</a>'
    return (
        f'<!doctype html>\n<html lang="{letter.language.value}">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n<meta name="color-scheme" content="light dark">\n'
        '<meta name="supported-color-schemes" content="light dark">\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<div class="sheet">\n{inside}\n</div>\n<p class="small foot">{foot}</p>\n</body>\n</html>\n'
    )


def _entries(entries: Sequence[LetterEntry], words: Words) -> str:
    return "".join(
        f"\n<h2>{_safe(one_line(entry.title))}</h2>\n<p>{_safe(_short(entry.body))}</p>\n"
        f'<p class="small">{_safe(_when(entry, words))}</p>'
        for entry in entries
    )


def _when(entry: LetterEntry, words: Words) -> str:
    return f"{one_line(entry.app_name)}, {words.instant(entry.sent_at)}"


def _short(body: str) -> str:
    text = _plain(body)
    return text if len(text) <= MOST_ENTRY_CHARS else text[: MOST_ENTRY_CHARS - 1].rstrip() + "…"


def _safe(text: str) -> str:
    return escape(text, quote=True)


def _plain(text: str) -> str:
    """Leave out what mail programs would act on instead of showing it; line breaks and tabs stay."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(
        character
        for character in text
        if character in "\n\t" or (character not in _TURNING and unicodedata.category(character) not in ("Cc", "Cs"))
    )
