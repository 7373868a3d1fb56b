"""HEAD: what monitors ask with."""

import httpx
import pytest


@pytest.mark.parametrize("path", ["/", "/health", "/health/ready", "/metrics", "/schema", "/.well-known/jwks.json"])
async def test_head_is_answered_as_get_without_the_content(http: httpx.AsyncClient, path: str) -> None:
    """`curl -I` of the health page was answered 405, which monitors take for a server that is down."""
    head = await http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == (await http.get(path)).headers["content-type"]


async def test_head_of_what_cannot_be_read_is_refused_as_get_is(http: httpx.AsyncClient) -> None:
    assert (await http.head("/push/send")).status_code == 405
    assert (await http.head("/nowhere")).status_code == 404
    assert (await http.head("/account/devices")).status_code == 401
