"""A page of another origin, at the whole program: what it may read, and that the cookie opens nothing for it."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from tests.doubles.appliance import RunningAppliance, TestUser

PAGE = "https://app.example.org"
ORIGIN = {"origin": PAGE}
ASKED = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
ALLOW = "access-control-allow-origin"
CREDENTIALS = "access-control-allow-credentials"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAppliance]:
    folder = tmp_path_factory.mktemp("shared") / "data"
    running = RunningAppliance(folder, {"CORS_ORIGINS": PAGE})
    running.start()
    yield running
    assert running.stop() == 0, running.output


@pytest.fixture
async def page(shared: RunningAppliance) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=shared.base_url, headers=ORIGIN, timeout=20, trust_env=False) as client:
        yield client


@pytest.fixture
async def person(shared: RunningAppliance) -> TestUser:
    return await shared.make_user()


@pytest.mark.parametrize(
    ("path", "shares_credentials"),
    [
        ("/push/send", True),
        ("/oauth/token", True),
        ("/hubs/notifications/negotiate", True),
        ("/hubs/notifications", True),
        ("/account/notifications", False),
    ],
)
async def test_a_preflight_is_answered_before_anything_else_is_asked(
    page: httpx.AsyncClient, path: str, shares_credentials: bool
) -> None:
    answer = await page.options(path, headers=ASKED)
    assert (answer.status_code, answer.headers[ALLOW], answer.content) == (204, PAGE, b"")
    assert (answer.headers.get(CREDENTIALS) == "true") == shares_credentials


@pytest.mark.parametrize("path", ["/", "/wizard", "/console/api/hub", "/metrics", "/schema", "/health"])
async def test_our_own_pages_and_the_console_are_not_shared(page: httpx.AsyncClient, path: str) -> None:
    preflight, answer = await page.options(path, headers=ASKED), await page.get(path)
    assert ALLOW not in preflight.headers and ALLOW not in answer.headers


async def test_a_bearer_token_works_from_there(page: httpx.AsyncClient, person: TestUser) -> None:
    inbox = await page.get("/account/notifications", headers=person.headers)
    assert (inbox.status_code, inbox.headers[ALLOW]) == (200, PAGE)
    negotiated = await page.post("/hubs/notifications/negotiate?negotiateVersion=1", headers=person.headers)
    assert (negotiated.status_code, negotiated.headers.get_list(ALLOW)) == (200, [PAGE])
    refused = await page.post("/push/send", headers={"authorization": "Bearer wrong"}, json={})
    assert (refused.status_code, refused.headers[ALLOW]) == (401, PAGE)


async def test_the_session_cookie_is_not_shared_with_a_page_on_a_neighbouring_host(
    shared: RunningAppliance, page: httpx.AsyncClient, person: TestUser
) -> None:
    """A browser sends a SameSite=Lax cookie along to a neighbour of the page's own site, if the page asks for it."""
    credentials = {"username": person.username, "password": person.password}
    async with httpx.AsyncClient(base_url=shared.base_url, timeout=20, trust_env=False) as own_page:
        signed_in = await own_page.post("/account/session", json=credentials, headers={"origin": shared.base_url})
        assert signed_in.status_code == 201
        read = await own_page.get("/account/notifications", headers=ORIGIN)
        # A browser does not let the page read what comes with a cookie unless credentials are allowed in so many words.
        assert read.status_code == 200 and CREDENTIALS not in read.headers
        written = await own_page.delete("/account/session", headers=ORIGIN)
        assert written.status_code == 403 and CREDENTIALS not in written.headers


async def test_without_the_setting_nothing_is_shared(server: RunningAppliance) -> None:
    async with httpx.AsyncClient(base_url=server.base_url, headers=ORIGIN, timeout=20, trust_env=False) as page:
        for path in ("/push/send", "/hubs/notifications/negotiate", "/account/notifications"):
            preflight = await page.options(path, headers=ASKED)
            assert ALLOW not in preflight.headers
