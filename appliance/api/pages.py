"""The plain pages: read once at start, served from memory by an explicit list of names.

Nothing in them is inline and nothing comes from elsewhere, so the policy allows only what this server itself sends.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from litestar import HttpMethod, Request, Router, route

from appliance.api.replies import Headers, Reply

FOLDER: Final = Path(__file__).resolve().parents[2] / "frontend" / "pages"
ASSETS_PATH: Final = "/pages"

_HTML: Final = b"text/html; charset=utf-8"
_SCRIPT: Final = b"text/javascript; charset=utf-8"
_STYLE: Final = b"text/css; charset=utf-8"
_IMAGE: Final = b"image/svg+xml"

PAGES: Final = {"home.html": _HTML, "setup.html": _HTML, "already-set-up.html": _HTML}
"""Shown under addresses of their own."""

ASSETS: Final = {
    "carillon.css": _STYLE,
    "carillon.svg": _IMAGE,
    "home.js": _SCRIPT,
    "hub.js": _SCRIPT,
    "setup.js": _SCRIPT,
    "words.js": _SCRIPT,
}
"""What the pages load, from `/pages/`."""

SECURITY_HEADERS: Final[Headers] = (
    (
        b"content-security-policy",
        b"default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
)


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    media_type: bytes
    etag: bytes


class Pages:
    """The pages and what they load. Raises `FileNotFoundError` at start when the installation is not whole."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files = {name: _read(folder / name, kind) for name, kind in {**PAGES, **ASSETS}.items()}

    def reply(self, request: Request[Any, Any, Any], name: str, *, status: int = 200) -> Reply:
        """Answer with a file; a browser that has this very version is told so (304)."""
        file = self._files[name]
        headers = [(b"etag", file.etag), (b"cache-control", b"no-cache"), *SECURITY_HEADERS]
        if status == 200 and _has(request, file.etag):
            return Reply(304, headers=headers)
        body = b"" if request.method == HttpMethod.HEAD else file.body
        return Reply(status, body, media_type=file.media_type, headers=headers)


def pages_router(pages: Pages) -> Router:
    """Give the routes of the home page and of what the pages load."""

    @route("/", http_method=[HttpMethod.GET, HttpMethod.HEAD])
    async def show_home(request: Request[Any, Any, Any]) -> Reply:
        """Shows the sign-in form, or the inbox of who is signed in."""
        return pages.reply(request, "home.html")

    return Router("/", route_handlers=[show_home, *(_asset(pages, name) for name in ASSETS)])


def _asset(pages: Pages, name: str) -> Any:
    # One route a file: there is no path to traverse.
    @route(f"{ASSETS_PATH}/{name}", http_method=[HttpMethod.GET, HttpMethod.HEAD])
    async def show_asset(request: Request[Any, Any, Any]) -> Reply:
        return pages.reply(request, name)

    return show_asset


def _read(path: Path, media_type: bytes) -> _File:
    body = path.read_bytes()
    return _File(body, media_type, b'"%s"' % hashlib.sha256(body).hexdigest()[:32].encode())


def _has(request: Request[Any, Any, Any], etag: bytes) -> bool:
    given = request.headers.get("if-none-match", "")
    return etag.decode() in [mark.strip().removeprefix("W/") for mark in given.split(",")]
