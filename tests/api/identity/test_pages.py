"""The plain pages: served from a list, cached by their content, and safe to show."""

import re

import httpx
import pytest

from appliance.api.pages import ASSETS, FOLDER, PAGES


@pytest.mark.parametrize("name", sorted(ASSETS))
async def test_every_file_is_served_as_what_it_is(http: httpx.AsyncClient, name: str):
    reply = await http.get(f"/pages/{name}")
    assert reply.status_code == 200
    assert reply.content == (FOLDER / name).read_bytes()
    assert reply.headers["content-type"] == ASSETS[name].decode()
    assert reply.headers["x-content-type-options"] == "nosniff"


async def test_the_home_page_allows_nothing_from_elsewhere(http: httpx.AsyncClient):
    reply = await http.get("/")
    policy = reply.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert reply.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("name", sorted(PAGES))
def test_no_page_has_inline_code_or_an_address_of_another_host(name: str):
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)", text)
    assert not re.search(r"\sstyle=|<style|\son\w+=|javascript:", text)
    assert not re.search(r"(?:src|href)=\"(?!/)", text)


@pytest.mark.parametrize("name", [name for name in sorted(ASSETS) if name.endswith(".js")])
def test_no_script_makes_markup_from_text(name: str):
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text)


def test_every_word_is_there_in_both_languages():
    text = (FOLDER / "words.js").read_text(encoding="utf-8")
    english, polish = re.findall(r"^  (?:en|pl): \{\n(.*?)^  \},", text, re.DOTALL | re.MULTILINE)
    keys = [re.findall(r'^    "([^"]+)":', block, re.MULTILINE) for block in (english, polish)]
    assert keys[0] == keys[1]
    used = set()
    for name in (*PAGES, *ASSETS):
        content = (FOLDER / name).read_text(encoding="utf-8")
        used.update(re.findall(r'data-word="([^"]+)"|\bwords\("([^"]+)"', content))
    assert {one or other for one, other in used} <= set(keys[0])


async def test_a_browser_that_has_this_version_gets_304(http: httpx.AsyncClient):
    first = await http.get("/pages/home.js")
    again = await http.get("/pages/home.js", headers={"if-none-match": f'W/"old", {first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    other = await http.get("/pages/home.js", headers={"if-none-match": '"other"'})
    assert other.status_code == 200


async def test_head_has_no_body(http: httpx.AsyncClient):
    reply = await http.head("/")
    assert (reply.status_code, reply.content) == (200, b"")


@pytest.mark.parametrize(
    "path", ["/pages/", "/pages/../../pyproject.toml", "/pages/%2e%2e/%2e%2e/pyproject.toml", "/pages/setup.html"]
)
async def test_there_is_nothing_beyond_the_list(http: httpx.AsyncClient, path: str):
    reply = await http.get(path)
    assert reply.status_code == 404
