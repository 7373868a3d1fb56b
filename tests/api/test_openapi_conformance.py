"""The running program does what its API document says: schemathesis asks everything it can think of, over real HTTP."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from tests.doubles.appliance import RunningAppliance, TestUser

_HOOKS = "tests.api.schemathesis_hooks"
_CONFIG = Path(__file__).with_name("schemathesis.toml")
_ROOT = Path(__file__).resolve().parents[2]
_DEADLINE_S = 150


@pytest.mark.slow
@pytest.mark.parametrize("who", ["app", "user", "admin"])
async def test_every_operation_keeps_to_the_document(
    server: RunningAppliance, admin: TestUser, tmp_path: Path, who: str
) -> None:
    await _check(server, admin, tmp_path, who, "--max-examples=12")


@pytest.mark.slow
@pytest.mark.parametrize(("who", "path"), [("app", "^/push/(send$|notifications)"), ("user", "^/push/devices")])
async def test_what_was_made_can_be_followed_by_its_links(
    server: RunningAppliance, admin: TestUser, tmp_path: Path, who: str, path: str
) -> None:
    output = await _check(
        server, admin, tmp_path, who, "--phases=stateful", "--max-examples=25", f"--include-path-regex={path}"
    )
    covered = re.search(r"API Links: +(\d+) covered", output)
    assert covered is not None, output
    assert int(covered[1]) > 0, output


async def _check(server: RunningAppliance, admin: TestUser, folder: Path, who: str, *options: str) -> str:
    app = await server.make_app(admin, daily_quota=1_000_000)
    spare = await server.make_app(admin)
    users = [await server.make_user(app) for _ in range(3)]
    facts: dict[str, object] = {
        "app_id": str(app.id),
        "spare_app_id": str(spare.id),
        "user_ids": [str(user.id) for user in users],
    }
    tokens = {"app": app.token, "user": users[0].token, "admin": admin.token}
    ran = _run_schemathesis(server, tokens[who], facts, folder, options)
    assert ran.returncode == 0, ran.stdout[-20_000:]
    assert "request_failed" not in server.output
    return ran.stdout


async def test_the_document_names_every_route_of_the_push_api(http: httpx.AsyncClient) -> None:
    document = (await http.get("/schema/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    routes = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert routes >= {
        ("GET", "/push/config/{app_id}"),
        ("PATCH", "/push/config/{app_id}"),
        ("GET", "/push/devices/{id}"),
        ("POST", "/push/devices/register"),
        ("DELETE", "/push/devices/{id}"),
        ("POST", "/push/send"),
        ("POST", "/push/send/bulk"),
        ("POST", "/push/send/batch"),
        ("GET", "/push/notifications/{notification_id}"),
        ("DELETE", "/push/notifications/{notification_id}"),
        ("GET", "/account/devices"),
        ("DELETE", "/account/devices/{device_id}"),
        ("GET", "/account/notifications"),
        ("POST", "/account/notifications/{notification_id}/read"),
        ("POST", "/account/devices/{device_id}/test"),
        ("POST", "/console/api/test-push"),
    }


async def test_the_page_of_all_operations_needs_nothing_from_elsewhere(http: httpx.AsyncClient) -> None:
    page = await http.get("/schema")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'; style-src 'self'" in page.headers["content-security-policy"]
    assert "<code>/push/send/bulk</code>" in page.text
    assert "<script" not in page.text
    assert "http://" not in page.text
    assert "https://" not in page.text.replace("^https://", "").replace("^https?://", "")
    style = await http.get("/schema/style.css")
    assert (style.status_code, style.headers["content-type"]) == (200, "text/css; charset=utf-8")


async def test_every_kind_of_problem_has_a_page(http: httpx.AsyncClient) -> None:
    for code in ("quota_exceeded", "invalid_field", "unauthorized", "method_not_allowed", "body_too_large"):
        page = await http.get(f"/problems/{code}")
        assert (page.status_code, code in page.text) == (200, True)
    assert (await http.get("/problems/nothing_of_the_kind")).status_code == 404


async def test_options_and_405_name_every_method_of_a_path(http: httpx.AsyncClient) -> None:
    for path, methods in (("/push/notifications", "DELETE, GET, OPTIONS"), ("/push/config", "GET, OPTIONS, PATCH")):
        path = f"{path}/0192f0c1-2b3c-7d4e-8f90-a1b2c3d4e5f6"
        assert (await http.options(path)).headers["allow"] == methods
        reply = await http.post(path)
        assert (reply.status_code, reply.headers["allow"]) == (405, methods)
        assert reply.json()["code"] == "method_not_allowed"


def _run_schemathesis(
    server: RunningAppliance, token: str, facts: dict[str, object], folder: Path, options: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    command = [
        str(Path(sys.executable).with_name("st")),
        f"--config-file={_CONFIG}",
        "run",
        f"{server.base_url}/schema/openapi.json",
        "--seed=20261122",
        # One worker: with several, CPython 3.11 may fail in compile() ("AST constructor recursion depth mismatch").
        "--workers=1",
        "--no-color",
        *options,
        f"--header=Authorization: Bearer {token}",
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": str(_ROOT),
        "SCHEMATHESIS_HOOKS": _HOOKS,
        "CARILLON_CONFORMANCE_FACTS": json.dumps(facts),
    }
    # Its own folder: it keeps examples of earlier runs where it is started.
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_DEADLINE_S, check=False
    )
