"""The page behind the unsubscribe link of an e-mail, and the one click of a mail program (RFC 8058).

Reading the page changes nothing: mail filters open every link. The page is written in both languages, for whoever reads
the mailbox need not have an account here. Whoever has the link may also take it back: a click is easily made by
mistake, and nobody else could undo it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from litestar import HttpMethod, Request, Router, route

from appliance.api.pages import SECURITY_HEADERS
from appliance.api.replies import NO_STORE, Reply
from appliance.delivery.unsubscribing import UNSUBSCRIBE_PATH, UnsubscribeLinks, Unsubscription
from appliance.domain.clock import Clock
from appliance.domain.language import Language
from appliance.storage.database import Database
from appliance.storage.mailboxes import load_app_names, mute_job, unmute_job

_HTML: Final = b"text/html; charset=utf-8"
# A token in the address must not be found by search engines, should it ever stand on a page.
_HEADERS: Final = (NO_STORE, (b"x-robots-tag", b"noindex"), *SECURITY_HEADERS)

_ASK: Final = {
    Language.ENGLISH: ("Stop these e-mails?", "No more e-mails with notifications of {apps} to this address.", "Stop"),
    Language.POLISH: (
        "Wyłączyć te wiadomości?",
        "Powiadomienia z {apps} nie będą więcej wysyłane na ten adres e-mail.",
        "Wyłącz",
    ),
}
_DONE: Final = {
    Language.ENGLISH: ("Done", "No more e-mails with notifications of {apps} go to this address.", "Undo"),
    Language.POLISH: ("Gotowe", "Powiadomienia z {apps} nie są już wysyłane na ten adres e-mail.", "Cofnij"),
}
_RESUMED: Final = {
    Language.ENGLISH: ("Switched on again", "Notifications of {apps} are mailed to this address again."),
    Language.POLISH: ("Włączono ponownie", "Powiadomienia z {apps} znów są wysyłane na ten adres e-mail."),
}
_UNKNOWN: Final = {
    Language.ENGLISH: ("This link does not work", "It is not whole, or of another server. Use the newest e-mail's."),
    Language.POLISH: (
        "Ten link nie działa",
        "Jest niepełny albo pochodzi z innego serwera. Użyj linku z najnowszej wiadomości.",
    ),
}


@dataclass(frozen=True, slots=True)
class Unsubscribing:
    """What the routes need."""

    links: UnsubscribeLinks
    database: Database
    clock: Clock


def unsubscribe_router(parts: Unsubscribing) -> Router:
    """Give GET and POST /unsubscribe/{token}. The token is all that is asked for."""

    @route(f"{UNSUBSCRIBE_PATH}/{{token:str}}", http_method=[HttpMethod.GET])
    async def ask_unsubscribe(request: Request[Any, Any, Any], token: str) -> Reply:
        """Show what the link ends, and a button that ends it."""
        wanted = parts.links.read(token)
        return _unknown() if wanted is None else _page(_ASK, await _apps(parts, wanted))

    @route(f"{UNSUBSCRIBE_PATH}/{{token:str}}", http_method=[HttpMethod.POST], status_code=200)
    async def unsubscribe(request: Request[Any, Any, Any], token: str) -> Reply:
        """End it, or with ?resume=1 take that back; the body is not looked at, and doing it again is harmless."""
        wanted = parts.links.read(token)
        if wanted is None:
            return _unknown()
        if request.query_params.get("resume") == "1":
            await parts.database.write(unmute_job(wanted.mailbox_id, wanted.app_ids))
            return _page(_RESUMED, await _apps(parts, wanted))
        is_known = await parts.database.write(mute_job(wanted.mailbox_id, wanted.app_ids, parts.clock.now()))
        return _page(_DONE, await _apps(parts, wanted), action="?resume=1") if is_known else _unknown()

    return Router("/", route_handlers=[ask_unsubscribe, unsubscribe])


async def _apps(parts: Unsubscribing, wanted: Unsubscription) -> str:
    return ", ".join(await load_app_names(parts.database, wanted.app_ids)) or "?"


def _unknown() -> Reply:
    return _page(_UNKNOWN, "", status=404)


def _page(texts: Mapping[Language, tuple[str, ...]], apps: str, *, action: str = "?", status: int = 200) -> Reply:
    """Give a page in both languages; where the texts name a button, it posts to `action`."""
    parts = []
    for language, (heading, sentence, *button) in texts.items():
        forms = [
            f'<form method="post" action="{action}" class="actions"><button class="main">{escape(word)}</button></form>'
            for word in button
        ]
        parts.append(
            f'<section class="card" lang="{language.value}"><h1>{escape(heading)}</h1>'
            f'<p class="lead">{escape(sentence.format(apps=apps))}</p>{"".join(forms)}</section>'
        )
    title = texts[Language.ENGLISH][0]
    body = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n"
        '<link rel="stylesheet" href="/pages/carillon.css">\n</head>\n<body>\n<main>\n'
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )
    return Reply(status, body.encode(), media_type=_HTML, headers=_HEADERS)
