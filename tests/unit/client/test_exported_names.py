"""What callers import from the client may not change by accident, and must not bring the server along."""

import subprocess
import sys

import appliance.client
import appliance.client_hub

SERVER_PACKAGES = {
    "litestar", "granian", "piccolo", "uvloop", "argon2", "cryptography", "jwt", "psycopg", "prometheus_client",
}  # fmt: skip


def test_the_client_exports_exactly_these_names() -> None:
    assert sorted(appliance.client.__all__) == [
        "AsyncCarillonClient",
        "Attempt",
        "CarillonClient",
        "ClientError",
        "Conflict",
        "Delivery",
        "InboxEntry",
        "InvalidRequest",
        "NotAllowed",
        "NotFound",
        "NotSignedIn",
        "OutOfSpace",
        "Patience",
        "PriorityName",
        "Push",
        "PushOptions",
        "Quota",
        "QuotaExceeded",
        "Refused",
        "Sent",
        "SentMany",
        "ServerTrouble",
        "Surroundings",
        "Timeline",
        "TooMany",
        "UnexpectedReply",
        "Unreachable",
        "Withdrawal",
    ]
    assert all(hasattr(appliance.client, name) for name in appliance.client.__all__)


def test_the_listener_exports_exactly_these_names() -> None:
    assert sorted(appliance.client_hub.__all__) == [
        "HubListener",
        "HubNotification",
        "HubRefused",
        "Live",
        "Lost",
        "TokenProvider",
    ]
    assert all(hasattr(appliance.client_hub, name) for name in appliance.client_hub.__all__)


def test_importing_the_client_loads_no_package_of_the_server() -> None:
    code = "import sys, appliance.client; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"httpx", "msgspec"} <= set(loaded)
    assert not SERVER_PACKAGES & set(loaded)
    assert "websockets" not in loaded


def test_importing_the_listener_needs_no_http_client() -> None:
    code = "import sys, appliance.client_hub; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "websockets" in loaded
    assert not (SERVER_PACKAGES | {"httpx"}) & set(loaded)
