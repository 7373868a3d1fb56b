"""Settings of the hub's listener, and the ports that come of them."""

import socket
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.cli.exits import CommandFailed, Exit
from appliance.cli.serve import reserve_ports
from appliance.settings import Settings, SettingsError, load_settings


def load(folder: Path, **given: str) -> Settings:
    return load_settings(folder, {"HOST": "127.0.0.1", **given})


def find_free_port(*, with_next: bool = False) -> int:
    """Give a port that is free, together with the port after it."""
    for _ in range(100):
        with socket.socket() as free, socket.socket() as following:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
            try:
                following.bind(("127.0.0.1", port + 1 if with_next else 0))
            except (OSError, OverflowError):
                continue
        return port
    raise AssertionError("no two ports in a row are free")


def test_without_them_there_is_no_second_port(tmp_path: Path) -> None:
    with ExitStack() as reservations:
        settings, hub_socket = reserve_ports(replace(load(tmp_path, HUB_PORT="1"), port=0), reservations)
        assert (settings.hub_port, hub_socket) == (None, None)


def test_the_lean_listener_has_the_port_that_is_set(tmp_path: Path) -> None:
    port = find_free_port()
    with ExitStack() as reservations:
        asked = replace(load(tmp_path, HUB_LISTENER="Lean", HUB_PORT=str(port)), port=0)
        settings, hub_socket = reserve_ports(asked, reservations)
        assert hub_socket is not None and hub_socket.getsockname()[1] == settings.hub_port == port != settings.port


def test_the_lean_listener_has_the_port_after_the_main_one_or_a_free_one_as_that_has(tmp_path: Path) -> None:
    settings = load(tmp_path, HUB_LISTENER="lean")
    with ExitStack() as reservations:
        settings, _ = reserve_ports(replace(settings, port=0), reservations)
        assert settings.port and settings.hub_port and settings.port != settings.hub_port
    with ExitStack() as reservations:
        settings, _ = reserve_ports(
            load(tmp_path, HUB_LISTENER="lean", PORT=str(find_free_port(with_next=True))), reservations
        )
        assert settings.hub_port == settings.port + 1


def test_a_taken_port_of_the_lean_listener_stops_the_start(tmp_path: Path) -> None:
    with socket.socket() as taken, ExitStack() as reservations:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = load(tmp_path, HUB_LISTENER="lean", HUB_PORT=str(taken.getsockname()[1]))
        with pytest.raises(CommandFailed, match="in use by another program") as failed:
            reserve_ports(replace(settings, port=0), reservations)
        assert failed.value.code is Exit.PORT_TAKEN


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"HUB_LISTENER": "fast"}, "HUB_LISTENER is 'fast': choose granian, lean"),
        ({"HUB_PORT": "70000"}, "HUB_PORT is '70000': give a whole number from 0 to 65535"),
        ({"HUB_LISTENER": "lean", "HUB_PUBLIC_URL": "hub.example.org"}, "begin it with http:// or https://"),
        ({"HUB_PUBLIC_URL": "https://hub.example.org"}, "set HUB_LISTENER=lean, too"),
        ({"TRUSTED_PROXIES": "10.0.0.5, proxy.example.org"}, "names 'proxy.example.org': give addresses or networks"),
        ({"TRUSTED_PROXIES": "10.0.0.0/33"}, "names '10.0.0.0/33'"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_the_fix(tmp_path: Path, given: dict[str, str], fault: str) -> None:
    with pytest.raises(SettingsError, match=fault):
        load(tmp_path, **given)
