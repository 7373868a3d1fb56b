"""What a browser is told about pages of other origins, and on which paths."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from appliance.security.cross_origin import allow_origins
from appliance.settings import SettingsError, load_settings

PAGE = "https://app.example.org"
OTHER = "https://evil.example.org"
PATHS = {"/push": True, "/account": False}
ALLOW = "access-control-allow-origin"
CREDENTIALS = "access-control-allow-credentials"


async def refuse(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def ask(
    origins: Sequence[str], origin: str | None, path: str = "/push/send", *, is_preflight: bool = False
) -> tuple[int, dict[str, str]]:
    """Give status and headers; the application itself answers 401."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [] if origin is None else [(b"origin", origin.encode())]
    if is_preflight:
        headers.append((b"access-control-request-method", b"POST"))
    scope = {"type": "http", "path": path, "method": "OPTIONS" if is_preflight else "POST", "headers": headers}
    await allow_origins(refuse, origins, PATHS)(scope, None, send)
    pairs = [(name.decode(), value.decode()) for name, value in sent[0]["headers"]]
    shared = [name for name, _ in pairs if name.startswith("access-control")]
    assert len(shared) == len(set(shared)), "browsers refuse what is said twice"
    return sent[0]["status"], dict(reversed(pairs))


class TestAnswers:
    async def test_a_page_of_an_allowed_origin_may_read_refusals_too(self):
        status, headers = await ask([PAGE], PAGE)
        assert (status, headers[ALLOW], headers[CREDENTIALS], headers["vary"]) == (401, PAGE, "true", "origin")
        assert "retry-after" in headers["access-control-expose-headers"]

    @pytest.mark.parametrize("origin", [OTHER, "null", f"{PAGE}.evil.org", "http://app.example.org", f"{PAGE}:8443"])
    async def test_pages_of_all_others_may_not(self, origin: str):
        status, headers = await ask([PAGE], origin)
        assert (status, headers) == (401, {"content-length": "0", "vary": "origin"})

    async def test_what_was_asked_by_no_page_is_not_kept_for_one(self):
        assert (await ask([PAGE], None))[1]["vary"] == "origin"

    async def test_any_origin_is_allowed_by_its_name_because_credentials_need_one(self):
        _, headers = await ask(["*"], OTHER)
        assert (headers[ALLOW], headers[CREDENTIALS]) == (OTHER, "true")

    async def test_where_the_cookie_counts_credentials_are_not_shared(self):
        _, headers = await ask([PAGE], PAGE, "/account/devices")
        assert headers[ALLOW] == PAGE and CREDENTIALS not in headers

    @pytest.mark.parametrize("path", ["/console/api/hub", "/wizard", "/", "/pushy", "/accounts", "/metrics"])
    async def test_all_other_paths_are_not_shared_at_all(self, path: str):
        for is_preflight in (False, True):
            assert await ask(["*"], PAGE, path, is_preflight=is_preflight) == (401, {"content-length": "0"})

    async def test_without_a_setting_nothing_is_added(self):
        assert await ask([], PAGE) == (401, {"content-length": "0"})


class TestPreflights:
    async def test_one_is_answered_without_a_token(self):
        status, headers = await ask([PAGE], PAGE, is_preflight=True)
        assert (status, headers[ALLOW], headers[CREDENTIALS]) == (204, PAGE, "true")
        assert set(headers["access-control-allow-headers"].split(", ")) == {
            "authorization",
            "content-type",
            "x-requested-with",
            "x-signalr-user-agent",
            "idempotency-key",
        }
        assert {"GET", "POST", "DELETE"} <= set(headers["access-control-allow-methods"].split(", "))
        assert int(headers["access-control-max-age"]) > 0

    async def test_one_of_another_origin_is_for_the_application(self):
        assert (await ask([PAGE], OTHER, is_preflight=True))[0] == 401


class TestSetting:
    @pytest.mark.parametrize("text", [PAGE, "http://localhost:3000", "capacitor://localhost", "*", f"{PAGE}, {OTHER}"])
    def test_origins_are_taken(self, tmp_path: Path, text: str):
        settings = load_settings(tmp_path, {"CORS_ORIGINS": text})
        assert settings.cors_origins == tuple(text.split(", "))

    @pytest.mark.parametrize("text", ["app.example.org", f"{PAGE}/", f"{PAGE}/page", "https://*.example.org", "null"])
    def test_what_is_no_origin_stops_the_start_with_the_fix(self, tmp_path: Path, text: str):
        with pytest.raises(SettingsError, match=r"CORS_ORIGINS names .*: write scheme://host"):
            load_settings(tmp_path, {"CORS_ORIGINS": text})
