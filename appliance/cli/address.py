"""Under which address people reach this appliance, as far as this machine can know."""

import socket
from pathlib import Path

from appliance.cli.exits import CommandFailed, Exit
from appliance.cli.instance import find_running
from appliance.client_call import check_base_url
from appliance.settings import Settings

_LOOPBACK = "127.0.0.1"
# Reserved for documentation (RFC 5737): nothing is sent there, the kernel only picks the way out.
_ELSEWHERE = ("192.0.2.1", 9)


def people_url(given: str | None, folder: Path, settings: Settings) -> str:
    """Give the address for people: the one given, else PUBLIC_URL, else this machine's own with the instance's port.

    Raises `CommandFailed` when the one given is no address.
    """
    if given is not None:
        try:
            return check_base_url(given)
        except ValueError as error:
            raise CommandFailed(str(error), code=Exit.USAGE) from error
    if settings.public_url:
        return settings.public_url.rstrip("/")
    running = find_running(folder)
    host = running.host if running is not None else settings.host
    port = running.port if running is not None else settings.port
    tls = running.tls if running is not None else settings.tls_cert is not None
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = _lan_address()
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def _lan_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_ELSEWHERE)
            address: str = probe.getsockname()[0]
        except OSError:
            return _LOOPBACK
    return address
