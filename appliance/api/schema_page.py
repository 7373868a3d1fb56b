"""The API document for people: one page without scripts, and a page for each kind of problem.

Everything is written into the page on the server; nothing is fetched from elsewhere, so it reads the same without
internet, and its content policy allows nothing but its own style sheet.
"""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, Final

import msgspec
from litestar import Request, Router, get
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from appliance.api.openapi import build_document
from appliance.api.problems import PAGES, known_problems
from appliance.api.replies import Headers, Reply, text_headers

_POLICY: Final = text_headers(
    {
        "content-security-policy": "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
)
_HTML: Final = b"text/html; charset=utf-8"
_CACHED: Final = (b"cache-control", b"max-age=3600")

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1b1d22; --soft: #5c6370; --line: #d9dce3; --ground: #fbfbfc; --mark: #2b5fb8 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaee; --soft: #9aa2b1; --line: #343943; --ground: #16181d; --mark: #8db4ff }
}
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1rem 4rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif }
h1 { font-size: 1.6rem } h2 { margin-top: 2.5rem; font-size: 1.2rem }
a { color: var(--mark) } p.soft, .soft { color: var(--soft) }
details { border: 1px solid var(--line); border-radius: .5rem; margin: .5rem 0; padding: 0 .9rem }
summary { cursor: pointer; padding: .6rem 0; display: flex; gap: .7rem; flex-wrap: wrap; align-items: baseline }
summary code { font-weight: 600 }
.method { font: 700 .8rem ui-monospace, monospace; color: var(--mark); min-width: 4rem }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1rem }
th, td { text-align: left; vertical-align: top; padding: .35rem .8rem .35rem 0; border-top: 1px solid var(--line) }
pre { overflow-x: auto; padding: .8rem; border: 1px solid var(--line); border-radius: .5rem; font-size: .85rem }
code { overflow-wrap: anywhere }
"""


def schema_router(*, version: str) -> Router:
    """Give the routes of /schema and /problems. The document is written once, at the first request for it."""
    return Router(
        path="/",
        include_in_schema=False,
        route_handlers=[_document_handler(version), _page_handler(version), _style_handler(), _problem_handler()],
    )


def _document_handler(version: str) -> HTTPRouteHandler:
    kept: list[bytes] = []

    @get("/schema/openapi.json")
    async def schema_document(request: Request[Any, Any, Any]) -> ASGIApp:
        """Give the document as JSON."""
        if not kept:
            kept.append(msgspec.json.encode(build_document(request.app, version=version)))
        return Reply(200, kept[0], headers=[_CACHED, *_POLICY])

    return schema_document


def _page_handler(version: str) -> HTTPRouteHandler:
    kept: list[bytes] = []

    @get("/schema")
    async def schema_page(request: Request[Any, Any, Any]) -> ASGIApp:
        """Give the document as a page."""
        if not kept:
            kept.append(_page("Carillon API", _list_operations(build_document(request.app, version=version))))
        return Reply(200, kept[0], media_type=_HTML, headers=_page_headers())

    return schema_page


def _style_handler() -> HTTPRouteHandler:
    @get("/schema/style.css")
    async def schema_style() -> ASGIApp:
        """Give the pages' style sheet."""
        return Reply(200, _STYLE.encode(), media_type=b"text/css; charset=utf-8", headers=[_CACHED, *_POLICY])

    return schema_style


def _problem_handler() -> HTTPRouteHandler:
    @get(PAGES + "{code:str}")
    async def problem_page(code: str) -> ASGIApp:
        """Say what a kind of problem means."""
        known = known_problems().get(code)
        if known is None:
            raise NotFoundException
        status, title, meaning = known
        content = [
            f"<h1>{escape(title)}</h1>",
            f'<p class="soft"><code>{escape(code)}</code> · HTTP {status}</p>',
            f"<p>{escape(meaning)}</p>",
            '<p>The reply\'s <code>detail</code> says the next step. <a href="/schema">All operations</a></p>',
        ]
        return Reply(200, _page(title, content), media_type=_HTML, headers=_page_headers())

    return problem_page


def _page_headers() -> Headers:
    return [_CACHED, *_POLICY]


def _page(title: str, content: Iterable[str]) -> bytes:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="stylesheet" href="/schema/style.css"></head><body><main>'
        f"{''.join(content)}</main></body></html>"
    ).encode()


def _list_operations(document: Mapping[str, Any]) -> Iterable[str]:
    info = document["info"]
    yield f"<h1>{escape(info['title'])} API {escape(info['version'])}</h1><p>{escape(info['description'])}</p>"
    yield '<p class="soft">For programs: <a href="/schema/openapi.json">openapi.json</a> (OpenAPI 3.1).</p>'
    for tag in document["tags"]:
        yield f"<h2>{escape(tag['name'])}</h2>"
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if tag["name"] in operation["tags"]:
                    yield from _operation(path, method, operation)
    yield "<h2>Schemas</h2>"
    for name, schema in document["components"]["schemas"].items():
        yield f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>{_pretty(schema)}</details>'


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> Iterable[str]:
    yield f'<details><summary><span class="method">{method.upper()}</span><code>{escape(path)}</code>'
    yield f'<span class="soft">{escape(operation["summary"])}</span></summary><p>{escape(operation["description"])}</p>'
    tokens = " or ".join(name for requirement in operation["security"] for name in requirement)
    if tokens:
        yield f"<p>Bearer token: <code>{escape(tokens)}</code></p>"
    if operation["parameters"]:
        rows = "".join(
            f"<tr><td><code>{escape(parameter['name'])}</code></td><td>{escape(parameter['in'])}</td>"
            f"<td>{escape(parameter.get('description', ''))}</td></tr>"
            for parameter in operation["parameters"]
        )
        yield f"<table>{rows}</table>"
    for media_type, body in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<p>Body: <code>{escape(media_type)}</code> {_reference(body['schema'])}</p>"
    rows = "".join(
        f"<tr><td>{status}</td><td>{escape(response['description'])}</td><td>{_content(response)}</td></tr>"
        for status, response in operation["responses"].items()
    )
    yield f"<table>{rows}</table></details>"


def _content(response: Mapping[str, Any]) -> str:
    return " ".join(_reference(content["schema"]) for content in response.get("content", {}).values())


def _reference(schema: Mapping[str, Any]) -> str:
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    return f'<a href="#{escape(name)}">{escape(name)}</a>' if name else _pretty(schema)


def _pretty(schema: Mapping[str, Any]) -> str:
    return f"<pre>{escape(msgspec.json.format(msgspec.json.encode(schema), indent=2).decode())}</pre>"
